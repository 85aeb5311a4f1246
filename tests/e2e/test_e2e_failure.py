"""What fails, alone and while packets flow: components, nodes, cables, pods.

One cluster with short grace times (see TIMING); nothing here asserts how long something took.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import NAME, components, get, kill, netns, nsk8s, pods, until
from e2e_traffic import Load

from nsk8s.kernel.cgroup import Cgroups

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
HELLO = Path(__file__).parents[2] / "examples" / "hello.yaml"
NODES = ("control-plane", "node1", "node2", "node3")
TIMING = """
name: {name}
timing:
  nodeLeaseDuration: 4
  nodeStatusUpdateFrequency: 2
  nodeMonitorPeriod: 1
  nodeMonitorGracePeriod: 4
  notReadyToleration: 2
  unreachableToleration: 2
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    wanted = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    wanted.write_text(TIMING.format(name=NAME))
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "-f", str(wanted))
        nsk8s("apply", "-f", str(HELLO))
        until("a ready pod on every worker", lambda: {p["spec"]["nodeName"] for p in pods()} == set(NODES[1:]))
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def by_node(selector: str = "app=hello") -> dict[str, dict[str, Any]]:
    return {p["spec"]["nodeName"]: p for p in pods(selector)}


def vip() -> str:
    found: str = get("service/hello")["spec"]["clusterIP"]
    return found


def identities() -> dict[str, tuple[Any, ...]]:
    """What must not change of a pod: address, container ids, restarts, and since when it is ready."""
    found = {}
    for pod in get("pods", "-A")["items"]:
        status = pod["status"]
        ready = next(c["lastTransitionTime"] for c in status["conditions"] if c["type"] == "Ready" and c["status"] == "True")
        containers = [(c["containerID"], c["restartCount"]) for c in status["containerStatuses"]]
        found[pod["metadata"]["uid"]] = (status["podIP"], containers, ready)
    return found


def pod_pids() -> dict[str, set[int]]:
    """Every process of every pod, by node."""
    groups = Cgroups()
    return {node: groups.all_processes(f"/nsk8s/{NAME}/{node}/pods") for node in NODES}


def ready(node: str) -> str:
    conditions = {c["type"]: c["status"] for c in get(f"node/{node}")["status"]["conditions"]}
    return conditions["Ready"]


def rules(node: str) -> str:
    done = netns(node, "iptables-save")
    assert done.returncode == 0, done.stderr
    return done.stdout


def destinations(node: str, port: int = 8080) -> set[str]:
    """The endpoint addresses in a node's Service rules."""
    return set(re.findall(rf"--to-destination (\S+):{port}\b", rules(node)))


def test_components_killed_under_load_cost_no_connection_and_no_pod(cluster: None) -> None:
    client = by_node()["node1"]["metadata"]["name"]
    before, pids = identities(), pod_pids()
    with Load(client, vip()) as load:
        server = load.counts()["streamServer"]
        other = next(n for n, p in by_node().items() if p["metadata"]["name"] == server)
        nodes = sorted({"node1", other, "node2" if other == "node1" else other})
        victims = [f"{n}/{c}" for n in nodes for c in ("kubelet", "kube-proxy", "runtime", "node-network")]
        victims += [
            f"control-plane/{c}" for c in ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "apiserver-forwarder")
        ]
        for victim in victims:
            old = components()[victim]["pid"]
            kill(old)
            until(f"{victim} runs again", lambda v=victim, o=old: components()[v]["pid"] not in (0, o))
            load.more()
        kept = {k: c["pid"] for k, c in components().items()}
        old = json.loads(nsk8s("status", "-o", "json").stdout)["supervisor"]
        kill(old)
        until("the supervisor is gone", lambda: not Path(f"/proc/{old}").exists())
        load.more()
        assert json.loads(nsk8s("status", "-o", "json").stdout)["supervisor"] not in (0, old)
        assert {k: c["pid"] for k, c in components().items()} == kept, "the new supervisor took over what ran"
        load.more()
        end = load.finish()
    assert (end["failed"], end["errors"]) == (0, [])
    assert end["answered"] == end["attempts"]
    assert end["streamOpen"]
    assert set(end["servers"]) == {p["metadata"]["name"] for p in pods()}
    until("every node Ready", lambda: all(ready(n) == "True" for n in NODES))
    assert identities() == before
    assert pod_pids() == pids
