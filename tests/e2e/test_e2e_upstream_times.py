"""A node fails at upstream's default times: 50 s of grace, 300 s of toleration. Six minutes, so only with --slow."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from e2e_cluster import get, netns, nsk8s, pods, until
from e2e_traffic import Load

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]
HELLO = Path(__file__).parents[2] / "examples" / "hello.yaml"


@pytest.fixture
def cluster() -> Iterator[None]:
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q")
        nsk8s("apply", "-f", str(HELLO))
        until("three ready pods", lambda: {p["spec"]["nodeName"] for p in pods()} == {"node1", "node2", "node3"})
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def seconds(since: str, until_: str) -> float:
    a, b = (datetime.fromisoformat(t.replace("Z", "+00:00")) for t in (since, until_))
    return (b - a).total_seconds()


def test_a_power_cut_at_the_default_times(cluster: None) -> None:
    lost = next(p for p in pods() if p["spec"]["nodeName"] == "node2")
    others = [p for p in pods() if p is not lost]
    lease = get("lease/node2", "-n", "kube-node-lease")["spec"]["renewTime"]
    nsk8s("node", "stop", "node2")

    def condition() -> dict[str, str]:
        found: dict[str, str] = next(c for c in get("node/node2")["status"]["conditions"] if c["type"] == "Ready")
        return found

    until("node2 is Unknown", lambda: condition()["status"] == "Unknown", 120)
    assert seconds(lease, condition()["lastTransitionTime"]) >= 49  # times of conditions have no fractions
    address = f"--to-destination {lost['status']['podIP']}:"
    for node in ("control-plane", "node1", "node3"):
        until(f"no rule for it on {node}", lambda n=node: address not in netns(n, "iptables-save", "-t", "nat").stdout)
    with Load(others[0]["metadata"]["name"], get("service/hello")["spec"]["clusterIP"]) as load:
        load.more(200)
        assert load.finish()["failed"] == 0
    name = lost["metadata"]["name"]
    assert not get(f"pod/{name}")["metadata"].get("deletionTimestamp"), "it is tolerated for five minutes"

    def evicted() -> str:
        marks = [c for c in get(f"pod/{name}")["status"]["conditions"] if c["type"] == "DisruptionTarget"]
        return str(marks[0]["lastTransitionTime"]) if marks else ""

    until("it is evicted", evicted, 400)
    taints = {t["effect"]: t["timeAdded"] for t in get("node/node2")["spec"]["taints"] if t["key"].endswith("unreachable")}
    assert set(taints) == {"NoSchedule", "NoExecute"}
    assert seconds(taints["NoExecute"], evicted()) >= 299
    until("a replacement elsewhere", lambda: len(pods()) == 3 and "node2" not in {p["spec"]["nodeName"] for p in pods()})
    nsk8s("node", "start", "node2")
    until("node2 is Ready", lambda: condition()["status"] == "True")
    until("the evicted pod is gone", lambda: name not in {p["metadata"]["name"] for p in get("pods")["items"]})
