"""A part left out with `up --without`, and put in by hand: `nsk8s component kube-proxy` in a node, with upstream's flags."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from e2e_cluster import NAME, apply, components, get, netns, nsk8s, pod, pods, until
from e2e_settled import pods_are_reached

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def vip() -> Iterator[str]:
    """A cluster without kube-proxy; the ClusterIP of a Service with one echo pod on node2."""
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "--nodes", "2", "--without", "kube-proxy")
        web = pod("web", "nsk8s/echo", nodeName="node2")
        del web["spec"]["containers"][0]["command"]
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}
        apply(web, service)
        until("the pod", lambda: pods("app=web"))
        yield get("service/web")["spec"]["clusterIP"]
    finally:
        nsk8s("down", "-q", ok=False)


def answers(node: str, vip: str, within_s: float = 5) -> bool:
    return netns(node, "curl", "-s", "-m", str(within_s), f"http://{vip}/healthz").stdout == "ok\n"


@contextmanager
def by_hand(node: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """kube-proxy in the foreground on a node, as somebody would start a real one; ended in the end."""
    words = [sys.executable, "-m", "nsk8s.cli.main", "component", "kube-proxy", *flags]
    process = subprocess.Popen(
        [sys.executable, "-m", "nsk8s.cli.main", "enter", node, "--", *words], env={**os.environ, "NSK8S_CLUSTER": NAME}, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_without_it_nodes_and_pods_work_and_services_do_not(vip: str) -> None:
    assert "kube-proxy" not in {c["name"] for c in components().values()}
    ready = {n["metadata"]["name"]: c["status"] for n in get("nodes")["items"] for c in n["status"]["conditions"] if c["type"] == "Ready"}
    assert ready == {"control-plane": "True", "node1": "True", "node2": "True"}
    pods_are_reached(("node1", "node2"), "app=web")
    assert "KUBE-SVC" not in netns("node1", "iptables-save", "-t", "nat").stdout
    assert not answers("node1", vip, 1)


def test_put_in_by_hand_it_serves_on_its_node_alone_and_its_rules_stay(vip: str) -> None:
    flags = ("--kubeconfig=/etc/kubernetes/kube-proxy.conf", "--hostname-override=node1", "--config=/var/lib/kube-proxy/config.conf")
    with by_hand("node1", *flags) as process:
        until("node1 serves it", lambda: answers("node1", vip))
        assert os.readlink(f"/proc/{process.pid}/ns/net") == f"net:[{os.stat(f'/run/netns/{NAME}-node1').st_ino}]"
        assert not answers("node2", vip, 1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, "a clean end"
    assert answers("node1", vip), "connections go on without it"
    nsk8s("enter", "node1", "--", sys.executable, "-m", "nsk8s.cli.main", "component", "kube-proxy", "--cleanup")
    assert "KUBE-" not in netns("node1", "iptables-save", "-t", "nat").stdout.replace("KUBE-KUBELET-CANARY", "")
    assert "NSK8S-MASQ" in netns("node1", "iptables-save", "-t", "nat").stdout, "what is node-network's stays"


def test_a_second_up_does_not_bring_it_back_and_down_ends_what_was_started_by_hand(vip: str) -> None:
    nsk8s("up", "-q")
    assert "kube-proxy" not in {c["name"] for c in components().values()}
    with by_hand("node2", "--kubeconfig=/etc/kubernetes/kube-proxy.conf", "--hostname-override=node2", "--cluster-cidr=10.244.0.0/16") as process:
        until("node2 serves it", lambda: answers("node2", vip))
        nsk8s("down", "-q")
        assert process.wait(30) == -signal.SIGKILL
    assert not os.path.exists(f"/run/netns/{NAME}-node2")


def test_in_the_machines_own_namespace_it_refuses() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nsk8s.cli.main", "component", "kube-proxy", "--kubeconfig=/nowhere"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "the machine's own network namespace" in done.stderr
    assert "Traceback" not in done.stderr
