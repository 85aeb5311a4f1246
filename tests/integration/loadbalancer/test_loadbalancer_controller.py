"""The service controller against a real API server: who has which address, through restarts, races and wrong hands."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from free_port import free_port

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.resources import EVENTS, SERVICES
from nsk8s.client.rest import Client
from nsk8s.loadbalancer import services
from nsk8s.loadbalancer.controller import ServiceController
from nsk8s.loadbalancer.pool import Pool

POOL = Pool(IPv4Network("10.100.0.0/29"))
SIX = {f"10.100.0.{i}" for i in range(1, 7)}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("api")
    port = free_port()
    found = directory / "kubeconfig"
    arguments = ["--data-dir", str(directory / "data"), "--bind-address", "127.0.0.1", "--secure-port", str(port)]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "nsk8s.apiserver.main", *arguments, "--write-kubeconfig", str(found)], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while not found.exists():
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.02)
        yield found
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
async def api(config: Path) -> AsyncIterator[Client]:
    """The API; every Service but `kubernetes` is gone afterwards."""
    async with Client(kubeconfig.load(str(config))) as client:
        yield client
        for service in (await client.list(SERVICES))["items"]:
            if meta.name(service) != "kubernetes":
                body = {"metadata": {"finalizers": None}}
                await client.patch(SERVICES, meta.name(service), body, meta.namespace(service))
                await client.delete(SERVICES, meta.name(service), meta.namespace(service))
        for event in (await client.list(EVENTS))["items"]:
            await client.delete(EVENTS, meta.name(event), meta.namespace(event))


@contextlib.asynccontextmanager
async def controller(api: Client, pool: Pool = POOL) -> AsyncIterator[None]:
    task = asyncio.ensure_future(ServiceController(api, pool).run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def create(api: Client, name: str, **spec: Any) -> Object:
    body = {"type": "LoadBalancer", "ports": [{"port": 80}], "selector": {"app": name}, **spec}
    return await api.create(SERVICES, {"metadata": {"name": name, "namespace": "default"}, "spec": body})


async def addresses(api: Client) -> dict[str, str]:
    """Service → address, of those that have one."""
    listed = (await api.list(SERVICES, "default"))["items"]
    return {meta.name(s): ip for s in listed for ip in services.addresses(s)}


async def until(api: Client, what: str, good: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        found = await addresses(api)
        if good(found):
            return found
        assert asyncio.get_running_loop().time() < deadline, f"not {what}: {found}"
        await asyncio.sleep(0.02)


async def told(api: Client, name: str, reason: str) -> None:
    """Return once there is such an Event."""
    listed = await api.list(EVENTS, "default")
    seen = {(e["involvedObject"]["name"], e["reason"]) for e in listed["items"]}
    if (name, reason) not in seen:
        async with asyncio.timeout(30):
            async for event in api.watch(EVENTS, "default", resource_version=listed["metadata"]["resourceVersion"]):
                if event.object.get("reason") == reason and event.object["involvedObject"]["name"] == name:
                    return


async def test_many_at_once_get_different_addresses(api: Client) -> None:
    async with controller(api, Pool(IPv4Network("10.100.0.0/24"))):
        await asyncio.gather(*(create(api, f"s{i}") for i in range(40)))
        found = await until(api, "40 addresses", lambda f: len(f) == 40)
    assert set(found.values()) == {f"10.100.0.{i}" for i in range(1, 41)}, "each once, and the lowest"


async def test_restarts_in_the_middle_lose_nothing_and_give_nothing_twice(api: Client) -> None:
    pool = Pool(IPv4Network("10.100.0.0/24"))
    seen: dict[str, str] = {}
    for i in range(30):
        await create(api, f"s{i}")
    while len(seen) < 30:
        async with controller(api, pool):
            known = len(seen)
            found = await until(api, "one more", lambda f, k=known: len(f) > k)
        assert seen.items() <= found.items()
        assert len(set(found.values())) == len(found)
        seen = found


async def test_a_full_pool_makes_wait_and_the_next_free_address_goes_to_who_waits(api: Client) -> None:
    async with controller(api):
        for i in range(6):
            await create(api, f"s{i}")
        found = await until(api, "a full pool", lambda f: len(f) == 6)
        assert set(found.values()) == SIX
        await create(api, "late")
        await told(api, "late", "SyncLoadBalancerFailed")
        free = found["s3"]
        await api.delete(SERVICES, "s3", "default")
        found = await until(api, "late's turn", lambda f: "late" in f)
        assert found["late"] == free


async def test_a_wish_is_kept_changed_and_refused(api: Client) -> None:
    async with controller(api):
        await create(api, "other", loadBalancerIP="10.100.0.1")
        await until(api, "the wish", lambda f: f == {"other": "10.100.0.1"})
        await create(api, "web", loadBalancerIP="10.100.0.1")
        await told(api, "web", "SyncLoadBalancerFailed")
        await api.patch(SERVICES, "web", {"spec": {"loadBalancerIP": "10.100.0.5"}}, "default")
        await until(api, "another wish", lambda f: f.get("web") == "10.100.0.5")
        await api.patch(SERVICES, "web", {"spec": {"loadBalancerIP": "10.100.0.6"}}, "default")
        await until(api, "a changed wish", lambda f: f.get("web") == "10.100.0.6")
        await api.patch(SERVICES, "web", {"spec": {"loadBalancerIP": None}}, "default")
        await create(api, "marker")
        assert (await until(api, "a later one", lambda f: "marker" in f))["web"] == "10.100.0.6", "no wish: what it has"


async def test_types_and_classes(api: Client) -> None:
    async with controller(api):
        await create(api, "ours", loadBalancerClass="nsk8s.dev/lb")
        await create(api, "foreign", loadBalancerClass="metallb.io/metallb")
        await create(api, "plain", type="ClusterIP")
        await create(api, "last")
        found = await until(api, "the last", lambda f: "last" in f)
        assert set(found) == {"ours", "last"}
        assert "finalizers" not in (await api.get(SERVICES, "foreign", "default"))["metadata"]
        await api.patch(SERVICES, "plain", {"spec": {"type": "LoadBalancer"}}, "default")
        await until(api, "type LoadBalancer", lambda f: "plain" in f)
        await api.patch(SERVICES, "plain", {"spec": {"type": "NodePort"}}, "default")
        await told(api, "plain", "DeletedLoadBalancer")
        assert not (await api.get(SERVICES, "plain", "default"))["metadata"].get("finalizers")
        assert "plain" not in await addresses(api)


async def test_what_is_deleted_while_the_controller_is_away_waits_for_it(api: Client) -> None:
    async with controller(api):
        await create(api, "web")
        await until(api, "an address", lambda f: "web" in f)
    await api.delete(SERVICES, "web", "default")
    assert (await api.get(SERVICES, "web", "default"))["metadata"]["deletionTimestamp"], "the finalizer holds it"
    await create(api, "next")
    async with controller(api):
        await until(api, "the end of the one, an address for the other", lambda f: set(f) == {"next"})


async def test_an_address_written_twice_by_hand_stays_with_the_older(api: Client) -> None:
    async with controller(api):
        await create(api, "a")
        await until(api, "an address", lambda f: f == {"a": "10.100.0.1"})
        await asyncio.sleep(1.0)  # creationTimestamp has seconds
        await create(api, "b")
        await until(api, "another", lambda f: f.get("b") == "10.100.0.2")
        forged = {"status": {"loadBalancer": {"ingress": [{"ip": "10.100.0.1"}]}}}
        await api.patch(SERVICES, "b", forged, "default", subresource="status")
        await until(api, "one each", lambda f: f == {"a": "10.100.0.1", "b": "10.100.0.2"})
        await api.patch(SERVICES, "a", {"status": {"loadBalancer": None}}, "default", subresource="status")
        await until(api, "what was wiped comes back", lambda f: f == {"a": "10.100.0.1", "b": "10.100.0.2"})


async def test_services_that_agree_share_an_address_as_long_as_their_ports_differ(api: Client) -> None:
    shared = {"annotations": {"metallb.universe.tf/allow-shared-ip": "web"}}

    async def sharer(name: str, port: int, **spec: Any) -> None:
        body = {"type": "LoadBalancer", "ports": [{"port": port}], "selector": {"app": name}, **spec}
        await api.create(SERVICES, {"metadata": {"name": name, "namespace": "default", **shared}, "spec": body})

    async def ports(name: str, *wanted: int) -> None:
        body = {"spec": {"ports": [{"name": f"p{p}", "port": p} for p in wanted]}}
        await api.patch(SERVICES, name, body, "default")

    async with controller(api):
        await asyncio.gather(sharer("a", 80), sharer("b", 81, loadBalancerIP="10.100.0.1"))
        await until(api, "one address for both", lambda f: f == {"a": "10.100.0.1", "b": "10.100.0.1"})
        await create(api, "alone", loadBalancerIP="10.100.0.1")
        await told(api, "alone", "SyncLoadBalancerFailed")
        await sharer("c", 81)
        await until(api, "another for who has a port twice", lambda f: f.get("c") == "10.100.0.2")
    async with controller(api):
        await asyncio.sleep(1.0)  # creationTimestamp has seconds: d is the younger one
        await sharer("d", 82, loadBalancerIP="10.100.0.1")
        await until(api, "a third, with another controller", lambda f: f.get("d") == "10.100.0.1")
        await ports("a", 80, 82)
        await until(api, "the older one's port", lambda f: "d" not in f and f["a"] == f["b"] == "10.100.0.1")
        await told(api, "d", "SyncLoadBalancerFailed")
        event = next(e for e in (await api.list(EVENTS, "default"))["items"] if e["involvedObject"]["name"] == "d" and e["type"] == "Warning")
        assert "10.100.0.1 is in use by default/a, which has port 82/tcp, too" in event["message"]
        await ports("a", 80)
        await until(api, "a port that is free again", lambda f: f.get("d") == "10.100.0.1")
        for name in "abd":
            await api.delete(SERVICES, name, "default")
        await until(api, "the address, once the last has gone", lambda f: f == {"c": "10.100.0.2", "alone": "10.100.0.1"})
