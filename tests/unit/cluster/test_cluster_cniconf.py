"""cni.binDir and cni.confDir before a cluster is made of them: every mistake in one line that names file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cni import SEARCH_PATH
from nsk8s.cluster import cniconf, specs
from nsk8s.cluster.state import NodeState, Paths, new_state
from nsk8s.config import ClusterConfig, parse
from nsk8s.errors import Nsk8sError

BRIDGE = {"type": "bridge", "ipam": {"type": "host-local", "subnet": "{{.PodCIDR}}"}}


def conflist(*plugins: dict[str, Any], **more: Any) -> str:
    return json.dumps({"cniVersion": "1.0.0", "name": "mine", "plugins": list(plugins or [BRIDGE]), **more})


def with_files(folder: Path, files: dict[str, str], nodes: int = 1) -> ClusterConfig:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return cniconf.gather(parse({"cni": {"confDir": folder.name}, "nodes": nodes}, "test"), folder.parent)


def test_the_files_become_part_of_the_cluster_and_of_every_node(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    files = {"10-a.conflist": conflist(), "20-b.conf": json.dumps({"name": "b", **BRIDGE})}
    folder = tmp_path / "net.d"
    folder.mkdir()
    for name, text in {**files, "README": "{{"}.items():
        (folder / name).write_text(text)
    asked = parse({"cni": {"binDir": "bin", "confDir": "net.d"}}, "test")
    config = cniconf.gather(asked, tmp_path)
    assert (config.cni.bin_dir, config.cni.conf_dir, config.cni.conf) == ([str(tmp_path / "bin")], str(folder), files)
    kept = new_state(config, 6443).cluster_config()
    assert kept.cni == config.cni, "cluster.json holds all of it"
    on_disk = specs.node_files(kept)
    assert {name: on_disk[f"etc/kubernetes/cni/{name}"] for name in files} == files
    by_name = {s["name"]: s["argv"] for s in specs.node(Paths("x"), kept, NodeState("node1", "192.168.56.11"))}
    assert "--cni-conf-template-dir=/etc/kubernetes/cni" in by_name["node-network"]
    assert f"--cni-bin-dir={tmp_path}/bin:{SEARCH_PATH}" in by_name["runtime"]


def test_a_default_cluster_has_nothing_of_it() -> None:
    config = ClusterConfig()
    assert cniconf.gather(config, Path("/nowhere")) is config
    argv = [a for s in specs.node(Paths("x"), config, NodeState("node1", "192.168.56.11")) for a in s["argv"]]
    assert not any("cni-" in a or "--mtu" in a for a in argv)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a.conflist": "{"}, "/net.d/a.conflist: not valid JSON"),
        ({"a.conflist": "[]"}, "a.conflist: error parsing configuration list: not an object"),
        ({"a.conflist": conflist(name="")}, "a.conflist: error parsing configuration list: no name"),
        ({"a.conflist": conflist(plugins=[])}, "no plugins in list"),
        ({"a.conflist": conflist({"ipam": {}})}, "failed to parse plugin config 0: missing 'type'"),
        ({"a.conflist": conflist(cniVersion="2.0.0")}, "a.conflist: cniVersion 2.0.0 is not supported"),
        ({"a.conflist": conflist(cniVersion=1)}, "invalid cniVersion type"),
        ({"a.conflist": conflist().replace("PodCIDR", "PodCidr")}, "line 1: {{.PodCidr}}: there is no such field, did you mean PodCIDR?"),
        ({"a.conf": json.dumps({"name": "x", "ipam": {}})}, "missing 'type'"),
        ({"a.conf": json.dumps({"name": "x", "type": "bridge", "ipam": []})}, "cannot unmarshal array into field ipam"),
        ({"z.txt": ""}, "no CNI configuration in"),
        (
            {"a.conflist": conflist({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.22.0.0/16"}})},
            "/net.d/a.conflist: plugins[0].ipam.subnet: 10.22.0.0/16 would be handed out on each of 2 nodes",
        ),
        (
            {"a.conflist": conflist({"type": "x"}, {"Type": 1, "type": "y", "IPAM": {"TYPE": "host-local", "Ranges": [[{"Subnet": "{{.PodCIDR}}"}], [{"subnet": "fd00::/64"}]]}})},
            "plugins[1].ipam.ranges[1][0].subnet: fd00::/64 would be handed out on each of 2 nodes",
        ),
        ({"a.conflist": conflist({"type": "b", "ipam": {"type": "host-local", "ranges": [{"subnet": "10.1.0.0/16"}]}})}, "want a list of ranges"),
    ],
)  # fmt: skip
def test_a_file_that_could_not_work_is_refused(tmp_path: Path, files: dict[str, str], says: str) -> None:
    with pytest.raises(Nsk8sError) as e:
        with_files(tmp_path / "net.d", files)
    assert says in e.value.message
    assert "\n" not in str(e.value)


def test_what_differs_from_node_to_node_or_has_one_node_may_be_fixed(tmp_path: Path) -> None:
    fixed = {"a.conflist": conflist({"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.22.0.0/16"}})}
    alone = with_files(tmp_path / "net.d", fixed, nodes=0)
    with pytest.raises(Nsk8sError, match="on each of 2 nodes"):
        cniconf.check(alone, 2)  # what `node add` asks
    of_the_cluster = {"type": "whereabouts", "range": "10.244.0.0/16", "subnet": "10.244.0.0/16"}
    with_files(tmp_path / "other.d", {"a.conflist": conflist({"type": "bridge", "ipam": of_the_cluster})}, nodes=3)


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"binDir": "none"}, "cni.binDir: .*none is not a folder"),
        ({"binDir": "/"}, "cni.binDir: / is where a node has things of its own"),
        ({"binDir": "/proc/self"}, "is where a node has things of its own"),
        ({"binDir": ["a:b"]}, "is not a folder's path"),
        ({"confDir": "none"}, "cni.confDir: cannot read .*none: No such file"),
        ({"confDir": "x", "conf": {"a.conf": "{}"}}, "exclude each other"),
        ({"conf": {"../a.conf": "{}"}}, "a configuration's name ends in"),
        ({"conf": {"a.txt": "{}"}}, "a configuration's name ends in"),
        ({"conff": {}}, "cni.conff: there is no such setting, did you mean conf?"),
    ],
)
def test_folders_that_cannot_serve_are_refused(tmp_path: Path, own: dict[str, Any], says: str) -> None:
    with pytest.raises(Nsk8sError, match=says):
        cniconf.gather(parse({"cni": own}, "test"), tmp_path)


def test_a_plugin_that_nobody_has_is_told_of(tmp_path: Path) -> None:
    plugins = tmp_path / "bin"
    plugins.mkdir()
    (plugins / "flat").touch(0o644)
    text = conflist({"type": "nosuch", "ipam": {"type": "nowhere"}}, {"type": "flat"}, {"type": "portmap"})
    config = cniconf.gather(parse({"cni": {"binDir": str(plugins), "conf": {"a.conflist": text}}, "nodes": 0}, "test"), tmp_path)
    found = cniconf.missing_plugins(config)
    assert [line.partition(":")[0] for line in found] == ["a.conflist"] * 3
    assert [word for line in found for word in ('"nosuch"', '"nowhere"', "flat is not executable") if word in line] == [
        '"nosuch"', "flat is not executable", '"nowhere"',
    ]  # fmt: skip
