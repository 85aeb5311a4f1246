"""Keeps an nginx true to the cluster's Ingresses. Touches: the API, and what `server` touches.

Upstream: ingress-nginx, internal/ingress/controller.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.component import until
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL, WARNING, EventRecorder
from nsk8s.client.informer import Informer
from nsk8s.client.resources import ENDPOINTSLICES, INGRESSCLASSES, INGRESSES, SECRETS, SERVICES
from nsk8s.client.rest import Client, Unreachable
from nsk8s.errors import Conflict, NotFound, Nsk8sError, StatusError
from nsk8s.ingress import model
from nsk8s.ingress.model import Problem, Site, View
from nsk8s.ingress.server import Nginx, certificate_problem

log = logging.getLogger("ingress")

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
SETTLE_S = 0.1
"""From an event to its work: what was applied together comes by several watches, and a Secret may come after its Ingress."""
MIN_INTERVAL_S = 0.3
"""Between two reloads: each leaves the old workers to finish what they have."""


class IngressController:
    """All work is one key of a work queue: any event makes the whole site be built again."""

    def __init__(self, nginx: Nginx, kubeconfig_path: str, publish_service: str) -> None:
        self._nginx = nginx
        self._kubeconfig = kubeconfig_path
        self._publish = publish_service
        self._said: set[Problem] = set()
        self._known: set[str] = set()
        self._good: dict[str, Object] = {}
        """The Ingresses that nginx took the last time."""
        self._checked: dict[str, tuple[str, tuple[str, str] | None]] = {}
        """Secret → resourceVersion, and what is wrong with it."""

    async def serve(self, stop: asyncio.Event) -> None:
        self._nginx.prepare()
        config = kubeconfig.load(self._kubeconfig) if self._kubeconfig else kubeconfig.in_cluster()
        async with Client(config, user_agent="nsk8s-ingress") as client:
            self._client = client
            self._events = EventRecorder(client, "nginx-ingress-controller")
            self._ingresses, self._classes = Informer(client, INGRESSES), Informer(client, INGRESSCLASSES)
            self._services, self._secrets = Informer(client, SERVICES), Informer(client, SECRETS)
            self._slices = Informer(client, ENDPOINTSLICES, indexers={"service": _service_of})
            informers = (self._ingresses, self._classes, self._services, self._secrets, self._slices)
            controller = Controller("ingress", self._reconcile, workers=1)
            for informer in informers:
                controller.watch(informer, lambda _: ["site"])
            try:
                await until(stop, *(i.run() for i in informers), controller.run(), self._events.run(), self._nginx.watch())
            finally:
                await self._nginx.quit()

    async def _reconcile(self, _: str) -> float | None:
        await asyncio.sleep(SETTLE_S)
        classes = self._classes.items()
        ingresses = {meta.key(i): i for i in self._ingresses.items() if model.ours(i, classes)}
        view = View(self._services.get, lambda key: self._slices.by_index("service", key), self._secret_problem)
        site = model.build(ingresses.values(), view)
        refused: set[Problem] = set()
        try:
            changed = await self._apply(site)
            self._good = ingresses
        except Nsk8sError as e:
            log.error("%s", e.message)
            # What nginx took before goes on, and follows its endpoints; what came since then is to blame.
            blame = [k for k, i in ingresses.items() if k not in self._good or _asked(i) != _asked(self._good[k])]
            refused = {Problem(key, "ConfigurationRefused", e.message[:900]) for key in blame}
            changed = await self._apply(model.build((self._good[k] for k in ingresses if k in self._good), view))
        self._tell(ingresses, {*site.problems, *refused})
        await self._publish_address(ingresses)
        if changed:
            await asyncio.sleep(MIN_INTERVAL_S)
        return None

    async def _apply(self, site: Site) -> bool:
        return await self._nginx.apply(site, {name: self._pair(name) for name in site.certificates})

    def _secret_problem(self, key: str) -> tuple[str, str] | None:
        secret = self._secrets.get(key)
        if secret is None:
            return "SecretNotFound", f"the Secret {key} does not exist: the fallback certificate is shown"
        version = meta.resource_version(secret)
        if self._checked.get(key, ("", None))[0] != version:
            self._checked[key] = version, _problem_of(key, secret)
        return self._checked[key][1]

    def _pair(self, key: str) -> tuple[str, str]:
        data = (self._secrets.get(key) or {}).get("data") or {}
        return base64.b64decode(data["tls.crt"]).decode(), base64.b64decode(data["tls.key"]).decode()

    def _tell(self, ingresses: dict[str, Object], problems: set[Problem]) -> None:
        """Events for what is new: an Ingress of ours, and what is wrong with one."""
        for key in set(ingresses) - self._known:
            self._events.event(ingresses[key], NORMAL, "Sync", "Scheduled for sync")
        self._known = set(ingresses)
        for problem in sorted(problems - self._said):
            self._events.event(ingresses[problem.ingress], WARNING, problem.reason, problem.message)
        self._said = problems

    async def _publish_address(self, ingresses: dict[str, Object]) -> None:
        """Write the addresses of our own Service into the Ingresses' status."""
        if not self._publish:
            return
        service = self._services.get(self._publish) or {}
        found = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        wanted = [{k: v for k, v in i.items() if k in ("ip", "hostname")} for i in found]
        for key, ingress in ingresses.items():
            have = ((ingress.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
            if have == wanted or meta.is_deleting(ingress):
                continue
            body = {
                "metadata": {"resourceVersion": meta.resource_version(ingress)},
                "status": {"loadBalancer": {"ingress": wanted or None}},
            }
            try:
                await self._client.patch(INGRESSES, meta.name(ingress), body, meta.namespace(ingress), subresource="status")
            except (Conflict, NotFound):
                continue  # the watch brings what it is now
            except (StatusError, Unreachable) as e:
                log.warning("status of %s: %s", key, e)


def _asked(ingress: Object) -> tuple[Object, dict[str, str]]:
    """What of an Ingress is its user's."""
    return ingress.get("spec") or {}, meta.annotations(ingress)


def _service_of(slice_: Object) -> list[str]:
    name = meta.labels(slice_).get(SERVICE_NAME_LABEL)
    return [f"{meta.namespace(slice_)}/{name}"] if name else []


def _problem_of(key: str, secret: Object) -> tuple[str, str] | None:
    data = secret.get("data") or {}
    if not data.get("tls.crt") or not data.get("tls.key"):
        return "BadSecret", f"the Secret {key} has no tls.crt and tls.key: the fallback certificate is shown"
    try:
        pair = [base64.b64decode(data[k]).decode() for k in ("tls.crt", "tls.key")]
    except (binascii.Error, ValueError):
        return "BadSecret", f"the Secret {key} holds no PEM text: the fallback certificate is shown"
    why = certificate_problem(*pair)
    return ("BadSecret", f"the Secret {key} holds no usable pair ({why}): the fallback certificate is shown") if why else None
