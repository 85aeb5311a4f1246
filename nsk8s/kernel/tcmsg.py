"""Traffic control as rtnetlink messages: token buckets, delay and loss, redirection to another link. Lean and pure:
`Rtnl.execute` sends them.

Upstream: tc of iproute2 (tc/q_tbf.c, q_netem.c, tc_core.c, f_u32.c, m_mirred.c).
Constants: include/uapi/linux/{pkt_sched,pkt_cls,if_ether}.h and tc_act/tc_mirred.h.
"""

from __future__ import annotations

import struct

from nsk8s.kernel.rtmsg import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, attr, attr_text, attr_u32, attrs, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nsk8s.kernel.rtmsg import Request

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

TC_H_ROOT, TC_H_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
INGRESS_HANDLE = 0xFFFF0000
TBF_HANDLE, NETEM_HANDLE, NETEM_CLASS = 0x10000, 0x20000, 0x20001
TCA_KIND, TCA_OPTIONS, TCA_STATS2 = 1, 2, 7
TCA_STATS_QUEUE = 3
TCA_TBF_PARMS, TCA_TBF_RTAB, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 2, 4, 6
TCA_U32_CLASSID, TCA_U32_SEL, TCA_U32_ACT = 1, 5, 7
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TC_U32_TERMINAL = 1
TC_ACT_STOLEN, TCA_EGRESS_REDIR = 4, 1
ETH_P_ALL = 0x0003
_LINKLAYER_ETHERNET = 1

TICKS_PER_US = 15.625
"""/proc/net/psched's first two figures and the third: a tick is 64 ns on every kernel since 2.6.31 (PSCHED_SHIFT 6)."""

_TCMSG = struct.Struct("=BxxxiIII")
_RATESPEC = struct.Struct("=BBHhHI")
_TBF = struct.Struct("=12s12sIII")
_NETEM = struct.Struct("=IIIIII")
_U32_SEL = struct.Struct("=BBBxHHHhI")
_U32_KEY = struct.Struct("=IIii")
_MIRRED = struct.Struct("=IIiiiiI")


class Tbf:
    """A token bucket: `rate` in bytes/s, `limit` (bytes that may wait), `buffer` (the burst, in ticks at that rate)."""

    __slots__ = ("buffer", "limit", "rate")

    def __init__(self, rate: int, limit: int, buffer: int) -> None:
        self.rate = rate
        self.limit = limit
        self.buffer = buffer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tbf) and (other.rate, other.limit, other.buffer) == (self.rate, self.limit, self.buffer)

    def __hash__(self) -> int:
        return hash((self.rate, self.limit, self.buffer))

    def __repr__(self) -> str:
        return f"Tbf(rate={self.rate}, limit={self.limit}, buffer={self.buffer})"


def tbf(rate_bits: int, burst_bits: int, latency_ms: int = 25) -> Tbf:
    """The bucket that lets `rate_bits` per second through, `burst_bits` at once, and holds a packet for `latency_ms` at most."""
    rate, burst = rate_bits // 8, burst_bits // 8
    if rate == 0:
        raise ValueError(f"a rate of {rate_bits} bits per second is less than one byte")
    # Huge bursts (containerd's default is 4 Gbit) wrap around as they do in upstream's 32-bit arithmetic: CHECK compares figures.
    microseconds = int(burst * 1_000_000 / rate) & 0xFFFFFFFF
    return Tbf(rate, (int(rate * latency_ms / 1000) + burst) & 0xFFFFFFFF, int(microseconds * TICKS_PER_US) & 0xFFFFFFFF)


def _tcmsg(index: int, handle: int = 0, parent: int = 0, info: int = 0) -> bytes:
    return _TCMSG.pack(0, index, handle, parent, info)


class Netem:
    """Delay and its variation in µs (below four minutes), loss in percent, and how many packets may be on their way at once."""

    __slots__ = ("delay_us", "jitter_us", "limit", "loss_percent")

    def __init__(self, delay_us: int = 0, jitter_us: int = 0, loss_percent: float = 0.0, limit: int = 10_000) -> None:
        self.delay_us = delay_us
        self.jitter_us = jitter_us
        self.loss_percent = loss_percent
        self.limit = limit


def netem_set(index: int, netem: Netem) -> Request:
    """`tc qdisc replace dev #index root handle 2: netem limit … delay … … loss …`"""
    loss = round(netem.loss_percent / 100 * 0xFFFFFFFF)
    latency, jitter = (int(us * TICKS_PER_US) for us in (netem.delay_us, netem.jitter_us))
    options = _NETEM.pack(latency, netem.limit, loss, 0, 0, jitter)
    body = _tcmsg(index, NETEM_HANDLE, TC_H_ROOT) + attr_text(TCA_KIND, "netem") + attr(TCA_OPTIONS, options)
    return RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body


def tbf_set(index: int, bucket: Tbf, *, below_netem: bool = False) -> Request:
    """`tc qdisc replace dev #index root handle 1: tbf …`, or with `parent 2:1` in place of root."""
    kind, _, body = tbf_add(index, bucket, NETEM_CLASS if below_netem else TC_H_ROOT)
    return kind, NLM_F_CREATE | NLM_F_REPLACE, body


def tbf_add(index: int, bucket: Tbf, parent: int = TC_H_ROOT) -> Request:
    """`tc qdisc add dev #index root handle 1: tbf …`"""
    rate = _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(bucket.rate, 0xFFFFFFFF))
    parms = _TBF.pack(rate, bytes(12), bucket.limit, bucket.buffer, 0)
    options = [attr(TCA_TBF_PARMS, parms)]
    if bucket.rate >= 1 << 32:
        options.append(attr(TCA_TBF_RATE64, struct.pack("=Q", bucket.rate)))
    body = _tcmsg(index, TBF_HANDLE, parent) + attr_text(TCA_KIND, "tbf") + nested(TCA_OPTIONS, *options)
    return RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body


def ingress_add(index: int) -> Request:
    """`tc qdisc add dev #index ingress`"""
    return RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, _tcmsg(index, INGRESS_HANDLE, TC_H_INGRESS) + attr_text(TCA_KIND, "ingress")


def redirect_add(index: int, to: int) -> Request:
    """Everything that arrives on #index leaves by #to instead: `tc filter add … u32 match u32 0 0 … mirred egress redirect`."""
    selector = _U32_SEL.pack(TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _U32_KEY.pack(0, 0, 0, 0)
    parms = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to)
    action = nested(1, attr_text(TCA_ACT_KIND, "mirred"), nested(TCA_ACT_OPTIONS, attr(TCA_MIRRED_PARMS, parms)))
    options = nested(
        TCA_OPTIONS, attr_u32(TCA_U32_CLASSID, 0x10001), attr(TCA_U32_SEL, selector), nested(TCA_U32_ACT, action)
    )
    protocol = struct.unpack("=H", struct.pack(">H", ETH_P_ALL))[0]
    body = _tcmsg(index, 0, INGRESS_HANDLE, 1 << 16 | protocol) + attr_text(TCA_KIND, "u32") + options
    return RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body


def qdisc_del(index: int, *, ingress: bool = False) -> Request:
    """Remove the root qdisc (the kernel's default comes back), or the ingress one."""
    handle, parent = (INGRESS_HANDLE, TC_H_INGRESS) if ingress else (0, TC_H_ROOT)
    return RTM_DELQDISC, 0, _tcmsg(index, handle, parent)


def qdisc_dump() -> Request:
    return RTM_GETQDISC, NLM_F_DUMP, _tcmsg(0)


def filter_dump(index: int, parent: int = INGRESS_HANDLE) -> Request:
    return RTM_GETTFILTER, NLM_F_DUMP, _tcmsg(index, 0, parent)


def parse_qdisc(body: bytes) -> tuple[int, str, int, Tbf | None]:
    """(link index, kind, parent, its token bucket if it is one) of a qdisc dump's entry."""
    _, index, _, parent, _ = _TCMSG.unpack_from(body)
    found = dict(attrs(body, 20))
    kind = found.get(TCA_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
    if kind != "tbf":
        return index, kind, parent, None
    options = dict(attrs(found.get(TCA_OPTIONS, b"")))
    rate, _, limit, buffer, _ = _TBF.unpack_from(options[TCA_TBF_PARMS])
    bytes_per_s = _RATESPEC.unpack(rate)[5]
    if TCA_TBF_RATE64 in options:
        bytes_per_s = struct.unpack("=Q", options[TCA_TBF_RATE64])[0]
    return index, kind, parent, Tbf(bytes_per_s, limit, buffer)


def place(body: bytes) -> tuple[int, int, int]:
    """(link index, handle, parent) of a qdisc dump's entry."""
    _, index, handle, parent, _ = _TCMSG.unpack_from(body)
    return index, handle, parent


def parse_drops(body: bytes) -> int:
    """How many packets the qdisc of a dump's entry has dropped."""
    found = dict(attrs(dict(attrs(body, 20)).get(TCA_STATS2, b"")))
    # struct gnet_stats_queue: qlen, backlog, drops, requeues, overlimits
    return int(struct.unpack_from("=5I", found[TCA_STATS_QUEUE])[2]) if TCA_STATS_QUEUE in found else 0
