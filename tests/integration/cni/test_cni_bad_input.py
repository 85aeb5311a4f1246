"""Every key of every plugin with values of every wrong kind: an error object that is not "internal error", nothing left behind.

And the codes of the usual mistakes, compared with the real plugins'.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

import cni
from cni.invoke import run_here

THEIRS = "/usr/lib/cni"
VALUES: list[Any] = [None, True, 0, -1, 1.5, 1 << 70, "", "x", "1.2.3.4", "a\nb", "ü" * 300, [], [None], [1], ["x"], [{}], {}, {"x": 1}]
PORT = {"hostPort": 80, "containerPort": 80, "protocol": "tcp"}
RESULT = {
    "cniVersion": "1.0.0", "interfaces": [{"name": "cni0"}, {"name": "veth0"}, {"name": "eth0", "sandbox": "/proc/1/ns/net"}],
    "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 2}], "routes": [{"dst": "0.0.0.0/0"}], "dns": {},
}  # fmt: skip
CONFS: dict[str, dict[str, Any]] = {
    "bridge": {
        "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipMasqBackend": "iptables", "mtu": 1400, "vlan": 0, "vlanTrunk": [],
        "hairpinMode": False, "promiscMode": False, "macspoofchk": False, "forceAddress": False, "portIsolation": False,
        "preserveDefaultVlan": False, "enabledad": False, "disableContainerInterface": False, "dns": {"domain": "x"},
        "runtimeConfig": {"mac": "02:00:00:00:00:01"}, "args": {"cni": {"mac": "02:00:00:00:00:01"}},
        "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"},
    },
    "ptp": {"ipMasq": False, "ipMasqBackend": "nftables", "mtu": 1400, "dns": {}, "ipam": {"type": "static", "addresses": []}},
    "host-local": {
        "runtimeConfig": {"ips": [], "ipRanges": []},
        "ipam": {
            "type": "host-local", "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5", "rangeEnd": "10.1.0.9", "gateway": "10.1.0.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}], "ranges": [[{"subnet": "10.2.0.0/24"}]], "resolvConf": "",
        },
    },
    "static": {
        "runtimeConfig": {"ips": []}, "args": {"cni": {"ips": []}},
        "ipam": {"addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}], "routes": [{"dst": "10.0.0.0/8"}], "dns": {}},
    },
    "loopback": {},
    "portmap": {
        "backend": "iptables", "snat": True, "masqAll": False, "markMasqBit": 3, "externalSetMarkChain": "", "conditionsV4": [],
        "conditionsV6": [], "runtimeConfig": {"portMappings": [{**PORT, "hostIP": "1.2.3.4"}]}, "prevResult": RESULT,
    },
    "firewall": {
        "backend": "iptables", "iptablesAdminChainName": "ADM", "firewalldZone": "trusted", "ingressPolicy": "same-bridge",
        "prevResult": RESULT,
    },
    "bandwidth": {
        "ingressRate": 8000, "ingressBurst": 8000, "egressRate": 8000, "egressBurst": 8000,
        "runtimeConfig": {"bandwidth": {"ingressRate": 8000, "ingressBurst": 8000}}, "prevResult": RESULT,
    },
    "tuning": {
        "sysctl": {"net.core.somaxconn": "128"}, "mac": "02:00:00:00:00:01", "mtu": 1400, "promisc": True, "allmulti": True, "txQLen": 1,
        "runtimeConfig": {"mac": ""}, "args": {"cni": {"mtu": 1300, "sysctl": {}}}, "prevResult": RESULT,
    },
}  # fmt: skip


def mutations(value: Any) -> list[Any]:
    """`value` with each part of it replaced by each of VALUES, and by nothing."""
    found: list[Any] = list(VALUES)
    if isinstance(value, dict):
        for key in value:
            found += [{**value, key: m} for m in mutations(value[key])]
            found.append({k: v for k, v in value.items() if k != key})
    elif isinstance(value, list):
        for i in range(len(value)):
            found += [[*value[:i], m, *value[i + 1 :]] for m in mutations(value[i])]
    return found


@pytest.mark.parametrize("plugin", sorted(CONFS))
def test_wrong_kinds_of_values_are_errors_in_words(node: Any, plugin: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Against a namespace that does not exist, so that whatever is accepted ends there; DEL and CHECK too."""
    base = {"cniVersion": "1.0.0", "name": "net1", "type": plugin}
    own = CONFS[plugin]
    cases = [{**base, key: m} | {k: v for k, v in own.items() if k != key} for key in own for m in mutations(own[key])]
    cases = cases or [base]

    def work() -> list[str]:
        bad = []
        for number, case in enumerate(cases):
            text = json.dumps(case).replace('"type": "host-local"', f'"type": "host-local", "dataDir": "{node.data_dir}"')
            if plugin in ("firewall", "tuning"):
                text = json.dumps({**case, "dataDir": str(node.dir / "data")})
            # What runs programs is done for some only.
            commands = ("ADD", "DEL", "CHECK") if plugin not in ("portmap", "firewall", "bridge") or number % 7 == 0 else ("ADD",)
            for command in commands:
                env = node.env(command, "c1", "/run/netns/not-there")
                code, out = run_here(os.path.join(cni.BIN_DIR, plugin), env, text.encode())
                body = json.loads(out) if out else {}
                if (code and not ("code" in body and body["msg"])) or "internal error" in body.get("msg", ""):
                    bad.append(f"{command} {text}: {code} {out.decode()}")
        return bad

    assert node.inside(work) == []
    assert "Traceback" not in capfd.readouterr().err
    assert node.ports() == []


MISTAKES: list[tuple[str, dict[str, str], Any]] = [
    ("no container id", {"CNI_CONTAINERID": ""}, {}),
    ("bad container id", {"CNI_CONTAINERID": "a/b"}, {}),
    ("no interface", {"CNI_IFNAME": ""}, {}),
    ("long interface", {"CNI_IFNAME": "x" * 16}, {}),
    ("no netns", {"CNI_NETNS": ""}, {}),
    ("no path", {"CNI_PATH": ""}, {}),
    ("unknown command", {"CNI_COMMAND": "JUMP"}, {}),
    ("not JSON", {}, b"{"),
    ("nothing", {}, b""),
    ("no name", {}, {"name": ""}),
    ("bad name", {}, {"name": "a b"}),
    ("unknown version", {}, {"cniVersion": "9.9.9"}),
    ("CHECK too early", {"CNI_COMMAND": "CHECK"}, {"cniVersion": "0.3.1"}),
    ("netns that is not there", {"CNI_NETNS": "/run/netns/none"}, {}),
]


@pytest.mark.skipif(not os.path.exists(f"{THEIRS}/bridge"), reason="Debian's containernetworking-plugins is not installed")
@pytest.mark.parametrize("plugin", ["bridge", "ptp", "portmap", "firewall", "bandwidth", "tuning", "host-local", "loopback", "static"])
def test_codes_are_the_real_ones(node: Any, plugin: str) -> None:
    """Exit code and error code of the same mistake."""
    base = {"cniVersion": "1.0.0", "name": "net1", "type": plugin}
    base |= {k: v for k, v in CONFS[plugin].items() if k not in ("ipMasq", "ipMasqBackend", "vlanTrunk", "externalSetMarkChain")}
    if plugin == "ptp":
        base["ipam"] = {"type": "static", "addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]}

    def look(folder: str, environment: dict[str, str], change: Any) -> tuple[int, Any]:
        env = {**node.env("ADD", "c1", node.pods[0].path), "CNI_PATH": folder, **environment}
        conf = change if isinstance(change, bytes) else json.dumps({**base, **change}).encode()

        def call() -> list[Any]:
            done = subprocess.run([f"{folder}/{plugin}"], input=conf, env=env, capture_output=True, check=False)
            return [done.returncode, done.stdout.decode()]

        code, out = node.inside(call)
        return code, json.loads(out)["code"] if code else 0

    node.pod()
    differences = {}
    for what, environment, change in MISTAKES:
        if what == "netns that is not there" and plugin in ("host-local", "static", "portmap", "firewall"):
            continue  # they do not look at it
        ours, theirs = (look(folder, environment, change) for folder in (cni.BIN_DIR, THEIRS))
        if ours != theirs:
            differences[what] = (ours, theirs)
    assert differences == {}
