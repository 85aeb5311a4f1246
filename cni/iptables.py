"""The iptables programs as plugins use them. Touches: processes (iptables, iptables-restore).

A change is one atomic iptables-restore.  Rules that all containers share ("the jump to our chain is there") are asked for in
that same transaction with `-C`: once they stand, an ADD is one process, where upstream runs one for each question and answer.
"""

from __future__ import annotations

import os

from cni.address import V4, V6
from cni.errors import CniError
from cni.invoke import DEFAULT_PATH, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

VARIANT_ENV = "NSK8S_IPTABLES"
"""Where the other components of a node are told which variant to use; anything but nft and legacy is the machine's own."""
_PROGRAM = {V4: "iptables", V6: "ip6tables"}


def tool(env: Mapping[str, str], name: str) -> str | None:
    """The path of a program along the caller's PATH, then the usual one."""
    for folder in (env.get("PATH") or DEFAULT_PATH).split(":") + DEFAULT_PATH.split(":"):
        path = os.path.join(folder, name)
        if folder and os.access(path, os.X_OK):
            return path
    return None


def available(env: Mapping[str, str]) -> bool:
    return tool(env, "iptables-restore") is not None


def nat_backend(env: Mapping[str, str], asked: str, key: str) -> str:
    """"iptables" or "nftables": what `key` asks for, else iptables unless only nft is installed. Raises CniError."""
    if asked not in ("", "iptables", "nftables"):
        raise CniError(f"unknown {key} {asked!r}: iptables or nftables")
    return asked or ("nftables" if not available(env) and tool(env, "nft") else "iptables")


class Shared:
    """A rule that many containers need, and nobody removes: in `chain`, first or last."""

    __slots__ = ("chain", "first", "rule")

    def __init__(self, chain: str, rule: str, *, first: bool = False) -> None:
        self.chain = chain
        self.rule = rule
        self.first = first


class Tables:
    """One address family's tables in this network namespace."""

    def __init__(self, env: Mapping[str, str], family: int) -> None:
        self.env = env
        self.family = family
        variant = env.get(VARIANT_ENV, "")
        self.program = _PROGRAM[family] + (f"-{variant}" if variant in ("nft", "legacy") else "")

    @property
    def available(self) -> bool:
        return tool(self.env, f"{self.program}-restore") is not None

    def _tool(self, name: str) -> str:
        path = tool(self.env, name)
        if path is None:
            raise CniError(f"{name} not found: install iptables")
        return path

    def attempt(self, table: str, lines: Iterable[str]) -> str:
        """Commit all lines, or none: empty when it worked, else what iptables-restore says."""
        text = "\n".join([f"*{table}", *lines, "COMMIT", ""])
        argv = [self._tool(f"{self.program}-restore"), "--noflush", "--wait"]
        code, output = spawn(argv, self.env, text.encode(), stderr=True)
        said = [line for line in output.decode("utf-8", "replace").splitlines() if line]
        return "" if code == 0 else said[-1] if said else f"{self.program}-restore failed"

    def commit(self, table: str, lines: Sequence[str], what: str) -> None:
        """Raises CniError, which begins with `what`."""
        problem = self.attempt(table, lines) if lines else ""
        if problem:
            raise CniError(f"{what}: {problem}")

    def _run(self, table: str, *args: str) -> tuple[int, str]:
        code, output = spawn([self._tool(self.program), "--wait", "-t", table, *args], self.env, b"", stderr=True)
        return code, output.decode("utf-8", "replace")

    def rules(self, table: str, chain: str) -> list[str] | None:
        """A chain's rules as -S prints them, without `-A `; None when there is no such chain (or no such table)."""
        code, output = self._run(table, "-S", chain)
        return [line[3:] for line in output.splitlines() if line.startswith("-A ")] if code == 0 else None

    def holds(self, table: str, chain: str, rule: str) -> bool:
        return self._run(table, "-C", chain, *split_words(rule))[0] == 0

    def ensure(
        self, table: str, shared: Sequence[Shared], lines: Sequence[str], what: str,
        retry: Callable[[], Sequence[str]] | None = None, chains: Sequence[str] = (),
    ) -> None:
        """The shared rules are there, and `lines` are committed with them, once. Raises CniError, nothing half done.

        `chains` are shared chains that may be empty. The first attempt takes their existence from the rules that jump there.
        `retry` may give other lines for the case that they were refused (a chain left by an ADD that was killed).
        """
        if not self.attempt(table, [*(f"-C {s.chain} {s.rule}" for s in shared), *lines]):
            return
        with _NamespaceLock():
            exists = {chain: self.rules(table, chain) is not None for chain in (*chains, *(s.chain for s in shared))}
            todo = [f"-N {chain}" for chain in exists if not exists[chain]]
            for s in shared:
                if not exists[s.chain] or not self.holds(table, s.chain, s.rule):
                    todo.append(f"-I {s.chain} 1 {s.rule}" if s.first else f"-A {s.chain} {s.rule}")
            self.commit(table, [*todo, *(retry() if retry else lines)], what)

    def remove_jumps(self, table: str, chain: str, gone: Callable[[list[str]], str]) -> tuple[list[str], set[str]]:
        """(lines that delete the rules of `chain` for which `gone` names a chain to go with them, those chains' names)."""
        lines: list[str] = []
        chains: set[str] = set()
        for line in self.rules(table, chain) or ():
            name = gone(split_words(line))
            if name:
                lines.append(f"-D {line}")
                chains.add(name)
        return lines, chains


class _NamespaceLock:
    """Who holds it is alone, among our plugins, in changing this network namespace's shared rules. Leaves no file."""

    def __enter__(self) -> None:
        import fcntl

        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def after(words: Sequence[str], option: str) -> str:
    """The word that follows `option` in a rule; empty when there is none. Pure."""
    return words[words.index(option) + 1] if option in words[:-1] else ""


def quoted(text: str) -> str:
    """As iptables-restore reads it. Pure."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def chain_name(prefix: str, network: str, container_id: str, length: int = 28) -> str:
    """Upstream's name for what belongs to one container: the prefix and as much of a hash as fits. Pure."""
    from hashlib import sha512

    return (prefix + sha512((network + container_id).encode()).hexdigest())[:length]


def split_words(line: str) -> list[str]:
    """The words of an iptables -S line: double quotes group, a backslash escapes inside them. Pure."""
    words: list[str] = []
    word = ""
    inside = started = escaped = False
    for c in line:
        if escaped:
            word += c
            escaped = False
        elif c == "\\" and inside:
            escaped = True
        elif c == '"':
            inside = not inside
            started = True
        elif c == " " and not inside:
            if started:
                words.append(word)
            word, started = "", False
        else:
            word += c
            started = True
    if started:
        words.append(word)
    return words
