"""IP sets over netlink, against the kernel and against what a rule finds in them."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fresh_netns import new_netns

from nsk8s.kernel import rtnl
from nsk8s.kernel.ipset import IpSets
from nsk8s.net.ipvs import Entry, SetType
from nsk8s.proxy import ipvsrules

pytestmark = pytest.mark.root


@pytest.fixture
def inside() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Calls a function in a namespace of its own."""
    fd = new_netns()

    def call(function: Callable[[], Any]) -> Any:
        found: list[Any] = []

        def run() -> None:
            with rtnl.entered(fd):
                try:
                    found.append(function())
                except Exception as e:
                    found.append(e)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    yield call
    os.close(fd)


def test_sets_hold_what_is_put_there(inside: Callable[[Callable[[], Any]], Any]) -> None:
    entries = {
        "KUBE-CLUSTER-IP": ["10.96.0.1,tcp:443", "10.96.0.10,udp:53", "10.96.0.11,sctp:80"],
        "KUBE-LOOP-BACK": ["10.244.1.2,tcp:8080,10.244.1.2"],
        "KUBE-LOAD-BALANCER-SOURCE-CIDR": ["192.0.2.1,tcp:80,10.0.0.0/8", "192.0.2.1,tcp:80,203.0.113.9"],
        "KUBE-NODE-PORT-TCP": ["30080", "32767"], "KUBE-IPVS-IPS": ["10.96.0.1"],
        "KUBE-6-CLUSTER-IP": ["fd00::1,tcp:443"], "KUBE-6-LOAD-BALANCER-SOURCE-CID": ["fd00::1,tcp:80,2001:db8::/32"],
        "KUBE-6-NODE-PORT-UDP": ["30053"],
    }  # fmt: skip

    def fill() -> dict[str, list[str]]:
        with IpSets() as sets:
            for _ in range(2):  # what is there already is no matter
                for ipv6 in (False, True):
                    sets.ensure(ipvsrules.sets(ipv6))
                sets.add(Entry(name, text) for name, texts in entries.items() for text in texts)
            assert sets.names() == sorted([*ipvsrules.sets(False), *ipvsrules.sets(True)])
            return {name: sorted(sets.entries(name) or []) for name in sets.names()}

    assert {name: texts for name, texts in inside(fill).items() if texts} == entries

    def empty() -> list[str]:
        with IpSets() as sets:
            sets.delete([Entry("KUBE-CLUSTER-IP", "10.96.0.1,tcp:443"), Entry("KUBE-CLUSTER-IP", "10.96.0.99,tcp:1")])
            assert sets.entries("KUBE-CLUSTER-IP") is not None
            assert "10.96.0.1,tcp:443" not in (sets.entries("KUBE-CLUSTER-IP") or [])
            assert sets.entries("NO-SUCH-SET") is None
            sets.destroy([*ipvsrules.sets(False), *ipvsrules.sets(True), "NO-SUCH-SET"])
            return sets.names()

    assert inside(empty) == []


def test_more_than_fits_one_message(inside: Callable[[Callable[[], Any]], Any]) -> None:
    wanted = {f"10.{i >> 8}.{i & 255}.1,tcp:80" for i in range(5000)}

    def fill() -> set[str]:
        with IpSets() as sets:
            sets.ensure({"many": SetType("hash:ip,port")})
            sets.add(Entry("many", text) for text in wanted)
            return set(sets.entries("many") or [])

    assert inside(fill) == wanted


def test_the_kernels_refusals_are_told(inside: Callable[[Callable[[], Any]], Any]) -> None:
    def refusals() -> None:
        with IpSets() as sets:
            with pytest.raises(FileNotFoundError):
                sets.add([Entry("none", "1")])
            sets.ensure({"one": SetType("bitmap:port")})
            with pytest.raises(OSError, match="ipset create one hash:ip"):
                sets.ensure({"one": SetType("hash:ip")})
            with pytest.raises(OSError, match="the kernel has no sets of type hash:magic"):
                sets.ensure({"two": SetType("hash:magic")})
            with tempfile.NamedTemporaryFile() as lock:
                rule = "*filter\n-A INPUT -p tcp -m set --match-set one dst -j DROP\nCOMMIT\n"
                subprocess.run(["iptables-restore"], input=rule, text=True, check=True, env={**os.environ, "XTABLES_LOCKFILE": lock.name})
            with pytest.raises(OSError, match="ipset destroy one: a rule asks it"):
                sets.destroy(["one"])

    inside(refusals)
