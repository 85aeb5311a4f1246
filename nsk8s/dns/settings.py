"""What the server runs with, whether a Corefile says it or flags. Pure. Upstream: CoreDNS' server blocks and their plugins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsk8s.dns.rewrite import Rule

Server = tuple[str, int]
NO_PAGE = -1
RESOLV_CONF = "/etc/resolv.conf"
REVERSE = ("in-addr.arpa", "ip6.arpa")
HOSTS_FILE = "/etc/hosts"
HOSTS_TTL_S = 3600
_ASKED = '{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}"'
LOG_COMMON = _ASKED + " {rcode} {>rflags} {rsize} {duration}"
LOG_COMBINED = LOG_COMMON + ' "{>opcode}"'
LOG_CLASSES = ("success", "denial", "error", "all")


@dataclass(frozen=True)
class Hosts:
    """The plugin hosts: a file, and lines in the Corefile itself."""

    file: str = HOSTS_FILE
    zones: tuple[str, ...] = ("",)
    inline: tuple[str, ...] = ()
    ttl_s: int = HOSTS_TTL_S
    reverse: bool = True
    fallthrough: tuple[str, ...] = ()
    reload_s: float = 5.0


@dataclass(frozen=True)
class Cached:
    """The plugin cache: how long, at most, answers and denials of other servers are kept."""

    success_s: int = 3600
    denial_s: int = 1800


@dataclass(frozen=True)
class LogRule:
    zone: str = ""
    format: str = LOG_COMMON
    classes: frozenset[str] = frozenset({"all"})


@dataclass(frozen=True)
class Kubernetes:
    """The plugin's options, under their names there."""

    zones: tuple[str, ...] = ("cluster.local", *REVERSE)
    pods: str = "insecure"
    """disabled; insecure: 1-2-3-4.namespace.pod has that address, whoever has it; verified: if a pod there has it."""
    ttl_s: int = 5
    namespaces: frozenset[str] = frozenset()
    """Only these, if any are named."""
    namespace_labels: str = ""
    labels: str = ""
    """Selectors: only such namespaces, only such Services, EndpointSlices and Pods."""
    endpoint_pod_names: bool = False
    noendpoints: bool = False
    ignore_empty: bool = False
    """A Service without ready endpoints does not exist."""
    fallthrough: tuple[str, ...] = ()
    """Zones in which a name that the cluster lacks is asked elsewhere; "" is all of them."""

    @property
    def domain(self) -> str:
        return next(z for z in self.zones if not z.endswith(REVERSE))


@dataclass(frozen=True)
class Block:
    """A server block: what is asked of it, and its plugins in the order in which they are asked."""

    zones: tuple[str, ...] = ("",)
    log: tuple[LogRule, ...] = ()
    refuses_any: bool = False
    rewrites: tuple[Rule, ...] = ()
    hosts: Hosts | None = None
    kubernetes: bool = False
    forward: tuple[tuple[str, tuple[Server, ...]], ...] = ()
    """(zone, servers); /etc/resolv.conf's servers stand as ("/etc/resolv.conf", 0)."""
    cache: Cached | None = None
    bufsize: int = 0
    """The largest datagram; 0: what the client takes."""
    plugins: tuple[str, ...] = ()
    """Everything that was named."""


@dataclass(frozen=True)
class Settings:
    """Ports of NO_PAGE stand for pages that are not served."""

    kubernetes: Kubernetes = field(default_factory=Kubernetes)
    blocks: tuple[Block, ...] = (Block(kubernetes=True),)
    port: int = 53
    health_port: int = NO_PAGE
    ready_port: int = NO_PAGE
    metrics_port: int = NO_PAGE
    lameduck_s: float = 0.0
    reload: bool = False

    def ports(self) -> tuple[int, ...]:
        return self.port, self.health_port, self.ready_port, self.metrics_port

    def plugins(self) -> list[tuple[str, str]]:
        """(zone, plugin) of all that is on."""
        return [(f"{zone}.", plugin) for block in self.blocks for zone in block.zones for plugin in block.plugins]
