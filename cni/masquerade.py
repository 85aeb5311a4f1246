"""ipMasq: source NAT for what leaves a container's subnet. Upstream: pkg/ip/ipmasq_{iptables,nftables}_linux.go.

Touches: iptables (nat) or nftables. Names, comments and rules are upstream's, so that either can remove what the other made;
removal needs neither the namespace nor an old result, and looks in both backends' places.
"""

from __future__ import annotations

from cni import nft
from cni.address import V4, V6, Subnet, parse_ip
from cni.errors import CniError
from cni.iptables import Tables, after, chain_name, quoted, split_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

_MULTICAST = {V4: "224.0.0.0/4", V6: "ff00::/8"}
_TABLE = "inet cni_plugins_masquerade"
_CHAIN = "masq_checks"


def setup(
    env: Mapping[str, str], backend: str, subnets: Sequence[Subnet], network: str, container_id: str, ifname: str
) -> None:
    """Masquerade what comes from these addresses and leaves their subnets. Raises CniError; nothing half done."""
    if backend == "nftables":
        _setup_nft(env, subnets, network, container_id, ifname)
    else:
        _setup_iptables(env, subnets, network, container_id)


def teardown(env: Mapping[str, str], network: str, container_id: str, ifname: str, live: Container[str]) -> None:
    """Remove the container's rules; in iptables, whose rules do not name the interface, all but those for addresses that
    the container still has (`live`: another interface of it)."""
    chain = chain_name("CNI-", network, container_id)
    for family in (V4, V6):
        _remove(env, family, lambda found, _comment: found == chain, lambda ip: ip in live)
    own = instance(network, ifname, container_id)
    _remove_nft(env, lambda text: text.startswith(own))


def collect_garbage(env: Mapping[str, str], network: str, valid: Sequence[tuple[str, str]]) -> None:
    """Remove the rules of every attachment of this network that is not in `valid` ((container id, interface) pairs)."""
    prefix = f'name: "{network}" id: "'
    ids = {container_id for container_id, _ in valid}

    def stale(chain: str, note: str) -> bool:
        return chain.startswith("CNI-") and note.startswith(prefix) and note[len(prefix) :].rstrip('"') not in ids

    for family in (V4, V6):
        _remove(env, family, stale, lambda ip: False)
    keep = {instance(network, ifname, container_id) for container_id, ifname in valid}
    mine = _hash(network) + "-"
    _remove_nft(env, lambda text: text.startswith(mine) and text.partition(",")[0] not in keep)


def check(
    env: Mapping[str, str], backend: str, subnets: Sequence[Subnet], network: str, container_id: str, ifname: str
) -> None:
    """Raises CniError when rules are missing."""
    if backend == "nftables":
        own = instance(network, ifname, container_id)
        if sum(text.startswith(own) for _, text in nft.rules(env, _TABLE, _CHAIN)) < len(subnets):
            raise CniError(f"masquerade rules of {container_id} are missing from table {_TABLE}")
        return
    chain = chain_name("CNI-", network, container_id)
    for family in sorted({s.family for s in subnets}):
        tables = Tables(env, family)
        jumps = tables.rules("nat", "POSTROUTING") or []
        sources = {after(w, "-s").partition("/")[0] for w in map(split_words, jumps) if after(w, "-j") == chain}
        for subnet in (s for s in subnets if s.family == family):
            if str(subnet.ip) not in sources or not tables.rules("nat", chain):
                raise CniError(f"masquerade rules for {subnet.ip} (chain {chain}) are missing")


# ── iptables: one chain a container ─────────────────────────────────────────────────────────────────────────────────────


def comment(network: str, container_id: str) -> str:
    return f'name: "{network}" id: "{container_id}"'


def rules(subnet: Subnet, network: str, container_id: str) -> list[str]:
    """The lines after `-A`, chain first, for one address of a container. Pure."""
    chain = chain_name("CNI-", network, container_id)
    note = f"-m comment --comment {quoted(comment(network, container_id))}"
    host = f"{subnet.ip}/{32 if subnet.family == V4 else 128}"
    return [
        f"{chain} -d {subnet.network}/{subnet.length} {note} -j ACCEPT",
        f"{chain} ! -d {_MULTICAST[subnet.family]} {note} -j MASQUERADE",
        f"POSTROUTING -s {host} {note} -j {chain}",
    ]


def _setup_iptables(env: Mapping[str, str], subnets: Sequence[Subnet], network: str, container_id: str) -> None:
    chain = chain_name("CNI-", network, container_id)
    for family in sorted({s.family for s in subnets}):
        tables = Tables(env, family)
        lines = [line for s in subnets if s.family == family for line in rules(s, network, container_id)]
        lines = list(dict.fromkeys(lines))
        problem = tables.attempt("nat", [f"-N {chain}", *(f"-A {line}" for line in lines)])
        if not problem:
            continue
        # The chain is there: another interface of this container on this network shares it.
        have = {*(tables.rules("nat", chain) or ()), *(tables.rules("nat", "POSTROUTING") or ())}
        if not have:
            raise CniError(f"could not set up masquerading: {problem}")
        missing = [f"-A {line}" for line in lines if not _present(line, have)]
        tables.commit("nat", missing, "could not set up masquerading")


def _present(line: str, have: Iterable[str]) -> bool:
    """Whether a rule is among listed ones, which print the same matches in an order of their own."""
    words = sorted(line.replace("/32 ", " ").replace("/128 ", " ").split())
    return any(sorted(h.replace("/32 ", " ").replace("/128 ", " ").split()) == words for h in have)


def _remove(
    env: Mapping[str, str], family: int, ours: Callable[[str, str], bool], keep: Callable[[str], bool]
) -> None:
    tables = Tables(env, family)
    if not tables.available:
        return  # nothing can have been set up
    jumps: list[str] = []
    chains: dict[str, bool] = {}
    for line in tables.rules("nat", "POSTROUTING") or ():
        words = split_words(line)
        chain = after(words, "-j")
        if not chain or not ours(chain, after(words, "--comment")):
            continue
        source = after(words, "-s").partition("/")[0]
        if source and keep(str(parse_ip(source))):
            chains[chain] = False
        else:
            jumps.append(f"-D {line}")
            chains.setdefault(chain, True)
    lines = jumps + [f"{verb} {chain}" for chain, unused in chains.items() if unused for verb in ("-F", "-X")]
    tables.commit("nat", lines, "could not remove masquerading")


# ── nftables: one table, a rule an address ──────────────────────────────────────────────────────────────────────────────


def _hash(text: str) -> str:
    from hashlib import sha512

    return sha512(text.encode()).hexdigest()[:16]


def instance(network: str, ifname: str, container_id: str) -> str:
    """How the comment of each of an attachment's rules begins. Pure."""
    return f"{_hash(network)}-{_hash(f'{ifname}:{container_id}')}"


def _setup_nft(env: Mapping[str, str], subnets: Sequence[Subnet], network: str, container_id: str, ifname: str) -> None:
    own = instance(network, ifname, container_id)
    plain = [text.replace('"', "") for text in (network, ifname, container_id)]
    note = nft.comment(f"{own}, net: {plain[0]}, if: {plain[1]}, id: {plain[2]}")

    def lines() -> list[str]:
        return [
            f'add table {_TABLE} {{ comment "Masquerading for plugins from github.com/containernetworking/plugins" ; }}',
            f"add chain {_TABLE} {_CHAIN} {{ comment "
            '"Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet" ; }',
            f"add chain {_TABLE} postrouting {{ type nat hook postrouting priority 100 ; }}",
            f"flush chain {_TABLE} postrouting",
            f"add rule {_TABLE} postrouting ip daddr == 224.0.0.0/4 return",
            f"add rule {_TABLE} postrouting ip6 daddr == ff00::/8 return",
            f"add rule {_TABLE} postrouting goto {_CHAIN}",
            *nft.deletions(env, _TABLE, _CHAIN, lambda text: text.startswith(own)),
            *(
                f"add rule {_TABLE} {_CHAIN} {ip} saddr == {s.ip} {ip} daddr != {s.network}/{s.length} masquerade{note}"
                for s in subnets
                for ip in (("ip" if s.family == V4 else "ip6"),)
            ),
        ]

    nft.change(env, lines, "could not set up masquerading")


def _remove_nft(env: Mapping[str, str], gone: Callable[[str], bool]) -> None:
    if nft.available(env):
        nft.change(env, lambda: nft.deletions(env, _TABLE, _CHAIN, gone), "could not remove masquerading")
