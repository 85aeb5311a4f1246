"""What a scheduling decision is made of: pods and nodes reduced to numbers, plugins, verdicts. Pure.

Upstream: pkg/scheduler/framework. Where upstream hands a CycleState from PreFilter to Filter, here `Plugin.filter` returns
a closure that holds what it computed once for the pod, or None if the plugin has nothing to say about this pod.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.errors import BadRequest

MAX_SCORE = 100
DEFAULT_CPU_MILLI = 100
DEFAULT_MEMORY = 200 * 1024 * 1024
"""What a container without requests counts for when nodes are scored (upstream: schedutil.DefaultMilliCPURequest …)."""

SPREAD_OWNERS = frozenset(("ReplicaSet", "ReplicationController", "StatefulSet"))

PortKey = tuple[str, str, int]
"""(host IP, protocol, host port)"""


@lru_cache(maxsize=2048)
def amount(resource: str, text: str | int | float) -> int:
    """A quantity as the scheduler counts it: thousandths for cpu, whole units (rounded up) for the rest; 0 if unreadable."""
    try:
        quantity = Quantity.parse(text)
    except ValueError:
        return 0
    return quantity.milli if resource == "cpu" else quantity.ceil


def amounts(resources: Mapping[str, Any] | None) -> dict[str, int]:
    return {name: amount(name, text) for name, text in (resources or {}).items()}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def _max(total: dict[str, int], other: Mapping[str, int]) -> None:
    for name, value in other.items():
        if value > total.get(name, 0):
            total[name] = value


def _container_requests(container: Object, *, nonzero: bool) -> dict[str, int]:
    resources = container.get("resources") or {}
    requests = amounts({**(resources.get("limits") or {}), **(resources.get("requests") or {})})
    if nonzero:
        requests.setdefault("cpu", DEFAULT_CPU_MILLI)
        requests.setdefault("memory", DEFAULT_MEMORY)
    return requests


def pod_requests(spec: Object, *, nonzero: bool = False) -> dict[str, int]:
    """What a pod asks for: the sum of its containers and sidecars, or the largest init phase, plus overhead.

    With `nonzero`, containers without a cpu or memory request count for upstream's defaults.
    """
    total: dict[str, int] = {}
    for container in spec.get("containers") or []:
        _add(total, _container_requests(container, nonzero=nonzero))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or []:
        requests = _container_requests(container, nonzero=nonzero)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, requests)
            _add(total, requests)
            _max(peak, sidecars)
        else:
            _add(requests, sidecars)
            _max(peak, requests)
    _max(total, peak)
    _add(total, amounts(spec.get("overhead")))
    return total


def host_ports(spec: Object) -> list[PortKey]:
    """The host ports a pod needs."""
    return [
        (port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", int(port["hostPort"]))
        for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
        for port in container.get("ports") or []
        if port.get("hostPort")
    ]


@dataclass(slots=True, eq=False)
class PodInfo:
    """A pod as the scheduler sees it, computed once."""

    pod: Object
    key: str
    uid: str
    namespace: str
    labels: dict[str, str]
    requests: dict[str, int]
    nonzero: tuple[int, int]
    ports: list[PortKey]
    priority: int
    owner: str
    """uid of the controlling ReplicaSet, StatefulSet or ReplicationController; empty if none."""
    affinity: Object
    deleting: bool

    @property
    def spec(self) -> Object:
        spec: Object = self.pod["spec"]
        return spec

    @classmethod
    def of(cls, pod: Object) -> PodInfo:
        spec = pod["spec"]
        nonzero = pod_requests(spec, nonzero=True)
        controller = meta.controller_of(pod)
        return cls(
            pod=pod,
            key=meta.key(pod),
            uid=meta.uid(pod),
            namespace=meta.namespace(pod),
            labels=meta.labels(pod),
            requests=pod_requests(spec),
            nonzero=(nonzero.get("cpu", 0), nonzero.get("memory", 0)),
            ports=host_ports(spec),
            priority=int(spec.get("priority") or 0),
            owner=controller["uid"] if controller and controller.get("kind") in SPREAD_OWNERS else "",
            affinity=spec.get("affinity") or {},
            deleting=meta.is_deleting(pod),
        )

    def counts_as(self, pod: Object) -> bool:
        """Whether `pod`, a newer state of this pod, asks for the same and is the same to others."""
        old, new = self.pod["spec"], pod["spec"]
        if self.deleting is not meta.is_deleting(pod) or self.labels != meta.labels(pod):
            return False
        return all(new.get(key) == value for key, value in old.items() if key != "nodeName") and new.keys() <= {*old, "nodeName"}

    def has_pod_affinity(self) -> bool:
        return bool(self.affinity.get("podAffinity") or self.affinity.get("podAntiAffinity"))

    def required_anti_affinity(self) -> Sequence[Object]:
        terms: Sequence[Object] = (self.affinity.get("podAntiAffinity") or {}).get(
            "requiredDuringSchedulingIgnoredDuringExecution"
        ) or ()
        return terms


@dataclass(slots=True, eq=False)
class NodeInfo:
    """A node and the sums over the pods on it, kept up to date pod by pod."""

    name: str
    node: Object | None = None
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[Object] = field(default_factory=list)
    unschedulable: bool = False
    allocatable: dict[str, int] = field(default_factory=dict)
    requested: dict[str, int] = field(default_factory=dict)
    nonzero_cpu: int = 0
    nonzero_memory: int = 0
    pods: dict[str, PodInfo] = field(default_factory=dict)
    """By uid."""
    ports: Counter[PortKey] = field(default_factory=Counter)
    owners: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(namespace, controller uid) → pods that are not being deleted."""
    affine: dict[str, PodInfo] = field(default_factory=dict)
    """The pods with pod affinity or anti-affinity of their own, by uid."""

    def set_node(self, node: Object) -> None:
        spec = node.get("spec") or {}
        self.node = node
        self.labels = meta.labels(node)
        self.taints = spec.get("taints") or []
        self.unschedulable = bool(spec.get("unschedulable"))
        status = node.get("status") or {}
        self.allocatable = amounts(status.get("allocatable") or status.get("capacity"))

    def add(self, pod: PodInfo) -> None:
        self.pods[pod.uid] = pod
        self._count(pod, 1)
        if pod.has_pod_affinity():
            self.affine[pod.uid] = pod

    def remove(self, uid: str) -> None:
        pod = self.pods.pop(uid, None)
        if pod is None:
            return
        self._count(pod, -1)
        self.affine.pop(uid, None)

    def _count(self, pod: PodInfo, sign: int) -> None:
        for name, value in pod.requests.items():
            self.requested[name] = self.requested.get(name, 0) + sign * value
        self.nonzero_cpu += sign * pod.nonzero[0]
        self.nonzero_memory += sign * pod.nonzero[1]
        for port in pod.ports:
            self.ports[port] += sign
            if not self.ports[port]:
                del self.ports[port]
        if pod.owner and not pod.deleting:
            key = (pod.namespace, pod.owner)
            self.owners[key] += sign
            if not self.owners[key]:
                del self.owners[key]

    def clone(self) -> NodeInfo:
        """A copy whose pods can be changed without changing this one."""
        return NodeInfo(
            self.name, self.node, self.labels, self.taints, self.unschedulable, self.allocatable, dict(self.requested),
            self.nonzero_cpu, self.nonzero_memory, dict(self.pods), Counter(self.ports), Counter(self.owners),
            dict(self.affine),
        )  # fmt: skip


@dataclass(slots=True)
class Snapshot:
    """Everything a decision may look at: nodes in the order they are tried, and namespaces' labels."""

    nodes: list[NodeInfo]
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    nominated: Mapping[str, Sequence[PodInfo]] = field(default_factory=dict)
    """Node name → pods for which room was made there by preemption."""

    def with_node(self, changed: NodeInfo) -> Snapshot:
        nodes = [changed if n.name == changed.name else n for n in self.nodes]
        return Snapshot(nodes, self.namespaces, self.nominated)


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a node does not do. `resolvable`: removing pods from it might help, so preemption is worth a try."""

    reasons: tuple[str, ...]
    resolvable: bool = False


@dataclass(frozen=True, slots=True)
class Unschedulable:
    """No node does: upstream's FitError. `rejects` by node name."""

    message: str
    rejects: Mapping[str, Reject] = field(default_factory=dict)


Filter = Callable[[NodeInfo], Reject | None]


class Plugin(Protocol):
    """One scheduling rule. Both methods are pure; None means: nothing to say about this pod."""

    name: str
    weight: int

    def filter(self, pod: PodInfo, snapshot: Snapshot) -> Filter | None:
        """A function that rejects nodes."""

    def score(self, pod: PodInfo, nodes: Sequence[NodeInfo], snapshot: Snapshot) -> Sequence[int] | None:
        """0..100 for each of the feasible `nodes`, already normalised."""


def normalise(scores: Sequence[int], *, reverse: bool = False) -> list[int] | None:
    """Scale so that the largest is 100 (upstream: DefaultNormalizeScore); None when all are equal."""
    highest = max(scores, default=0)
    if highest == min(scores, default=0):
        return None
    scaled = [MAX_SCORE * s // highest for s in scores]
    return [MAX_SCORE - s for s in scaled] if reverse else scaled


def fit_message(total: int, rejects: Iterable[Reject], preemption: str = "") -> str:
    """`0/4 nodes are available: 1 …, 3 Insufficient cpu. preemption: …`, as upstream words and sorts it."""
    counts: Counter[str] = Counter(reason for reject in rejects for reason in reject.reasons)
    text = f"0/{total} nodes are available"
    if counts:
        text += ": " + ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items())) + "."
    return f"{text} preemption: {preemption}" if preemption else text


def filters_for(pod: PodInfo, snapshot: Snapshot, plugins: Sequence[Plugin]) -> list[Filter]:
    return [f for plugin in plugins if (f := plugin.filter(pod, snapshot)) is not None]


def first_reject(filters: Iterable[Filter], node: NodeInfo) -> Reject | None:
    for check in filters:
        reject = check(node)
        if reject is not None:
            return reject
    return None


def _with_nominated(pod: PodInfo, node: NodeInfo, snapshot: Snapshot) -> NodeInfo | None:
    """`node` plus the pods nominated to it that go first, or None if there are none."""
    first = [p for p in snapshot.nominated.get(node.name, ()) if p.uid != pod.uid and p.priority >= pod.priority]
    if not first:
        return None
    fuller = node.clone()
    for other in first:
        if other.uid not in fuller.pods:
            fuller.add(other)
    return fuller


def pick_node(
    pod: PodInfo, snapshot: Snapshot, filter_plugins: Sequence[Plugin], score_plugins: Sequence[Plugin] | None = None
) -> str | Unschedulable:
    """The best node for `pod`, the first of several equally good ones in the snapshot's order.

    Upstream: schedulePod. A selector the API server should have refused makes the pod unschedulable, never an exception.
    """
    if not snapshot.nodes:
        return Unschedulable("no nodes available to schedule pods")
    try:
        filters = filters_for(pod, snapshot, filter_plugins)
    except BadRequest as e:
        return Unschedulable(f"0/{len(snapshot.nodes)} nodes are available: {e.message}")
    rejects: dict[str, Reject] = {}
    feasible: list[NodeInfo] = []
    for node in snapshot.nodes:
        reject = first_reject(filters, node)
        if reject is None and snapshot.nominated and (fuller := _with_nominated(pod, node, snapshot)) is not None:
            reject = first_reject(filters_for(pod, snapshot.with_node(fuller), filter_plugins), fuller)
        if reject is None:
            feasible.append(node)
        else:
            rejects[node.name] = reject
    if not feasible:
        return Unschedulable(fit_message(len(snapshot.nodes), rejects.values()), rejects)
    if len(feasible) == 1:
        return feasible[0].name
    totals = [0] * len(feasible)
    for plugin in filter_plugins if score_plugins is None else score_plugins:
        scores = plugin.score(pod, feasible, snapshot)
        if scores is not None:
            weight = plugin.weight
            totals = [t + weight * s for t, s in zip(totals, scores, strict=True)]
    return feasible[totals.index(max(totals))].name
