"""Who owns whom, by uid, and what that asks for. Pure.

Upstream: pkg/controller/garbagecollector (graph.go, graph_builder.go, garbagecollector.go).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.resources import Resource

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


@dataclass(slots=True, eq=False)
class Item:
    """An object as the collector sees it."""

    uid: str
    resource: Resource
    namespace: str
    name: str
    owners: Sequence[Object] = ()
    finalizers: Sequence[str] = ()
    deleting: bool = False

    @classmethod
    def of(cls, resource: Resource, obj: Object) -> Item:
        metadata = obj["metadata"]
        return cls(
            meta.uid(obj), resource, meta.namespace(obj), meta.name(obj), tuple(metadata.get("ownerReferences") or ()),
            tuple(metadata.get("finalizers") or ()), meta.is_deleting(obj),
        )  # fmt: skip

    @property
    def deletes_dependents(self) -> bool:
        """Being deleted in the foreground: waits for its dependents."""
        return self.deleting and FOREGROUND in self.finalizers

    def blocks(self, owner_uid: str) -> bool:
        return any(r["uid"] == owner_uid and r.get("blockOwnerDeletion") for r in self.owners)


@dataclass
class Graph:
    items: dict[str, Item] = field(default_factory=dict)
    dependents: dict[str, set[str]] = field(default_factory=dict)
    """Owner uid → uids; also of owners that were never seen."""

    def put(self, item: Item) -> set[str]:
        """Remember an object as it now is; the uids that must be looked at."""
        old = self.items.get(item.uid)
        before = {r["uid"] for r in old.owners} if old else set()
        after = {r["uid"] for r in item.owners}
        self.items[item.uid] = item
        for owner in before - after:
            self._unlink(owner, item.uid)
        for owner in after - before:
            self.dependents.setdefault(owner, set()).add(item.uid)
        look: set[str] = set()
        if after and (old is None or before != after):
            look.add(item.uid)
        if item.deleting and (FOREGROUND in item.finalizers or ORPHAN in item.finalizers):
            look.add(item.uid)
        # An owner in foreground deletion waits for blockers: one that no longer blocks may have been the last.
        look |= {o for o in before | after if (owner_item := self.items.get(o)) and owner_item.deletes_dependents}
        return look

    def remove(self, uid: str) -> set[str]:
        """The object is gone; the uids that must be looked at: its dependents, and owners that wait for it."""
        item = self.items.pop(uid, None)
        look = set(self.dependents.get(uid, ()))
        for reference in item.owners if item else ():
            self._unlink(reference["uid"], uid)
            owner = self.items.get(reference["uid"])
            if owner is not None and owner.deletes_dependents:
                look.add(owner.uid)
        return look

    def of(self, uid: str) -> list[Item]:
        """The dependents of an object."""
        return [self.items[u] for u in self.dependents.get(uid, ()) if u in self.items]

    def _unlink(self, owner: str, uid: str) -> None:
        found = self.dependents.get(owner)
        if found is not None:
            found.discard(uid)
            if not found:
                del self.dependents[owner]


@dataclass(frozen=True)
class Owners:
    """An object's owner references, sorted by what their owners are doing."""

    solid: Sequence[Object]
    dangling: Sequence[Object]
    waiting: Sequence[Object]
    """Owners in foreground deletion that this object blocks."""


def classify(item: Item, owner_of: Callable[[Object], Object | None]) -> Owners:
    """`owner_of(reference)` answers the live owner or None if there is none with that uid."""
    solid, dangling, waiting = [], [], []
    for reference in item.owners:
        owner = owner_of(reference)
        if owner is None or meta.uid(owner) != reference["uid"]:
            dangling.append(reference)
        elif (
            meta.is_deleting(owner)
            and FOREGROUND in (owner["metadata"].get("finalizers") or [])
            and reference.get("blockOwnerDeletion")
        ):
            waiting.append(reference)
        else:
            solid.append(reference)
    return Owners(solid, dangling, waiting)


def propagation(finalizers: Sequence[str]) -> str:
    """The policy an object without owners is deleted with: the one it asks for itself."""
    if ORPHAN in finalizers:
        return "Orphan"
    return "Foreground" if FOREGROUND in finalizers else "Background"


def owner_resource(reference: Object, kinds: Mapping[tuple[str, str], Resource]) -> Resource | None:
    """The resource an owner reference names; None if the server has no such kind."""
    group, _, _ = str(reference.get("apiVersion", "")).rpartition("/")
    return kinds.get((group, str(reference.get("kind", ""))))
