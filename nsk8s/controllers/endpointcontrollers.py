"""EndpointSlice, Endpoints and EndpointSliceMirroring: the shells. Touches: the API.

Upstream: pkg/controller/endpointslice, endpoint, endpointslicemirroring. An isolated change is written at once; while a
service's endpoints keep changing, writes follow each other with a gap that grows with their number, so that 50 pods becoming
ready cost a few writes (and a few rule loads on every node), not 50, and 500 pods not ten times as much for each of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from nsk8s.api import meta, selectors
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.resources import ENDPOINTS, ENDPOINTSLICES, NODES, PODS, SERVICES
from nsk8s.controllers import endpoints as pure
from nsk8s.controllers import topology
from nsk8s.controllers.context import SERVICE_NAME_LABEL, Context, utcnow
from nsk8s.controllers.pods import is_terminal
from nsk8s.errors import AlreadyExists, Conflict, Forbidden, NotFound

WRITE_GAP_S = 0.1
"""Between two writes, and more for every endpoint."""
SLICE_GAP_S = 0.0007
"""For each endpoint of a service: every node hears of every slice. 500 endpoints: 0.45 s; rules follow within a second."""
ENDPOINTS_GAP_S = 0.003
"""For each address of an Endpoints object, which is written whole and by which no packet is routed."""
MOST_GAP_S = 2.0
STALE_AFTER_S = 5.0
"""How long the cache may take to show our own write before we stop waiting for it."""
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
ENDPOINTS_MANAGED_BY = "endpoints.kubernetes.io/managed-by"
NOT_MIRRORED = (TRIGGER_TIME, "kubectl.kubernetes.io/last-applied-configuration")
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
LEADER_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"


def seen_of(pod: Object) -> tuple[object, ...]:
    """What of a pod matters to endpoints: other changes are ignored. Pure."""
    status, spec = pod.get("status") or {}, pod["spec"]
    ready = meta.is_condition_true(pod, "Ready")
    return (
        status.get("podIP"), status.get("podIPs"), is_terminal(pod), ready, meta.is_deleting(pod),
        spec.get("nodeName"), meta.labels(pod), spec.get("hostname"), spec.get("subdomain"),
    )  # fmt: skip


class _ByService:
    """What the two pod-driven controllers share: the services, their pods, and when they were last written."""

    def __init__(self, ctx: Context, name: str, gap_each_s: float) -> None:
        self.ctx = ctx
        self._gap_each_s = gap_each_s
        self.size: dict[str, int] = {}
        """Service → pods at the last look."""
        self.services, self.pods = ctx.informer(SERVICES), ctx.informer(PODS)
        self.loop = Controller(name, self._turn, workers=3)
        self.loop.watch(self.services)
        self.pods.add_handler(self._on_pod)
        self._next_write: dict[str, float] = {}

    async def _turn(self, key: str) -> float | None:
        now = asyncio.get_running_loop().time()
        wait = self._next_write.get(key, 0.0) - now
        if wait > 0:
            return wait
        if await self.reconcile(key):
            gap = min(WRITE_GAP_S + self.size.get(key, 0) * self._gap_each_s, MOST_GAP_S)
            self._next_write[key] = asyncio.get_running_loop().time() + gap
        else:
            self._next_write.pop(key, None)
            if self.services.get(key) is None:
                self.size.pop(key, None)
        return None

    async def reconcile(self, key: str) -> bool:
        """True if something was written."""
        raise NotImplementedError

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        if old is not None and new is not None and seen_of(old) == seen_of(new):
            return
        for pod in (old, new):
            if pod is None or not (pod.get("status") or {}).get("podIP"):
                continue
            labels = meta.labels(pod)
            for service in self.services.by_index("namespace", meta.namespace(pod)):
                wanted = service["spec"].get("selector")
                if wanted and wanted.items() <= labels.items():
                    self.loop.queue.add(meta.key(service))

    def selected(self, service: Object) -> list[Object]:
        matches = selectors.from_set(service["spec"]["selector"]).matches
        found = [p for p in self.pods.by_index("namespace", meta.namespace(service)) if matches(meta.labels(p))]
        self.size[meta.key(service)] = len(found)
        return sorted(found, key=meta.name)

    async def run(self) -> None:
        await self.loop.run()


class _SliceWriter:
    """Writes slices, and knows which of its writes the cache does not show yet."""

    def __init__(self, ctx: Context, managed_by: str) -> None:
        self._client = ctx.client
        self._slices = ctx.informer(ENDPOINTSLICES)
        self._managed_by = managed_by
        self._unseen: dict[str, dict[str, tuple[int, float]]] = {}  # service → slice → (resourceVersion, deadline)
        self._slices.add_handler(self._on_slice)

    def existing(self, service_key: str) -> list[Object]:
        found = self._slices.by_index("service", service_key)
        return sorted((s for s in found if meta.labels(s).get(pure.MANAGED_BY_LABEL) == self._managed_by), key=meta.name)

    def wait_s(self, service_key: str) -> float | None:
        """Seconds to wait for the cache to show our last writes; None if it does."""
        unseen = self._unseen.get(service_key)
        if not unseen:
            return None
        now = asyncio.get_running_loop().time()
        deadline = max(deadline for _, deadline in unseen.values())
        if now >= deadline:
            del self._unseen[service_key]
            return None
        return deadline - now

    def _on_slice(self, old: Object | None, new: Object | None) -> None:
        either = new or old
        assert either is not None
        service_key = f"{meta.namespace(either)}/{meta.labels(either).get(SERVICE_NAME_LABEL, '')}"
        unseen = self._unseen.get(service_key)
        if not unseen or meta.key(either) not in unseen:
            return
        if new is None or int(meta.resource_version(new)) >= unseen[meta.key(either)][0]:
            del unseen[meta.key(either)]

    def _remember(self, service_key: str, written: Object) -> None:
        cached = self._slices.get(meta.key(written))
        version = int(meta.resource_version(written))
        if cached is None or int(meta.resource_version(cached)) < version:
            deadline = asyncio.get_running_loop().time() + STALE_AFTER_S
            self._unseen.setdefault(service_key, {})[meta.key(written)] = (version, deadline)

    async def write(self, service_key: str, changes: pure.Changes, *, stamped: bool = True) -> bool:
        """True if something was written. `stamped`: with the time at which this was decided."""
        stamp = {TRIGGER_TIME: meta.rfc3339_micro(utcnow())} if stamped else {}
        for s in changes.create:
            s["metadata"]["annotations"] = {**meta.annotations(s), **stamp}
            self._remember(service_key, await self._client.create(ENDPOINTSLICES, s))
        for s in changes.update:
            s["metadata"]["annotations"] = {**meta.annotations(s), **stamp}
            self._remember(service_key, await self._client.update(ENDPOINTSLICES, s))
        for s in changes.delete:
            try:
                await self._client.delete(ENDPOINTSLICES, meta.name(s), meta.namespace(s), uid=meta.uid(s))
            except (NotFound, Conflict):
                continue
        return bool(changes.create or changes.update or changes.delete)

    async def delete_all(self, service_key: str) -> bool:
        return await self.write(service_key, pure.Changes(delete=self.existing(service_key)))


def _service_keys(managed_by: str) -> Callable[[Object], list[str]]:
    def keys(s: Object) -> list[str]:
        labels = meta.labels(s)
        if labels.get(pure.MANAGED_BY_LABEL) != managed_by or not labels.get(SERVICE_NAME_LABEL):
            return []
        return [f"{meta.namespace(s)}/{labels[SERVICE_NAME_LABEL]}"]

    return keys


class EndpointSliceController(_ByService):
    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, "endpointslice-controller", SLICE_GAP_S)
        self._nodes = ctx.informer(NODES)
        self._writer = _SliceWriter(ctx, pure.CONTROLLER_NAME)
        self._recorder = ctx.recorder("endpoint-slice-controller")
        self._hinted: dict[str, dict[str, str]] = {}
        """Service with topology aware routing → address type → why it has no hints; empty if it has."""
        self.loop.watch(ctx.informer(ENDPOINTSLICES), _service_keys(pure.CONTROLLER_NAME))
        self._nodes.add_handler(self._on_node)

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        """A zone label that appears, changes or goes concerns every service with a pod there; what a zone can, those whose
        endpoints are shared out to the zones."""
        if (topology.capacity(old) if old else None) != (topology.capacity(new) if new else None):
            for key in self._hinted:
                self.loop.queue.add(key)
        before = meta.labels(old).get(pure.ZONE_LABEL) if old else None
        after = meta.labels(new).get(pure.ZONE_LABEL) if new else None
        if before == after:
            return
        either = new or old
        assert either is not None
        for pod in self.pods.by_index("node", meta.name(either)):
            self._on_pod(None, pod)

    def _node_labels(self, name: str) -> Mapping[str, str]:
        node = self._nodes.get(name)
        return meta.labels(node) if node is not None else {}

    async def reconcile(self, key: str) -> bool:
        service = self.services.get(key)
        if service is None or service["spec"].get("type") == "ExternalName" or not service["spec"].get("selector"):
            self._hinted.pop(key, None)
            # Without a selector the slices are the user's; ours from before are removed.
            return await self._writer.delete_all(key)
        if meta.is_deleting(service):
            return False
        wait = self._writer.wait_s(key)
        if wait is not None:
            self.loop.queue.add_after(key, wait)
            return False
        wanted = pure.desired(service, self.selected(service), self._node_labels)
        self._share_out(key, service, wanted)
        changes = pure.plan_slices(service, self._writer.existing(key), wanted, service)
        try:
            return await self._writer.write(key, changes)
        except Forbidden:  # the namespace is being deleted
            return False


    def _share_out(self, key: str, service: Object, wanted: pure.Desired) -> None:
        """Topology aware routing, and an Event whenever a Service begins or ceases to have it."""
        if not topology.wants_hints(service):
            if self._hinted.pop(key, None) is not None:
                self._recorder.event(service, "Warning", "TopologyAwareHintsDisabled", topology.REMOVED_MESSAGE)
            return
        by_type: dict[str, list[Object]] = {}
        for (address_type, _), held in wanted.items():
            by_type.setdefault(address_type, []).extend(held)
        by_zone = topology.shares(self._nodes.items())
        told, self._hinted[key] = self._hinted.get(key, {}), {}
        for address_type, held in by_type.items():
            problem = topology.add_hints(held, by_zone, address_type)
            self._hinted[key][address_type] = problem
            if told.get(address_type) == problem:
                continue
            if problem:
                self._recorder.event(service, "Warning", "TopologyAwareHintsDisabled", problem)
            else:
                message = f"{topology.ENABLED_MESSAGE}, addressType: {address_type}"
                self._recorder.event(service, "Normal", "TopologyAwareHintsEnabled", message)


class EndpointsController(_ByService):
    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, "endpoint-controller", ENDPOINTS_GAP_S)
        self._endpoints = ctx.informer(ENDPOINTS)
        # As upstream, other people's changes are put right with the next change of the service; leftovers at the start.
        self._endpoints.add_handler(self._on_endpoints)

    def _on_endpoints(self, old: Object | None, new: Object | None) -> None:
        either = new or old
        assert either is not None
        if LEADER_ANNOTATION not in meta.annotations(either):
            self.loop.queue.add(meta.key(either))

    async def reconcile(self, key: str) -> bool:
        client, current, service = self.ctx.client, self._endpoints.get(key), self.services.get(key)
        if service is None:
            if current is None or meta.annotations(current).get(LEADER_ANNOTATION):
                return False
            try:
                await client.delete(ENDPOINTS, meta.name(current), meta.namespace(current), uid=meta.uid(current))
            except (NotFound, Conflict):
                return False
            return True
        if not service["spec"].get("selector") or service["spec"].get("type") == "ExternalName":
            return False
        found, over = pure.subsets(service, self.selected(service))
        labels = {k: v for k, v in meta.labels(service).items() if k != pure.HEADLESS_LABEL}
        if pure.is_headless(service):
            labels[pure.HEADLESS_LABEL] = ""
        labels[ENDPOINTS_MANAGED_BY] = "endpoint-controller"
        annotations = dict(meta.annotations(current)) if current is not None else {}
        annotations.pop(pure.OVER_CAPACITY, None)
        if over:
            annotations[pure.OVER_CAPACITY] = "truncated"
        unchanged = (
            current is not None and (current.get("subsets") or []) == found and meta.labels(current) == labels
            and annotations == meta.annotations(current)
        )  # fmt: skip
        if unchanged:
            return False
        annotations[TRIGGER_TIME] = meta.rfc3339_micro(utcnow())
        base: Object = current or {"metadata": {"name": meta.name(service), "namespace": meta.namespace(service)}}
        body = {
            **base, "metadata": {**base["metadata"], "labels": labels, "annotations": annotations}, "subsets": found,
        }  # fmt: skip
        try:
            await (client.update(ENDPOINTS, body) if current is not None else client.create(ENDPOINTS, body))
        except (AlreadyExists, Forbidden):  # the watch will show it; or the namespace is being deleted
            return False
        return True


class EndpointSliceMirroringController:
    """Hand-made Endpoints of services without a selector become slices too."""

    def __init__(self, ctx: Context) -> None:
        self._services, self._endpoints = ctx.informer(SERVICES), ctx.informer(ENDPOINTS)
        self._writer = _SliceWriter(ctx, pure.MIRROR_NAME)
        self._recorder = ctx.recorder("endpoint-slice-mirroring-controller")
        self._skipped: dict[str, int] = {}
        """Endpoints → addresses that were too many, as it was last told."""
        self._loop = Controller("endpointslicemirroring-controller", self._reconcile, workers=1)
        self._loop.watch(self._endpoints)
        self._loop.watch(self._services)
        self._loop.watch(ctx.informer(ENDPOINTSLICES), _service_keys(pure.MIRROR_NAME))
        self.run = self._loop.run

    async def _reconcile(self, key: str) -> float | None:
        service, endpoints = self._services.get(key), self._endpoints.get(key)
        mirrored = (
            service is not None and endpoints is not None and not service["spec"].get("selector")
            and meta.labels(endpoints).get(SKIP_MIRROR) != "true" and LEADER_ANNOTATION not in meta.annotations(endpoints)
        )  # fmt: skip
        if not mirrored:
            self._skipped.pop(key, None)
            await self._writer.delete_all(key)
            return None
        assert service is not None
        assert endpoints is not None
        wait = self._writer.wait_s(key)
        if wait is not None:
            return wait
        wanted, skipped = pure.desired_from_subsets(endpoints.get("subsets") or [])
        self._tell(key, endpoints, skipped)
        labelled = {**service, "metadata": {**service["metadata"], "labels": meta.labels(endpoints)}}
        annotations = {k: v for k, v in meta.annotations(endpoints).items() if k not in NOT_MIRRORED}
        # A slice for each subset, however large.
        changes = pure.plan_slices(
            labelled, self._writer.existing(key), wanted, endpoints, pure.MIRROR_NAME, pure.MAX_ADDRESSES, annotations
        )
        await self._writer.write(key, changes, stamped=False)
        return None

    def _tell(self, key: str, endpoints: Object, skipped: int) -> None:
        if skipped and self._skipped.get(key) != skipped:
            text = (
                f"A max of {pure.MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. "
                f"{skipped} addresses were skipped"
            )
            self._recorder.event(endpoints, "Warning", "TooManyAddressesToMirror", text)
        self._skipped[key] = skipped
