"""A starting server answers nobody before everything a cluster's components need is in the store."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from free_port import free_port

from nsk8s.apiserver import run
from nsk8s.apiserver.bootstrap import Bootstrap
from nsk8s.apiserver.config import Config
from nsk8s.apiserver.main import command
from nsk8s.client import kubeconfig
from nsk8s.client.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES
from nsk8s.client.rest import Client
from nsk8s.errors import Nsk8sError


def config_for(tmp_path: Path, port: int = 0, **flags: object) -> Config:
    given = command.make_context("kube-apiserver", ["--data-dir", str(tmp_path / "data")]).params
    del given["verbosity"]
    kubeconfig = str(tmp_path / "kubeconfig")
    given |= {"bind_address": "127.0.0.1", "secure_port": port, "write_kubeconfig": kubeconfig, **flags}
    return Config.from_flags(**given)


async def test_an_early_client_waits_for_roles_and_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, reached, go = Bootstrap.run, asyncio.Event(), asyncio.Event()

    async def slow(self: Bootstrap, *arguments: object) -> None:
        reached.set()
        await go.wait()
        await real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Bootstrap, "run", slow)
    port = free_port()
    stop = asyncio.Event()
    serving = asyncio.ensure_future(run.serve(config_for(tmp_path, port), stop))
    await asyncio.wait_for(reached.wait(), 30)
    context = ssl.create_default_context(cafile=str(tmp_path / "data" / "pki" / "ca.crt"))
    async with aiohttp.ClientSession() as session:
        asking = asyncio.ensure_future(session.get(f"https://127.0.0.1:{port}/readyz", ssl=context))
        done, _ = await asyncio.wait([asking], timeout=0.2)
        assert not done, "the connection waits; it is neither refused nor answered"
        go.set()
        async with await asyncio.wait_for(asking, 30) as answer:
            assert answer.status == 200
            assert await answer.text() == "ok"
    stop.set()
    await asyncio.wait_for(serving, 30)


async def test_a_port_in_use_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(Nsk8sError, match="already in use"):
            await run.serve(config_for(tmp_path, taken.getsockname()[1]), asyncio.Event())
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("address", "families"), [("::", {"::1", "127.0.0.1"}), ("0.0.0.0", {"127.0.0.1"}), ("::1", {"::1"})])
def test_an_unspecified_address_means_all_families(tmp_path: Path, address: str, families: set[str]) -> None:
    if ":" in address and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    reached = set()
    with run.listening_socket(config_for(tmp_path, bind_address=address)) as sock:
        for target in ("::1", "127.0.0.1"):
            try:
                socket.create_connection((target, sock.getsockname()[1]), 2).close()
                reached.add(target)
            except OSError:
                continue
    assert reached == families


async def test_the_kubernetes_service_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nsk8s.apiserver.bootstrap.KEEP_S", 0.05)
    stop = asyncio.Event()
    serving = asyncio.ensure_future(run.serve(config_for(tmp_path, advertise_address="192.0.2.10"), stop))
    while not (tmp_path / "kubeconfig").exists():
        await asyncio.sleep(0.01)
        assert not serving.done()
    async with Client(kubeconfig.load(tmp_path / "kubeconfig")) as client:
        for resource in (SERVICES, ENDPOINTS, ENDPOINTSLICES):
            first = await client.get(resource, "kubernetes", "default")
            events: Any = client.watch(resource, "default", resource_version=first["metadata"]["resourceVersion"])
            await client.delete(resource, "kubernetes", "default")
            async with asyncio.timeout(30), contextlib.aclosing(events):
                async for event in events:
                    if event.type == "ADDED":
                        assert event.object["metadata"]["name"] == "kubernetes"
                        assert event.object["metadata"]["uid"] != first["metadata"]["uid"]
                        assert event.object.get("spec", {}).get("clusterIP", "10.96.0.1") == "10.96.0.1"
                        break
    stop.set()
    await asyncio.wait_for(serving, 30)
