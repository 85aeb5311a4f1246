"""hostPort on a whole cluster, and a node whose network plugin is broken: the pod waits and its Events say why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from e2e_cluster import apply, ask, becomes, get, netns, nsk8s, pod, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
NODE = "node1"
BROKEN = "/etc/cni/net.d/00-broken.conflist"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    nsk8s("up", "--nodes", "2")
    yield
    nsk8s("down")


def node_ip(name: str) -> str:
    return next(a["address"] for a in get("nodes", name)["status"]["addresses"] if a["type"] == "InternalIP")


def running(name: str) -> dict[str, Any]:
    def look() -> Any:
        found = get("pods", name)
        return found if found["status"].get("phase") == "Running" and found["status"].get("podIP") else None

    return until(f"pod {name} runs", look)


def write_on_node(path: str, text: str) -> None:
    nsk8s("enter", NODE, "--", "sh", "-c", f"cat > {path}.tmp && mv {path}.tmp {path}", text=text)


def test_a_host_port_answers_outside_and_on_the_node_and_goes_with_the_pod() -> None:
    web = pod("hostport", "nsk8s/echo", nodeName=NODE)
    del web["spec"]["containers"][0]["command"]
    web["spec"]["containers"][0]["ports"] = [{"containerPort": 8080, "hostPort": 18080}]
    apply(web)
    running("hostport")
    ip = node_ip(NODE)

    def answers() -> bool:
        return nsk8s("enter", "client", "--", "curl", "-sf", "-m", "2", f"http://{ip}:18080/", ok=False).returncode == 0

    until("the hostPort answers", answers)
    assert ask(("client",), f"http://{ip}:18080/")["client"].startswith("203.0.113.")
    for address in ("127.0.0.1", ip):
        assert netns(NODE, "curl", "-sf", "-m", "5", f"http://{address}:18080/").returncode == 0
    # The same port of the same node is taken.
    second = json.loads(json.dumps(web).replace('"hostport"', '"second"'))
    apply(second)
    until("the second pod is refused", lambda: get("pods", "second")["status"].get("reason") == "NodePorts")
    nsk8s("delete", "pod", "hostport", "second")
    until("the rules are gone", lambda: "CNI-DN-" not in netns(NODE, "iptables", "-t", "nat", "-S").stdout)
    assert not answers()


def reserved(network: str) -> list[str]:
    listed = nsk8s("enter", NODE, "--", "sh", "-c", f"ls /var/lib/cni/networks/{network} 2>/dev/null || true").stdout.split()
    return [name for name in listed if name[0].isdigit()]


def events(name: str) -> list[str]:
    return [e["message"] for e in get("events")["items"] if e["involvedObject"]["name"] == name]


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        ({"type": "nosuch"}, 'failed to find plugin "nosuch" in path'),
        ({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.2.3/24"}}, "Network has host bits set"),
        ({"type": "bridge", "mtu": "big", "ipam": {"type": "host-local"}}, "cannot unmarshal string into field mtu"),
    ],
)
def test_a_broken_plugin_leaves_the_pod_pending_with_its_error_in_an_event(plugin: dict[str, Any], words: str) -> None:
    name = f"stuck-{len(words)}"
    apply(pod(f"before-{name}", nodeName=NODE))
    early = running(f"before-{name}")["status"]["podIP"]
    write_on_node(BROKEN, json.dumps({"cniVersion": "1.0.0", "name": "broken", "plugins": [plugin]}))
    try:
        nsk8s("delete", "pod", f"before-{name}")
        until("the address of a pod on the network before is free", lambda: early not in reserved("nsk8s"))
        apply(pod(name, nodeName=NODE))
        becomes("an Event with the plugin's error", lambda: "told" if any(words in m for m in events(name)) else events(name), "told")
        assert any("failed to setup network for sandbox" in message for message in events(name))
        status = get("pods", name)["status"]
        assert status["phase"] == "Pending"
        assert not status.get("podIP")
    finally:
        nsk8s("enter", NODE, "--", "rm", "-f", BROKEN)
    assert running(name)["status"]["podIP"].startswith("10.244.")
    nsk8s("delete", "pod", name)
    until("the pod is gone", lambda: not any(p["metadata"]["name"] == name for p in get("pods")["items"]))
    becomes("no address is kept for it", lambda: reserved("broken"), [])
