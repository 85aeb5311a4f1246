"""ServiceAccount: every pod runs as an account, and finds its token, the CA and its namespace in the usual place.

Upstream: plugin/pkg/admission/serviceaccount.
"""

from __future__ import annotations

import asyncio

from nsk8s.api.meta import Object
from nsk8s.apiserver import failures
from nsk8s.apiserver.cache import DELETED, Cache, Change
from nsk8s.apiserver.call import Call
from nsk8s.apiserver.registry import generated
from nsk8s.apiserver.tokens import BOUND_EXTENSION_S

MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX = "kube-api-access-"
MIRROR = "kubernetes.io/config.mirror"
ACCOUNT_WAIT_S = 2.0
"""How long a pod's create waits for the account that a controller may be about to make (upstream: 1 s in steps)."""


class ServiceAccount:
    def __init__(self, cache: Cache) -> None:
        self._accounts = cache.resource("serviceaccounts")
        self._waiters: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._accounts.on_change(self._seen)

    async def admit(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if operation != "CREATE" or call.kind.group_resource != "pods" or obj is None:
            return
        metadata, spec = obj["metadata"], obj.get("spec") or {}
        if MIRROR in (metadata.get("annotations") or {}):
            if spec.get("serviceAccountName"):
                raise failures.forbidden(call.kind, metadata["name"], "a mirror pod may not reference service accounts")
            return
        name = spec.setdefault("serviceAccountName", "default") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = await self._account(metadata["namespace"], name)
        if account is None:
            raise failures.forbidden(
                call.kind,
                metadata.get("name", ""),
                f'error looking up service account {metadata["namespace"]}/{name}: serviceaccount "{name}" not found',
            )
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [dict(s) for s in account["imagePullSecrets"]]
        if _wants_token(spec, account):
            mount_token(spec)

    async def _account(self, namespace: str, name: str) -> Object | None:
        """The account; `default` ones are made by a controller just after their namespace, so wait a moment for those."""
        found = self._accounts.get(namespace, name)
        if found is not None:
            return found
        key = (namespace, name)
        future = self._waiters.get(key)
        if future is None:
            future = self._waiters[key] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ACCOUNT_WAIT_S):
                await asyncio.shield(future)
        except TimeoutError:
            self._waiters.pop(key, None)
        return self._accounts.get(namespace, name)

    def _seen(self, change: Change) -> None:
        metadata = change.obj["metadata"]
        if change.type != DELETED:
            future = self._waiters.pop((metadata["namespace"], metadata["name"]), None)
            if future is not None and not future.done():
                future.set_result(None)


def _wants_token(spec: Object, account: Object) -> bool:
    if spec.get("automountServiceAccountToken") is not None:
        return bool(spec["automountServiceAccountToken"])
    return account.get("automountServiceAccountToken") is not False


def mount_token(spec: Object) -> None:
    """Add the projected volume (if a container still lacks the mount) and mount it in every container."""
    containers = [c for field in ("initContainers", "containers") for c in spec.get(field) or ()]
    lacking = [c for c in containers if not any(m.get("mountPath") == MOUNT_PATH for m in c.get("volumeMounts") or ())]
    if not lacking:
        return
    volumes = spec.get("volumes") or []
    volume = next((v["name"] for v in volumes if str(v.get("name", "")).startswith(VOLUME_PREFIX)), "")
    if not volume:
        volume = generated(VOLUME_PREFIX)
        spec["volumes"] = [*volumes, token_volume(volume)]
    for container in lacking:
        mount = {"name": volume, "readOnly": True, "mountPath": MOUNT_PATH}
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]


def token_volume(name: str) -> Object:
    return {
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": BOUND_EXTENSION_S, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {
                    "downwardAPI": {
                        "items": [
                            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                        ]
                    }
                },
            ],
        },
    }
