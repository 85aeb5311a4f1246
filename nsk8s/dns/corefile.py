"""What a Corefile says: server blocks with the plugins that a cluster's DNS needs. Pure.

Upstream: CoreDNS' Corefile (coredns.io/manual/configuration) and the setup of each plugin. What is not supported is refused
by name, with its line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from nsk8s.dns import settings as of
from nsk8s.dns.caddyfile import CorefileError, Line, server_blocks
from nsk8s.dns.settings import NO_PAGE, RESOLV_CONF, REVERSE, Block, Cached, Hosts, Kubernetes, LogRule, Server, Settings
from nsk8s.errors import Nsk8sError

if TYPE_CHECKING:
    from nsk8s.dns.rewrite import Rule

__all__ = ["NO_PAGE", "RESOLV_CONF", "CorefileError", "Settings", "parse"]

_NO_CHOICE = frozenset({"errors", "loop", "loadbalance", "nsid", "cancel", "minimal", "debug"})
"""What changes no answer here, or is always so: accepted with whatever they are given."""
_SERVER_WIDE = frozenset({"health", "ready", "prometheus", "reload"})
_PARTS_MS = {"h": 3_600_000.0, "m": 60_000.0, "s": 1000.0, "ms": 1.0, "us": 1e-3, "\u00b5s": 1e-3, "ns": 1e-6}


def parse(text: str, where: str = "Corefile") -> Settings:
    """Raises CorefileError."""
    blocks = server_blocks(text, where)
    if not blocks:
        raise CorefileError(f"{where}: no server block")
    reader = _Reader(where)
    made = tuple(reader.block(block) for block in blocks)
    if sum(block.kubernetes for block in made) != 1:
        own = sum(block.kubernetes for block in made)
        raise CorefileError(f"{where}: {own} server blocks have the plugin kubernetes; nsk8s' DNS takes exactly one")
    zones: set[str] = set()
    for line, block in zip(blocks, made, strict=True):
        for zone in block.zones:
            if zone in zones:
                raise reader.fail(line, f"cannot serve dns://{zone or '.'}:{reader.settings.port} - it is already defined")
            zones.add(zone)
    return replace(reader.settings, blocks=made)


def zone_of(text: str) -> str:
    """`Example.ORG.` \u2192 `example.org`, `.` \u2192 the empty text."""
    return text.strip(".").lower()


class _Reader:
    def __init__(self, where: str) -> None:
        self.where, self.settings, self._port = where, Settings(), 0

    def fail(self, line: Line, why: str) -> CorefileError:
        return CorefileError(f"{self.where}:{line.number} - Error during parsing: {why}")

    def block(self, line: Line) -> Block:
        block = Block(zones=tuple(zone for key in line.words for zone in self._key(line, key)))
        for each in line.body:
            block = self._plugin(each, block)
        return replace(block, plugins=tuple(dict.fromkeys(each.words[0] for each in line.body)))

    def _key(self, line: Line, key: str) -> list[str]:
        """The zones of a server block's key, which may begin with dns:// and end with a port."""
        bare = key.removeprefix("dns://").removesuffix(",")
        if "://" in bare:
            raise self.fail(line, f"{key}: only dns:// is supported")
        zone, _, port = bare.rpartition(":") if re.search(r":\d+$", bare) else (bare, "", "53")
        number = self._number(line, port, 1, 65535)
        if number != (self._port or number):
            raise self.fail(line, f"{key}: every server block must have port {self._port}")
        self._port = number
        self.settings = replace(self.settings, port=number)
        return self._zones(line, zone)

    def _zones(self, line: Line, text: str) -> list[str]:
        """A zone's name, or the reverse zones of an address range."""
        if "/" not in text:
            return [zone_of(text)]
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            raise self.fail(line, f"{text} is neither a zone nor a range of addresses") from None
        step = 8 if network.version == 4 else 4
        subnets = network.subnets(new_prefix=min(-(-network.prefixlen // step) * step, network.max_prefixlen))
        found = []
        for subnet in subnets:
            parts = subnet.network_address.reverse_pointer.split(".")
            found.append(".".join(parts[(network.max_prefixlen - subnet.prefixlen) // step :]))
        return found

    def _plugin(self, line: Line, block: Block) -> Block:
        name, words = line.words[0], line.words[1:]
        if name == "kubernetes":
            if block.kubernetes:
                raise self.fail(line, "this plugin can only be used once per Server Block")
            self._kubernetes(line, block)
            return replace(block, kubernetes=True)
        if name == "forward":
            return replace(block, forward=(*block.forward, self._forward(line)))
        if name == "log":
            return replace(block, log=(*block.log, *self._log(line)))
        if name == "any":
            return replace(block, refuses_any=True)
        if name == "rewrite":
            return replace(block, rewrites=(*block.rewrites, self._rewrite(line)))
        if name == "hosts":
            if block.hosts:
                raise self.fail(line, "this plugin can only be used once per Server Block")
            return replace(block, hosts=self._hosts(line, block))
        if name == "cache":
            return replace(block, cache=self._cache(line))
        if name == "bufsize":
            return replace(block, bufsize=self._number(line, words[0], 512, 4096) if words else 1232)
        if name in _SERVER_WIDE:
            self._page_plugin(line, name, words)
        elif name not in _NO_CHOICE:
            raise self.fail(line, f"plugin '{name}' is not supported by nsk8s' DNS; CoreDNS itself may take its place")
        return block

    def _page_plugin(self, line: Line, name: str, words: Sequence[str]) -> None:
        if name == "health":
            self.settings = replace(self.settings, health_port=self._page(line, words, 8080))
            for option in line.body:
                if option.words[0] != "lameduck" or len(option.words) != 2:
                    raise self.fail(option, f"health has no option '{option.words[0]}'")
                self.settings = replace(self.settings, lameduck_s=self._seconds(option, option.words[1]))
        elif name == "ready":
            self.settings = replace(self.settings, ready_port=self._page(line, words, 8181))
        elif name == "prometheus":
            self.settings = replace(self.settings, metrics_port=self._page(line, words, 9153))
        else:
            self.settings = replace(self.settings, reload=True)

    def _kubernetes(self, line: Line, block: Block) -> None:
        zones = tuple(z for text in line.words[1:] for z in self._zones(line, text)) or block.zones
        domains = [z for z in zones if not z.endswith(REVERSE)]
        if len(domains) != 1 or not domains[0]:
            raise self.fail(line, f"kubernetes needs one zone that is no reverse zone, not {' '.join(domains) or 'none'}")
        options = Kubernetes(zones=zones, pods="disabled")
        for option in line.body:
            options = self._kubernetes_option(option, option.words[0], option.words[1:], options)
        self.settings = replace(self.settings, kubernetes=options)

    def _kubernetes_option(self, line: Line, name: str, words: Sequence[str], options: Kubernetes) -> Kubernetes:
        if name == "pods" and len(words) == 1:
            if words[0] not in ("disabled", "insecure", "verified"):
                raise self.fail(line, f"wrong value for pods: {words[0]},  must be one of: disabled, verified, insecure")
            return replace(options, pods=words[0])
        if name == "ttl" and len(words) == 1:
            return replace(options, ttl_s=self._number(line, words[0], 0, 3600))
        if name == "namespaces" and words:
            return replace(options, namespaces=options.namespaces | set(words))
        if name in ("labels", "namespace_labels") and words:
            return replace(options, **{name: self._selector(line, " ".join(words))})  # type: ignore[arg-type]
        if name in ("endpoint_pod_names", "noendpoints") and not words:
            return replace(options, **{name: True})  # type: ignore[arg-type]
        if name == "fallthrough":
            return replace(options, fallthrough=tuple(map(zone_of, words)) or ("",))
        if name == "ignore" and list(words) == ["empty_service"]:
            return replace(options, ignore_empty=True)
        raise self.fail(line, f"kubernetes: '{' '.join([name, *words])}' is not supported by nsk8s' DNS")

    def _selector(self, line: Line, text: str) -> str:
        from nsk8s.api import selectors

        try:
            selectors.parse_labels(text)
        except Nsk8sError as e:
            raise self.fail(line, f"unable to parse label selector: '{text}': {e.message}") from None
        return text

    def _log(self, line: Line) -> list[LogRule]:
        words, form = line.words[1:], of.LOG_COMMON
        if len(words) > 1 and "{" in words[-1]:
            form = words.pop().replace("{common}", of.LOG_COMMON).replace("{combined}", of.LOG_COMBINED)
        classes: list[str] = []
        for option in line.body:
            if option.words[0] != "class" or len(option.words) < 2:
                raise self.fail(option, f"log: unknown property '{option.words[0]}'")
            classes += option.words[1:]
        for wrong in set(classes) - set(of.LOG_CLASSES):
            raise self.fail(line, f"log: invalid Class: {wrong}")
        return [LogRule(zone_of(z), form, frozenset(classes or ["all"])) for z in words or ["."]]

    def _rewrite(self, line: Line) -> Rule:
        from nsk8s.dns import rewrite

        try:
            return rewrite.rule(line.words[1:], [each.words for each in line.body])
        except ValueError as e:
            raise self.fail(line, f"rewrite: {e}") from None

    def _hosts(self, line: Line, block: Block) -> Hosts:
        file, zones = (line.words[1] if line.words[1:] else of.HOSTS_FILE), tuple(map(zone_of, line.words[2:]))
        hosts = Hosts(file, zones or block.zones)
        for option in line.body:
            name, words = option.words[0], option.words[1:]
            if name == "ttl" and len(words) == 1:
                hosts = replace(hosts, ttl_s=self._number(option, words[0], 1, 65535))
            elif name == "no_reverse" and not words:
                hosts = replace(hosts, reverse=False)
            elif name == "reload" and len(words) == 1:
                hosts = replace(hosts, reload_s=0.0 if words[0] == "0" else self._seconds(option, words[0]))
            elif name == "fallthrough":
                hosts = replace(hosts, fallthrough=tuple(map(zone_of, words)) or ("",))
            elif words and (name[0].isdigit() or ":" in name):
                hosts = replace(hosts, inline=(*hosts.inline, " ".join(option.words)))
            else:
                raise self.fail(option, f"hosts: '{' '.join(option.words)}' is not supported by nsk8s' DNS")
        return hosts

    def _cache(self, line: Line) -> Cached:
        """Capacities, zones, prefetch and what is served stale are passed over."""
        longest = self._number(line, line.words[1], 0, 604800) if line.words[1:] and line.words[1].isdecimal() else None
        cached = Cached() if longest is None else Cached(longest, longest)
        for option in line.body:
            if option.words[0] in ("success", "denial") and len(option.words) > 2:
                cached = replace(cached, **{f"{option.words[0]}_s": self._number(option, option.words[2], 0, 604800)})
        return cached

    def _forward(self, line: Line) -> tuple[str, tuple[Server, ...]]:
        if len(line.words) < 3:
            raise self.fail(line, "forward needs a zone and servers")
        return zone_of(line.words[1]), tuple(self._server(line, text) for text in line.words[2:])

    def _server(self, line: Line, text: str) -> Server:
        if text == RESOLV_CONF:
            return RESOLV_CONF, 0
        host, port = text.removeprefix("dns://"), "53"
        if host.startswith("["):
            host, _, port = host[1:].partition("]")
            port = port.removeprefix(":") or "53"
        elif host.count(":") == 1:
            host, _, port = host.partition(":")
        try:
            return str(ip_address(host)), self._number(line, port, 1, 65535)
        except ValueError:
            raise self.fail(line, f"forward to {text}: not an IP address, and not {RESOLV_CONF}") from None

    def _page(self, line: Line, words: Sequence[str], default: int) -> int:
        return self._number(line, words[0].rpartition(":")[2], 1, 65535) if words else default

    def _number(self, line: Line, text: str, low: int, high: int) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise self.fail(line, f"{text!r} is not a number from {low} to {high}")
        return int(text)

    def _seconds(self, line: Line, text: str) -> float:
        """Go's durations: 300ms, 1.5h, 1m30s."""
        if not re.fullmatch(r"(\d+(\.\d*)?(h|ms|us|\u00b5s|ns|m|s))+", text):
            raise self.fail(line, f"{text!r} is not a duration like 5s")
        parts = re.findall(r"(\d+(?:\.\d*)?)(h|ms|us|\u00b5s|ns|m|s)", text)
        return sum(float(number) * _PARTS_MS[unit] for number, unit in parts) / 1000


def resolv_conf_servers(text: str) -> tuple[Server, ...]:
    """The name servers of a resolv.conf."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            found.append((words[1].partition("%")[0], 53))
    return tuple(found)


def corefile(domain: str, forward: Sequence[str] = ()) -> str:
    """The Corefile of a new cluster: kubeadm's, but the cluster is closed unless there is somebody to forward to; going down
    takes one second, and records change within seconds."""
    outside = f"    forward . {' '.join(forward)}\n" if forward else ""
    return f"""\
.:53 {{
    errors
    health {{
       lameduck 1s
    }}
    ready
    kubernetes {domain} in-addr.arpa ip6.arpa {{
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 5
    }}
    prometheus :9153
{outside}    cache 30
    loop
    reload
    loadbalance
}}
"""
