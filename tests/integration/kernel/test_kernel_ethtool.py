"""Offloads and token buckets on real interfaces, in a namespace made here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fresh_netns import new_netns

from nsk8s.kernel import tcmsg
from nsk8s.kernel.ethtool import Ethtool
from nsk8s.kernel.rtnl import Rtnl, entered

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")


@pytest.fixture
def node() -> Iterator[tuple[Rtnl, Ethtool]]:
    fd = new_netns()
    with entered(fd):
        ethtool = Ethtool()
    with Rtnl(fd) as rtnl, ethtool:
        rtnl.link_add_veth("eth0", "port")
        yield rtnl, ethtool
    os.close(fd)


def test_offloads_go_off_and_on(node: tuple[Rtnl, Ethtool]) -> None:
    _, ethtool = node
    assert ethtool.is_offloading("eth0")
    assert ethtool.set_offloading("eth0", False)
    assert not ethtool.is_offloading("eth0")
    assert ethtool.is_offloading("port"), "each end for itself"
    assert not ethtool.set_offloading("eth0", False), "nothing is left to do"
    assert ethtool.set_offloading("eth0", True)
    assert ethtool.is_offloading("eth0")
    with pytest.raises(OSError, match="No such device"):
        ethtool.is_offloading("nothing")


def test_a_bucket_is_put_changed_and_removed(node: tuple[Rtnl, Ethtool]) -> None:
    rtnl, _ = node
    link = rtnl.link_get("eth0")
    assert link is not None

    def buckets() -> list[tcmsg.Tbf | None]:
        found = [tcmsg.parse_qdisc(body) for body in rtnl.dump(tcmsg.qdisc_dump())]
        return [bucket for index, kind, _, bucket in found if index == link.index and kind == "tbf"]

    for rate in (8_000_000, 80_000_000, 80_000_000_000):  # the last does not fit into 32 bits
        bucket = tcmsg.tbf(rate, 400_000)
        rtnl.execute(tcmsg.tbf_set(link.index, bucket))
        assert buckets() == [bucket]
    assert [tcmsg.parse_drops(b) for b in rtnl.dump(tcmsg.qdisc_dump()) if tcmsg.place(b)[1] == tcmsg.TBF_HANDLE] == [0]
    rtnl.execute(tcmsg.qdisc_del(link.index))
    assert buckets() == []
