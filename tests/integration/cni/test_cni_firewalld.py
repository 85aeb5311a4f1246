"""The firewall plugin and firewalld: a real dbus-daemon of the test's own, and behind it a firewalld that only takes notes.

Debian's plugin tells it the same. No rule is made anywhere: the machine's own bus and firewalld are not touched.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cni_chained import chained, filter_rules

import cni
from cni import dbus, firewalld
from cni.dbus import Bus, BusError, NoBus
from cni.errors import CniError

pytestmark = [
    pytest.mark.root, pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon"),
]  # fmt: skip
CONFIG = """<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>"""
RESULT: dict[str, Any] = {
    "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "x"}],
    "ips": [{"address": "10.1.2.3/24", "interface": 0}, {"address": "fd00::3/64", "interface": 0}],
}  # fmt: skip


class Firewalld(threading.Thread):
    """Serves addSource, removeSource and querySource of org.fedoraproject.FirewallD1.zone."""

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.zones: set[tuple[str, str]] = set()
        self.heard: list[tuple[str, str, str]] = []
        self.bus = Bus(env)
        self.bus._socket.settimeout(None)
        # RequestName takes a number, which a caller of services never needs.
        head = dbus.encode_call(2, *dbus._BUS[:1], dbus._BUS[1], dbus._BUS[2], "RequestName", (firewalld.NAME, "XXXX"))
        body = struct.pack("<I", len(firewalld.NAME)) + firewalld.NAME.encode() + b"\0"
        body += bytes(-len(body) % 4) + struct.pack("<I", 4)
        head = head[: len(head) - struct.unpack_from("<I", head, 4)[0]].replace(b"\x02ss\0", b"\x02su\0")
        self.bus._socket.sendall(head[:4] + struct.pack("<I", len(body)) + head[8:] + body)
        while self.bus._message()[2].get(dbus._REPLY_SERIAL) != 2:
            continue

    def run(self) -> None:
        serial = 10
        while True:
            try:
                message = self.message()
            except NoBus:
                return
            if message is None:
                continue
            sender, number, member, (zone, source) = message
            self.heard.append((member, zone, source))
            known, serial = (zone, source) in self.zones, serial + 1
            if member == "querySource":
                self.reply(serial, sender, number, b"b", struct.pack("<I", known))
            elif member == "addSource" and zone == "nosuch":
                self.reply(serial, sender, number, b"s", dbus._string("INVALID_ZONE: nosuch"), error=True)
            elif (member == "addSource") == known:
                word = "ZONE_ALREADY_SET" if known else "UNKNOWN_SOURCE"
                self.reply(serial, sender, number, b"s", dbus._string(f"{word}: '{source}'"), error=True)
            else:
                (self.zones.discard if known else self.zones.add)((zone, source))
                self.reply(serial, sender, number, b"s", dbus._string(zone))

    def message(self) -> tuple[str, int, str, list[Any]] | None:
        kind, number, fields, values = self.bus._message()
        return (fields[7], number, fields[dbus._MEMBER], values) if kind == dbus._CALL else None

    def reply(self, serial: int, to: str, number: int, signature: bytes, body: bytes, *, error: bool = False) -> None:
        fields = bytes((dbus._REPLY_SERIAL, 1)) + b"u\0" + struct.pack("<I", number)
        fields += bytes((dbus._DESTINATION, 1)) + b"s\0" + dbus._string(to)
        if error:
            fields = dbus._pad(fields, 8) + bytes((dbus._ERROR_NAME, 1)) + b"s\0" + dbus._string(f"{firewalld.NAME}.Exception")
        fields = dbus._pad(fields, 8) + bytes((dbus._SIGNATURE, 1)) + b"g\0" + bytes((1,)) + signature + b"\0"
        kind = dbus._ERROR if error else dbus._RETURN
        head = struct.pack("<cBBBIII", b"l", kind, 1, 1, len(body), serial, len(fields))
        self.bus._socket.sendall(dbus._pad(head + fields, 8) + body)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment that leads to a bus of one's own, on which nobody is yet."""
    path = tmp_path / "a bus"
    (tmp_path / "bus.conf").write_text(CONFIG.format(path=str(path).replace(" ", "%20")))
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={tmp_path}/bus.conf", "--nofork", "--nopidfile", "--print-address"], stdout=subprocess.PIPE
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline().startswith(b"unix:path=")
    yield {"DBUS_SYSTEM_BUS_ADDRESS": f"tcp:host=127.0.0.1,port=1;unix:path={str(path).replace(' ', '%20')},guid=0"}
    daemon.terminate()
    daemon.wait()
    daemon.stdout.close()


@pytest.fixture
def service(bus: dict[str, str]) -> Firewalld:
    made = Firewalld(bus)
    made.start()
    return made


HOSTS = ["10.1.2.3/32", "fd00::3/128"]
ALL = {("trusted", host) for host in HOSTS}


@pytest.mark.parametrize("asked", [{}, {"backend": "firewalld"}])
def test_where_firewalld_runs_it_is_told_and_no_rule_is_made(node: Any, bus: dict[str, str], service: Firewalld, asked: dict[str, Any]) -> None:
    conf = chained(node, "firewall", RESULT, **asked)
    pod = node.pod()
    for _ in range(2):  # ZONE_ALREADY_SET is no failure
        assert node.call("ADD", conf, "c1", pod.path, **bus)["ips"] == RESULT["ips"]
    assert (service.zones, filter_rules(node)) == (ALL, [])
    node.call("CHECK", conf, "c1", pod.path, **bus)
    for _ in range(2):
        node.call("DEL", {k: v for k, v in conf.items() if k != "prevResult"}, "c1", "", **bus)
    assert service.zones == set(), "also without the result: there is a record"
    with pytest.raises(CniError, match=r"failed to find the address 10.1.2.3/32 in trusted zone"):
        node.call("CHECK", conf, "c1", pod.path, **bus)


def test_iptables_is_used_where_it_is_asked_for_or_firewalld_does_not_run(node: Any, bus: dict[str, str]) -> None:
    pod = node.pod()
    conf = chained(node, "firewall", RESULT)
    node.call("ADD", conf, "c1", pod.path, **bus)
    rules = filter_rules(node)
    assert any("10.1.2.3/32" in r for r in rules)
    later = Firewalld(bus)
    later.start()
    node.call("DEL", conf, "c1", pod.path, **bus)
    assert not any("10.1.2.3/32" in r for r in filter_rules(node)), "though firewalld has been started since"
    later.heard.clear()
    node.call("ADD", {**conf, "backend": "iptables"}, "c1", pod.path, **bus)
    assert filter_rules(node) == rules
    assert later.heard == []


def test_what_firewalld_refuses_fails_and_leaves_no_rules(node: Any, bus: dict[str, str], service: Firewalld, failure: Any) -> None:
    conf = chained(node, "firewall", RESULT, firewalldZone="nosuch")
    error = failure(lambda: node.call("ADD", conf, "c1", node.pod().path, **bus))
    assert error.msg == "failed to add the address 10.1.2.3/32 to nosuch zone: INVALID_ZONE: nosuch"
    node.call("DEL", conf, "c1", "", **bus)
    assert (service.zones, filter_rules(node), os.listdir(node.dir / "firewall")) == (set(), [], [])


def test_asked_for_and_not_there(node: Any, bus: dict[str, str], failure: Any) -> None:
    conf = chained(node, "firewall", RESULT, backend="firewalld", cniVersion="1.1.0", prevResult={**RESULT, "cniVersion": "1.1.0"})
    error = failure(lambda: node.call("ADD", conf, "c1", node.pod().path, **bus))
    assert "failed to add the address 10.1.2.3/32 to trusted zone" in error.msg
    status = failure(lambda: node.call("STATUS", conf, "", "", **bus))
    assert (status.code, status.msg) == (50, "firewalld is not running")
    node.call("DEL", conf, "c1", "", **bus)
    node.call("DEL", conf, "c1", "", DBUS_SYSTEM_BUS_ADDRESS="unix:path=/nowhere")


@pytest.mark.skipif(not os.path.exists("/usr/lib/cni/firewall"), reason="needs Debian's containernetworking-plugins")
def test_debians_plugin_tells_it_the_same(node: Any, bus: dict[str, str], service: Firewalld) -> None:
    conf = chained(node, "firewall", RESULT)
    heard = {}
    for folder in (cni.BIN_DIR, "/usr/lib/cni"):
        service.heard.clear()
        for command in ("ADD", "CHECK", "DEL"):
            env = node.env(command, "c1", node.pod().path, **bus)
            done = subprocess.run([f"{folder}/firewall"], input=json.dumps(conf), env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout
        heard[folder] = list(service.heard)
    assert heard[cni.BIN_DIR] == heard["/usr/lib/cni"] == [(verb, "trusted", h) for verb in ("addSource", "querySource", "removeSource") for h in HOSTS]


def test_a_bus_that_is_none(tmp_path: Path, bus: dict[str, str]) -> None:
    with Bus(bus) as known:
        assert not known.has_owner(firewalld.NAME)
        with pytest.raises(BusError, match=r"NoSuch|not provided"):
            known.call("org.nowhere.X", "/x", "org.nowhere.X", "Do", "it")
    for address in ("unix:path=/nowhere", "tcp:host=x", "unix:abstract=nsk8s-none", "unix:path=%zz", f"unix:path={tmp_path}"):
        env = {"DBUS_SYSTEM_BUS_ADDRESS": address}
        assert not firewalld.is_running(env)
        with pytest.raises(NoBus):
            Bus(env)
