"""From Ingresses to what a web server must do: hosts, paths, backends, certificates. Pure.

Upstream: ingress-nginx, internal/ingress/controller.
Of several Ingresses that say something about the same host and path the oldest is right. What cannot be done is a `Problem`,
and the rest is done all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from nsk8s.api import meta
from nsk8s.api.meta import Object

CONTROLLER = "nsk8s.dev/ingress"
CLASS_ANNOTATION = "kubernetes.io/ingress.class"
DEFAULT_CLASS_ANNOTATION = "ingressclass.kubernetes.io/is-default-class"
ANNOTATIONS = "nginx.ingress.kubernetes.io/"
SSL_REDIRECT, REWRITE_TARGET, USE_REGEX = (ANNOTATIONS + name for name in ("ssl-redirect", "rewrite-target", "use-regex"))
_HOST = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
CATCH_ALL = ""
"""The host of rules without a host."""


@dataclass(frozen=True, order=True)
class Problem:
    """Something an Ingress asks for that cannot be had; becomes an Event of that Ingress."""

    ingress: str
    reason: str
    message: str


@dataclass(frozen=True, order=True)
class Location:
    """Requests for a path, and where they lead: an upstream's name, or nothing (503). `exact`, or else everything below.

    With `regex` the path is a regular expression for the beginning, and `rewrite` what it is replaced by (empty: nothing is).
    """

    path: str
    exact: bool
    upstream: str
    redirect: bool = False
    """Plain HTTP is sent to HTTPS."""
    regex: bool = False
    rewrite: str = ""


@dataclass(frozen=True)
class Server:
    """One host (exact, `*.example.com`, or CATCH_ALL); `certificate` is `namespace/secret`, or empty for the fallback."""

    host: str
    locations: tuple[Location, ...]
    certificate: str = ""


@dataclass(frozen=True)
class Site:
    """Everything; upstreams without an address answer 503."""

    servers: tuple[Server, ...] = ()
    upstreams: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    externals: Mapping[str, str] = field(default_factory=dict)
    """Upstreams that are a name outside, `host:port`: Services of type ExternalName."""
    certificates: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class View:
    """What is looked up by key: `namespace/name`."""

    service: Callable[[str], Object | None]
    slices: Callable[[str], Iterable[Object]]
    secret_problem: Callable[[str], tuple[str, str] | None]
    """(reason, message) when a Secret is not there or holds no usable certificate."""


def ours(ingress: Object, classes: Iterable[Object]) -> bool:
    """Whether an Ingress is of one of our classes: by name, by the old annotation, or by default."""
    named = {meta.name(c): c for c in classes if (c.get("spec") or {}).get("controller") == CONTROLLER}
    wanted = (ingress.get("spec") or {}).get("ingressClassName")
    if wanted is None:
        wanted = meta.annotations(ingress).get(CLASS_ANNOTATION)
    if wanted is None:
        return any(meta.annotations(c).get(DEFAULT_CLASS_ANNOTATION) == "true" for c in named.values())
    return wanted in named


def build(ingresses: Iterable[Object], view: View) -> Site:
    builder = _Builder(view)
    for ingress in sorted(ingresses, key=lambda i: (i["metadata"].get("creationTimestamp") or "", meta.key(i))):
        builder.add(ingress)
    return builder.site()


class _Builder:
    def __init__(self, view: View) -> None:
        self._view = view
        self._locations: dict[str, dict[tuple[str, bool], tuple[Location, str, bool]]] = {CATCH_ALL: {}}
        """Host → (path, exact) → location, the Ingress it is from, and whether a rule asked for just that."""
        self._defaults: dict[str, Location] = {}
        self._certificates: dict[str, str] = {}
        self._upstreams: dict[str, tuple[str, ...]] = {}
        self._externals: dict[str, str] = {}
        self._problems: set[Problem] = set()

    def site(self) -> Site:
        servers = []
        for host, found in sorted(self._locations.items()):
            locations = [location for location, _, _ in found.values()]
            if host in self._defaults and ("/", False) not in found:
                locations.append(self._defaults[host])
            if locations or host == CATCH_ALL:
                certificate = self._certificates.get(host) or self._certificates.get(_wildcard(host), "")
                servers.append(Server(host, tuple(sorted(locations)), certificate))
        used = sorted({s.certificate for s in servers if s.certificate})
        upstreams, externals = dict(sorted(self._upstreams.items())), dict(sorted(self._externals.items()))
        return Site(tuple(servers), upstreams, externals, tuple(used), tuple(sorted(self._problems)))

    def add(self, ingress: Object) -> None:
        spec, key = ingress.get("spec") or {}, meta.key(ingress)
        for name in sorted(meta.annotations(ingress)):
            if name.startswith(ANNOTATIONS) and name not in (SSL_REDIRECT, REWRITE_TARGET, USE_REGEX):
                self._problem(key, "UnsupportedAnnotation", f"the annotation {name} is not supported and has no effect")
        rules = spec.get("rules") or []
        hosts = [rule.get("host") or CATCH_ALL for rule in rules]
        secured = self._tls(ingress, hosts)
        redirect = meta.annotations(ingress).get(SSL_REDIRECT) != "false"
        if spec.get("defaultBackend"):
            upstream = self._upstream(key, spec["defaultBackend"])
            for host in {*hosts, CATCH_ALL}:
                self._locations.setdefault(host, {})
                self._defaults.setdefault(host, Location("/", False, upstream, redirect and host in secured))
        for host, rule in zip(hosts, rules, strict=True):
            self._locations.setdefault(host, {})
            for path in (rule.get("http") or {}).get("paths") or []:
                self._path(ingress, host, path, redirect and host in secured)

    def _path(self, ingress: Object, host: str, path: Object, redirect: bool) -> None:
        key, notes = meta.key(ingress), meta.annotations(ingress)
        rewrite = notes.get(REWRITE_TARGET, "")
        kind = path.get("pathType") or "ImplementationSpecific"
        regex = kind != "Exact" and (bool(rewrite) or notes.get(USE_REGEX) == "true")
        text = path.get("path") or "/"
        if not regex:
            text = unquote(text)
        if any(ord(c) < 32 or ord(c) == 127 for c in text + rewrite):
            self._problem(key, "BadPath", f"the path {text!r} holds control characters")
            return
        upstream = self._upstream(key, path.get("backend") or {})
        for where, exact, asked in [(text, False, True)] if regex else _places(text, kind):
            known = self._locations[host].get((where, exact))
            # A rule for just this path goes before one that includes it: Exact /a before Prefix /a.
            if known is not None and (known[2] or not asked):
                if known[2] and asked and known[1] != key:
                    other = f"{known[1]} has {host or '*'}{where} already"
                    self._problem(key, "PathConflict", f"{other}, and is older: this rule has no effect")
                continue
            self._locations[host][where, exact] = Location(where, exact, upstream, redirect, regex, rewrite), key, asked

    def _upstream(self, key: str, backend: Object) -> str:
        """The name of a backend's upstream; empty when there is none."""
        wanted = backend.get("service")
        if not wanted:
            self._problem(key, "UnsupportedBackend", "only backends that are Services are supported")
            return ""
        namespace, _ = meta.split_key(key)
        name, port = wanted.get("name") or "", wanted.get("port") or {}
        service = self._view.service(f"{namespace}/{name}")
        if service is None:
            self._problem(key, "ServiceNotFound", f"the Service {namespace}/{name} does not exist")
            return ""
        spec = service.get("spec") or {}
        asked = port.get("name") or port.get("number")
        found = next((p for p in spec.get("ports") or [] if asked in (p.get("name"), p.get("port"))), None)
        # Dots keep namespace and Service apart: neither has one, and both have dashes.
        upstream = f"{namespace}.{name}.{asked}"
        if spec.get("type") == "ExternalName":
            host, number = str(spec.get("externalName") or "").rstrip("."), _external_port(found, asked)
            if not _HOST.fullmatch(host) or not number:
                self._problem(key, "ServicePortNotFound", f"the Service {namespace}/{name} leads to no host and port {asked}")
                return ""
            self._externals[upstream] = f"{host}:{number}"
            return upstream
        if found is None or found.get("protocol", "TCP") != "TCP":
            self._problem(key, "ServicePortNotFound", f"the Service {namespace}/{name} has no TCP port {asked}")
            return ""
        self._upstreams[upstream] = endpoints(self._view.slices(f"{namespace}/{name}"), found.get("name") or "")
        return upstream

    def _tls(self, ingress: Object, hosts: list[str]) -> set[str]:
        """Note the certificates; the hosts that have TLS."""
        key, secured = meta.key(ingress), set()
        namespace, _ = meta.split_key(key)
        for tls in (ingress.get("spec") or {}).get("tls") or []:
            named = tls.get("hosts") or hosts or [CATCH_ALL]
            secured |= set(named)
            if not tls.get("secretName"):
                continue
            secret = f"{namespace}/{tls['secretName']}"
            problem = self._view.secret_problem(secret)
            if problem is not None:
                self._problem(key, *problem)
                continue
            for host in named:
                self._certificates.setdefault(host, secret)
        return {h for h in hosts if h in secured or _wildcard(h) in secured}

    def _problem(self, key: str, reason: str, message: str) -> None:
        self._problems.add(Problem(key, reason, message))


def _external_port(port: Object | None, asked: object) -> int:
    """A number needs no port in the Service; 0 if there is none."""
    if port is None:
        return asked if isinstance(asked, int) else 0
    target = port.get("targetPort")
    return target if isinstance(target, int) and target else int(port["port"])


def _wildcard(host: str) -> str:
    return "*." + host.partition(".")[2]


def _places(path: str, kind: str) -> list[tuple[str, bool, bool]]:
    """(path, exact, whether just this was asked for) of the locations that a rule's path needs.

    Prefix compares element by element: /a is /a and /a/…, not /ab. ImplementationSpecific is nginx' own prefix: /ab too.
    """
    if kind == "Exact":
        return [(path, True, True)]
    if kind != "Prefix":
        return [(path, False, True)]
    bare = path.rstrip("/")
    return [(bare + "/", False, True), (bare, True, False)] if bare else [("/", False, True)]


def endpoints(slices: Iterable[Object], port_name: str) -> tuple[str, ...]:
    """`ip:port` of the ready endpoints behind a Service's port, sorted."""
    found = set()
    for slice_ in slices:
        ports = [p["port"] for p in slice_.get("ports") or [] if (p.get("name") or "") == port_name and p.get("port")]
        if slice_.get("addressType") == "FQDN":
            continue
        for endpoint in slice_.get("endpoints") or []:
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            for ip in (endpoint.get("addresses") or [])[:1]:
                found |= {f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for port in ports}
    return tuple(sorted(found))
