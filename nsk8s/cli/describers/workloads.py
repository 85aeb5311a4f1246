"""Deployment, ReplicaSet, DaemonSet, StatefulSet, Job. Pure."""

from __future__ import annotations

from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.selectors import from_label_selector
from nsk8s.cli.describers.pod import template
from nsk8s.cli.describers.text import Text, annotation_lines, date, pairs, selector

HASH = "pod-template-hash"


def _selector(obj: Object) -> str:
    return str(from_label_selector((obj.get("spec") or {}).get("selector"))) or "<none>"


def _conditions(out: Text, obj: Object) -> None:
    conditions = (obj.get("status") or {}).get("conditions")
    if conditions:
        out.line(0, "Conditions:")
        out.line(1, "Type", "Status", "Reason")
        out.line(1, "----", "------", "------")
        for c in conditions:
            out.line(1, f"{c['type']} ", f"{c['status']}", c.get("reason", ""))


def _controlled_by(out: Text, obj: Object) -> None:
    owner = meta.controller_of(obj)
    if owner:
        out.line(0, "Controlled By:", f"{owner['kind']}/{owner['name']}")


def phases(pods: list[Object]) -> str:
    """`3 Running / 0 Waiting / 0 Succeeded / 0 Failed`."""
    found = [(p.get("status") or {}).get("phase") for p in pods]
    names = (("Running", "Running"), ("Waiting", "Pending"), ("Succeeded", "Succeeded"), ("Failed", "Failed"))
    return " / ".join(f"{found.count(phase)} {title}" for title, phase in names)


def deployment(out: Text, obj: Object, replica_sets: list[Object]) -> None:
    """Everything but the events; `replica_sets` are those it controls."""
    spec, status = obj["spec"], obj.get("status") or {}
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Namespace:", meta.namespace(obj))
    out.line(0, "CreationTimestamp:", date(obj["metadata"].get("creationTimestamp")))
    pairs(out, "Labels", meta.labels(obj))
    annotation_lines(out, meta.annotations(obj))
    out.line(0, "Selector:", _selector(obj))
    counts = (("desired", spec.get("replicas", 0)), *((k, status.get(f, 0)) for k, f in (
        ("updated", "updatedReplicas"), ("total", "replicas"), ("available", "availableReplicas"),
        ("unavailable", "unavailableReplicas"))))  # fmt: skip
    out.line(0, "Replicas:", " | ".join(f"{n} {word}" for word, n in counts))
    strategy = spec.get("strategy") or {}
    out.line(0, "StrategyType:", strategy.get("type", ""))
    out.line(0, "MinReadySeconds:", spec.get("minReadySeconds", 0))
    rolling = strategy.get("rollingUpdate")
    if rolling:
        text = f"{rolling.get('maxUnavailable', '')} max unavailable, {rolling.get('maxSurge', '')} max surge"
        out.line(0, "RollingUpdateStrategy:", text)
    template(out, spec.get("template") or {})
    _conditions(out, obj)
    new = new_replica_set(obj, replica_sets)
    old = [rs for rs in replica_sets if rs is not new]
    out.line(0, "OldReplicaSets:", _sets(sorted(old, key=meta.name)))
    out.line(0, "NewReplicaSet:", _sets([new] if new else []))


def _sets(replica_sets: list[Object]) -> str:
    return ", ".join(
        f"{meta.name(rs)} ({(rs.get('status') or {}).get('replicas', 0)}/{rs['spec'].get('replicas', 0)} replicas created)"
        for rs in replica_sets
    ) or "<none>"  # fmt: skip


def new_replica_set(obj: Object, replica_sets: list[Object]) -> Object | None:
    """The one whose template is the Deployment's; of several the oldest."""

    def plain(template: Object) -> Object:
        metadata = {k: v for k, v in (template.get("metadata") or {}).items() if k != "creationTimestamp"}
        metadata["labels"] = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH}
        return {**template, "metadata": metadata}

    wanted = plain(obj["spec"]["template"])
    by_age = sorted(replica_sets, key=lambda rs: (rs["metadata"].get("creationTimestamp") or "", meta.name(rs)))
    return next((rs for rs in by_age if plain(rs["spec"].get("template") or {}) == wanted), None)


def replica_set(out: Text, obj: Object, pods: list[Object]) -> None:
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Namespace:", meta.namespace(obj))
    out.line(0, "Selector:", _selector(obj))
    pairs(out, "Labels", meta.labels(obj))
    annotation_lines(out, meta.annotations(obj))
    _controlled_by(out, obj)
    have, want = (obj.get("status") or {}).get("replicas", 0), obj["spec"].get("replicas", 0)
    out.line(0, "Replicas:", f"{have} current / {want} desired")
    out.line(0, "Pods Status:", phases(pods))
    template(out, obj["spec"].get("template") or {})
    _conditions(out, obj)


def daemon_set(out: Text, obj: Object, pods: list[Object]) -> None:
    status = obj.get("status") or {}
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Namespace:", meta.namespace(obj))
    out.line(0, "Selector:", _selector(obj))
    out.line(0, "Node-Selector:", selector((obj["spec"].get("template") or {}).get("spec", {}).get("nodeSelector")))
    pairs(out, "Labels", meta.labels(obj))
    annotation_lines(out, meta.annotations(obj))
    for title, key in (
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ):
        out.line(0, f"{title}: {status.get(key, 0)}")
    out.line(0, "Pods Status:", phases(pods))
    template(out, obj["spec"].get("template") or {})


def stateful_set(out: Text, obj: Object, pods: list[Object]) -> None:
    spec = obj["spec"]
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Namespace:", meta.namespace(obj))
    out.line(0, "CreationTimestamp:", date(obj["metadata"].get("creationTimestamp")))
    out.line(0, "Selector:", _selector(obj))
    pairs(out, "Labels", meta.labels(obj))
    annotation_lines(out, meta.annotations(obj))
    out.line(0, "Replicas:", f"{spec.get('replicas', 0)} desired | {(obj.get('status') or {}).get('replicas', 0)} total")
    strategy: dict[str, Any] = spec.get("updateStrategy") or {}
    out.line(0, "Update Strategy:", strategy.get("type", ""))
    rolling = strategy.get("rollingUpdate")
    if rolling and rolling.get("partition") is not None:
        out.line(1, "Partition:", rolling["partition"])
    out.line(0, "Pods Status:", phases(pods))
    template(out, spec.get("template") or {})
    claims = spec.get("volumeClaimTemplates") or []
    out.line(0, "Volume Claims:", *([] if claims else ["<none>"]))
    for c in claims:
        out.line(1, "Name:", meta.name(c))
        out.line(1, "StorageClass:", (c.get("spec") or {}).get("storageClassName", ""))
        pairs(out, "Labels", meta.labels(c), "  ")
        annotation_lines(out, meta.annotations(c), "  ")
        storage = (((c.get("spec") or {}).get("resources") or {}).get("requests") or {}).get("storage")
        out.line(1, "Capacity:", storage or "<default>")
        out.line(1, "Access Modes:", f"[{' '.join((c.get('spec') or {}).get('accessModes') or [])}]")
