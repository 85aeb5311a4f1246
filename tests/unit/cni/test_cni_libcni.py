"""libcni with plugins that are functions: chaining, order, versions, capabilities, the cache, errors."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cni import invoke, libcni, skel
from cni.errors import CniError
from cni.libcni import Attachment


class Plugins:
    """A runner that records every call and answers from a table; its "executables" are empty files on a path."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.path = str(directory / "bin")
        os.mkdir(self.path)
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.env: list[Mapping[str, str]] = []
        self.answers: dict[tuple[str, str], tuple[int, bytes]] = {}

    def plugin(self, name: str, **answers: Any) -> None:
        (self.dir / "bin" / name).touch()
        for command, body in answers.items():
            code = 1 if isinstance(body, dict) and "code" in body else 0
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.answers[name, command] = (code, raw)

    def run(self, path: str, env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        name, command = os.path.basename(path), env["CNI_COMMAND"]
        self.calls.append((name, command, json.loads(stdin)))
        self.env.append(env)
        return self.answers.get((name, command), (0, b""))

    @property
    def options(self) -> dict[str, Any]:
        return {"cni_path": self.path, "cache_dir": str(self.dir / "cache"), "run": self.run, "env": {"PATH": "/bin"}}


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    found = Plugins(tmp_path)
    found.plugin("first", ADD={"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}], "dns": {}, "vendor": 1})
    found.plugin("second", ADD={"ips": [{"address": "10.1.0.3/24"}], "dns": {}})
    return found


def network(version: str = "1.0.0", **more: Any) -> libcni.NetworkList:
    chain = [
        {"type": "first", "capabilities": {"mac": True, "ips": False}, "x": 1},
        {"type": "second", "capabilities": {"ips": True}},
    ]
    return libcni.parse_list(json.dumps({"cniVersion": version, "name": "net1", "plugins": chain, **more}).encode())


ARGS = [("IgnoreUnknown", "1"), ("K8S_POD_NAME", "web")]
TO = Attachment("c1", "/run/netns/c1", "eth0", ARGS, {"mac": "02::", "ips": ["10.1.0.9"]})


def test_add_chains_and_caches(plugins: Plugins) -> None:
    result = libcni.add(network(), TO, **plugins.options)
    assert result == {"ips": [{"address": "10.1.0.3/24"}], "dns": {}, "cniVersion": "1.0.0"}
    (name1, command1, conf1), (_, _, conf2) = plugins.calls
    assert (name1, command1) == ("first", "ADD")
    assert conf1 == {
        "type": "first", "capabilities": {"mac": True, "ips": False}, "x": 1, "name": "net1", "cniVersion": "1.0.0",
        "runtimeConfig": {"mac": "02::"},
    }  # fmt: skip
    assert conf2["prevResult"] == {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24"}], "dns": {}, "vendor": 1}
    assert conf2["runtimeConfig"] == {"ips": ["10.1.0.9"]}
    assert plugins.env[0] == {
        "PATH": "/bin", "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1", "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web", "CNI_PATH": plugins.path,
    }  # fmt: skip
    cached = plugins.dir / "cache/results/net1-c1-eth0"
    assert cached.stat().st_mode & 0o777 == 0o600
    entry = json.loads(cached.read_text())
    assert entry["kind"] == "cniCacheV1"
    assert base64.b64decode(entry["config"]) == network().raw
    assert entry["cniArgs"] == [["IgnoreUnknown", "1"], ["K8S_POD_NAME", "web"]]
    assert entry["result"] == result
    assert os.listdir(cached.parent) == ["net1-c1-eth0"]


def test_del_is_in_reverse_with_the_final_result(plugins: Plugins) -> None:
    result = libcni.add(network(), TO, **plugins.options)
    plugins.calls.clear()
    libcni.delete(network(), TO, **plugins.options)
    assert [(n, c, conf["prevResult"]) for n, c, conf in plugins.calls] == [("second", "DEL", result), ("first", "DEL", result)]
    assert os.listdir(plugins.dir / "cache/results") == []
    plugins.calls.clear()
    libcni.delete(network(), TO, **plugins.options)
    assert ["prevResult" in conf for _, _, conf in plugins.calls] == [False, False]


def test_del_stops_at_an_error_and_keeps_the_cache(plugins: Plugins) -> None:
    libcni.add(network(), TO, **plugins.options)
    plugins.plugin("second", DEL={"code": 11, "msg": "busy", "details": "later"})
    plugins.calls.clear()
    with pytest.raises(CniError) as caught:
        libcni.delete(network(), TO, **plugins.options)
    assert (caught.value.code, str(caught.value)) == (11, 'plugin type="second" failed (delete): busy; later')
    assert [n for n, _, _ in plugins.calls] == ["second"]
    assert os.listdir(plugins.dir / "cache/results") == ["net1-c1-eth0"]


def test_an_add_killed_as_it_caches_leaves_nothing_after_del(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: str) -> None:
        raise SystemExit

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(SystemExit):
        libcni.add(network(), TO, **plugins.options)
    assert len(os.listdir(plugins.dir / "cache/results")) == 1
    assert list(libcni.attachments("net1", str(plugins.dir / "cache"))) == []
    libcni.delete(network(), TO, **plugins.options)
    assert os.listdir(plugins.dir / "cache/results") == []


def test_a_failed_add_stops_and_caches_nothing(plugins: Plugins) -> None:
    plugins.plugin("first", ADD={"code": 999, "msg": "no"})
    with pytest.raises(CniError, match=r'plugin type="first" failed \(add\): no'):
        libcni.add(network(), TO, **plugins.options)
    assert [n for n, _, _ in plugins.calls] == ["first"]
    assert not (plugins.dir / "cache").exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [((1, b""), "no error message"), ((1, b"Traceback"), "error parsing its diagnostic message"), ((-9, b""), "signal 9"),
     ((0, b"garbage"), "error decoding"), ((0, b"[]"), "not an object"), ((0, b'{"cniVersion":"7.0.0"}'), "unsupported"),
     ((0, b'{"code": 5, "msg": "reaped elsewhere"}'), "reaped elsewhere")],
)  # fmt: skip
def test_plugins_that_misbehave(plugins: Plugins, answer: tuple[int, bytes], words: str) -> None:
    plugins.answers["first", "ADD"] = answer
    with pytest.raises(CniError, match=words):
        libcni.add(network(), TO, **plugins.options)


def test_results_are_brought_to_the_networks_version(plugins: Plugins) -> None:
    result = libcni.add(network("0.4.0"), TO, **plugins.options)
    assert result["cniVersion"] == "0.4.0"
    assert plugins.calls[1][2]["prevResult"]["ips"] == [{"version": "4", "address": "10.1.0.2/24"}]
    libcni.delete(network("0.3.1"), TO, **plugins.options)
    assert all("prevResult" not in conf for _, c, conf in plugins.calls if c == "DEL")


def test_check(plugins: Plugins) -> None:
    result = libcni.add(network(), TO, **plugins.options)
    plugins.calls.clear()
    libcni.check(network(), TO, **plugins.options)
    assert [(n, conf["prevResult"]) for n, _, conf in plugins.calls] == [("first", result), ("second", result)]
    plugins.calls.clear()
    libcni.check(network(disableCheck=True), TO, **plugins.options)
    assert plugins.calls == []
    with pytest.raises(CniError, match="does not support CHECK"):
        libcni.check(network("0.3.1"), TO, **plugins.options)


def test_gc_deletes_what_is_not_valid_then_calls_gc(plugins: Plugins) -> None:
    for container in ("c1", "c2", "c3"):
        libcni.add(network("1.1.0"), Attachment(container, f"/n/{container}", "eth0"), **plugins.options)
    plugins.calls.clear()
    libcni.gc(network("1.1.0"), [("c2", "eth0")], **plugins.options)
    order = [("second", "DEL"), ("first", "DEL"), ("second", "DEL"), ("first", "DEL"), ("first", "GC"), ("second", "GC")]
    assert [(n, c) for n, c, _ in plugins.calls] == order
    assert plugins.env[-6]["CNI_NETNS"] == "/n/c1"
    assert plugins.calls[-1][2]["cni.dev/valid-attachments"] == [{"containerID": "c2", "ifname": "eth0"}]
    assert [a.container_id for a in libcni.attachments("net1", str(plugins.dir / "cache"))] == ["c2"]
    plugins.calls.clear()
    libcni.gc(network("1.0.0"), [("c2", "eth0")], **plugins.options)
    assert plugins.calls == []


def test_status(plugins: Plugins) -> None:
    options = {k: v for k, v in plugins.options.items() if k != "cache_dir"}
    libcni.status(network("1.0.0"), **options)
    assert plugins.calls == []
    plugins.plugin("second", STATUS={"code": 50, "msg": "not yet"})
    with pytest.raises(CniError) as caught:
        libcni.status(network("1.1.0"), **options)
    assert caught.value.code == 50


def test_plugins_are_found_along_the_path(plugins: Plugins) -> None:
    with pytest.raises(CniError, match=r'failed to find plugin "portmap" in path \[/a /b\]'):
        libcni.find_in_path("portmap", "/a:/b")
    with pytest.raises(CniError, match="invalid plugin name"):
        libcni.find_in_path("../sh", "/bin")
    os.mkdir(plugins.dir / "early")
    os.mkdir(plugins.dir / "early/first")  # a folder of that name does not count
    assert libcni.find_in_path("first", f"{plugins.dir}/early:{plugins.path}") == f"{plugins.path}/first"


def test_files_are_tried_by_name(tmp_path: Path) -> None:
    with pytest.raises(CniError, match="no networks found"):
        libcni.first_network(str(tmp_path / "none"))
    (tmp_path / "00-broken.conflist").write_text("{")
    (tmp_path / "05-empty.conflist").write_text('{"name": "e", "plugins": []}')
    (tmp_path / "06-folder.conflist").mkdir()
    (tmp_path / "README").write_text("x")
    with pytest.raises(CniError, match=r"no valid networks found .*00-broken.*05-empty"):
        libcni.first_network(str(tmp_path))
    (tmp_path / "20-one.conf").write_text('{"cniVersion": "0.3.1", "name": "one", "type": "first", "y": 2}')
    (tmp_path / "30-list.conflist").write_text('{"cniVersion": "1.0.0", "name": "two", "plugins": [{"type": "first"}]}')
    assert libcni.first_network(str(tmp_path)).name == "one"
    assert libcni.first_network(str(tmp_path)).plugins == [{"cniVersion": "0.3.1", "name": "one", "type": "first", "y": 2}]
    (tmp_path / "00-broken.conflist").unlink()
    (tmp_path / "05-empty.conflist").unlink()
    assert libcni.load_network(str(tmp_path), "two").version == "1.0.0"
    with pytest.raises(CniError, match='no net configuration with name "three"'):
        libcni.load_network(str(tmp_path), "three")


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{}", '{"name": 1}', '{"name": "x"}', '{"name": "x", "plugins": [{}]}', '{"name": "x", "plugins": [7]}',
     '{"name": "x", "cniVersion": 1, "plugins": [{"type": "a"}]}', '{"name": "x", "disableGC": 1, "plugins": [{"type": "a"}]}',
     '{"name": "x", "cniVersions": 1, "plugins": [{"type": "a"}]}'],
)  # fmt: skip
def test_bad_lists_are_errors(body: str) -> None:
    with pytest.raises(CniError):
        libcni.parse_list(body.encode())


def test_the_newest_known_of_several_versions() -> None:
    body = {"name": "x", "cniVersion": "0.4.0", "cniVersions": ["1.1.0", "9.0.0", "1.0.0"], "plugins": [{"type": "a"}]}
    assert libcni.parse_list(json.dumps(body).encode()).version == "1.1.0"


def test_pod_ips() -> None:
    result = {
        "cniVersion": "0.4.0", "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "x"}],
        "ips": [{"version": "4", "interface": 1, "address": "10.1.0.2/24"}, {"version": "6", "address": "fd00::2/64"},
                {"version": "4", "interface": 0, "address": "10.1.0.1/24"}],
    }  # fmt: skip
    assert libcni.pod_ips(result, "eth0") == ["10.1.0.2", "fd00::2"]


def test_bad_names_never_reach_a_plugin(plugins: Plugins) -> None:
    for container, ifname in (("../c", "eth0"), ("", "eth0"), ("c", "a/b"), ("c", "x" * 16)):
        to = Attachment(container, "/n", ifname)
        with pytest.raises(CniError, match="invalid"):
            libcni.add(network(), to, **plugins.options)
    assert plugins.calls == []


# ── skel ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def fails(args: skel.Args) -> dict[str, Any]:
    raise ZeroDivisionError("oops")


def test_a_defect_is_still_an_error_object(capsys: pytest.CaptureFixture[str]) -> None:
    plugin = skel.Plugin("x", add=fails, delete=lambda args: None, enters_netns=False)
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "n", "CNI_IFNAME": "e", "CNI_PATH": "/"}
    code, stdout = skel.run(plugin, env, b'{"name": "n", "cniVersion": "1.0.0"}')
    assert (code, json.loads(stdout)) == (1, {"code": 999, "msg": "internal error: ZeroDivisionError: oops"})
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "conf", "code", "words"),
    [
        ({"CNI_COMMAND": ""}, {}, 4, "CNI_COMMAND"),
        ({"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_PATH": ""}, {}, 4,
         "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH]"),
        ({"CNI_CONTAINERID": "-x"}, {}, 4, "containerID"),
        ({"CNI_IFNAME": "a b"}, {}, 4, "white"),
        ({"CNI_IFNAME": ".."}, {}, 4, ".."),
        ({"CNI_COMMAND": "HOP"}, {}, 4, "unknown CNI_COMMAND: HOP"),
        ({}, {"name": None}, 7, "missing network name"),
        ({}, {"name": "a/b"}, 7, "network name"),
        ({}, {"name": 5}, 6, "unmarshal"),
        ({}, {"cniVersion": 5}, 6, "version"),
        ({}, {"cniVersion": "0.5.0"}, 1, "incompatible"),
        ({"CNI_COMMAND": "CHECK"}, {"cniVersion": "0.3.1"}, 1, "CHECK"),
        ({"CNI_COMMAND": "GC"}, {"cniVersion": "1.0.0"}, 1, "GC"),
        ({"CNI_COMMAND": "STATUS"}, {"cniVersion": "1.0.0"}, 1, "STATUS"),
        ({"CNI_COMMAND": "CHECK"}, {"cniVersion": "zero"}, 6, "version"),
    ],
)  # fmt: skip
def test_codes(change: dict[str, str], conf: dict[str, Any], code: int, words: str) -> None:
    plugin = skel.Plugin("x", add=fails, delete=lambda args: None, enters_netns=False)
    env = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "n", "CNI_IFNAME": "e", "CNI_PATH": "/", **change}
    exit_code, stdout = skel.run(plugin, env, json.dumps({"name": "n", "cniVersion": "1.0.0", **conf}).encode())
    body = json.loads(stdout)
    assert (exit_code, body["code"]) == (1, code)
    assert words in body["msg"]


def test_the_network_of_an_attachment_is_remembered_as_it_was(plugins: Plugins) -> None:
    made = network(then=1)
    cache = str(plugins.dir / "cache")
    to = Attachment("c-1", "/run/netns/x", "eth0")
    assert libcni.cached_network("c-1", "eth0", cache) is None
    libcni.add(made, to, **plugins.options)
    found = libcni.cached_network("c-1", "eth0", cache)
    assert found is not None
    assert (found.name, found.version, found.plugins) == (made.name, made.version, made.plugins)
    assert libcni.cached_network("1", "eth0", cache) is None
    for path in (plugins.dir / "cache/results").iterdir():
        path.write_text("{")
    assert libcni.cached_network("c-1", "eth0", cache) is None


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _script(folder: Path, text: str) -> str:
    path = folder / "slow"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("text", ["sleep 60", "sleep 60 & exec >&-; wait", "cat >/dev/null; sleep 60 & wait"])
def test_a_plugin_that_hangs_is_killed_with_what_it_started(tmp_path: Path, text: str) -> None:
    path = _script(tmp_path, f"echo $$ > {tmp_path}/pid\n{text}")
    written = tmp_path / "pid"
    for limit_s in (0.3, 3, 20):
        started = time.monotonic()
        with pytest.raises(CniError, match=rf"did not end within {limit_s} seconds and was killed"):
            invoke.run_here_within(limit_s)(path, {"PATH": "/usr/bin:/bin"}, b"{}")
        assert time.monotonic() - started < 50, "it was not waited for"
        if written.exists() and written.read_text():  # it had begun
            break
    group = int(written.read_text())
    deadline = time.monotonic() + 30
    while _exists(group) and time.monotonic() < deadline:
        os.sched_yield()
    assert not _exists(group)


def test_a_plugin_within_its_time(tmp_path: Path) -> None:
    path = _script(tmp_path, "cat; exit 3")
    assert invoke.run_here_within(20)(path, {"PATH": "/usr/bin:/bin"}, b"x" * 200_000) == (3, b"x" * 200_000)
