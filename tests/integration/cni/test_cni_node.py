"""What a node's runtime does with networks that change under its pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cni import BIN_DIR, SEARCH_PATH, libcni
from cni.iptables import Tables
from nsk8s.runtime.network import Network


def record(number: int, pod: Any) -> dict[str, Any]:
    metadata = {"name": f"p{number}", "namespace": "default", "uid": f"u{number}", "attempt": 0}
    return {"id": f"c{number}", "netns": pod.path, "config": {"metadata": metadata}}


def write(node: Any, name: str, subnet: str) -> None:
    bridge = {k: v for k, v in node.conf(bridge=f"br-{name}", ipam={"subnet": subnet}).items() if k not in ("name", "cniVersion")}
    conflist = {"cniVersion": "1.0.0", "name": name, "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]}
    Path(node.dir, "conf").mkdir(exist_ok=True)
    Path(node.dir, "conf", "10.conflist").write_text(json.dumps(conflist))


def test_pods_leave_the_network_they_were_on(node: Any) -> None:
    network = Network(str(node.dir / "conf"), "", str(node.dir / "cache"))
    write(node, "old", "10.1.0.0/24")
    pods = [node.pod() for _ in range(3)]
    for i, pod in enumerate(pods):
        assert node.inside(lambda i=i, pod=pod: network.set_up(record(i, pod)))["network"] == "old"
    write(node, "new", "10.2.0.0/24")
    late = node.pod()
    assert node.inside(lambda: network.set_up(record(9, late)))["ips"] == ["10.2.0.2"]
    node.inside(lambda: network.tear_down(record(0, pods[0])))
    assert set(node.reservations("old").values()) == {"c1\r\neth0", "c2\r\neth0"}
    # After a reboot only c9 is known.
    assert network.stale({"c9"})
    node.inside(lambda: network.collect({"c9"}))
    assert not network.stale({"c9"})
    assert node.reservations("old") == {}
    assert set(node.reservations("new").values()) == {"c9\r\neth0"}
    assert [a.container_id for a in libcni.attachments(cache_dir=str(node.dir / "cache"))] == ["c9", "c9"]  # eth0 and lo


def test_a_pod_with_a_host_port_is_not_quick(node: Any) -> None:
    network = Network(str(node.dir / "conf"), "", str(node.dir / "cache"))
    write(node, "net", "10.1.0.0/24")
    pod = record(1, node.pod())
    assert network.is_quick(pod)
    pod["config"]["portMappings"] = [{"hostPort": 80, "containerPort": 80, "protocol": "TCP"}]
    assert not network.is_quick(pod)


def test_where_a_call_runs_depends_on_the_network_it_is_about(node: Any, tmp_path: Path) -> None:
    """Ours in the runtime; another's in a helper, its DEL too, when the pod's network is no longer the node's."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    network = Network(str(node.dir / "conf"), f"{plugins}:{SEARCH_PATH}", str(node.dir / "cache"))
    write(node, "theirs", "10.1.0.0/24")
    ours = (Path(BIN_DIR) / "bridge").read_text()
    (plugins / "bridge").write_text(ours.replace("ROOT = None", f"ROOT = {str(Path(BIN_DIR).parents[1])!r}  # a copy of one's own"))
    (plugins / "bridge").chmod(0o755)
    on_theirs, on_ours = record(1, node.pod()), record(2, node.pod())
    assert (network.is_quick(on_theirs), network.is_foreign(on_theirs)) == (False, True)
    node.inside(lambda: network.set_up(on_theirs))
    (plugins / "bridge").rename(plugins / "other")
    text = (node.dir / "conf" / "10.conflist").read_text()
    (node.dir / "conf" / "10.conflist").write_text(text.replace('"bridge", "bridge"', '"other", "bridge"'))
    node.inside(lambda: network.set_up(on_ours))
    write(node, "ours", "10.2.0.0/24")
    assert (network.is_quick(on_ours), network.is_foreign(on_ours)) == (True, False), "the node's network now"
    assert (network.is_quick(on_ours, ending=True), network.is_foreign(on_ours, ending=True)) == (False, True), "the pod's own"
    (plugins / "other").rename(plugins / "loopback")
    assert (network.is_quick(on_ours), network.is_foreign(on_ours)) == (False, True), "every pod has a loopback"


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_the_nodes_variant_of_iptables_is_used(variant: str) -> None:
    assert Tables({"NSK8S_IPTABLES": variant}, 4).program == f"iptables-{variant}"
    assert Tables({"NSK8S_IPTABLES": "auto"}, 6).program == "ip6tables"
