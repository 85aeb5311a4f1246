"""What an empty cluster is given: namespaces, the `kubernetes` service with its endpoints, default roles and bindings.

Missing objects are made at every start; what a user changed is left alone, except that missing rules and subjects come back to
roles that still carry the autoupdate annotation. Touches: the registry. Upstream: pkg/controlplane/controller/*, plugin/pkg/auth/
authorizer/rbac/bootstrappolicy.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from datetime import UTC, datetime
from typing import Any

from nsk8s.api.meta import Object, rfc3339
from nsk8s.api.scheme import Kind, Scheme
from nsk8s.apiserver import rbacpolicy
from nsk8s.apiserver.cache import Cache, clone
from nsk8s.apiserver.call import SYSTEM, Call
from nsk8s.apiserver.eventwriter import EventWriter
from nsk8s.apiserver.registry import Registry
from nsk8s.apiserver.request import RequestInfo
from nsk8s.errors import AlreadyExists, NotFound, StatusError

log = logging.getLogger("bootstrap")

NAMESPACES = ("kube-system", "kube-public", "kube-node-lease", "default")
PRIORITY_CLASSES = (
    ("system-node-critical", 2000001000, "Used for system critical pods that must not be moved from their current node."),
    ("system-cluster-critical", 2000000000,
     "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
)  # fmt: skip
DEFAULT_RANGE = "kubernetes"
KEEP_S = 10.0
"""Upstream: the endpoint reconciler's period."""
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"


def go_list(words: list[str]) -> str:
    return f"[{' '.join(words)}]"


class Bootstrap:
    def __init__(self, scheme: Scheme, registry: Registry, cache: Cache) -> None:
        self._scheme = scheme
        self._registry = registry
        self._cache = cache
        self._said_loopback = False
        self._said_ranges = False
        self._ranges: list[str] = []
        self.events = EventWriter(registry, scheme, "kubernetes-service-cidr-controller")

    async def run(self, service_ips: list[str], advertise: str, port: int, cidrs: list[str]) -> None:
        await self._namespaces()
        await self.service_ranges(cidrs)
        await self._roles()
        for name, value, text in PRIORITY_CLASSES:
            await self._ensure("scheduling.k8s.io", "v1", "priorityclasses",
                               {"metadata": {"name": name}, "value": value, "description": text})  # fmt: skip
        await self._reach(service_ips, advertise, port)

    async def keep(self, service_ips: list[str], advertise: str, port: int) -> None:
        """Put back, for ever, what pods need to find the server, whoever removed it."""
        while True:
            await asyncio.sleep(KEEP_S)
            try:
                await self._namespaces()
                await self.service_ranges(self._ranges)
                await self._reach(service_ips, advertise, port)
            except StatusError as e:
                log.warning("the kubernetes service cannot be kept: %s", e.message)

    async def _namespaces(self) -> None:
        for name in NAMESPACES:
            await self._ensure("", "v1", "namespaces", {"metadata": {"name": name}})
            # The controller manager gives every namespace this account; these have it without one, so that pods can be made.
            await self._ensure("", "v1", "serviceaccounts", {"metadata": {"name": "default", "namespace": name}})

    async def service_ranges(self, cidrs: list[str]) -> None:
        """The ServiceCIDR `kubernetes`, from --service-cluster-ip-range. One that is there stays as it is, but that it may
        gain a second family. Upstream: pkg/controlplane/controller/defaultservicecidr."""
        self._ranges = cidrs
        kind = self._kind("networking.k8s.io", "v1", "servicecidrs")
        if kind is None:
            return
        await self._ensure(kind.group, kind.version, kind.plural, {"metadata": {"name": DEFAULT_RANGE}, "spec": {"cidrs": cidrs}})
        have = self._cache.get(kind.group_resource, "", DEFAULT_RANGE)
        if have is None or have["metadata"].get("deletionTimestamp"):
            return
        held = (have.get("spec") or {}).get("cidrs") or []
        if len(cidrs) == 2 and held == cidrs[:1]:
            await self._update(kind, "", DEFAULT_RANGE, {"spec": {"cidrs": cidrs}})
        elif held != cidrs:
            if not self._said_ranges:
                log.warning("the ServiceCIDR kubernetes is %s, --service-cluster-ip-range %s: the first counts", held, cidrs)
                text = f"{go_list(held)} does not match the controller flag configurations {go_list(cidrs)}"
                await self.events.tell(have, "KubernetesDefaultServiceCIDRInconsistent", f"The default ServiceCIDR {text}")
            self._said_ranges = True
            return
        conditions = (have.get("status") or {}).get("conditions") or []
        if not any(c.get("type") == "Ready" for c in conditions):
            ready = {
                "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes default Service CIDR is ready",
                "lastTransitionTime": rfc3339(datetime.now(UTC)),
            }  # fmt: skip
            call = self._call(kind, "update", "", DEFAULT_RANGE)
            status = {"conditions": [*conditions, ready]}
            await self._registry.update(
                call, "", DEFAULT_RANGE, lambda old: {**old, "status": clone(status)}, status=True, keep_version=True
            )

    async def _reach(self, service_ips: list[str], advertise: str, port: int) -> None:
        if service_ips:
            await self._kubernetes_service(service_ips, port)
        await self._endpoints(advertise, port)

    def _kind(self, group: str, version: str, plural: str) -> Kind | None:
        return self._scheme.resource(group, version, plural)

    def _call(self, kind: Kind, verb: str, namespace: str, name: str) -> Call:
        info = RequestInfo("POST", "", verb, True, kind.group, kind.version, namespace, kind.plural, "", name)
        return Call(SYSTEM, info, kind)

    async def _ensure(self, group: str, version: str, plural: str, obj: Object) -> None:
        """Make the object unless one of its name is there."""
        kind = self._kind(group, version, plural)
        if kind is None:
            return
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "")
        if self._cache.get(kind.group_resource, namespace, metadata["name"]) is not None:
            return
        try:
            made = {"apiVersion": kind.api_version, "kind": kind.kind, **clone(obj)}
            await self._registry.create(self._call(kind, "create", namespace, metadata["name"]), made, namespace)
        except AlreadyExists:
            pass

    async def _update(self, kind: Kind, namespace: str, name: str, changes: dict[str, Any]) -> None:
        call = self._call(kind, "update", namespace, name)
        await self._registry.update(call, namespace, name, lambda old: {**old, **clone(changes)}, keep_version=True)

    async def _roles(self) -> None:
        group, labels = "rbac.authorization.k8s.io", {"kubernetes.io/bootstrapping": "rbac-defaults"}
        for plural, objects, field in (
            ("clusterroles", rbacpolicy.cluster_roles(), "rules"),
            ("clusterrolebindings", rbacpolicy.cluster_role_bindings(), "subjects"),
            ("roles", rbacpolicy.roles(), "rules"),
            ("rolebindings", rbacpolicy.role_bindings(), "subjects"),
        ):
            kind = self._kind(group, "v1", plural)
            if kind is None:
                continue
            for obj in objects:
                metadata = obj["metadata"]
                metadata["labels"] = {**labels, **metadata.get("labels", {})}
                metadata["annotations"] = {AUTOUPDATE: "true"}
                await self._ensure(group, "v1", plural, obj)
                await self._restore(kind, obj, field)

    async def _restore(self, kind: Kind, wanted: Object, field: str) -> None:
        metadata = wanted["metadata"]
        namespace = metadata.get("namespace", "")
        have = self._cache.get(kind.group_resource, namespace, metadata["name"])
        if have is None or (have["metadata"].get("annotations") or {}).get(AUTOUPDATE) != "true":
            return
        missing = [r for r in wanted.get(field) or [] if r not in (have.get(field) or [])]
        if missing:
            await self._update(kind, namespace, metadata["name"], {field: [*(have.get(field) or []), *missing]})

    async def _kubernetes_service(self, service_ips: list[str], port: int) -> None:
        await self._ensure(
            "", "v1", "services",
            {
                "metadata": {
                    "name": "kubernetes", "namespace": "default",
                    "labels": {"component": "apiserver", "provider": "kubernetes"},
                },
                "spec": {
                    "type": "ClusterIP", "clusterIP": service_ips[0], "clusterIPs": service_ips[:1],
                    "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
                    "sessionAffinity": "None",
                },
            },
        )  # fmt: skip

    async def _endpoints(self, advertise: str, port: int) -> None:
        """Endpoints and EndpointSlice of the `kubernetes` service: this server, as it is now."""
        if ipaddress.ip_address(advertise).is_loopback:
            if not self._said_loopback:
                log.warning("the kubernetes service gets no endpoint: pods cannot reach %s", advertise)
            self._said_loopback = True
            return
        ports = [{"name": "https", "port": port, "protocol": "TCP"}]
        await self._put(
            "", "v1", "endpoints",
            {
                "metadata": {"name": "kubernetes", "namespace": "default",
                             "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
                "subsets": [{"addresses": [{"ip": advertise}], "ports": ports}],
            },
        )  # fmt: skip
        family = "IPv6" if ipaddress.ip_address(advertise).version == 6 else "IPv4"
        await self._put(
            "discovery.k8s.io", "v1", "endpointslices",
            {
                "metadata": {"name": "kubernetes", "namespace": "default",
                             "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": family,
                "endpoints": [{"addresses": [advertise], "conditions": {"ready": True}}],
                "ports": ports,
            },
        )  # fmt: skip

    async def _put(self, group: str, version: str, plural: str, obj: Object) -> None:
        kind = self._kind(group, version, plural)
        if kind is None:
            return
        await self._ensure(group, version, plural, obj)
        changes = {k: v for k, v in obj.items() if k != "metadata"}
        try:
            await self._update(kind, obj["metadata"]["namespace"], obj["metadata"]["name"], changes)
        except NotFound:
            log.warning("%s %s vanished while it was written", plural, obj["metadata"]["name"])
