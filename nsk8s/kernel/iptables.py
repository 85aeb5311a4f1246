"""The iptables programs: which variant, save, restore. Touches: processes (iptables-save, iptables-restore), /proc.

Always in the caller's own network namespace, with its `XTABLES_LOCKFILE`. Upstream: pkg/util/iptables, and
kubernetes-sigs/iptables-wrappers for the choice of the variant.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import runs

VARIANT_ENV = "NSK8S_IPTABLES"
VARIANTS = ("auto", "nft", "legacy")
LOCK_WAIT_S = 5
"""How long to wait for the xtables lock; kube-proxy's value."""
RANDOM_FULLY_SINCE = (1, 6, 2)
RESOURCE_PROBLEM = 4
"""The exit code when the lock could not be had."""
MINIMUM = (1, 4, 11)
"""Upstream's MinCheckVersion."""
HINT_CHAINS = (":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY ")
_SEARCH = os.pathsep.join(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"])


class IptablesError(Nsk8sError):
    """An iptables program failed: its own words, and the line it names. `code` is its exit code, 0 when it never ran."""

    def __init__(self, message: str, remedy: str = "", code: int = 0) -> None:
        super().__init__(message, remedy)
        self.code = code


def in_root_namespace() -> bool:
    """True in the machine's own network namespace, whose rules and sysctls are never changed; also if it can't be told.

    The kernel registers net.core's global half (net/core/sysctl_net_core.c: net_core_table) in the initial namespace only.
    /proc/1/ns/net would be no witness: it may be unreadable, or another namespace's in a container.
    """
    try:
        return "netdev_max_backlog" in os.listdir("/proc/sys/net/core")
    except OSError:
        return True


def program(name: str) -> str | None:
    """The path of a program; sbin is searched even when PATH lacks it."""
    return shutil.which(name) or shutil.which(name, path=_SEARCH)


def _version(path: str) -> tuple[tuple[int, ...], str]:
    """((1, 8, 9), "nft" or "legacy") of an iptables program."""
    try:
        out = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError) as e:
        raise IptablesError(f"{path} --version failed: {e}") from e
    found = re.search(r"v(\d+(?:\.\d+)+)", out)
    if found is None:
        raise IptablesError(f"{path} --version says {out.strip()!r}: not a version")
    return tuple(int(n) for n in found[1].split(".")), "nft" if "nf_tables" in out else "legacy"


def _hinted(family_prefix: str) -> str:
    """The variant in which another component left its mark in this namespace's mangle table; empty if none did."""
    nft = program(f"{family_prefix}tables-nft-save")
    if nft is not None:
        held = subprocess.run([nft, "-t", "mangle"], capture_output=True, text=True, check=False).stdout
        if any(hint in held for hint in HINT_CHAINS):
            return "nft"
    legacy = program(f"{family_prefix}tables-legacy-save")
    if legacy is not None and has_legacy_tables("mangle", ipv6=family_prefix == "ip6"):
        held = subprocess.run([legacy, "-t", "mangle"], capture_output=True, text=True, check=False).stdout
        if any(hint in held for hint in HINT_CHAINS):
            return "legacy"
    return ""


def has_legacy_tables(table: str = "", *, ipv6: bool = False) -> bool:
    """Whether this namespace has a legacy table loaded: asking iptables-legacy-save would load it. No name: any of them."""
    try:
        with open(f"/proc/net/{'ip6' if ipv6 else 'ip'}_tables_names", encoding="ascii") as f:
            loaded = f.read().split()
    except OSError:
        return False
    return table in loaded if table else bool(loaded)


def detect(variant: str = "auto", *, ipv6: bool = False) -> Iptables:
    """The programs to use. `auto`: NSK8S_IPTABLES, else what kubelet's hint chains show, else what `iptables` is.

    Raises IptablesError when they are missing or too old.
    """
    if variant not in VARIANTS:
        raise IptablesError(f"unknown iptables variant {variant!r}", f"one of {', '.join(VARIANTS)}")
    prefix = "ip6" if ipv6 else "ip"
    chosen = variant if variant != "auto" else os.environ.get(VARIANT_ENV, "auto")
    if chosen not in VARIANTS:
        raise IptablesError(f"{VARIANT_ENV}={chosen}: unknown variant", f"one of {', '.join(VARIANTS)}")
    if chosen == "auto":
        chosen = _hinted(prefix)
    main = program(f"{prefix}tables-{chosen}" if chosen else f"{prefix}tables")
    if main is None and not chosen:
        main = program(f"{prefix}tables-nft") or program(f"{prefix}tables-legacy")
    if main is None:
        wanted = f"{prefix}tables" + (f" ({chosen} variant)" if chosen else "")
        raise IptablesError(f"{wanted} is not installed", "apt install iptables")
    version, found = _version(main)
    if version < MINIMUM:
        raise IptablesError(f"{main} is version {'.'.join(map(str, version))}", "1.4.11 or newer is needed")
    name = f"{prefix}tables-{chosen or found}"
    save, restore = program(f"{name}-save"), program(f"{name}-restore")
    if save is None or restore is None:  # distributions with one variant have no suffixed names
        save, restore = program(f"{prefix}tables-save"), program(f"{prefix}tables-restore")
    if save is None or restore is None:
        raise IptablesError(f"{name}-save and {name}-restore are not installed", "apt install iptables")
    return Iptables(main, save, restore, version, found, ipv6)


@dataclass(frozen=True, slots=True)
class Iptables:
    """One family's programs, in one variant."""

    main: str
    save_program: str
    restore_program: str
    version: tuple[int, ...]
    variant: str
    ipv6: bool = False

    @property
    def has_random_fully(self) -> bool:
        return self.version >= RANDOM_FULLY_SINCE

    async def save(self, table: str = "") -> str:
        """iptables-save of one table or all (empty text when the table was never used)."""
        return await _run([self.save_program, *(["-t", table] if table else [])])

    async def restore(self, text: str | Iterable[str]) -> None:
        """Load `text` atomically, table by table; what it does not name stays. Parts of whole lines are read while the next are
        made; without its COMMIT a table is left as it was. Raises IptablesError with the failing line."""
        given: list[str] = []
        parts: str | Iterable[str] = text
        if isinstance(text, str):
            given.append(text)
        else:
            parts = _noting(text, given)
        try:
            await _run([self.restore_program, "-w", str(LOCK_WAIT_S), "--noflush", "--counters"], parts)
        except IptablesError as e:
            raise IptablesError(f"{e.message}{_failing_lines(e.message, ''.join(given))}", code=e.code) from None

    async def chain(self, table: str, chain: str) -> str | None:
        """A chain's rules as `iptables -S` lists them; None when there is no such chain. Raises IptablesError when that cannot
        be told: the lock was held too long."""
        try:
            return await _run([self.main, "-w", str(LOCK_WAIT_S), "-t", table, "-S", chain])
        except IptablesError as e:
            # Versions differ in what they say of a missing chain ("incompatible" in 1.8.9), but they exit with 1.
            if e.code in (0, RESOURCE_PROBLEM):
                raise
            return None

    async def chain_exists(self, table: str, chain: str) -> bool:
        """Whether a chain is there. Raises IptablesError when that cannot be told."""
        return await self.chain(table, chain) is not None


def _noting(parts: Iterable[str], given: list[str]) -> Iterator[str]:
    for part in parts:
        given.append(part)
        yield part


def _failing_lines(message: str, text: str) -> str:
    """The input around the line number in an error message."""
    found = re.search(r"line:? (\d+)", message)
    if found is None:
        return ""
    lines = text.splitlines()
    at = int(found[1])
    shown = [f"{n}: {lines[n - 1]}" for n in range(max(1, at - 1), min(len(lines), at + 1) + 1)]
    return "\n" + "\n".join(shown) if shown else ""


async def _run(argv: list[str], text: str | Iterable[str] = "") -> str:
    try:
        done = await runs.run(argv, text)
    except OSError as e:
        raise IptablesError(f"{argv[0]}: {e.strerror}") from e
    if done.code:
        said = done.err.strip() or f"exit code {done.code}"
        raise IptablesError(f"{os.path.basename(argv[0])}: {said}", code=done.code)
    return done.out
