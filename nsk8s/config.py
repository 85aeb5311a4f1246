"""`cluster.yaml`: what a cluster is asked to be. Counterpart: kubeadm's ClusterConfiguration, kind's Cluster. Touches: one file.

`nsk8s up -f cluster.yaml` reads it; without a file the defaults are the course's picture (three workers, 10.244.0.0/16 …).
`ClusterConfig.model_json_schema()` is its JSON schema.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from nsk8s.errors import Nsk8sError

MAX_NAME = 7
"""`<name>-control-plane` must stay a handy namespace name, and socket paths below 107 bytes."""

Network = Annotated[IPv4Network, Field(strict=False)]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class Node(_Model):
    """A worker: its name, and labels and taints (kubelet's --node-labels, --register-with-taints) it registers with."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=15)]
    labels: dict[str, str] = {}
    taints: list[Annotated[str, Field(pattern=r"^[^=:\s]+(=[^:\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$")]] = []


class Subnets(_Model):
    """The address plan. Ranges must not overlap one another; nothing of them reaches the host."""

    nodes: Network = IPv4Network("192.168.56.0/24")
    pods: Network = IPv4Network("10.244.0.0/16")
    node_mask: Annotated[int, Field(ge=16, le=29)] = 24
    services: Network = IPv4Network("10.96.0.0/16")
    outside: Network = IPv4Network("203.0.113.0/24")

    @model_validator(mode="after")
    def _fit(self) -> Subnets:
        named = {"nodes": self.nodes, "pods": self.pods, "services": self.services, "outside": self.outside}
        names = list(named)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                if named[a].overlaps(named[b]):
                    raise ValueError(f"subnets.{a} ({named[a]}) and subnets.{b} ({named[b]}) overlap")
        if self.node_mask <= self.pods.prefixlen:
            raise ValueError(f"subnets.nodeMask (/{self.node_mask}) must be longer than subnets.pods' /{self.pods.prefixlen}")
        if self.services.prefixlen > 28 or self.nodes.prefixlen > 27:
            raise ValueError("subnets.services needs at least a /28 and subnets.nodes at least a /27")
        if self.outside.prefixlen > 28:
            raise ValueError("subnets.outside needs at least a /28")
        return self


class Timing(_Model):
    """Upstream's defaults, in seconds. A class or a test may shorten them; everything that depends on them follows."""

    node_lease_duration: Annotated[int, Field(ge=1)] = 40
    node_status_update_frequency: Annotated[float, Field(gt=0)] = 10
    node_monitor_period: Annotated[float, Field(gt=0)] = 5
    node_monitor_grace_period: Annotated[float, Field(gt=0)] = 50
    not_ready_toleration: Annotated[int, Field(ge=0)] = 300
    unreachable_toleration: Annotated[int, Field(ge=0)] = 300


class Proxy(_Model):
    """kube-proxy's settings that a class changes; `config` is merged into its KubeProxyConfiguration."""

    mode: Literal["iptables", "nftables"] = "iptables"
    masquerade_all: bool = False
    config: dict[str, Any] = {}


PARTS = ("kube-proxy", "kube-scheduler", "kube-controller-manager", "node-network", "dns", "kubelet")
Part = Literal["kube-proxy", "kube-scheduler", "kube-controller-manager", "node-network", "dns", "kubelet"]


class ClusterConfig(_Model):
    """A whole cluster."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*$", max_length=MAX_NAME)] = "nsk8s"
    nodes: list[Node] = [Node(name=f"node{i}") for i in (1, 2, 3)]
    subnets: Subnets = Subnets()
    api_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The loopback port of the API on this machine; None takes 6443 or the next free one."""
    iptables: Literal["auto", "nft", "legacy"] = "auto"
    proxy: Proxy = Proxy()
    timing: Timing = Timing()
    without: list[Part] = []
    """Parts that `up` leaves out, to be replaced by the real ones or one's own."""
    cluster_domain: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] = "cluster.local"

    @field_validator("nodes", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        """`nodes: 5` is short for node1 … node5."""
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value <= 500:
                raise ValueError("nodes must be between 0 and 500")
            return [{"name": f"node{i}"} for i in range(1, value + 1)]
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ClusterConfig:
        names = [n.name for n in self.nodes]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"nodes: the name {doubled[0]} is used twice")
        reserved = sorted({"control-plane", "switch", "router", "client"} & set(names))
        if reserved:
            raise ValueError(f"nodes: the name {reserved[0]} is reserved")
        room = 2 ** (self.subnets.node_mask - self.subnets.pods.prefixlen)
        if len(names) + 1 > room:
            raise ValueError(f"subnets.pods has room for {room} nodes, {len(names) + 1} are asked for")
        if FIRST_NODE + len(names) >= self.subnets.nodes.num_addresses - 1:
            raise ValueError(f"subnets.nodes ({self.subnets.nodes}) is too small for {len(names) + 1} nodes")
        return self

    @property
    def router_ip(self) -> IPv4Address:
        return self.subnets.nodes[1]

    @property
    def control_plane_ip(self) -> IPv4Address:
        return self.subnets.nodes[FIRST_NODE]

    @property
    def dns_ip(self) -> IPv4Address:
        """The tenth address of the service range, as kubeadm chooses it."""
        return self.subnets.services[10]

    @property
    def kubernetes_ip(self) -> IPv4Address:
        return self.subnets.services[1]

    @property
    def router_outside_ip(self) -> IPv4Address:
        return self.subnets.outside[1]

    @property
    def client_ip(self) -> IPv4Address:
        return self.subnets.outside[10]


FIRST_NODE = 10
"""Host number of the control plane in the nodes' subnet; workers follow."""


def load(path: str | Path) -> ClusterConfig:
    """Read a cluster.yaml. Raises Nsk8sError with one line per mistake."""
    try:
        document = yaml.safe_load(Path(path).read_text())
    except OSError as e:
        raise Nsk8sError(f"cannot read {path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise Nsk8sError(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise Nsk8sError(f"{path} must hold a mapping (name: …, nodes: …)")
    return parse(document, str(path))


def parse(document: dict[str, Any], origin: str) -> ClusterConfig:
    """Validate a decoded document. Raises Nsk8sError."""
    try:
        return ClusterConfig.model_validate(document)
    except ValidationError as e:
        mistakes = "; ".join(
            f"{'.'.join(str(p) for p in err['loc'])}: {err['msg'].removeprefix('Value error, ')}".removeprefix(": ")
            for err in e.errors()
        )
        raise Nsk8sError(f"{origin}: {mistakes}") from e
