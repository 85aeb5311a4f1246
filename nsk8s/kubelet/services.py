"""What of every Service goes into environment variables, watched. Touches: the API.

Upstream watches whole Services; of ten thousand a kubelet here keeps four fields each.
"""

from __future__ import annotations

import asyncio
import logging

from nsk8s.api import meta
from nsk8s.client.resources import SERVICES
from nsk8s.client.rest import Client, Unreachable
from nsk8s.errors import Gone, StatusError
from nsk8s.kubelet.env import ServiceInfo, service_info

log = logging.getLogger("services")


class ServiceCache:
    def __init__(self, client: Client) -> None:
        self.synced = asyncio.Event()
        self._client = client
        self._namespaces: dict[str, dict[str, ServiceInfo]] = {}

    def visible(self, namespace: str) -> list[ServiceInfo]:
        """The services of a namespace and of `default` (where `kubernetes` is)."""
        out = list(self._namespaces.get(namespace, {}).values())
        if namespace != "default" and "kubernetes" in self._namespaces.get("default", {}):
            out.append(self._namespaces["default"]["kubernetes"])
        return out

    def _put(self, obj: dict[str, object], deleted: bool) -> None:
        info = None if deleted else service_info(obj)
        names = self._namespaces.setdefault(meta.namespace(obj), {})
        if info is None:
            names.pop(meta.name(obj), None)
        else:
            names[info.name] = info

    async def run(self) -> None:
        version, delay = "", 0.1
        while True:
            try:
                if not version:
                    answer = await self._client.list(SERVICES, resource_version="0")
                    self._namespaces = {}
                    for item in answer.get("items") or []:
                        self._put(item, False)
                    version = answer["metadata"]["resourceVersion"]
                    self.synced.set()
                delay = 0.1
                async for event in self._client.watch(SERVICES, resource_version=version):
                    version = meta.resource_version(event.object)
                    if event.type != "BOOKMARK":
                        self._put(event.object, event.type == "DELETED")
                continue
            except Gone:
                version = ""
                continue
            except (Unreachable, StatusError) as e:
                log.warning("services: %s", e)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)
