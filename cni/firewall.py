"""firewall: lets a container's traffic through the node's FORWARD chain, or tells firewalld. Upstream: plugins/meta/firewall.

Touches: iptables (filter) or, where it runs or is asked for, firewalld; a file an attachment below the data directory, with its
addresses, so that DEL and GC can remove the rules also when there is no prevResult (an ADD that was killed), where upstream
leaves them.
"""

from __future__ import annotations

import os

from cni import conf, errors, firewalld, jsontext, skel
from cni.address import BITS, IP, parse_ip, parse_subnet
from cni.errors import CniError
from cni.iptables import Shared, Tables, after, available, split_words
from cni.result import VERSIONS, optional_previous_result, render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from cni.skel import Args

FORWARD, ADMIN = "CNI-FORWARD", "CNI-ADMIN"
STAGE_1, STAGE_2 = "CNI-ISOLATION-STAGE-1", "CNI-ISOLATION-STAGE-2"
DEFAULT_DATA_DIR = "/run/cni/firewall"
_POLICIES = ("", "open", "same-bridge", "isolated")


class FirewallConf:
    """The plugin's own keys, checked."""

    __slots__ = ("admin_chain", "backend", "data_dir", "policy", "zone")

    def __init__(self, args: Args) -> None:
        """Raises CniError."""
        c = args.conf
        self.backend = conf.text(c, "backend")
        if self.backend not in ("", "iptables", "firewalld"):
            raise CniError(f"unknown backend {self.backend!r}: iptables or firewalld")
        self.zone = conf.text(c, "firewalldZone") or firewalld.DEFAULT_ZONE
        self.admin_chain = conf.text(c, "iptablesAdminChainName") or ADMIN
        if not skel.is_word(self.admin_chain) or len(self.admin_chain) > 28:
            raise CniError(f"invalid iptablesAdminChainName {self.admin_chain!r}")
        self.policy = conf.text(c, "ingressPolicy")
        if self.policy not in _POLICIES:
            raise CniError(f'unknown ingress policy: "{self.policy}"')
        self.data_dir = conf.text(c, "dataDir") or DEFAULT_DATA_DIR

    def asks_firewalld(self, env: Mapping[str, str]) -> bool:
        """Whether firewalld is the backend: asked for, or running and no other asked for."""
        return self.backend == "firewalld" or (not self.backend and firewalld.is_running(env))


# ── the rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def shared_rules(admin_chain: str) -> list[Shared]:
    """What every container needs. Pure."""
    return [
        Shared("FORWARD", f'-m comment --comment "CNI firewall plugin rules" -j {FORWARD}', first=True),
        Shared(FORWARD, f'-m comment --comment "CNI firewall plugin admin overrides" -j {admin_chain}', first=True),
    ]


def _host(ip: IP) -> str:
    return f"{ip}/{BITS[ip.family]}"


def own_rules(ip: IP) -> list[str]:
    """The lines after -A for one address. Pure."""
    host = _host(ip)
    return [
        f"{FORWARD} -d {host} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"{FORWARD} -s {host} -j ACCEPT",
    ]


def isolation_rules(bridge: str, policy: str) -> list[Shared]:
    """What keeps a bridge's containers from others: stage 1 sends what leaves a bridge to stage 2, which drops what is about
    to enter another one. Pure."""
    shared = ' -m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)"'
    own = f' -m comment --comment "CNI firewall plugin rules (ingressPolicy: {policy})"'
    found = [
        Shared("FORWARD", f"-j {STAGE_1}{shared}", first=True),
        Shared(STAGE_1, f"-i {bridge} ! -o {bridge} -j {STAGE_2}{own}", first=True),
    ]
    if policy == "isolated":
        found.append(Shared(STAGE_1, f"-i {bridge} -o {bridge} -j DROP{own}", first=True))
    return [
        *found, Shared(STAGE_1, f"-j RETURN{shared}"), Shared(STAGE_2, f"-o {bridge} -j DROP{shared}", first=True),
        Shared(STAGE_2, f"-j RETURN{shared}"),
    ]  # fmt: skip


def _addresses(result: Mapping[str, Any] | None) -> list[IP]:
    return [parse_subnet(ip["address"]).ip for ip in result["ips"]] if result is not None else []


def _families(ips: Iterable[IP]) -> list[int]:
    return sorted({ip.family for ip in ips})


# ── the commands ────────────────────────────────────────────────────────────────────────────────────────────────────────


def add(args: Args) -> dict[str, Any]:
    c = FirewallConf(args)
    result = optional_previous_result(args.conf, args.version)
    if result is None:
        raise CniError("missing prevResult from earlier plugin")
    bridge = _bridge(result, c.policy)
    ips = _addresses(result)
    _record(c, args, ips)
    by_firewalld = c.asks_firewalld(args.env)
    if by_firewalld:
        firewalld.add(args.env, c.zone, map(_host, ips))
    for family in _families(ips):
        if not by_firewalld:
            _let_through(Tables(args.env, family), c, [ip for ip in ips if ip.family == family])
        if bridge:
            what = f"could not set up ingress policy {c.policy}"
            Tables(args.env, family).ensure("filter", isolation_rules(bridge, c.policy), (), what)
    return render(result, args.version)


def _let_through(tables: Tables, c: FirewallConf, ips: Sequence[IP]) -> None:
    own = [line for ip in ips for line in own_rules(ip)]
    have = {line for line in own if not tables.attempt("filter", [f"-C {line}"])}
    lines = [f"-A {line}" for line in own if line not in have]
    shared = shared_rules(c.admin_chain)
    tables.ensure("filter", shared, lines, "could not let the container through", chains=[c.admin_chain])


def _bridge(result: Mapping[str, Any], policy: str) -> str:
    """The bridge that the policy is about: the first interface's name; empty without a policy. Raises CniError."""
    if policy in ("", "open"):
        return ""
    if not result["interfaces"]:
        raise CniError(
            f'interface needs to be set for ingress policy "{policy}", make sure to chain "firewall" plugin with "bridge"'
        )
    name = str(result["interfaces"][0].get("name") or "")
    problem = skel.interface_name_error(name)
    if problem:
        raise CniError(f"ingress policy {policy}: {problem}")
    return name


def delete(args: Args) -> None:
    """Removes the rules for the addresses of prevResult and of our own record; the shared chains stay. Can be repeated."""
    c = FirewallConf(args)
    path = _record_path(c, args.name, args.container_id, args.ifname)
    ips = {*_addresses(optional_previous_result(args.conf, args.version)), *_recorded(path)[1]}
    _remove(c, args.env, sorted(ips, key=str))
    _unlink(path)


def _remove(c: FirewallConf, env: Mapping[str, str], ips: Sequence[IP]) -> None:
    """From both backends: firewalld may have been started, or have ended, since ADD."""
    if ips and c.asks_firewalld(env):
        firewalld.remove(env, c.zone, map(_host, ips))
    hosts = {_host(ip) for ip in ips}
    for family in _families(ips):
        tables = Tables(env, family)
        if not tables.available:
            continue
        lines = [
            f"-D {line}"
            for line, words in ((line, split_words(line)) for line in tables.rules("filter", FORWARD) or ())
            if after(words, "-j") == "ACCEPT" and (after(words, "-s") in hosts or after(words, "-d") in hosts)
        ]
        tables.commit("filter", lines, "could not remove the container's rules")


def check(args: Args) -> None:
    c = FirewallConf(args)
    result = optional_previous_result(args.conf, args.version)
    if result is None:
        raise CniError("missing prevResult from earlier plugin")
    ips = _addresses(result)
    bridge = _bridge(result, c.policy)
    isolation = isolation_rules(bridge, c.policy) if bridge else []
    by_firewalld = c.asks_firewalld(args.env)
    if by_firewalld:
        firewalld.check(args.env, c.zone, map(_host, ips))
    for family in _families(ips):
        tables = Tables(args.env, family)
        wanted = [] if by_firewalld else [f"{s.chain} {s.rule}" for s in shared_rules(c.admin_chain)]
        wanted += [line for ip in ips if ip.family == family and not by_firewalld for line in own_rules(ip)]
        for line in wanted + [f"{s.chain} {s.rule}" for s in isolation]:
            older = line.replace("same-bridge|isolated", "same-bridge")  # the real plugin's comment before it knew isolated
            if all(tables.attempt("filter", [f"-C {text}"]) for text in dict.fromkeys((line, older))):
                raise CniError(f"expected rule {line} not found")


def gc(args: Args) -> None:
    """Remove the rules of this network's recorded attachments that are not in `cni.dev/valid-attachments`."""
    c = FirewallConf(args)
    valid = skel.valid_attachments(args)
    if valid is None:
        return
    keep = {_record_path(c, args.name, container_id, ifname) for container_id, ifname in valid}
    try:
        names = os.listdir(c.data_dir)
    except FileNotFoundError:
        return
    for path in (os.path.join(c.data_dir, name) for name in sorted(names)):
        network, ips = _recorded(path)
        if network == args.name and path not in keep:
            _remove(c, args.env, ips)
            _unlink(path)


def status(args: Args) -> None:
    c = FirewallConf(args)
    if c.backend == "firewalld":
        if not firewalld.is_running(args.env):
            raise CniError("firewalld is not running", errors.PLUGIN_NOT_AVAILABLE)
    elif not available(args.env):
        raise CniError("iptables is not installed", errors.PLUGIN_NOT_AVAILABLE)


# ── the record ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _record_path(c: FirewallConf, network: str, container_id: str, ifname: str) -> str:
    return os.path.join(c.data_dir, f"{network}-{container_id}-{ifname}")


def _record(c: FirewallConf, args: Args, ips: Sequence[IP]) -> None:
    os.makedirs(c.data_dir, mode=0o700, exist_ok=True)
    path = _record_path(c, args.name, args.container_id, args.ifname)
    temporary = os.path.join(c.data_dir, f".{os.getpid()}")
    with open(temporary, "wb") as f:
        f.write(jsontext.dumps({"network": args.name, "ips": [str(ip) for ip in ips]}).encode())
    os.rename(temporary, path)


def _recorded(path: str) -> tuple[str, list[IP]]:
    """(network, addresses); nothing when there is no such record."""
    try:
        with open(path, "rb") as f:
            body = jsontext.loads(f.read().decode())
        return str(body["network"]), [parse_ip(ip) for ip in body["ips"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "", []


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


PLUGIN = skel.Plugin(
    "CNI plugin firewall (nsk8s)", add=add, delete=delete, check=check, gc=gc, status=status,
    versions=VERSIONS[VERSIONS.index("0.4.0") :],
)  # fmt: skip


def main(env: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
    return skel.run(PLUGIN, env, stdin)
