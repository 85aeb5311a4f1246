"""How a Deployment moves its replicas from old ReplicaSets to the new one, within maxSurge and maxUnavailable. Pure.

Upstream: pkg/controller/deployment (rolling.go, recreate.go, sync.go) and its util.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import int_or_percent
from nsk8s.controllers.pods import created_at

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"
NOT_COPIED = frozenset(
    ("kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAX_REPLICAS,
     "deprecated.deployment.rollback.to")
)  # fmt: skip
MAX_INT32 = 2**31 - 1

_SAFE = "bcdfghjklmnpqrstvwxz2456789"


def safe_encode(text: str) -> str:
    """Letters and digits that spell no words (upstream: rand.SafeEncodeString)."""
    return "".join(_SAFE[ord(c) % len(_SAFE)] for c in text)


def template_hash(template: Object, collision_count: int = 0) -> str:
    """The pod-template-hash: stable across restarts, different for different templates."""
    raw = orjson.dumps([bare(template), collision_count], option=orjson.OPT_SORT_KEYS)
    return safe_encode(str(int.from_bytes(hashlib.blake2s(raw, digest_size=4).digest(), "big")))


def bare(template: Object) -> Object:
    """A template without its hash label and without empty metadata, so that equal templates compare equal."""
    metadata = {k: v for k, v in (template.get("metadata") or {}).items() if v}
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k != HASH_LABEL}
    metadata = {**metadata, "labels": labels} if labels else {k: v for k, v in metadata.items() if k != "labels"}
    return {**template, "metadata": metadata}


def replicas(obj: Object) -> int:
    """spec.replicas, 1 if absent."""
    value = obj["spec"].get("replicas")
    return 1 if value is None else int(value)


def total(sets: Sequence[Object]) -> int:
    return sum(replicas(s) for s in sets)


def _status(obj: Object, name: str) -> int:
    return int((obj.get("status") or {}).get(name) or 0)


def total_status(sets: Sequence[Object], name: str) -> int:
    return sum(_status(s, name) for s in sets)


def is_rolling(deployment: Object) -> bool:
    return str((deployment["spec"].get("strategy") or {}).get("type", "RollingUpdate")) == "RollingUpdate"


def fenceposts(deployment: Object) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods; never both 0, or nothing could ever move."""
    if not is_rolling(deployment):
        return 0, 0
    rolling: dict[str, Any] = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    wanted = replicas(deployment)
    surge = _scaled(rolling.get("maxSurge"), wanted, round_up=True)
    unavailable = _scaled(rolling.get("maxUnavailable"), wanted, round_up=False)
    return surge, 1 if surge == 0 and unavailable == 0 else unavailable


def _scaled(value: int | str | None, count: int, *, round_up: bool) -> int:
    try:
        return int_or_percent(value, count, round_up=round_up, default="25%")
    except ValueError:
        return 0


def max_surge(deployment: Object) -> int:
    return fenceposts(deployment)[0]


def max_unavailable(deployment: Object) -> int:
    wanted = replicas(deployment)
    return min(fenceposts(deployment)[1], wanted) if is_rolling(deployment) and wanted else 0


def find_new(deployment: Object, sets: Sequence[Object]) -> Object | None:
    """The oldest ReplicaSet that has the deployment's template."""
    wanted = bare(deployment["spec"]["template"])
    return next((s for s in sorted(sets, key=created_at) if bare(s["spec"]["template"]) == wanted), None)


def revision(obj: Object) -> int:
    try:
        return int(meta.annotations(obj).get(REVISION, "0"))
    except ValueError:
        return 0


def new_set_replicas(deployment: Object, sets: Sequence[Object], new: int) -> int:
    """How large the new ReplicaSet, now `new`, may be, given all `sets`."""
    wanted = replicas(deployment)
    if not is_rolling(deployment):
        return wanted
    room = wanted + max_surge(deployment) - total(sets)
    return new if room <= 0 else new + max(0, min(room, wanted - new))


def scale_down_old(deployment: Object, new: Object | None, old: Sequence[Object]) -> dict[str, int]:
    """Name → size for old ReplicaSets that can shrink now: unhealthy pods first, then as availability allows."""
    live = [s for s in old if replicas(s) > 0]
    everything = [*live, *([new] if new else [])]
    minimum = replicas(deployment) - max_unavailable(deployment)
    new_unavailable = replicas(new) - _status(new, "availableReplicas") if new else 0
    room = total(everything) - minimum - new_unavailable
    sizes = {meta.name(s): replicas(s) for s in live}
    if not live or room <= 0:
        return {}
    oldest_first = sorted(live, key=created_at)
    for s in oldest_first:
        unhealthy = sizes[meta.name(s)] - _status(s, "availableReplicas")
        cut = min(room, max(0, unhealthy))
        sizes[meta.name(s)] -= cut
        room -= cut
    # What is left after the clean-up decides, but availability counts what is available now.
    spare = total_status(everything, "availableReplicas") - minimum
    for s in oldest_first:
        if spare <= 0:
            break
        cut = min(spare, sizes[meta.name(s)])
        sizes[meta.name(s)] -= cut
        spare -= cut
    return {name: size for name, size in sizes.items() if size != replicas(next(s for s in live if meta.name(s) == name))}


def scale_proportionally(deployment: Object, new: Object | None, old: Sequence[Object]) -> dict[str, int]:
    """Name → size after the deployment itself was scaled (upstream: dc.scale); every active set gets its share."""
    wanted = replicas(deployment)
    everything = [*old, *([new] if new else [])]
    active = [s for s in everything if replicas(s) > 0]
    if len(active) <= 1:
        only = active[0] if active else new or max(everything, key=created_at, default=None)
        return {meta.name(only): wanted} if only is not None else {}
    if new is not None and _saturated(deployment, new):
        return {meta.name(s): 0 for s in old if replicas(s) > 0}
    if not is_rolling(deployment):
        return {}
    allowed = wanted + max_surge(deployment) if wanted > 0 else 0
    to_add = allowed - total(active)
    # The largest first; of equal ones the newer when growing, the older when shrinking.
    ordered = sorted(sorted(active, key=created_at, reverse=to_add > 0), key=replicas, reverse=True)
    sizes, added = {}, 0
    for s in ordered:
        share = _share(deployment, s, to_add, added) if to_add else 0
        sizes[meta.name(s)] = replicas(s) + share
        added += share
    first = meta.name(ordered[0])
    sizes[first] = max(0, sizes[first] + to_add - added)
    return sizes


def _share(deployment: Object, s: Object, to_add: int, added: int) -> int:
    wanted, size = replicas(deployment), replicas(s)
    if size == 0 or to_add == added:
        return 0
    if wanted == 0:
        fraction = -size
    else:
        try:
            before = int(meta.annotations(s).get(MAX_REPLICAS, ""))
        except ValueError:
            before = _status(deployment, "replicas")
        ceiling = wanted + max_surge(deployment)
        fraction = (2 * size * ceiling + before) // (2 * before) - size if before else 0
    allowed = to_add - added
    return min(fraction, allowed) if to_add > 0 else max(fraction, allowed)


def _saturated(deployment: Object, new: Object) -> bool:
    wanted = replicas(deployment)
    return (
        replicas(new) == wanted
        and meta.annotations(new).get(DESIRED) == str(wanted)
        and _status(new, "availableReplicas") == wanted
    )


def was_scaled(deployment: Object, sets: Sequence[Object]) -> bool:
    """Whether spec.replicas changed since the active ReplicaSets were last sized."""
    return any(
        replicas(s) > 0 and meta.annotations(s).get(DESIRED, str(replicas(deployment))) != str(replicas(deployment))
        for s in sets
    )


def surplus_history(deployment: Object, old: Sequence[Object]) -> list[Object]:
    """Old, empty ReplicaSets beyond revisionHistoryLimit, the oldest revisions first."""
    limit = deployment["spec"].get("revisionHistoryLimit")
    limit = 10 if limit is None else int(limit)
    candidates = sorted((s for s in old if not meta.is_deleting(s)), key=revision)
    surplus = max(0, len(candidates) - limit) if limit != MAX_INT32 else 0
    return [
        s for s in candidates[:surplus]
        if not replicas(s) and not _status(s, "replicas")
        and s["metadata"].get("generation", 0) <= _status(s, "observedGeneration")
    ]  # fmt: skip


def set_annotations(deployment: Object, s: Object, new_revision: str, *, exists: bool) -> bool:
    """Give the new ReplicaSet `s` the deployment's annotations and its revision (in place); True if anything changed."""
    annotations: dict[str, str] = s["metadata"].setdefault("annotations", {})
    before = dict(annotations)
    annotations.update({k: v for k, v in meta.annotations(deployment).items() if k not in NOT_COPIED})
    old = annotations.get(REVISION)
    if old is None or (old.isdigit() and int(old) < int(new_revision)):
        annotations[REVISION] = new_revision
        if exists and old is not None:
            # A rollback brings an old ReplicaSet back: remember the revisions it had.
            history = [h for h in annotations.get(REVISION_HISTORY, "").split(",") if h]
            annotations[REVISION_HISTORY] = ",".join([*history, old])
    if not exists:
        set_size_annotations(deployment, s)
    return annotations != before


def set_size_annotations(deployment: Object, s: Object) -> bool:
    """desired-replicas and max-replicas on `s` (in place); True if anything changed."""
    annotations: dict[str, str] = s["metadata"].setdefault("annotations", {})
    wanted = replicas(deployment)
    fresh = {DESIRED: str(wanted), MAX_REPLICAS: str(wanted + max_surge(deployment))}
    changed = any(annotations.get(k) != v for k, v in fresh.items())
    annotations.update(fresh)
    return changed


def make_set(deployment: Object, old: Sequence[Object], new_revision: str) -> Object:
    """The new ReplicaSet for the deployment's template, already sized."""
    spec = deployment["spec"]
    hashed = template_hash(spec["template"], _status(deployment, "collisionCount"))
    template = orjson.loads(orjson.dumps(spec["template"]))
    template.setdefault("metadata", {}).setdefault("labels", {})[HASH_LABEL] = hashed
    template["metadata"] = {k: v for k, v in template["metadata"].items() if v}
    selector = orjson.loads(orjson.dumps(spec["selector"]))
    selector.setdefault("matchLabels", {})[HASH_LABEL] = hashed
    made: Object = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{meta.name(deployment)}-{hashed}",
            "namespace": meta.namespace(deployment),
            "labels": dict(template["metadata"]["labels"]),
            "ownerReferences": [meta.owner_reference(deployment)],
        },
        "spec": {
            "replicas": new_set_replicas(deployment, old, 0),
            "selector": selector,
            "template": template,
        },
    }
    if spec.get("minReadySeconds"):
        made["spec"]["minReadySeconds"] = spec["minReadySeconds"]
    set_annotations(deployment, made, new_revision, exists=False)
    return made
