"""ConfigMaps, Secrets and service account tokens that pods on this node use. Touches: the API.

Upstream: kubelet/util/manager (object caches), kubelet/token. Objects are read when a pod needs them and then once a sync
period, not watched one by one; every reader says how old an answer may be.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.resources import CONFIGMAPS, SECRETS, SERVICEACCOUNTS
from nsk8s.client.rest import Client
from nsk8s.errors import NotFound

KEEP_S = 300.0
MAX_TOKEN_TTL_S = 24 * 3600


class ObjectCache:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._objects: dict[tuple[str, str, str], tuple[float, Object | None]] = {}
        self._reading: dict[tuple[str, str, str], tuple[float, asyncio.Task[Object | None]]] = {}

    async def get(self, kind: str, namespace: str, name: str, not_before: float) -> Object | None:
        """The "configmaps" or "secrets" object as it was at `not_before` (time.monotonic) or later; None if there is none.

        What was missing is looked for each time: a pod that waits for it asks again and again, with a back-off of its own.
        """
        key = (kind, namespace, name)
        read_at, found = self._objects.get(key, (0.0, None))
        if found is not None and read_at >= not_before:
            return found
        reading = self._reading.get(key)
        if reading is None or reading[0] < not_before:
            now = time.monotonic()
            reading = now, asyncio.ensure_future(self._read(key, now))
            self._reading[key] = reading
        return await asyncio.shield(reading[1])

    async def _read(self, key: tuple[str, str, str], started: float) -> Object | None:
        kind, namespace, name = key
        try:
            found: Object | None = await self._client.get(CONFIGMAPS if kind == "configmaps" else SECRETS, name, namespace)
        except NotFound:
            found = None
        finally:
            if self._reading.get(key, (0.0, None))[0] == started:
                self._reading.pop(key, None)
        self._objects[key] = started, found
        return found

    def prune(self) -> None:
        """Forget what nobody has asked for lately."""
        limit = time.monotonic() - KEEP_S
        for key in [k for k, (read_at, _) in self._objects.items() if read_at < limit]:
            del self._objects[key]


class TokenManager:
    """Bound service account tokens by TokenRequest, renewed at 80 % of their life. Upstream: kubelet/token.Manager."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tokens: dict[tuple[str, str, str, int], tuple[str, float]] = {}

    async def get(self, pod: Object, audience: str, ttl_s: int) -> str:
        """A token for the pod's service account. Raises StatusError, Unreachable."""
        key = (meta.uid(pod), str(pod["spec"].get("serviceAccountName") or "default"), audience, ttl_s)
        token, renew_at = self._tokens.get(key, ("", 0.0))
        if token and time.time() < renew_at:
            return token
        body: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": ttl_s,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": meta.name(pod), "uid": meta.uid(pod)},
            },
        }
        path = SERVICEACCOUNTS.path(meta.namespace(pod), key[1], "token")
        answer: Any = await self._client.request("POST", path, body=body)
        status = answer["status"]
        expires = meta.parse_time(status["expirationTimestamp"]).timestamp()
        lifetime = expires - time.time()
        self._tokens[key] = str(status["token"]), time.time() + min(lifetime * 0.8, MAX_TOKEN_TTL_S)
        return str(status["token"])

    def forget(self, uid: str) -> None:
        for key in [k for k in self._tokens if k[0] == uid]:
            del self._tokens[key]
