"""The generic registry: create, read, update and delete for every kind, with nothing of any one kind in it.

What is particular to a kind comes from its `Strategy`, from admission and from the few `Hooks`. Touches: the store, clock,
randomness. Upstream: apiserver/pkg/registry/generic/registry, apiserver/pkg/registry/rest.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from nsk8s.api.meta import Object, parse_time, rfc3339
from nsk8s.api.scheme import Cause, Kind
from nsk8s.apiserver import failures, managed
from nsk8s.apiserver.cache import Cache, clone, storage_key
from nsk8s.apiserver.call import Call
from nsk8s.apiserver.deletion import DeleteOptions, Verdict, decide_delete
from nsk8s.apiserver.metadata import carry_over, check_metadata, prepare_new
from nsk8s.errors import BadRequest, Conflict, RequestEntityTooLarge
from nsk8s.store.base import KeyExists, KeyNotFound, RevisionMismatch, Store

log = logging.getLogger("registry")

MAX_OBJECT_BYTES = 3 * 1024 * 1024
"""Of one stored object; etcd's default is 1.5 MiB a request, the API server's body limit 3 MiB."""
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""Upstream's alphabet for generated names: no vowels, nothing that looks alike."""
RETRIES = 20
STATUS_ON_CREATE = frozenset(("nodes",))
"""Kinds that may be created with a status: a kubelet registers its Node whole."""

Mutate = Callable[[Object], Object | Awaitable[Object]]
Admit = Callable[[Call, str, Object | None, Object | None], Awaitable[None]]


class Hooks:
    """What a resource needs beyond its strategy when it is written (Services' addresses); the default does nothing."""

    async def creating(self, call: Call, obj: Object) -> None:
        """Before the write; may change `obj`."""

    async def updating(self, call: Call, obj: Object, old: Object) -> None:
        """Before the write; may change `obj`."""

    def failed(self, obj: Object, old: Object | None) -> None:
        """The write did not happen (or was a dry run): give back what was taken."""

    def done(self, obj: Object) -> None:
        """The write happened."""

    async def written(self, new: Object | None, old: Object) -> None:
        """After an update, or a removal (None), that the cache has seen, and before it is answered."""


NO_HOOKS = Hooks()


def generated(base: str) -> str:
    """generateName's result: at most 63 characters, five of them random."""
    return base[:58] + "".join(random.choices(_SUFFIX_LETTERS, k=5))


_SHARED = {"events.events.k8s.io": ("events", "v1")}
"""Kinds that are another group's kind under a second name: where they are kept, and as which apiVersion."""


def storage_resource(kind: Kind) -> str:
    """The group resource under which objects of `kind` are stored."""
    shared = _SHARED.get(kind.group_resource)
    return shared[0] if shared else kind.group_resource


def storage_version(kind: Kind, obj: Object) -> Object:
    if kind.convert is None:
        return obj
    shared = _SHARED.get(kind.group_resource)
    if shared:
        return kind.convert(clone(obj), shared[1])
    if kind.storage_version and kind.storage_version != kind.version:
        return kind.convert(clone(obj), kind.storage_version)
    return obj


def as_version(kind: Kind, obj: Object) -> Object:
    """A stored object in the version of `kind` (the object itself when it is stored that way)."""
    if obj.get("apiVersion") != kind.api_version and kind.convert:
        return kind.convert(clone(obj), kind.api_version if kind.group_resource in _SHARED else kind.version)
    return obj


class Registry:
    def __init__(self, store: Store, cache: Cache) -> None:
        self.store = store
        self.cache = cache
        self.hooks: dict[str, Hooks] = {}
        self.mutators: list[Admit] = []
        self.validators: list[Admit] = []

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """The newest state, shared: not to be changed. Raises NotFound."""
        await self.cache.fresh()
        obj = self.cache.get(storage_resource(kind), namespace, name)
        if obj is None:
            raise failures.not_found(kind, name)
        return obj

    async def create(self, call: Call, obj: Object, namespace: str) -> Object:
        kind = call.kind
        now = datetime.now(UTC)
        _check_namespace(kind, obj, namespace)
        generate = prepare_new(kind, obj, namespace, str(uuid.uuid4()), rfc3339(now))
        strategy = kind.strategy
        if generate:
            obj["metadata"]["name"] = generated(generate)
        if not obj["metadata"].get("name"):
            raise failures.invalid(
                kind, "", [Cause("metadata.name", "Required value: name or generateName is required", "FieldValueRequired")]
            )
        if strategy.has_status and kind.group_resource not in STATUS_ON_CREATE:
            obj.pop("status", None)
        if strategy.prepare_create:
            strategy.prepare_create(obj)
        if strategy.default:
            strategy.default(obj)
        if strategy.has_generation:
            obj["metadata"]["generation"] = 1
        hooks = self.hooks.get(kind.group_resource, NO_HOOKS)
        for admit in self.mutators:
            await admit(call, "CREATE", obj, None)
        if strategy.default and self.mutators:
            strategy.default(obj)
        managed.track_create(call, obj, now)
        name = str(obj["metadata"]["name"])
        self._validate(kind, obj, None)
        for admit in self.validators:
            await admit(call, "CREATE", obj, None)
        await hooks.creating(call, obj)
        try:
            stored = storage_version(kind, obj)
            key = storage_key(storage_resource(kind), namespace, name)
            value = _encode(stored)
            if call.dry_run:
                await self.cache.fresh()
                if self.cache.get(storage_resource(kind), namespace, name) is not None:
                    raise failures.already_exists(kind, name)
                hooks.failed(obj, None)
                return obj
            try:
                kv = await self.store.create(key, value)
            except KeyExists:
                raise failures.already_exists(kind, name) from None
        except BaseException:
            hooks.failed(obj, None)
            raise
        hooks.done(obj)
        obj["metadata"]["resourceVersion"] = str(kv.mod_revision)
        await self.cache.wait_for(kv.mod_revision)
        return obj

    async def update(
        self,
        call: Call,
        namespace: str,
        name: str,
        mutate: Mutate,
        *,
        status: bool = False,
        admit: bool = True,
        action: str = "UPDATE",
        keep_version: bool = False,
    ) -> Object:
        """Read, change, write; again if somebody else was faster, unless the new object names the revision it wants.

        `mutate` gets a private copy in the version of `call.kind` and returns the wanted object (the same or another).
        `keep_version`: mutate's result carries on the old resourceVersion without that meaning a precondition (patches).
        """
        kind = call.kind
        for _ in range(RETRIES):
            await self.cache.fresh()
            stored = self.cache.get(storage_resource(kind), namespace, name)
            if stored is None:
                raise failures.not_found(kind, name)
            old = as_version(kind, stored)
            result = mutate(clone(old))
            new = result if isinstance(result, dict) else await result
            if not keep_version or new["metadata"].get("resourceVersion") != old["metadata"]["resourceVersion"]:
                _check_revision(kind, new, old)
                pinned = bool(new["metadata"].get("resourceVersion"))
            else:
                pinned = False
            hooks = self.hooks.get(kind.group_resource, NO_HOOKS)
            self._prepare_update(call, new, old, status=status)
            if admit:
                for admitter in self.mutators:
                    await admitter(call, action, new, old)
            self._set_generation(kind, new, old)
            managed.track_update(call, new, old, datetime.now(UTC), status=status)
            if _same(new, old):
                return old
            self._validate(kind, new, old, status=status)
            if admit:
                for admitter in self.validators:
                    await admitter(call, action, new, old)
            if not status:
                await hooks.updating(call, new, old)
            try:
                written = await self._write(call, kind, namespace, name, new, old)
            except BaseException:
                hooks.failed(new, old)
                raise
            if written is not None:
                if call.dry_run:
                    hooks.failed(new, old)
                else:
                    hooks.done(new)
                    await hooks.written(None if _finished_deleting(kind, new, old) else new, old)
                return written
            hooks.failed(new, old)
            if pinned:
                break
        raise failures.modified(kind, name)

    async def force(self, call: Call, namespace: str, name: str, mutate: Callable[[Object], Object]) -> Object:
        """A subresource's own write: read, change and store, past strategy and admission; `mutate` decides what is right."""
        kind = call.kind
        for _ in range(RETRIES):
            old = await self.get(kind, namespace, name)
            new = mutate(clone(old))
            if _same(new, old):
                return old
            self._set_generation(kind, new, old)
            written = await self._write(call, kind, namespace, name, new, old)
            if written is not None:
                return written
        raise failures.modified(kind, name)

    def _prepare_update(self, call: Call, new: Object, old: Object, *, status: bool) -> None:
        kind, strategy = call.kind, call.kind.strategy
        carry_over(kind, new, old)
        if status:
            metadata = new["metadata"]
            # Only status and what metadata a client may change count; everything else is as it was.
            wanted = new.get("status")
            for key in [k for k in new if k not in ("metadata", "status", "apiVersion", "kind")]:
                del new[key]
            for key, value in old.items():
                if key not in ("metadata", "status"):
                    new[key] = clone(value)
            if wanted is not None:
                new["status"] = wanted
            metadata["finalizers"] = clone(old["metadata"].get("finalizers") or [])
            if not metadata["finalizers"]:
                del metadata["finalizers"]
            if strategy.default:
                strategy.default(new)
            if strategy.prepare_status_update:
                strategy.prepare_status_update(new, old)
            return
        if strategy.has_status:
            if "status" in old:
                new["status"] = clone(old["status"])
            else:
                new.pop("status", None)
        if strategy.default:
            strategy.default(new)
        if strategy.prepare_update:
            strategy.prepare_update(new, old)

    def _set_generation(self, kind: Kind, new: Object, old: Object) -> None:
        if not kind.strategy.has_generation:
            return
        generation = old["metadata"].get("generation", 1)
        if any(new.get(k) != old.get(k) for k in {*new, *old} - {"metadata", "status"}):
            generation += 1
        new["metadata"]["generation"] = generation

    async def _write(self, call: Call, kind: Kind, namespace: str, name: str, new: Object, old: Object) -> Object | None:
        """Store `new` in place of `old`, or remove it if that was the last finalizer. None: somebody else was faster."""
        revision = int(old["metadata"]["resourceVersion"])
        key = storage_key(storage_resource(kind), namespace, name)
        value = _encode(storage_version(kind, new))
        if call.dry_run:
            new["metadata"]["resourceVersion"] = str(revision)
            return new
        try:
            if _finished_deleting(kind, new, old):
                kv = await self.store.delete(key, revision)
            else:
                kv = await self.store.update(key, value, revision)
        except RevisionMismatch:
            await self.cache.fresh()
            return None
        except KeyNotFound:
            raise failures.not_found(kind, name) from None
        new["metadata"]["resourceVersion"] = str(kv.mod_revision)
        await self.cache.wait_for(kv.mod_revision)
        return new

    def _validate(self, kind: Kind, new: Object, old: Object | None, *, status: bool = False) -> None:
        causes = check_metadata(kind, new, old)
        strategy = kind.strategy
        if not causes and strategy.validate and not status:
            causes = strategy.validate(new)
        if not causes and old is not None and strategy.validate_update and not status:
            causes = strategy.validate_update(new, old)
        if causes:
            raise failures.invalid(kind, str(new["metadata"].get("name", "")), causes)

    async def delete(self, call: Call, namespace: str, name: str, options: DeleteOptions) -> tuple[Object, bool]:
        """(last or new state, gone at once?). Raises NotFound, Conflict."""
        kind = call.kind
        for _ in range(RETRIES):
            await self.cache.fresh()
            old = self.cache.get(storage_resource(kind), namespace, name)
            if old is None:
                raise failures.not_found(kind, name)
            options.check(kind, old)
            for admit in self.validators:
                await admit(call, "DELETE", None, old)
            verdict, new = decide_delete(kind, clone(old), options, datetime.now(UTC))
            if verdict is Verdict.KEEP:
                return old, False
            if call.dry_run or options.dry_run:
                return (old, True) if verdict is Verdict.REMOVE else (new, False)
            key = storage_key(storage_resource(kind), namespace, name)
            revision = int(old["metadata"]["resourceVersion"])
            try:
                if verdict is Verdict.REMOVE:
                    kv = await self.store.delete(key, revision)
                else:
                    kv = await self.store.update(key, _encode(new), revision)
            except RevisionMismatch:
                await self.cache.fresh()
                continue
            except KeyNotFound:
                raise failures.not_found(kind, name) from None
            await self.cache.wait_for(kv.mod_revision)
            new["metadata"]["resourceVersion"] = str(kv.mod_revision)
            if verdict is Verdict.REMOVE:
                await self.hooks.get(kind.group_resource, NO_HOOKS).written(None, old)
            return new, verdict is Verdict.REMOVE
        raise failures.modified(kind, name)

    async def remove_expired(self, kind: Kind, before: Callable[[Object], bool]) -> int:
        """Delete, without ceremony, the objects of `kind` that `before` says have had their time (Events)."""
        removed = 0
        for obj in [o for o in self.cache.resource(storage_resource(kind)).values() if before(o)]:
            metadata = obj["metadata"]
            key = storage_key(storage_resource(kind), metadata.get("namespace", ""), metadata["name"])
            try:
                await self.store.delete(key, int(metadata["resourceVersion"]))
                removed += 1
            except (RevisionMismatch, KeyNotFound):
                continue
        return removed


def older_than(age: timedelta) -> Callable[[Object], bool]:
    """Was the object last written (as far as an Event tells) longer ago than `age`?"""
    limit = datetime.now(UTC) - age

    def expired(obj: Object) -> bool:
        series = obj.get("series") or {}
        text = (
            series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("eventTime")
            or obj["metadata"].get("creationTimestamp")
        )  # fmt: skip
        try:
            return parse_time(str(text)) < limit
        except ValueError:
            return True

    return expired


def _encode(obj: Object) -> bytes:
    """The bytes that are stored: without resourceVersion, which is the store's to know."""
    metadata = obj["metadata"]
    revision = metadata.pop("resourceVersion", None)
    try:
        value = orjson.dumps(obj)
    except (orjson.JSONEncodeError, TypeError) as e:
        raise BadRequest(f"the object cannot be stored: {e}") from e
    finally:
        if revision is not None:
            metadata["resourceVersion"] = revision
    if len(value) > MAX_OBJECT_BYTES:
        raise RequestEntityTooLarge(f"Request entity too large: limit is {MAX_OBJECT_BYTES}")
    return value


def _check_namespace(kind: Kind, obj: Object, namespace: str) -> None:
    own = obj["metadata"].get("namespace")
    if kind.namespaced and own and own != namespace:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")


def _check_revision(kind: Kind, new: Object, old: Object) -> None:
    metadata, have = new["metadata"], old["metadata"]
    name = str(have["name"])
    uid = metadata.get("uid")
    if uid and uid != have.get("uid"):
        raise Conflict(
            f'Operation cannot be fulfilled on {kind.group_resource} "{name}": StorageError: invalid object, Code: 4, '
            f"AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {have.get('uid')}",
            details=failures.details(kind, name),
        )
    wanted = metadata.get("resourceVersion")
    if wanted and wanted != "0" and wanted != have["resourceVersion"]:
        if not str(wanted).isdigit():
            raise failures.invalid(
                kind, name, [Cause("metadata.resourceVersion", f'Invalid value: "{wanted}": must be specified for an update')]
            )
        raise failures.modified(kind, name)


def _same(new: Object, old: Object) -> bool:
    """Nothing changed but perhaps the times in managedFields."""
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
    if new == old:
        return True
    mine, theirs = new["metadata"].get("managedFields"), old["metadata"].get("managedFields")
    if mine is None or theirs is None:
        return False
    return managed.without_times(new) == managed.without_times(old)


def _finished_deleting(kind: Kind, new: Object, old: Object) -> bool:
    """An object under deletion goes when its last finalizer does (a Namespace: also the one in its spec)."""
    metadata: dict[str, Any] = new["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if kind.group_resource == "namespaces":
        return not (new.get("spec") or {}).get("finalizers")
    return bool(old["metadata"].get("finalizers")) and not metadata.get("deletionGracePeriodSeconds")
