"""Somebody's own plugins and network on a whole cluster: Debian's Go plugins, a shell script in the chain, and one that breaks."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import NAME, apply, ask, components, get, in_pod, netns, nsk8s, pod, until

DEBIAN = Path("/usr/lib/cni")
pytestmark = [
    pytest.mark.root, pytest.mark.timeout(120),
    pytest.mark.skipif(not (DEBIAN / "bridge").exists(), reason="needs Debian's containernetworking-plugins"),
]  # fmt: skip

WRAPPER = f"""#!/bin/sh
echo "$CNI_COMMAND $CNI_PATH" >> /run/bridge-calls
exec {DEBIAN}/bridge
"""
NOTE = """#!/bin/sh
# A plugin of three lines: writes down who came and went, and hands the result on.
stdin=$(cat)
echo "$CNI_COMMAND $CNI_ARGS" >> /run/note-calls
[ "$CNI_COMMAND" = ADD ] && printf '%s' "$stdin" | /usr/bin/python3 -Ic 'import json,sys; print(json.dumps(json.load(sys.stdin)["prevResult"]))'
exit 0
"""
CONFLIST = """{
  "cniVersion": "1.0.0",
  "name": "mine",
  "plugins": [
    {"type": "bridge", "bridge": "mine0", "isDefaultGateway": true, "hairpinMode": true, "mtu": {{.MTU}},
     "ipam": {"type": "host-local", "ranges": {{.Ranges}}}},
    {"type": "portmap", "capabilities": {"portMappings": true}},
    {"type": "note", "who": "{{.NodeName}} {{.NodeIP}}"}
  ]
}
"""
BROKEN = {
    "error": ("echo '{\"code\": 100, \"msg\": \"the switch is on fire\"}'; exit 1", "the switch is on fire"),
    "garbage": ("echo 'Segmentation fault'; exit 1", "error parsing its diagnostic message 'Segmentation fault"),
    "hanging": ("exec sleep 600", "note did not end within 2 seconds and was killed"),
}


def install(folder: Path, name: str, text: str) -> None:
    new = folder / f".{name}"
    new.write_text(text)
    new.chmod(0o755)
    new.rename(folder / name)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In /var/tmp, which a node has for itself: what it sees there is what `up` shows it."""
    path = Path(tempfile.mkdtemp(prefix="nsk8s-plugins-", dir="/var/tmp"))
    path.chmod(0o755)
    install(path, "bridge", WRAPPER)
    install(path, "note", NOTE)
    (path / "net.d").mkdir()
    (path / "net.d" / "10-mine.conflist").write_text(CONFLIST)
    asked = {
        "nodes": 2, "cni": {"binDir": f".:{DEBIAN}", "confDir": "net.d"}, "network": {"mtu": 1400},
        "kubelet": {"config": {"runtimeRequestTimeout": "3s"}},
    }  # fmt: skip
    (path / "cluster.yaml").write_text(json.dumps(asked))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module", autouse=True)
def cluster(folder: Path) -> Iterator[None]:
    try:
        nsk8s("up", "-f", str(folder / "cluster.yaml"))
        yield
    finally:
        nsk8s("down", ok=False)


def running(name: str) -> dict[str, Any]:
    def look() -> Any:
        found = get("pods", name)
        return found if found["status"].get("phase") == "Running" and found["status"].get("podIP") else None

    return until(f"pod {name} runs", look)


def on_node(node: str, *command: str) -> str:
    return nsk8s("enter", node, "--", *command, ok=False).stdout


def echo(name: str, node: str) -> dict[str, Any]:
    server = pod(name, "nsk8s/echo", nodeName=node)
    del server["spec"]["containers"][0]["command"]
    return server


def test_every_node_has_the_file_filled_in_for_itself_and_no_other() -> None:
    for node in get("nodes")["items"]:
        name, cidr = node["metadata"]["name"], node["spec"]["podCIDR"]
        ip = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        assert on_node(name, "ls", "/etc/cni/net.d").split() == ["10-mine.conflist"]
        plugins = json.loads(on_node(name, "cat", "/etc/cni/net.d/10-mine.conflist"))["plugins"]
        assert (plugins[0]["ipam"]["ranges"], plugins[0]["mtu"], plugins[2]["who"]) == ([[{"subnet": cidr}]], 1400, f"{name} {ip}")


def test_pods_of_two_nodes_talk_through_debians_plugins_and_a_script(folder: Path) -> None:
    apply(echo("server", "node2"), pod("one", nodeName="node1"))
    one, server = (running(name)["status"]["podIP"] for name in ("one", "server"))
    assert [ip.rpartition(".")[0] for ip in (one, server)] == [
        get("nodes", n)["spec"]["podCIDR"].rpartition(".")[0] for n in ("node1", "node2")
    ]
    assert ask(("pod/one",), f"http://{server}:8080/")["client"].rpartition(":")[0] == one, "as it was sent: no NAT between nodes"
    assert " mtu 1400 " in in_pod("one", "ip", "link", "show", "eth0")
    links = {link["ifname"]: link for link in json.loads(netns("node1", "ip", "-j", "link").stdout)}
    assert "mine0" in links
    assert "cni0" not in links
    calls = on_node("node1", "cat", "/run/bridge-calls").splitlines()
    assert calls[0].split() == ["ADD", calls[0].split()[1]]
    assert calls[0].split()[1].startswith(f"{folder.resolve()}:{DEBIAN}:"), "searched before ours"
    notes = on_node("node1", "cat", "/run/note-calls").splitlines()  # the DNS may be on this node too
    said = [n.split()[0] for n in notes if "K8S_POD_NAME=one;" in n]
    assert said == ["ADD", "DEL"] * (len(said) // 2) + ["ADD"], "once, but for those that took longer than a call may"
    nsk8s("delete", "pod", "one")
    until("both plugins were told", lambda: all(
        "DEL" in on_node("node1", "cat", f"/run/{log}-calls") for log in ("bridge", "note")))  # fmt: skip
    until("its address is free", lambda: one not in on_node("node1", "ls", "/var/lib/cni/networks/mine").split())


@pytest.mark.parametrize("kind", BROKEN)
def test_a_plugin_that_breaks_leaves_the_pod_pending_until_it_is_repaired(folder: Path, kind: str) -> None:
    script, words = BROKEN[kind]
    install(folder, "note", f"#!/bin/sh\ncat > /dev/null\n{script}\n")
    try:
        apply(pod(kind, nodeName="node1"))
        if kind == "hanging":  # more than the runtime starts at once; what needs no plugin goes on
            apply(*(pod(f"hanging{i}", nodeName="node1") for i in range(3)), pod("free", nodeName="node1", hostNetwork=True))
            running("free")
            assert get("pods", "hanging2")["status"]["phase"] == "Pending"

        def told() -> Any:
            messages = [e["message"] for e in get("events")["items"] if e["involvedObject"]["name"] == kind]
            return [m for m in messages if words in m]

        message = until("an Event with the plugin's words", told)[0]
        assert message.startswith("Failed to create pod sandbox: rpc error: code = Unknown desc = failed to setup network for sandbox")
        assert 'plugin type="note" failed (add)' in message
        waits = [{"waiting": {"reason": "ContainerCreating"}}]
        until("its state", lambda: [c["state"] for c in get("pods", kind)["status"].get("containerStatuses", [])] == waits)
        assert get("pods", kind)["status"]["phase"] == "Pending"
    finally:
        install(folder, "note", NOTE)
    running(kind)
    nsk8s("delete", "pod", kind)


def test_a_running_cluster_keeps_its_plugins_and_its_network(folder: Path, tmp_path: Path) -> None:
    nsk8s("up", "-f", str(folder / "cluster.yaml"))
    for words in (["--cni-bin-dir", str(DEBIAN)], ["--cni-conf-dir", str(folder / "net.d")]):
        done = nsk8s("up", *words, ok=False)
        assert (done.returncode, f"cluster {NAME} exists with other settings (cni)" in done.stderr) == (1, True)
    (folder / "net.d" / "10-mine.conflist").write_text(CONFLIST.replace("mine0", "mine1"))
    assert "exists with other settings (cni)" in nsk8s("up", "-f", str(folder / "cluster.yaml"), ok=False).stderr
    assert "node1/runtime" in components()


def test_a_node_sees_the_folder_and_cannot_write_to_it(folder: Path) -> None:
    seen = on_node("node2", "sh", "-c", f"ls {folder}; touch {folder}/x 2>&1")
    assert {"bridge", "note"} <= set(seen.split())
    assert "Read-only file system" in seen
    assert os.access(folder, os.W_OK)
