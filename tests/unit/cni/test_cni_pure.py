"""The CNI code that decides: addresses, ranges, round robin, Go-like decoding, result shapes, rules."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import allocator, conf, iptables, jsontext, masquerade, result
from cni.address import IP, V4, V6, parse_ip, parse_subnet
from cni.allocator import Range
from cni.errors import CniError

# ── addresses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_v4_agrees_with_ipaddress(number: int, length: int) -> None:
    text = f"{ipaddress.IPv4Address(number)}/{length}"
    subnet = parse_subnet(text)
    model = ipaddress.ip_interface(text).network
    assert str(subnet) == text
    assert str(subnet.network) == str(model.network_address)
    assert str(subnet.last) == str(model.broadcast_address)
    assert subnet.network in subnet
    assert subnet.last in subnet


@given(st.integers(0, 2**128 - 1))
def test_v6_round_trip(number: int) -> None:
    if number >> 32 in (0, 0xFFFF):
        return
    text = str(ipaddress.IPv6Address(number))
    assert parse_ip(text) == IP(V6, number)
    assert str(IP(V6, number)) == text


def test_text_is_read_as_go_reads_it() -> None:
    assert parse_ip("::ffff:10.0.0.1") == parse_ip("10.0.0.1")
    assert str(parse_ip("FD00:0:0::01")) == "fd00::1"
    for bad in ("", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.256", "::g", "fe80::1%eth0", " 1.2.3.4", "1.2.3.4\n", "1\x00"):
        with pytest.raises(ValueError, match="invalid IP"):
            parse_ip(bad)
    for bad in ("1.2.3.4", "1.2.3.4/", "1.2.3.4/33", "1.2.3.4/-1", "1.2.3.4/ 8", "1.2.3.4/٣", "::/129", "::ffff:1.2.3.4/120"):
        with pytest.raises(ValueError, match="invalid CIDR"):
            parse_subnet(bad)


# ── ranges ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def bounds(**obj: str) -> tuple[str, str, str]:
    r = allocator.parse_range(obj)
    return str(r.start), str(r.end), str(r.gateway)


def test_defaults_of_a_range() -> None:
    assert bounds(subnet="10.1.2.0/24") == ("10.1.2.1", "10.1.2.254", "10.1.2.1")
    assert bounds(subnet="10.1.2.0/24", gateway="10.1.2.254") == ("10.1.2.1", "10.1.2.254", "10.1.2.254")
    assert bounds(subnet="10.1.2.0/30") == ("10.1.2.1", "10.1.2.2", "10.1.2.1")
    assert bounds(subnet="fd00::/126") == ("fd00::1", "fd00::3", "fd00::1")
    assert bounds(Subnet="10.1.2.0/24", RANGEstart="10.1.2.9", rangeEnd="10.1.2.9")[:2] == ("10.1.2.9", "10.1.2.9")


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        ({}, "needs a subnet"),
        ({"subnet": "10.1.2.0"}, "invalid CIDR"),
        ({"subnet": "10.1.2.0/31"}, "too small"),
        ({"subnet": "fd00::/127"}, "too small"),
        ({"subnet": "10.1.2.3/24"}, "host bits set. For a subnet mask of length 24 the network address is 10.1.2.0"),
        ({"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.1"}, "RangeStart 10.1.3.1 not in network"),
        ({"subnet": "10.1.2.0/24", "rangeEnd": "10.1.3.1"}, "RangeEnd 10.1.3.1 not in network"),
        ({"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.8"}, "RangeStart"),
        ({"subnet": "10.1.2.0/24", "gateway": "x"}, "invalid IP"),
    ],
)
def test_bad_ranges(obj: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        allocator.parse_range(obj)


def test_bad_sets() -> None:
    v4, v6 = {"subnet": "10.1.0.0/16"}, {"subnet": "fd00::/64"}
    for objects, words in (([], "empty"), ([v4, v6], "mixed"), ([v4, {"subnet": "10.1.2.0/24"}], "overlap"), ([7], "object")):
        with pytest.raises(ValueError, match=words):
            allocator.parse_range_set(objects)
    a, b = (allocator.parse_range_set([{"subnet": s}]) for s in ("10.1.0.0/16", "10.1.2.0/24"))
    with pytest.raises(CniError, match="range set 0 overlaps with 1"):
        allocator.check_sets([a, b], True, "1.0.0")
    c = allocator.parse_range_set([{"subnet": "10.2.0.0/16"}])
    allocator.check_sets([a, c], True, "0.3.0")
    with pytest.raises(CniError, match=r"CNI version 0\.2\.0 does not support more than 1 address per family"):
        allocator.check_sets([a, c], False, "0.2.0")
    allocator.check_sets([a, allocator.parse_range_set([v6])], False, "0.2.0")


def make_set(spans: list[tuple[int, int]], gateway: int) -> list[Range]:
    subnet = parse_subnet("10.0.0.0/24")
    base = subnet.ip.number
    return [Range(subnet, IP(V4, base + low), IP(V4, base + high), IP(V4, base + gateway)) for low, high in spans]


@given(st.sets(st.integers(1, 60), min_size=2, max_size=8), st.integers(1, 60), st.integers(0, 70))
def test_candidates_are_one_whole_round(edges: set[int], gateway: int, last: int) -> None:
    """Against a model: the list of all addresses in order, rotated to begin after the last one."""
    ordered = sorted(edges)
    spans = list(zip(ordered[::2], ordered[1::2], strict=False))
    ranges = make_set(spans, gateway)
    every = [n for low, high in spans for n in range(low, high + 1)]
    rotated = every[every.index(last) + 1 :] + every[: every.index(last) + 1] if last in every else every
    base = ranges[0].subnet.ip.number
    got = [ip.number - base for ip, _ in allocator.candidates(ranges, IP(V4, base + last))]
    assert got == [n for n in rotated if n != gateway]


def test_a_huge_pool_is_not_walked() -> None:
    ranges = allocator.parse_range_set([{"subnet": "fd00::/64"}])
    found = allocator.next_free(ranges, {"fd00::2"}, None)
    assert found is not None
    assert str(found[0]) == "fd00::3"


# ── decoding ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_keys_match_without_case_and_null_is_absent() -> None:
    obj = {"HostPort": 80, "IPAM": None, "ipam": {"x": 1}, "mtu": None}
    assert conf.number(obj, "hostPort") == 80
    assert conf.section(obj, "ipam") == {"x": 1}
    assert conf.number(obj, "mtu", 7) == 7
    assert conf.text({"A": "first", "a": "last"}, "a") == "last"


@pytest.mark.parametrize(
    ("read", "value"),
    [(conf.text, 1), (conf.flag, "true"), (conf.flag, 1), (conf.number, True), (conf.number, 1.0), (conf.number, "1"),
     (conf.section, []), (conf.items, {}), (conf.objects, [1]), (conf.texts, [1])],
)  # fmt: skip
def test_wrong_types_are_errors(read: Any, value: Any) -> None:
    with pytest.raises(CniError, match="cannot unmarshal") as caught:
        read({"key": value}, "key")
    assert caught.value.code == 999


def test_cni_args() -> None:
    assert conf.load_args("", ("IP",)) == {}
    assert conf.load_args("IP=1;IgnoreUnknown=TRUE;X=2", ("IP",)) == {"IP": "1"}
    for bad in ("X=1", "IP", "IP=1=2", "IP=1;", "IgnoreUnknown=yes;IP=1", "X=1;IgnoreUnknown=0"):
        with pytest.raises(CniError, match="ARGS"):
            conf.load_args(bad, ("IP",))


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_error_6(data: bytes) -> None:
    try:
        assert isinstance(json.loads(data.decode("utf-8", "replace"), parse_constant=lambda name: 1 / 0), dict)
    except (ValueError, AssertionError, ZeroDivisionError):
        with pytest.raises(CniError) as caught:
            conf.decode(data)
        assert caught.value.code == 6


# ── results ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

FULL: dict[str, Any] = {
    "interfaces": [{"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x", "mtu": 1400}],
    "ips": [
        {"interface": 0, "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"interface": 0, "address": "fd00::2/64", "gateway": "fd00::1"},
        {"interface": 0, "address": "10.2.0.2/24"},
    ],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1300}, {"dst": "::/0"}],
    "dns": {"nameservers": ["10.96.0.10"]},
}


def test_the_shape_of_each_version() -> None:
    assert result.render(FULL, "0.2.0") == {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]},
        "ip6": {"ip": "fd00::2/64", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]},
        "dns": {"nameservers": ["10.96.0.10"]},
    }
    assert result.render(FULL, "")["cniVersion"] == "0.1.0"
    old = result.render(FULL, "0.4.0")
    assert [ip["version"] for ip in old["ips"]] == ["4", "6", "4"]
    assert "mtu" not in old["interfaces"][0]
    assert "mtu" not in old["routes"][0]
    new = result.render(FULL, "1.0.0")
    assert all("version" not in ip for ip in new["ips"])
    assert result.render(FULL, "1.1.0") == {"cniVersion": "1.1.0", **FULL}
    with pytest.raises(CniError, match="no valid IP addresses"):
        result.render({**FULL, "ips": []}, "0.2.0")


@pytest.mark.parametrize("version", result.VERSIONS)
def test_parsing_what_was_rendered(version: str) -> None:
    back = result.parse(result.render(FULL, version))
    kept = 2 if version in ("0.1.0", "0.2.0") else 3
    assert [ip["address"] for ip in back["ips"]] == [ip["address"] for ip in FULL["ips"][:kept]]
    assert [r["dst"] for r in back["routes"]] == ["0.0.0.0/0", "::/0"]
    assert json.dumps(result.render(back, version)) == json.dumps(result.render(FULL, version))


@pytest.mark.parametrize(
    "body",
    [{"cniVersion": "2.0.0"}, {"cniVersion": "1.0.0", "ips": 7}, {"cniVersion": "1.0.0", "interfaces": ["x"]},
     {"cniVersion": "0.2.0", "ip4": {}}, {"cniVersion": "0.2.0", "ip4": 4}, {"cniVersion": []}],
)  # fmt: skip
def test_malformed_results_are_errors(body: dict[str, Any]) -> None:
    with pytest.raises(CniError):
        result.parse(body)


# ── masquerade ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_masquerade_rules_are_upstreams() -> None:
    chain = iptables.chain_name("CNI-", "net1", "c1")
    assert chain == "CNI-c2d892b58e87e28a12fe6479"  # sha512sum of net1c1
    note = '-m comment --comment "name: \\"net1\\" id: \\"c1\\""'
    assert masquerade.rules(parse_subnet("10.1.2.3/24"), "net1", "c1") == [
        f"{chain} -d 10.1.2.0/24 {note} -j ACCEPT",
        f"{chain} ! -d 224.0.0.0/4 {note} -j MASQUERADE",
        f"POSTROUTING -s 10.1.2.3/32 {note} -j {chain}",
    ]
    assert masquerade.rules(parse_subnet("fd00::3/64"), "net1", "c1")[1].split()[1:4] == ["!", "-d", "ff00::/8"]


def test_words_of_a_listed_rule() -> None:
    line = r'POSTROUTING -s 10.1.2.3/32 -m comment --comment "name: \"net1\" id: \"c1\"" -j CNI-x'
    assert iptables.split_words(line)[5:7] == ["--comment", 'name: "net1" id: "c1"']
    assert iptables.split_words('a "" b') == ["a", "", "b"]


def test_an_executed_plugin_starts_without_heavy_modules() -> None:
    """These take most of a plugin's start; ctypes comes only where a namespace is entered."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(masquerade.__file__)))
    code = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "import cni.skel, cni.bridge, cni.host_local, cni.loopback, cni.portmap, cni.ptp, cni.firewall, cni.tuning, cni.bandwidth\n"
        "from cni import jsontext\n"
        "assert jsontext.loads(jsontext.dumps({'a': [1, None]})) == {'a': [1, None]}\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(["/usr/bin/python3", "-IS", "-c", code], capture_output=True, text=True, check=True)
    heavy = {"collections", "ctypes", "enum", "functools", "hashlib", "json", "re", "select", "signal", "socket", "time"}
    assert heavy & set(done.stdout.split()) <= {"time"}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5e3, true, false, null, "\\u00e9\\n\\ud83d\\ude00"], "b": {}, "a": 2}', " [ ] ", "1", '"x"', "null", "", "{",
        "[1,]", "nul", "1 2", "[NaN]", "[Infinity]", '{"a" 1}', "\ufeff{}", '"\x00"', "{}\x00",
    ],
)  # fmt: skip
def test_jsontext_is_json(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same value, or both refuse (NaN and Infinity are not JSON)."""

    def read() -> tuple[str, Any]:
        try:
            return "value", jsontext.loads(text)
        except ValueError:
            return "error", None

    slow = read()
    monkeypatch.delitem(sys.modules, "json")
    assert read() == slow
    if slow[0] == "value":
        monkeypatch.delitem(sys.modules, "json", raising=False)
        assert [jsontext.dumps(slow[1]), jsontext.dumps(slow[1], compact=False)] == [
            json.dumps(slow[1], separators=(",", ":")), json.dumps(slow[1])
        ]  # fmt: skip


def test_the_hot_path_stays_lean() -> None:
    """A plugin's start and a runtime's memory are its imports: these modules cost milliseconds and megabytes."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(masquerade.__file__)))
    code = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "import cni.bridge, cni.host_local, cni.loopback, cni.libcni, nsk8s.kernel.rtnl\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-IS", "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "argparse", "asyncio", "dataclasses", "hashlib", "inspect", "ipaddress", "logging", "pathlib", "pydantic", "pyroute2",
        "subprocess", "tempfile", "threading", "typing",
    }  # fmt: skip
    assert heavy & set(done.stdout.split()) == set()
