"""Whether the node takes a pod that was bound to it. Pure. Upstream: lifecycle/predicate.go, scheduler's NodeAffinity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import ZERO, Quantity
from nsk8s.kubelet.podruntime import is_sidecar


class Rejection(NamedTuple):
    reason: str
    message: str


def pod_requests(pod: Object) -> dict[str, Quantity]:
    """The pod's effective requests: main containers and sidecars together, or the largest init step. Upstream: PodRequests."""
    spec = pod["spec"]

    def of(container: Object) -> dict[str, Quantity]:
        resources = container.get("resources") or {}
        wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        return {k: Quantity.parse(v) for k, v in wanted.items()}

    total: dict[str, Quantity] = {}
    for container in spec.get("containers") or []:
        _add(total, of(container))
    sidecars: dict[str, Quantity] = {}
    largest: dict[str, Quantity] = {}
    for container in spec.get("initContainers") or []:
        if is_sidecar(container):
            _add(total, of(container))
            _add(sidecars, of(container))
            step = dict(sidecars)
        else:
            step = of(container)
            _add(step, sidecars)
        for name, amount in step.items():
            largest[name] = max(largest.get(name, ZERO), amount)
    for name, amount in largest.items():
        total[name] = max(total.get(name, ZERO), amount)
    for name, value in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, ZERO) + Quantity.parse(value)
    return total


def _add(total: dict[str, Quantity], more: Mapping[str, Quantity]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, ZERO) + amount


def _amount(name: str, quantity: Quantity) -> int:
    return quantity.milli if name == "cpu" else quantity.ceil


def host_ports(pod: Object) -> set[tuple[str, str, int]]:
    """(ip, protocol, port) of every hostPort; with hostNetwork every containerPort is one."""
    spec = pod["spec"]
    out = set()
    for container in spec.get("containers") or []:
        for port in container.get("ports") or []:
            number = port.get("hostPort") or (port.get("containerPort") if spec.get("hostNetwork") else 0)
            if number:
                out.add((port.get("hostIP") or "0.0.0.0", port.get("protocol") or "TCP", int(number)))
    return out


def _ports_conflict(wanted: set[tuple[str, str, int]], used: set[tuple[str, str, int]]) -> bool:
    return any(
        protocol == p and port == n and (ip == i or "0.0.0.0" in (ip, i)) for ip, protocol, port in wanted for i, p, n in used
    )


def admit(pod: Object, active: Sequence[Object], node: Object, allocatable: Mapping[str, str]) -> Rejection | None:
    """None, or why the pod is refused. `active` are the pods already taken that have not ended."""
    if len(active) + 1 > int(allocatable.get("pods", "110")):
        limit = int(allocatable.get("pods", "110"))
        used_up = f"Node didn't have enough resource: pods, requested: 1, used: {len(active)}, capacity: {limit}"
        return Rejection("OutOfpods", used_up)
    wanted = pod_requests(pod)
    if wanted:
        used: dict[str, Quantity] = {}
        for other in active:
            _add(used, pod_requests(other))
        for name, amount in wanted.items():
            if not amount or (name == "ephemeral-storage" and name not in allocatable):
                continue
            if name not in allocatable:
                continue  # extended resources the node does not know are none of its business at this point
            have, taken = Quantity.parse(allocatable[name]), used.get(name, ZERO)
            if amount > have - taken:
                return Rejection(
                    f"OutOf{name}",
                    f"Node didn't have enough resource: {name}, requested: {_amount(name, amount)}, "
                    f"used: {_amount(name, taken)}, capacity: {_amount(name, have)}",
                )
    if node and not node_matches(pod, node):
        return Rejection("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
    ports = host_ports(pod)
    if ports and _ports_conflict(ports, set().union(*(host_ports(p) for p in active))):
        return Rejection("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports")
    if node and not _tolerates_execute(pod, (node.get("spec") or {}).get("taints") or []):
        return Rejection("TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate")
    return None


def _tolerates_execute(pod: Object, taints: Iterable[Object]) -> bool:
    tolerations = pod["spec"].get("tolerations") or []
    return all(any(tolerates(t, taint) for t in tolerations) for taint in taints if taint.get("effect") == "NoExecute")


def tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if (toleration.get("operator") or "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def node_matches(pod: Object, node: Object) -> bool:
    """nodeSelector and required node affinity against the node's labels."""
    labels = meta.labels(node)
    spec = pod["spec"]
    if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(_term_matches(term, labels, meta.name(node)) for term in required.get("nodeSelectorTerms") or [])


def _term_matches(term: Object, labels: Mapping[str, str], name: str) -> bool:
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    return all(_requirement(e, labels) for e in expressions) and all(_requirement(f, {"metadata.name": name}) for f in fields)


def _requirement(requirement: Object, values: Mapping[str, str]) -> bool:
    value = values.get(requirement["key"])
    operator, wanted = requirement.get("operator"), requirement.get("values") or []
    if operator == "In":
        return value in wanted
    if operator == "NotIn":
        return value not in wanted
    if operator == "Exists":
        return value is not None
    if operator == "DoesNotExist":
        return value is None
    if operator in ("Gt", "Lt") and value is not None and len(wanted) == 1:
        try:
            return int(value) > int(wanted[0]) if operator == "Gt" else int(value) < int(wanted[0])
        except ValueError:
            return False
    return False
