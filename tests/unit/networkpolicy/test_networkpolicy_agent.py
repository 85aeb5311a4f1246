"""The agent between what the informers say and what the kernel holds (here: the table as a value)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from nsk8s.client import pages
from nsk8s.errors import Nsk8sError
from nsk8s.kernel.nft import NftError
from nsk8s.net import nftset
from nsk8s.net.nftset import NftTable
from nsk8s.networkpolicy import agent as module
from nsk8s.networkpolicy.agent import Agent


class Kernel:
    """What `nft` would do."""

    def __init__(self) -> None:
        self.table: NftTable | None = None
        self.runs = 0
        self.broken = False

    async def run(self, script: str) -> None:
        self.runs += 1
        if self.broken:
            raise NftError("nft: no")
        self.table = nftset.apply(self.table, script)


    def has_rules(self, family: str, table: str, chain: str) -> bool:
        return self.table is not None and bool(self.table.rules(chain))


class Queue:
    def __init__(self) -> None:
        self.added = 0

    def add(self, _: str) -> None:
        self.added += 1


class Controller:
    def __init__(self) -> None:
        self.queue = Queue()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    held = Kernel()
    monkeypatch.setattr(module.nft, "table_exists", lambda *_: held.table is not None)
    monkeypatch.setattr(module, "show_switched_packets", lambda: None)
    return held


@pytest.fixture
def agent(kernel: Kernel) -> Any:
    made: Any = Agent("node1", ["10.244.0.0/16"], kubeconfig_path="")
    made._nft, made._controller = kernel, Controller()
    made._nodes = {"node1": {"metadata": {"name": "node1"}, "spec": {"podCIDR": "10.244.1.0/24"}}}
    return made


def pod(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "x", "name": "a", "labels": {"l": "1"}}, "spec": {"nodeName": "node1"},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.244.1.5"}], **status},
    }  # fmt: skip


POLICY = {"metadata": {"namespace": "x", "name": "p"}, "spec": {"podSelector": {}}}
NAMESPACE = {"metadata": {"name": "x", "labels": {"ns": "x"}}}


def held(kernel: Kernel) -> set[str]:
    assert kernel.table is not None
    return set(kernel.table.elements.get("ingress-ip", {}))


async def test_changes_are_written_and_nothing_else(agent: Any, kernel: Kernel) -> None:
    await agent._reconcile("")
    agent._pod_changed(None, pod())
    agent._policy_changed(None, POLICY)
    await agent._reconcile("")
    assert held(kernel) == {"10.244.1.5"}
    assert kernel.runs == 2
    await agent._reconcile("")
    assert kernel.runs == 2, "there was nothing to do"
    agent._policy_changed(POLICY, None)
    await agent._reconcile("")
    assert held(kernel) == set()


@pytest.mark.parametrize("what", ["table", "egress", "ingress", "pod's chain"])
async def test_what_somebody_deleted_is_written_again(agent: Any, kernel: Kernel, what: str) -> None:
    agent._pod_changed(None, pod())
    agent._policy_changed(None, POLICY)
    await agent._reconcile("")
    assert kernel.table is not None
    if what == "table":
        kernel.table = None
    else:
        name = what if what in kernel.table.chains else next(n for n, c in kernel.table.chains.items() if not c.base)
        kernel.table = nftset.apply(kernel.table, f"flush chain {kernel.table.where} {name}")
    before = kernel.runs
    await agent._reconcile("")
    assert kernel.runs == before + 1
    assert await agent._reconcile("") == module.RESYNC_S
    assert held(kernel) == {"10.244.1.5"}


async def test_what_failed_is_written_the_next_time(agent: Any, kernel: Kernel) -> None:
    agent._pod_changed(None, pod())
    agent._policy_changed(None, POLICY)
    kernel.broken = True
    with pytest.raises(NftError):
        await agent._reconcile("")
    kernel.broken = False
    await agent._reconcile("")
    assert held(kernel) == {"10.244.1.5"}


async def page(agent: Any, path: str) -> tuple[str, str]:
    """(status line, body) over a real connection."""
    server = await pages.serve("127.0.0.1", 0, agent._metrics.pages())
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    server.close()
    return head.splitlines()[0], body


async def test_it_tells_how_it_is(agent: Any, kernel: Kernel) -> None:
    assert await page(agent, "/healthz") == (
        "HTTP/1.1 503 Service Unavailable", "not all policies, pods and namespaces are known yet\n"
    )
    agent._pod_changed(None, pod())
    agent._policy_changed(None, POLICY)
    await agent._reconcile("")
    await agent._reconcile("")
    assert await page(agent, "/healthz") == ("HTTP/1.1 200 OK", "ok\n")
    kernel.broken, kernel.table = True, None
    with pytest.raises(NftError):
        await agent._reconcile("")
    assert await page(agent, "/healthz?verbose") == ("HTTP/1.1 503 Service Unavailable", "nft: no\n")
    values = dict(line.rsplit(" ", 1) for line in (await page(agent, "/metrics"))[1].splitlines() if not line.startswith("#"))
    assert float(values.pop("network_policy_last_sync_timestamp_seconds")) == pytest.approx(time.time(), abs=60)
    assert float(values.pop("network_policy_sync_seconds_total")) > 0
    assert values == {
        'network_policy_synced_total{result="success"}': "2", 'network_policy_synced_total{result="error"}': "1",
        "network_policy_rules_written_total": "1", "network_policy_policies": "1", "network_policy_pods": "1",
    }  # fmt: skip
    assert (await page(agent, "/nothing"))[0] == "HTTP/1.1 404 Not Found"


async def test_a_port_that_is_taken_does_not_stop_it(agent: Any, caplog: pytest.LogCaptureFixture) -> None:
    taken = await pages.serve("127.0.0.1", 0, {})
    agent._pages = taken.sockets[0].getsockname()
    assert await agent._serve_pages() is None
    assert "cannot listen on 127.0.0.1" in caplog.text
    taken.close()


def test_only_what_rules_depend_on_asks_for_a_sync(agent: Any) -> None:
    queue = agent._controller.queue
    agent._pod_changed(None, pod())
    agent._namespace_changed(None, NAMESPACE)
    assert queue.added == 2
    agent._pod_changed(pod(), pod(conditions=[{"type": "Ready", "status": "True"}]))
    agent._namespace_changed(NAMESPACE, {**NAMESPACE, "status": {"phase": "Active"}})
    agent._pod_changed(None, {"metadata": {"namespace": "x", "name": "new"}})
    assert queue.added == 2
    agent._pod_changed(pod(), pod(phase="Succeeded"))
    agent._namespace_changed(NAMESPACE, {"metadata": {"name": "x", "labels": {"ns": "y"}}})
    assert queue.added == 4
    agent._pod_changed(pod(phase="Succeeded"), None)
    agent._namespace_changed(NAMESPACE, None)
    assert queue.added == 5
    assert agent._pods == agent._namespaces == {}


def test_without_br_netfilter_it_does_not_pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "BRIDGE_NF", str(tmp_path / "bridge-nf-call-{}"))
    with pytest.raises(Nsk8sError, match="would pass unseen"):
        module.show_switched_packets()
    for name in ("iptables", "ip6tables"):
        (tmp_path / f"bridge-nf-call-{name}").write_text("0")
    module.show_switched_packets()
    assert {(tmp_path / f"bridge-nf-call-{n}").read_text() for n in ("iptables", "ip6tables")} == {"1"}
