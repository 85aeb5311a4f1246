"""A Corefile, as far as a cluster's DNS needs one: the kubernetes plugin, forward, and what kubeadm's has beside them. Pure.

Upstream: CoreDNS' Corefile (coredns.io/manual/configuration), plugin/kubernetes, plugin/forward. What is not supported is refused
by name, with its line. `Settings` are what the server runs with, whether they come from here or from flags.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from nsk8s.errors import Nsk8sError

Server = tuple[str, int]
NO_PAGE = -1
RESOLV_CONF = "/etc/resolv.conf"
_REVERSE = ("in-addr.arpa", "ip6.arpa")
_NO_CHOICE = frozenset({"errors", "log", "cache", "loop", "loadbalance", "bufsize", "nsid", "cancel", "any", "minimal", "debug"})
"""What changes no answer here, or is always so: accepted with whatever they are given."""
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class CorefileError(Nsk8sError):
    """The message begins with the file and the line, as CoreDNS' does."""


@dataclass(frozen=True)
class Settings:
    """Ports of NO_PAGE stand for pages that are not served."""

    domain: str = "cluster.local"
    reverse: bool = True
    """Whether the reverse zones are the cluster's."""
    pods: bool = True
    """`pods insecure`: 1-2-3-4.namespace.pod has that address, whoever has it."""
    ttl_s: int = 5
    namespaces: frozenset[str] = frozenset()
    """Only these, if any are named."""
    ignore_empty: bool = False
    """A Service without ready endpoints does not exist."""
    forward: tuple[tuple[str, tuple[Server, ...]], ...] = ()
    """(zone, servers); the zone "" is everything else. /etc/resolv.conf's servers stand as ("/etc/resolv.conf", 0)."""
    fallthrough: tuple[str, ...] = ()
    """Zones in which a name that the cluster lacks is asked elsewhere; "" is all of them."""
    port: int = 53
    health_port: int = NO_PAGE
    ready_port: int = NO_PAGE
    metrics_port: int = NO_PAGE
    lameduck_s: float = 0.0
    reload: bool = False


@dataclass
class _Line:
    number: int
    words: list[str]
    body: list[_Line] = field(default_factory=list)
    has_body: bool = False


def parse(text: str, where: str = "Corefile") -> Settings:
    """Raises CorefileError."""
    blocks = _blocks(text, where)
    if not blocks:
        raise CorefileError(f"{where}: no server block")
    own = [b for b in blocks if any(line.words[0] == "kubernetes" for line in b.body)]
    if len(own) != 1:
        raise CorefileError(f"{where}: {len(own)} server blocks have the plugin kubernetes; it takes exactly one")
    settings = _Reader(where, Settings()).block(own[0], stub=False)
    for block in blocks:
        if block is not own[0]:
            settings = _Reader(where, settings).block(block, stub=True)
    return settings


def _blocks(text: str, where: str) -> list[_Line]:
    """The server blocks: their keys are the words, their plugins the body."""
    found: list[_Line] = []
    open_: list[_Line] = []
    for number, words in _lines(text):
        line = _Line(number, words)
        if words == ["}"]:
            if not open_:
                raise CorefileError(f"{where}:{number} - Error during parsing: Unexpected '}}'")
            open_.pop()
            continue
        opens = words[-1] == "{"
        if opens:
            line.words, line.has_body = words[:-1], True
        if not line.words or "{" in line.words or "}" in line.words:
            raise CorefileError(f"{where}:{number} - Error during parsing: '{{' ends a line, '}}' is one")
        (open_[-1].body if open_ else found).append(line)
        if not open_ and not opens:
            raise CorefileError(f"{where}:{number} - Error during parsing: '{{' is missing behind {' '.join(line.words)}")
        if opens:
            open_.append(line)
    if open_:
        raise CorefileError(f"{where}:{open_[-1].number} - Error during parsing: this block has no end")
    return found


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number, words) of what is neither empty nor a comment; quotes hold words together."""
    for number, raw in enumerate(text.splitlines(), 1):
        words: list[str] = []
        word, quoted = "", False
        for char in raw:
            if char == '"':
                quoted = not quoted
            elif char == "#" and not quoted and not word:
                break
            elif char.isspace() and not quoted:
                words += [word] if word else []
                word = ""
            else:
                word += char
        words += [word] if word else []
        if words:
            yield number, words


class _Reader:
    def __init__(self, where: str, settings: Settings) -> None:
        self.where, self.settings = where, settings

    def fail(self, line: _Line, why: str) -> CorefileError:
        return CorefileError(f"{self.where}:{line.number} - Error during parsing: {why}")

    def block(self, block: _Line, *, stub: bool) -> Settings:
        """`stub`: one that only forwards its zones (a stub domain)."""
        zones = [self._key(block, key, stub) for key in block.words]
        for line in block.body:
            name = line.words[0]
            if name == "forward":
                self._forward(line, zones if stub else [""])
            elif stub and name not in _NO_CHOICE and name not in ("reload", "prometheus", "ready", "health"):
                raise self.fail(line, f"plugin '{name}' needs the plugin kubernetes in its server block")
            else:
                self._plugin(line)
        return self.settings

    def _key(self, block: _Line, key: str, stub: bool) -> str:
        """The zone of a server block's key, which may begin with dns:// and end with a port."""
        bare = key.removeprefix("dns://")
        if "://" in bare:
            raise self.fail(block, f"{key}: only dns:// is supported")
        zone, _, port = bare.partition(":")
        number = self._number(block, port or "53", 1, 65535)
        if stub and number != self.settings.port:
            raise self.fail(block, f"{key}: every server block must have port {self.settings.port}")
        self.settings = replace(self.settings, port=number)
        return zone.strip(".").lower()

    def _plugin(self, line: _Line) -> None:
        name, words = line.words[0], line.words[1:]
        if name == "kubernetes":
            self._kubernetes(line)
        elif name == "health":
            self.settings = replace(self.settings, health_port=self._page(line, words, 8080))
            for option in line.body:
                if option.words[0] != "lameduck" or len(option.words) != 2:
                    raise self.fail(option, f"health has no option '{option.words[0]}'")
                self.settings = replace(self.settings, lameduck_s=self._seconds(option, option.words[1]))
        elif name == "ready":
            self.settings = replace(self.settings, ready_port=self._page(line, words, 8181))
        elif name == "prometheus":
            self.settings = replace(self.settings, metrics_port=self._page(line, words, 9153))
        elif name == "reload":
            self.settings = replace(self.settings, reload=True)
        elif name not in _NO_CHOICE:
            raise self.fail(line, f"plugin '{name}' is not supported by nsk8s' DNS; CoreDNS itself may take its place")

    def _kubernetes(self, line: _Line) -> None:
        zones = [z.strip(".").lower() for z in line.words[1:]]
        domains = [z for z in zones if not z.endswith(_REVERSE)]
        if len(domains) != 1:
            raise self.fail(line, f"kubernetes needs one zone that is no reverse zone, not {len(domains)}")
        self.settings = replace(self.settings, domain=domains[0], reverse=len(zones) > 1)
        for option in line.body:
            self._kubernetes_option(option, option.words[0], option.words[1:])

    def _kubernetes_option(self, line: _Line, name: str, words: Sequence[str]) -> None:
        if name == "pods" and list(words) in (["insecure"], ["disabled"]):
            self.settings = replace(self.settings, pods=words[0] == "insecure")
        elif name == "ttl" and len(words) == 1:
            self.settings = replace(self.settings, ttl_s=self._number(line, words[0], 0, 3600))
        elif name == "namespaces" and words:
            self.settings = replace(self.settings, namespaces=frozenset(words))
        elif name == "fallthrough":
            self.settings = replace(self.settings, fallthrough=tuple(w.strip(".").lower() for w in words) or ("",))
        elif name == "ignore" and list(words) == ["empty_service"]:
            self.settings = replace(self.settings, ignore_empty=True)
        else:
            raise self.fail(line, f"kubernetes: '{' '.join([name, *words])}' is not supported by nsk8s' DNS")

    def _forward(self, line: _Line, zones: Sequence[str]) -> None:
        if len(line.words) < 3:
            raise self.fail(line, "forward needs a zone and servers")
        zone = line.words[1].strip(".").lower()
        servers = tuple(self._server(line, text) for text in line.words[2:])
        made = tuple((zone or of, servers) for of in zones)
        self.settings = replace(self.settings, forward=self.settings.forward + made)

    def _server(self, line: _Line, text: str) -> Server:
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

    def _page(self, line: _Line, words: Sequence[str], default: int) -> int:
        return self._number(line, words[0].rpartition(":")[2], 1, 65535) if words else default

    def _number(self, line: _Line, text: str, low: int, high: int) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise self.fail(line, f"{text!r} is not a number from {low} to {high}")
        return int(text)

    def _seconds(self, line: _Line, text: str) -> float:
        for unit, seconds in _UNITS_S.items():
            number = text.removesuffix(unit)
            if number != text and number.replace(".", "", 1).isdecimal():
                return float(number) * seconds
        raise self.fail(line, f"{text!r} is not a duration like 5s")


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
