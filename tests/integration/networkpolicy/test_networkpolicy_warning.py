"""Whoever writes a policy that nothing enforces is told, by whatever client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from nsk8s.apiserver import run
from nsk8s.apiserver.config import Config
from nsk8s.apiserver.main import command
from nsk8s.client import kubeconfig
from nsk8s.client.resources import NETWORKPOLICIES
from nsk8s.client.rest import Client

POLICY: dict[str, Any] = {"metadata": {"name": "p", "namespace": "default"}, "spec": {"podSelector": {}}}


async def warned(tmp_path: Path, *flags: str) -> list[str]:
    file = tmp_path / "kubeconfig"
    words = ["--data-dir", ":memory:", "--cert-dir", str(tmp_path / "pki"), "--bind-address", "127.0.0.1", "--secure-port", "0",
             "--write-kubeconfig", str(file), *flags]  # fmt: skip
    given = command.make_context("kube-apiserver", words).params
    del given["verbosity"]
    stop, said = asyncio.Event(), list[str]()
    serving = asyncio.ensure_future(run.serve(Config.from_flags(**given), stop))
    async with asyncio.timeout(60):
        while not file.exists():
            assert not serving.done(), serving.result()
            await asyncio.sleep(0.02)
        async with Client(kubeconfig.load(str(file))) as client:
            client.on_warning = said.append
            await client.create(NETWORKPOLICIES, POLICY)
        stop.set()
        await serving
    return said


async def test_a_policy_that_nothing_enforces_draws_a_warning(tmp_path: Path) -> None:
    (text,) = await warned(tmp_path)
    assert text.startswith("NetworkPolicy has no effect in nsk8s by itself: ")
    assert "`network: {policy: true}`" in text


async def test_one_that_nodes_enforce_draws_none(tmp_path: Path) -> None:
    assert await warned(tmp_path, "--network-policies-enforced") == []
