"""ipMasq: source NAT for what leaves a container's subnet, one chain a container. Upstream: pkg/ip/ipmasq_iptables_linux.go.

Touches: iptables (nat). Names, comments and rules are upstream's, so that either can remove what the other made; each change is
one atomic iptables-restore instead of nine iptables processes, and removal needs neither the namespace nor an old result.
"""

from __future__ import annotations

import os

from cni.address import V4, V6, Subnet, parse_ip
from cni.errors import CniError
from cni.invoke import DEFAULT_PATH, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

_MAX_CHAIN = 28
_MULTICAST = {V4: "224.0.0.0/4", V6: "ff00::/8"}
_TOOL = {V4: "iptables", V6: "ip6tables"}


def chain_name(network: str, container_id: str) -> str:
    from hashlib import sha512

    return ("CNI-" + sha512((network + container_id).encode()).hexdigest())[:_MAX_CHAIN]


def comment(network: str, container_id: str) -> str:
    return f'name: "{network}" id: "{container_id}"'


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def rules(subnet: Subnet, network: str, container_id: str) -> list[str]:
    """The lines after `-A`, chain first, for one address of a container. Pure."""
    chain = chain_name(network, container_id)
    note = f"-m comment --comment {_quoted(comment(network, container_id))}"
    host = f"{subnet.ip}/{32 if subnet.family == V4 else 128}"
    return [
        f"{chain} -d {subnet.network}/{subnet.length} {note} -j ACCEPT",
        f"{chain} ! -d {_MULTICAST[subnet.family]} {note} -j MASQUERADE",
        f"POSTROUTING -s {host} {note} -j {chain}",
    ]


def setup(env: Mapping[str, str], subnets: Sequence[Subnet], network: str, container_id: str) -> None:
    """Masquerade what comes from these addresses and leaves their subnets. Raises CniError; nothing half done."""
    chain = chain_name(network, container_id)
    for family in sorted({s.family for s in subnets}):
        lines = [line for s in subnets if s.family == family for line in rules(s, network, container_id)]
        lines = list(dict.fromkeys(lines))
        code, output = _restore(env, family, [f"-N {chain}", *(f"-A {line}" for line in lines)])
        if code == 0:
            continue
        # The chain is there: another interface of this container on this network shares it.
        have = set(_list(env, family, chain)) | set(_list(env, family, "POSTROUTING"))
        if not have:
            raise CniError(f"could not set up masquerading: {_last_line(output)}")
        missing = [line for line in lines if not _present(line, have)]
        code, output = _restore(env, family, [f"-A {line}" for line in missing])
        if code:
            raise CniError(f"could not set up masquerading: {_last_line(output)}")


def _present(line: str, have: Iterable[str]) -> bool:
    """Whether a rule is among listed ones, which print the same matches in an order of their own."""
    words = sorted(line.replace("/32 ", " ").replace("/128 ", " ").split())
    return any(sorted(h.replace("/32 ", " ").replace("/128 ", " ").split()) == words for h in have)


def teardown(
    env: Mapping[str, str], network: str, container_id: str, live: Container[str], families: Iterable[int] = (V4, V6)
) -> None:
    """Remove the container's rules, except those for addresses it still has (`live`: another interface of it)."""
    chain = chain_name(network, container_id)
    for family in families:
        _remove(env, family, lambda found, _comment: found == chain, lambda ip: ip in live)


def collect_garbage(env: Mapping[str, str], network: str, valid_ids: Container[str]) -> None:
    """Remove the rules of every container of this network that is not in `valid_ids`."""
    prefix = f'name: "{network}" id: "'

    def stale(chain: str, note: str) -> bool:
        return chain.startswith("CNI-") and note.startswith(prefix) and note[len(prefix) :].rstrip('"') not in valid_ids

    for family in (V4, V6):
        _remove(env, family, stale, lambda ip: False)


def _remove(
    env: Mapping[str, str], family: int, ours: Callable[[str, str], bool], keep: Callable[[str], bool]
) -> None:
    if _tool(env, f"{_TOOL[family]}-restore") is None:
        return  # nothing can have been set up
    jumps: list[str] = []
    chains: dict[str, bool] = {}
    for line in _list(env, family, "POSTROUTING"):
        words = split_words(line)
        chain = words[words.index("-j") + 1] if "-j" in words[:-1] else ""
        note = words[words.index("--comment") + 1] if "--comment" in words[:-1] else ""
        if not chain or not ours(chain, note):
            continue
        source = words[words.index("-s") + 1].partition("/")[0] if "-s" in words[:-1] else ""
        if source and keep(str(parse_ip(source))):
            chains[chain] = False
        else:
            jumps.append(f"-D {line}")
            chains.setdefault(chain, True)
    lines = jumps + [f"{verb} {chain}" for chain, unused in chains.items() if unused for verb in ("-F", "-X")]
    if not lines:
        return
    code, output = _restore(env, family, lines)
    if code:
        raise CniError(f"could not remove masquerading: {_last_line(output)}")


def _restore(env: Mapping[str, str], family: int, lines: Sequence[str]) -> tuple[int, str]:
    tool = _tool(env, f"{_TOOL[family]}-restore")
    if tool is None:
        raise CniError(f"ipMasq needs {_TOOL[family]}-restore: install iptables")
    text = "\n".join(["*nat", *lines, "COMMIT", ""])
    code, output = spawn([tool, "--noflush", "--wait"], env, text.encode(), stderr=True)
    return code, output.decode("utf-8", "replace")


def _list(env: Mapping[str, str], family: int, chain: str) -> list[str]:
    """The rules of a nat chain as iptables -S prints them, without `-A `; none when the chain does not exist."""
    tool = _tool(env, _TOOL[family])
    if tool is None:
        raise CniError(f"ipMasq needs {_TOOL[family]}: install iptables")
    code, output = spawn([tool, "--wait", "-t", "nat", "-S", chain], env, b"", stderr=True)
    lines = output.decode("utf-8", "replace").splitlines()
    return [line[3:] for line in lines if line.startswith("-A ")] if code == 0 else []


def _tool(env: Mapping[str, str], name: str) -> str | None:
    for folder in (env.get("PATH") or DEFAULT_PATH).split(":") + DEFAULT_PATH.split(":"):
        path = os.path.join(folder, name)
        if folder and os.access(path, os.X_OK):
            return path
    return None


def _last_line(output: str) -> str:
    lines = [line for line in output.strip().splitlines() if line]
    return lines[-1] if lines else "iptables-restore failed"


def split_words(line: str) -> list[str]:
    """The words of an iptables -S line: double quotes group, a backslash escapes inside them. Pure."""
    words: list[str] = []
    word = ""
    quoted = started = escaped = False
    for c in line:
        if escaped:
            word += c
            escaped = False
        elif c == "\\" and quoted:
            escaped = True
        elif c == '"':
            quoted = not quoted
            started = True
        elif c == " " and not quoted:
            if started:
                words.append(word)
            word, started = "", False
        else:
            word += c
            started = True
    if started:
        words.append(word)
    return words
