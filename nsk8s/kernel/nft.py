"""nftables: run scripts with the `nft` program, look at what is there over netlink. Touches: processes (nft), netlink.

Always in the caller's own network namespace. Writing goes through `nft -f` (one process and one atomic transaction a script), but
for small changes; these and looking go through raw netlink, because nft fetches every chain and set of the table first.
Upstream: sigs.k8s.io/knftables. Numbers are the kernel's (include/uapi/linux/netfilter/nf_tables.h).
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import nftwire, runs
from nsk8s.kernel import rtmsg as m
from nsk8s.kernel.iptables import program

MINIMUM = (1, 0, 1)
"""Upstream's: older versions print and read maps differently."""
MINIMUM_KERNEL = (5, 13)
DELETES_AT_ONCE = (6, 2)
"""From here on a chain can be deleted in the transaction that removes the last map element pointing to it."""

_NETLINK_NETFILTER = 12
_SUBSYS = 10 << 8
_GETTABLE, _GETCHAIN, _GETRULE, _GETSET = _SUBSYS | 1, _SUBSYS | 4, _SUBSYS | 7, _SUBSYS | 10
_TABLE_NAME, _CHAIN_TABLE, _CHAIN_NAME, _RULE_TABLE, _RULE_CHAIN = 1, 1, 3, 1, 2
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_TIMEOUT = 1, 2, 3, 11
_SET_ANONYMOUS = 1
_HEADER = struct.Struct("=IHHII")
_GENMSG = struct.Struct(">BBH")


class NftError(Nsk8sError):
    """nft failed: its own words, and the line of the script that it names."""


def kernel_version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def detect() -> Nft:
    """The program. Raises NftError when it is missing or too old, or the kernel is."""
    path = program("nft")
    if path is None:
        raise NftError("nft is not installed", "apt install nftables")
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError) as e:
        raise NftError(f"{path} --version failed: {e}") from e
    found = re.search(r"v(\d+(?:\.\d+)+)", said)
    if found is None:
        raise NftError(f"{path} --version says {said.strip()!r}: not a version")
    version = tuple(int(n) for n in found[1].split("."))
    if version < MINIMUM:
        raise NftError(f"{path} is version {found[1]}", "1.0.1 or newer is needed")
    if kernel_version() < MINIMUM_KERNEL:
        raise NftError(f"this kernel is {os.uname().release}", "nftables mode needs 5.13 or newer")
    return Nft(path, version)


@dataclass(frozen=True, slots=True)
class Nft:
    """The nft program, and what it made."""

    path: str
    version: tuple[int, ...]
    wire: nftwire.Channel = field(default_factory=nftwire.Channel, compare=False, repr=False)

    async def run(self, script: str) -> None:
        """Run a script as one transaction: all of it or nothing. Raises NftError with the failing lines.

        A small change goes to the kernel directly, whatever else through the program.
        """
        wire = nftwire.encode(script)
        if wire is not None:
            self.wire.send(wire, lambda words: NftError(f"netlink: {words}"))
            return
        try:
            done = await runs.run([self.path, "-f", "-"], script)
        except OSError as e:
            raise NftError(f"{self.path}: {e.strerror}") from e
        if done.code:
            said = done.err.strip() or f"exit code {done.code}"
            raise NftError("nft: " + said[:2000])

    def chains(self, family: str, table: str) -> list[str]:
        """The names of a table's chains; none when there is no such table."""
        found = []
        for body in _dump(_GETCHAIN, family, m.attr_text(_CHAIN_TABLE, table)):
            held = dict(m.attrs(body, 4))
            if _text(held.get(_CHAIN_TABLE)) == table:
                found.append(_text(held.get(_CHAIN_NAME)))
        return found

    def sets(self, family: str, table: str) -> dict[str, int]:
        """The names of a table's sets and maps (without those inside rules) → their time-out in seconds, 0 for none."""
        found = {}
        for body in _dump(_GETSET, family, m.attr_text(_SET_TABLE, table)):
            held = dict(m.attrs(body, 4))
            flags = int.from_bytes(held.get(_SET_FLAGS, b""), "big")
            if _text(held.get(_SET_TABLE)) == table and not flags & _SET_ANONYMOUS:
                found[_text(held.get(_SET_NAME))] = int.from_bytes(held.get(_SET_TIMEOUT, b""), "big") // 1000
        return found

    def has_rules(self, family: str, table: str, chain: str) -> bool:
        """Whether a chain exists and holds a rule."""
        wanted = m.attr_text(_RULE_TABLE, table) + m.attr_text(_RULE_CHAIN, chain)
        for body in _dump(_GETRULE, family, wanted):
            held = dict(m.attrs(body, 4))
            if _text(held.get(_RULE_TABLE)) == table and _text(held.get(_RULE_CHAIN)) == chain:
                return True
        return False


def _text(raw: bytes | memoryview | None) -> str:
    return bytes(raw or b"").rstrip(b"\0").decode(errors="replace")


_FAMILIES = {"ip": socket.AF_INET, "ip6": socket.AF_INET6, "inet": 1}


def _dump(kind: int, family: str, payload: bytes) -> Iterator[bytes]:
    """The bodies of a dump; nothing when what is asked for does not exist. Begins again if the rules change meanwhile."""
    for _ in range(20):
        try:
            yield from list(_ask(kind, family, payload, m.NLM_F_DUMP))
            return
        except InterruptedError:
            continue
        except FileNotFoundError:
            return
    raise NftError("the rules change faster than they can be listed")


def table_exists(family: str, table: str) -> bool:
    """Whether a table is there; False on a kernel without nftables. Needs no nft program."""
    try:
        return bool(list(_ask(_GETTABLE, family, m.attr_text(_TABLE_NAME, table), 0)))
    except OSError:
        return False





def _ask(kind: int, family: str, payload: bytes, flags: int) -> Iterator[bytes]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as s:
        body = _GENMSG.pack(_FAMILIES[family], 0, 0) + payload
        s.send(_HEADER.pack(16 + len(body), kind, flags | m.NLM_F_REQUEST | m.NLM_F_ACK, 1, 0) + body)
        while True:
            for got, got_flags, _, answer in m.split(s.recv(1 << 17)):
                if got_flags & m.NLM_F_DUMP_INTR:
                    raise InterruptedError
                if got == m.NLMSG_DONE:
                    return
                if got == m.NLMSG_ERROR:
                    code = -struct.unpack_from("=i", answer)[0]
                    if code == errno.EINTR:
                        raise InterruptedError
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield bytes(answer)
