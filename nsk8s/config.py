"""`cluster.yaml`: what a cluster is asked to be. Counterpart: kubeadm's ClusterConfiguration, kind's Cluster. Touches: one file.

`nsk8s up -f cluster.yaml` reads it; without a file the defaults are the course's picture (three workers, 10.244.0.0/16 …).
`ClusterConfig.model_json_schema()` is its JSON schema.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from nsk8s import link
from nsk8s.errors import Nsk8sError

MAX_NAME = 7
"""`<name>-control-plane` must stay a handy namespace name, and socket paths below 107 bytes."""

Network = Annotated[IPv4Network, Field(strict=False)]
Network6 = Annotated[IPv6Network, Field(strict=False)]
Family = Literal["IPv4", "IPv6"]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class Link(_Model):
    """A node's cable, both directions alike, in tc's words; `nsk8s link set` changes it while the cluster runs."""

    rate: str = ""
    """What it lets through: 10mbit, 1gbit."""
    burst: str = ""
    """How much goes at once: 32kb. Without it, 10 ms of the rate."""
    latency: str = ""
    """How long a packet may wait for its turn: 50ms."""
    delay: str = ""
    """How long each packet takes: 20ms. Like jitter and loss it needs netem in this machine's kernel."""
    jitter: str = ""
    """How much that varies: 5ms."""
    loss: str = ""
    """How many packets are lost: 1%."""
    mtu: int = 0
    """The largest packet; 0 leaves the kernel's 1,500."""

    @model_validator(mode="after")
    def _fits(self) -> Link:
        link.from_document(self.model_dump())
        return self


class Rack(_Model):
    """A switch of its own behind the router, with a subnet of its own."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=8)]
    """Nodes name it; its switch is called switch-NAME (the first rack's: switch)."""
    subnet: Network
    """Its machines' network: router .1, nodes from .11. The first one's is `subnets.nodes`."""


class Node(_Model):
    """A worker: its name, and labels and taints (kubelet's --node-labels, --register-with-taints) it registers with."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=15)]
    """Its host name and the Node's: a-z, 0-9 and -, at most 15."""
    labels: dict[str, str] = {}
    """Labels it registers with."""
    taints: list[Annotated[str, Field(pattern=r"^[^=:\s]+(=[^:\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$")]] = []
    """Taints it registers with: KEY=VALUE:EFFECT or KEY:EFFECT."""
    rack: str = ""
    """Where it stands; the first rack unless said otherwise."""
    link: Link = Link()
    """Its cable."""


class Subnets(_Model):
    """The address plan. Ranges must not overlap one another; nothing of them reaches the host."""

    nodes: Network = IPv4Network("192.168.56.0/24")
    """The network of the machines: router .1, control plane .10, workers from .11. At least a /27."""
    pods: Network = IPv4Network("10.244.0.0/16")
    """All pods; each node gets a part."""
    node_mask: Annotated[int, Field(ge=16, le=29)] = 24
    """The prefix length of a node's part of `pods`."""
    services: Network = IPv4Network("10.96.0.0/16")
    """ClusterIPs: `kubernetes` has the first address, the DNS the tenth. At least a /28."""
    outside: Network = IPv4Network("203.0.113.0/24")
    """The world outside: router .1, client .10. At least a /28."""
    nodes6: Network6 = IPv6Network("fd00:192:168:56::/64")
    """The machines' IPv6 network, where network.ipFamilies has IPv6: ::11 for .11 and so on. At least a /96."""
    pods6: Network6 = IPv6Network("fd00:10:244::/56")
    """All pods' IPv6 addresses; each node gets a part."""
    node_mask6: Annotated[int, Field(ge=16, le=120)] = 64
    """The prefix length of a node's part of `pods6`."""
    services6: Network6 = IPv6Network("fd00:10:96::/112")
    """IPv6 ClusterIPs: the DNS has the tenth, ::a. Between /108 and /124."""
    outside6: Network6 = IPv6Network("2001:db8:203::/64")
    """The world outside by IPv6: router ::1, client ::10. At least a /96."""

    @model_validator(mode="after")
    def _fit(self) -> Subnets:
        _apart({"nodes": self.nodes, "pods": self.pods, "services": self.services, "outside": self.outside})
        _apart({"nodes6": self.nodes6, "pods6": self.pods6, "services6": self.services6, "outside6": self.outside6})
        if self.node_mask <= self.pods.prefixlen:
            raise ValueError(f"subnets.nodeMask (/{self.node_mask}) must be longer than subnets.pods' /{self.pods.prefixlen}")
        if self.services.prefixlen > 28 or self.nodes.prefixlen > 27:
            raise ValueError("subnets.services needs at least a /28 and subnets.nodes at least a /27")
        if self.outside.prefixlen > 28:
            raise ValueError("subnets.outside needs at least a /28")
        if not 0 < self.node_mask6 - self.pods6.prefixlen <= MAX_MASK_DIFFERENCE:
            raise ValueError(
                f"subnets.nodeMask6 (/{self.node_mask6}) must be longer than subnets.pods6' /{self.pods6.prefixlen}, "
                f"by {MAX_MASK_DIFFERENCE} at most"
            )
        if self.nodes6.prefixlen > 96 or self.outside6.prefixlen > 96:
            raise ValueError("subnets.nodes6 and subnets.outside6 need at least a /96")
        if not 108 <= self.services6.prefixlen <= 124:
            raise ValueError("subnets.services6 must be between a /108 and a /124")
        return self


MAX_MASK_DIFFERENCE = 16
"""Upstream's node-ipam makes no more than 65,536 subnets (clusterSubnetMaxDiff)."""


def _apart(named: dict[str, Any]) -> None:
    """Raises ValueError when two of these networks overlap."""
    names = list(named)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if named[a].overlaps(named[b]):
                raise ValueError(f"subnets.{a} ({named[a]}) and subnets.{b} ({named[b]}) overlap")


class Timing(_Model):
    """Upstream's defaults, in seconds. A class or a test may shorten them; everything that depends on them follows."""

    node_lease_duration: Annotated[int, Field(ge=1)] = 40
    """How long a kubelet's Lease holds; it is renewed four times as often."""
    node_status_update_frequency: Annotated[float, Field(gt=0)] = 10
    """How often a kubelet looks at its node's state."""
    node_monitor_period: Annotated[float, Field(gt=0)] = 5
    """How often the controller manager looks at the nodes."""
    node_monitor_grace_period: Annotated[float, Field(gt=0)] = 50
    """How long a silent node stays Ready."""
    not_ready_toleration: Annotated[int, Field(ge=0)] = 300
    """How long pods stay on a node that is NotReady."""
    unreachable_toleration: Annotated[int, Field(ge=0)] = 300
    """How long pods stay on a node that is not heard of."""

    @model_validator(mode="after")
    def _heard_in_time(self) -> Timing:
        if self.node_monitor_grace_period <= self.node_lease_duration / 4:
            raise ValueError(
                f"timing.nodeMonitorGracePeriod ({self.node_monitor_grace_period:g}) must be longer than a quarter of "
                f"timing.nodeLeaseDuration ({self.node_lease_duration}): kubelets renew their Leases so often"
            )
        return self


class Proxy(_Model):
    """kube-proxy's settings that a class changes; `config` is merged into its KubeProxyConfiguration."""

    mode: Literal["iptables", "nftables", "ipvs", "userspace"] = "iptables"
    """How Services are made; ipvs needs a kernel with ip_vs, userspace is what Kubernetes began with."""
    masquerade_all: bool = False
    """Masquerade all traffic to ClusterIPs."""
    config: dict[str, Any] = {}
    """More of a KubeProxyConfiguration, merged in."""


class Kubelet(_Model):
    """The kubelets' settings."""

    config: dict[str, Any] = {}
    """More of a KubeletConfiguration, merged in: allowedUnsafeSysctls, runtimeRequestTimeout, maxPods …"""


class LoadBalancer(_Model):
    """How Services of type LoadBalancer are reached from outside."""

    mode: Literal["ecmp", "l2", "off"] = "ecmp"
    """ecmp: the router spreads connections over all nodes; l2: one node answers ARP/NDP for each one; off: nobody serves them."""
    pool: Network = IPv4Network("10.100.0.0/16")
    """The addresses they are given."""
    pool6: Network6 = IPv6Network("fd00:10:100::/112")
    """Their IPv6 addresses, where network.ipFamilies has IPv6."""

    @field_validator("mode", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """YAML reads a bare `off` as false."""
        return "off" if value is False else value


IPV6_MIN_MTU = 1280
"""RFC 8200; a link with less has no IPv6."""


class Bgp(_Model):
    """Mode bgp, as Calico has it."""

    topology: Literal["mesh", "reflector"] = "mesh"
    """mesh: every node speaks with every other; reflector: all speak with the router, which tells the others."""
    asn: Annotated[int, Field(ge=1, le=4294967294)] = 64512
    """The number of their autonomous system."""
    hold_time: Annotated[int, Field(ge=3, le=65535)] = 90
    """Seconds until the routes to a neighbour that has fallen silent are withdrawn."""


class PodNetwork(_Model):
    """How packets find pods; docs/routing.md compares the ways."""

    ip_families: Annotated[list[Family], Field(min_length=1, max_length=2)] = ["IPv4"]
    """Which addresses machines, pods and Services have; the first is the primary one. Both is dual-stack."""
    mode: Literal["routes", "vxlan", "router", "bgp"] = "routes"
    """routes: nodes have routes to one another's pods; vxlan: flannel's overlay; router: nodes know only their gateway; bgp: a
    real BIRD in every node."""
    bgp: Bgp = Bgp()
    """How those speak with each other; it needs bird2 on this machine."""
    expose: list[Literal["pods", "services"]] = []
    """What the router leads into the cluster from outside, without NAT for pods."""
    offload: bool = True
    """false: no checksum and no segmentation is left to network cards, so that captures show what a wire would carry."""
    mtu: Annotated[int, Field(ge=576, le=65535)] | None = None
    """The pods' MTU at most; without it, what the way between nodes takes (1500; for vxlan 1450, or 1430 with IPv6)."""
    policy: bool = False
    """Whether every node enforces NetworkPolicies; it needs nft on this machine, and costs each node a process of 12 MB."""

    @model_validator(mode="after")
    def _ipv6_fits(self) -> PodNetwork:
        if self.mtu is not None and self.mtu < IPV6_MIN_MTU and "IPv6" in self.ip_families:
            raise ValueError(f"network.mtu ({self.mtu}) must be {IPV6_MIN_MTU} or more with IPv6 in network.ipFamilies")
        return self

    @field_validator("ip_families")
    @classmethod
    def _differ(cls, value: list[Family]) -> list[Family]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value[0]} is there twice")
        return value


class Cni(_Model):
    """Plugins and network configurations of one's own; docs/cni.md."""

    bin_dir: list[str] = []
    """Folders of CNI plugins, searched before ours; one path, or several joined by colons, will do. Nodes see them read-only."""
    conf_dir: Annotated[str, Field(min_length=1)] | None = None
    """A folder of CNI configurations (*.conflist, *.conf, *.json), templates for each node, in place of ours."""
    conf: dict[str, str] = {}
    """The same written here: file name → text."""

    @field_validator("bin_dir", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        """CNI_PATH's form."""
        return [part for part in value.split(":") if part] if isinstance(value, str) else value

    @field_validator("bin_dir")
    @classmethod
    def _folders(cls, value: list[str]) -> list[str]:
        bad = next((folder for folder in value if not folder or ":" in folder), None)
        if bad is not None:
            raise ValueError(f"{bad!r} is not a folder's path (CNI_PATH's separator is the colon)")
        return value


PARTS = ("kube-proxy", "kube-scheduler", "kube-controller-manager", "node-network", "dns", "kubelet")
Part = Literal["kube-proxy", "kube-scheduler", "kube-controller-manager", "node-network", "dns", "kubelet"]


class ClusterConfig(_Model):
    """A whole cluster."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*$", max_length=MAX_NAME)] = "nsk8s"
    """A letter, then letters and digits, at most 7. Its namespaces are called NAME-node1 and so on."""
    nodes: list[Node] = [Node(name=f"node{i}") for i in (1, 2, 3)]
    """The workers; a number N is short for node1 to nodeN."""
    racks: list[Rack] = []
    """Switches behind the router; without any there is one. The control plane is in the first."""
    subnets: Subnets = Subnets()
    """The address plan."""
    api_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The loopback port of the API on this machine; without it, 6443 or the next free one."""
    iptables: Literal["auto", "nft", "legacy"] = "auto"
    """Which iptables the nodes use; auto is what this machine's `iptables` is."""
    proxy: Proxy = Proxy()
    """kube-proxy's settings."""
    kubelet: Kubelet = Kubelet()
    """The kubelets' settings."""
    load_balancer: LoadBalancer = LoadBalancer()
    """Services of type LoadBalancer."""
    network: PodNetwork = PodNetwork()
    """How packets find pods."""
    cni: Cni = Cni()
    """Plugins and network configurations of one's own, in place of ours."""
    ingress: bool = False
    """Whether `up` installs the ingress controller (nginx); it needs nginx on this machine."""
    timing: Timing = Timing()
    """How soon a dead node is noticed, in seconds."""
    without: list[Part] = []
    """Parts that `up` leaves out, to be replaced by the real ones or one's own."""
    cluster_domain: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")] = "cluster.local"
    """The DNS domain of Services."""

    @field_validator("nodes", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        """`nodes: 5` is short for node1 … node5."""
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value <= 500:
                raise ValueError("nodes must be between 0 and 500")
            return [{"name": f"node{i}"} for i in range(1, value + 1)]
        return value

    @model_validator(mode="before")
    @classmethod
    def _first_rack(cls, value: Any) -> Any:
        """The first rack's subnet is subnets.nodes, which may be left out."""
        if not isinstance(value, dict) or not isinstance(value.get("racks"), list) or not value["racks"]:
            return value
        first, subnets = value["racks"][0], value.get("subnets") or {}
        if not isinstance(first, dict) or "subnet" not in first or not isinstance(subnets, dict) or "nodes" in subnets:
            return value
        return {**value, "subnets": {**subnets, "nodes": first["subnet"]}}

    def _check_racks(self) -> None:
        names = [r.name for r in self.racks]
        if len(set(names)) < len(names):
            raise ValueError("racks: a name is used twice")
        for n in self.nodes:
            if n.rack and n.rack not in names:
                known = f"there are {', '.join(names)}" if names else "there are no racks"
                raise ValueError(f"nodes: {n.name} is in rack {n.rack}, {known}")
        if not self.racks:
            return
        if self.racks[0].subnet != self.subnets.nodes:
            raise ValueError(f"racks: the first subnet ({self.racks[0].subnet}) is not subnets.nodes ({self.subnets.nodes})")
        if len(self.racks) > MAX_RACKS:
            raise ValueError(f"racks: at most {MAX_RACKS}")
        if len(self.racks) > 1 and self.load_balancer.mode == "l2":
            raise ValueError("loadBalancer.mode l2 needs nodes on one switch; with several racks use ecmp")
        others = {f"subnets.{n}": getattr(self.subnets, n) for n in ("pods", "services", "outside")}
        if self.load_balancer.mode != "off":
            others["loadBalancer.pool"] = self.load_balancer.pool
        for i, rack in enumerate(self.racks):
            for what, subnet in [*others.items(), *((f"rack {r.name}", r.subnet) for r in self.racks[:i])]:
                if rack.subnet.overlaps(subnet):
                    raise ValueError(f"rack {rack.name} ({rack.subnet}) and {what} ({subnet}) overlap")
            subnet6 = self.rack_subnet6(rack)
            others6 = {f"subnets.{n}": getattr(self.subnets, n) for n in ("pods6", "services6", "outside6")}
            if self.load_balancer.mode != "off":
                others6["loadBalancer.pool6"] = self.load_balancer.pool6
            for what, other in others6.items():
                if self.has_ipv6 and subnet6.overlaps(other):
                    raise ValueError(f"rack {rack.name} ({subnet6}) and {what} ({other}) overlap")
            if FIRST_NODE + len(self.nodes) >= rack.subnet.num_addresses - 1:
                raise ValueError(f"rack {rack.name} ({rack.subnet}) is too small: hosts are numbered through all racks")

    @model_validator(mode="after")
    def _consistent(self) -> ClusterConfig:
        self._check_racks()
        names = [n.name for n in self.nodes]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"nodes: the name {doubled[0]} is used twice")
        reserved = sorted({"control-plane", "switch", "router", "client", *(f"switch-{r.name}" for r in self.racks)} & set(names))
        if reserved:
            raise ValueError(f"nodes: the name {reserved[0]} is reserved")
        room = 2 ** (self.subnets.node_mask - self.subnets.pods.prefixlen)
        if len(names) + 1 > room:
            raise ValueError(f"subnets.pods has room for {room} nodes, {len(names) + 1} are asked for")
        room6 = 2 ** (self.subnets.node_mask6 - self.subnets.pods6.prefixlen)
        if self.has_ipv6 and len(names) + 1 > room6:
            raise ValueError(f"subnets.pods6 has room for {room6} nodes, {len(names) + 1} are asked for")
        if FIRST_NODE + len(names) >= self.subnets.nodes.num_addresses - 1:
            raise ValueError(f"subnets.nodes ({self.subnets.nodes}) is too small for {len(names) + 1} nodes")
        for n in self.nodes:
            if self.has_ipv6 and 0 < n.link.mtu < IPV6_MIN_MTU:
                raise ValueError(f"nodes: {n.name}: link.mtu ({n.link.mtu}) must be {IPV6_MIN_MTU} or more with IPv6")
        pool = self.load_balancer.pool
        for name in ("nodes", "pods", "services", "outside"):
            subnet = getattr(self.subnets, name)
            if self.load_balancer.mode != "off" and pool.overlaps(subnet):
                raise ValueError(f"loadBalancer.pool ({pool}) and subnets.{name} ({subnet}) overlap")
            subnet6, pool6 = getattr(self.subnets, f"{name}6"), self.load_balancer.pool6
            if self.load_balancer.mode != "off" and self.has_ipv6 and pool6.overlaps(subnet6):
                raise ValueError(f"loadBalancer.pool6 ({pool6}) and subnets.{name}6 ({subnet6}) overlap")
        return self

    @property
    def all_racks(self) -> list[Rack]:
        """At least one: without `racks` the switch that has subnets.nodes."""
        return self.racks or [Rack.model_construct(name="", subnet=self.subnets.nodes)]

    def rack(self, name: str) -> Rack:
        """The rack of that name; "" is the first. Raises Nsk8sError."""
        racks = self.all_racks
        found = next((r for r in racks if r.name == name), racks[0] if not name else None)
        if found is None:
            known = ", ".join(r.name for r in self.racks) or "none"
            raise Nsk8sError(f"there is no rack {name!r} in this cluster", f"there are: {known}")
        return found

    @property
    def has_ipv4(self) -> bool:
        return "IPv4" in self.network.ip_families

    @property
    def has_ipv6(self) -> bool:
        return "IPv6" in self.network.ip_families

    def by_family(self, four: object, six: object) -> list[str]:
        """Those of an IPv4 and an IPv6 thing that this cluster has, as text, the primary family's first."""
        return [str(four if family == "IPv4" else six) for family in self.network.ip_families]

    def node_ips(self, ip: IPv4Address) -> list[str]:
        """All addresses of the node whose place in the plan is `ip`."""
        rack = next(r for r in self.all_racks if ip in r.subnet)
        return self.by_family(ip, same_number(ip, rack.subnet, self.rack_subnet6(rack)))

    def _outside_ips(self, ip: IPv4Address) -> list[str]:
        return self.by_family(ip, same_number(ip, self.subnets.outside, self.subnets.outside6))

    @property
    def control_plane_ip(self) -> IPv4Address:
        """Where the control plane is in the plan; workers follow."""
        return self.subnets.nodes[FIRST_NODE]

    def rack_subnet6(self, rack: Rack) -> IPv6Network:
        """The first rack's is subnets.nodes6, the next one's the network after that."""
        first = self.subnets.nodes6
        return IPv6Network((int(first.network_address) + self.all_racks.index(rack) * first.num_addresses, first.prefixlen))

    def rack_cidrs(self, rack: Rack) -> list[str]:
        return self.by_family(rack.subnet, self.rack_subnet6(rack))

    def router_ips(self, rack: Rack) -> list[str]:
        return self.node_ips(rack.subnet[1])

    @property
    def control_plane_ips(self) -> list[str]:
        return self.node_ips(self.control_plane_ip)

    @property
    def dns_ips(self) -> list[str]:
        """The tenth address of the service ranges, as kubeadm chooses it."""
        return self.by_family(self.subnets.services[10], self.subnets.services6[10])

    @property
    def kubernetes_ip(self) -> str:
        """ClusterIP of the Service `kubernetes`, which is of the primary family only."""
        return self.by_family(self.subnets.services[1], self.subnets.services6[1])[0]

    @property
    def router_outside_ips(self) -> list[str]:
        return self._outside_ips(self.subnets.outside[1])

    @property
    def client_ips(self) -> list[str]:
        return self._outside_ips(self.subnets.outside[10])

    @property
    def node_cidrs(self) -> list[str]:
        """Of all racks."""
        return [cidr for rack in self.all_racks for cidr in self.rack_cidrs(rack)]

    @property
    def outside_cidrs(self) -> list[str]:
        return self.by_family(self.subnets.outside, self.subnets.outside6)

    @property
    def pod_cidrs(self) -> list[str]:
        return self.by_family(self.subnets.pods, self.subnets.pods6)

    @property
    def service_cidrs(self) -> list[str]:
        return self.by_family(self.subnets.services, self.subnets.services6)

    @property
    def load_balancer_pools(self) -> list[str]:
        """None in mode off."""
        return [] if self.load_balancer.mode == "off" else self.by_family(self.load_balancer.pool, self.load_balancer.pool6)


def same_number(ip: IPv4Address, four: IPv4Network, six: IPv6Network) -> IPv6Address:
    """The IPv6 address that reads like an IPv4 one: the number of the host in its network, digit for digit. Pure."""
    return six[int(str(int(ip) - int(four.network_address)), 16)]


MAX_RACKS = 16
FIRST_NODE = 10
"""Host number of the control plane in the nodes' subnet; workers follow."""


def load(path: str | Path) -> ClusterConfig:
    """Read a cluster.yaml; `-` is standard input. Raises Nsk8sError: one line that names every mistake."""
    try:
        raw = sys.stdin.buffer.read(MAX_BYTES) if str(path) == "-" else Path(path).read_bytes()
        document = yaml.safe_load(raw.decode())
    except OSError as e:
        raise Nsk8sError(f"cannot read {path}: {e.strerror}", "-f takes a file; docs/cluster-yaml.md says what it holds") from e
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(e, "problem", None) or " ".join(str(e).split())
        raise Nsk8sError(f"{where}: not valid YAML: {problem}", REMEDY) from e
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise Nsk8sError(f"{path} must hold a mapping (name: …, nodes: …)", REMEDY)
    return parse(document, str(path))


MAX_BYTES = 2**20
REMEDY = "see docs/cluster-yaml.md, or nsk8s up --print-schema"


def parse(document: dict[str, Any], origin: str) -> ClusterConfig:
    """Validate a decoded document. Raises Nsk8sError."""
    try:
        return ClusterConfig.model_validate(document)
    except ValidationError as e:
        raise Nsk8sError(f"{origin}: {'; '.join(dict.fromkeys(map(_mistake, e.errors())))}", REMEDY) from e


def _mistake(error: Any) -> str:
    """`subnets.pods: what is wrong, not 'value'`; an unknown key with the one that was meant. Pure."""
    where = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        import difflib

        near = difflib.get_close_matches(str(error["loc"][-1]), _known_keys(error["loc"]), 1, 0.5)
        return f"{where}: there is no such setting" + (f", did you mean {near[0]}?" if near else "")
    message = str(error["msg"]).removeprefix("Value error, ")
    value = error.get("input")
    shown = f", not {value!r}" if isinstance(value, str | int | float | bool) and error["type"] != "value_error" else ""
    return f"{where}: {message}{shown}".removeprefix(": ")


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The settings that exist beside the one at `location`."""
    model: type[BaseModel] = ClusterConfig
    children: dict[str, type[BaseModel]] = {
        "subnets": Subnets, "timing": Timing, "proxy": Proxy, "nodes": Node, "loadBalancer": LoadBalancer,
        "network": PodNetwork, "link": Link, "racks": Rack, "bgp": Bgp,
        "cni": Cni, "kubelet": Kubelet,
    }  # fmt: skip
    for part in location[:-1]:
        model = children.get(str(part), model)
    return [f.alias or n for n, f in model.model_fields.items()]
