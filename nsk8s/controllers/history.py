"""ControllerRevisions: a DaemonSet's or StatefulSet's templates, numbered. Touches: the API (the functions are pure).

Upstream: pkg/controller/history, pkg/controller/daemon/update.go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import orjson

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.selectors import LabelSelector
from nsk8s.client.informer import Informer
from nsk8s.client.resources import CONTROLLERREVISIONS, Resource
from nsk8s.client.rest import Client
from nsk8s.controllers.podcontrol import claim
from nsk8s.controllers.rollout import safe_encode
from nsk8s.errors import AlreadyExists, NotFound

HASH_LABEL = "controller-revision-hash"


def data_of(owner: Object) -> Object:
    """What a revision remembers: a patch that puts the template back (what `kubectl rollout undo` sends)."""
    template = {k: v for k, v in owner["spec"]["template"].items() if v is not None}
    metadata = {k: v for k, v in (template.get("metadata") or {}).items() if v}
    return {"spec": {"template": {**template, "metadata": metadata, "$patch": "replace"}}}


def revision_hash(data: Object, collision_count: int = 0) -> str:
    raw = orjson.dumps([data, collision_count], option=orjson.OPT_SORT_KEYS)
    return safe_encode(str(int.from_bytes(hashlib.blake2s(raw, digest_size=4).digest(), "big")))


def make(owner: Object, number: int, collision_count: int = 0) -> Object:
    data = data_of(owner)
    hashed = revision_hash(data, collision_count)
    template_labels = (owner["spec"]["template"].get("metadata") or {}).get("labels") or {}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": f"{meta.name(owner)}-{hashed}",
            "namespace": meta.namespace(owner),
            "labels": {**template_labels, HASH_LABEL: hashed},
            "annotations": {k: v for k, v in meta.annotations(owner).items() if not k.endswith("last-applied-configuration")},
            "ownerReferences": [meta.owner_reference(owner)],
        },
        "data": data,
        "revision": number,
    }


def hash_of(revision: Object) -> str:
    return meta.labels(revision).get(HASH_LABEL) or meta.name(revision).rpartition("-")[2]


def number_of(revision: Object) -> int:
    return int(revision.get("revision") or 0)


def surplus(revisions: Sequence[Object], live: Iterable[str], limit: int) -> list[Object]:
    """Old revisions beyond the limit that no pod (hash or name in `live`) uses any more."""
    used = set(live)
    unused = sorted((r for r in revisions if hash_of(r) not in used and meta.name(r) not in used), key=number_of)
    return unused[: max(0, len(unused) - limit)]


class History:
    """The revisions of one kind of owner."""

    def __init__(self, client: Client, informer: Informer, owner_resource: Resource) -> None:
        self._client, self._informer, self._owner_resource = client, informer, owner_resource

    async def of(self, owner: Object, selector: LabelSelector) -> list[Object]:
        """All revisions of `owner`, the oldest first."""
        found = await claim(self._client, self._owner_resource, owner, CONTROLLERREVISIONS, self._informer, selector)
        return sorted(found, key=number_of)

    async def current(self, owner: Object, revisions: list[Object]) -> Object:
        """The revision of the owner's template: found, brought to the front again, or made (and added to `revisions`)."""
        data = data_of(owner)
        newest = number_of(revisions[-1]) if revisions else 0
        same = [r for r in revisions if r.get("data") == data]
        if same:
            found = same[-1]
            if number_of(found) < newest:
                found = await self._client.update(CONTROLLERREVISIONS, {**found, "revision": newest + 1})
                revisions[:] = [*(r for r in revisions if meta.uid(r) != meta.uid(found)), found]
            return found
        for collision_count in range(10):
            wanted = make(owner, newest + 1, collision_count)
            try:
                made = await self._client.create(CONTROLLERREVISIONS, wanted)
            except AlreadyExists:
                made = await self._client.get(CONTROLLERREVISIONS, meta.name(wanted), meta.namespace(owner))
                if made.get("data") != data or (meta.controller_of(made) or {}).get("uid") != meta.uid(owner):
                    continue
            revisions.append(made)
            return made
        raise AlreadyExists(f"no free name for a revision of {meta.key(owner)}")

    async def prune(self, owner: Object, revisions: Sequence[Object], live: Iterable[str]) -> None:
        limit = owner["spec"].get("revisionHistoryLimit")
        for revision in surplus(revisions, live, 10 if limit is None else int(limit)):
            try:
                await self._client.delete(
                    CONTROLLERREVISIONS, meta.name(revision), meta.namespace(revision), uid=meta.uid(revision)
                )
            except NotFound:
                continue
