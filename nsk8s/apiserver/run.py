"""The server put together, started and stopped. Touches: sockets, files, the store."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import tempfile
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from nsk8s.api.kinds import BUILTIN
from nsk8s.api.scheme import Scheme
from nsk8s.apiserver import admission, notices, reviews, specials, verbs
from nsk8s.apiserver.authn import Authenticator, read_token_file
from nsk8s.apiserver.authz import Authorizer
from nsk8s.apiserver.bootstrap import Bootstrap
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.config import Config, Keys, load_keys
from nsk8s.apiserver.crd import CustomResources
from nsk8s.apiserver.discovery import Discovery
from nsk8s.apiserver.documents import Documents
from nsk8s.apiserver.iprepair import IPRepair
from nsk8s.apiserver.kubelet import KubeletProxy, client_context
from nsk8s.apiserver.registry import Registry, older_than
from nsk8s.apiserver.server import Server
from nsk8s.apiserver.services import ServiceAddresses
from nsk8s.apiserver.tokens import ServiceAccountTokens
from nsk8s.client import certs, kubeconfig
from nsk8s.client.component import until
from nsk8s.errors import Nsk8sError
from nsk8s.store.base import Store

log = logging.getLogger("kube-apiserver")

KEEPALIVE_S = 3600.0
"""An idle connection is kept this long: handshakes are what costs."""
SHUTDOWN_S = 2.0
BACKLOG = 1024
EVENT_SWEEP_S = 30.0


def open_store(config: Config) -> Store:
    """Raises Nsk8sError."""
    if config.in_memory:
        from nsk8s.store.memory import MemoryStore

        return MemoryStore()
    from nsk8s.store.sqlite import SQLiteStore

    directory = Path(config.data_dir)
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise Nsk8sError(f"cannot make the data directory {directory}: {e.strerror}") from e
    store = SQLiteStore(directory / "state.db")
    store.start()
    return store


def tls_context(keys: Keys) -> ssl.SSLContext:
    """Server side TLS that asks for, but does not insist on, a client certificate. Raises Nsk8sError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(keys.cert_file, keys.key_file)
        context.load_verify_locations(keys.client_ca_file)
    except (ssl.SSLError, OSError) as e:
        raise Nsk8sError(f"cannot use the server's certificate {keys.cert_file} or client CA {keys.client_ca_file}: {e}") from e
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0  # a third of a handshake: no client of ours resumes a session, kubectl has none to resume
    return context


def build(config: Config, keys: Keys, store: Store, cache: Cache) -> tuple[Server, Documents, KubeletProxy]:
    scheme = Scheme(BUILTIN)
    registry = Registry(store, cache)
    tokens = ServiceAccountTokens(config.service_account_issuer, keys.signing_key, keys.verify_keys, cache.get)
    static = read_token_file(Path(config.token_auth_file)) if config.token_auth_file else {}
    authenticator = Authenticator(static, tokens, anonymous=config.anonymous_auth)
    server = Server(scheme, store, cache, registry, authenticator, Authorizer(cache))
    if config.policies_enforced:
        server.acted_on.add(notices.POLICIES)
    verbs.register(server)
    specials.register(server, tokens)
    reviews.register(server)
    admission.install(
        registry,
        cache,
        admission.Settings(config.not_ready_toleration_s, config.unreachable_toleration_s, config.disabled_plugins),
    )
    services = scheme.resource("", "v1", "services")
    if services is not None:
        registry.hooks["services"] = ServiceAddresses(services, store, cache, config.service_networks, config.node_ports)
    documents = Documents(server, tokens)
    Discovery(server, f"{config.advertise_address}:{config.secure_port}")
    context = client_context(
        config.kubelet_client_certificate, config.kubelet_client_key, config.kubelet_certificate_authority
    )
    return server, documents, KubeletProxy(server, context)


async def serve(config: Config, stop: asyncio.Event) -> None:
    """Run until `stop`. Raises Nsk8sError."""
    scratch = config.in_memory and not config.cert_dir
    # Clients that come while the server is put together wait in the backlog instead of being refused and backing off.
    with (
        listening_socket(config) as sock,
        tempfile.TemporaryDirectory(prefix="nsk8s-apiserver-") if scratch else nullcontext("") as temporary,
    ):
        keys = load_keys(config, Path(config.cert_dir or temporary or Path(config.data_dir) / "pki"))
        store = open_store(config)
        try:
            await _serve(config, keys, store, sock, stop)
        finally:
            await store.close()


async def _serve(config: Config, keys: Keys, store: Store, sock: socket.socket, stop: asyncio.Event) -> None:
    cache = Cache(store)
    await cache.load()
    server, documents, kubelets = build(config, keys, store, cache)
    front = web.Server(server.handle, handler_cancellation=True, keepalive_timeout=KEEPALIVE_S, access_log=None,
                       max_line_size=64 * 1024, max_field_size=64 * 1024, lingering_time=2.0, logger=http_log())  # fmt: skip
    custom = CustomResources(server)
    loop = asyncio.get_running_loop()
    follower = loop.create_task(cache.follow())
    port = sock.getsockname()[1]
    try:
        await cache.ready.wait()
        # Before the first request is answered: a component that meets "forbidden" at its start backs off.
        bootstrap = Bootstrap(server.scheme, server.registry, cache)
        where = [config.service_ip()], config.advertise_address, port
        repair = IPRepair(server.scheme, server.registry, cache)
        await bootstrap.run(*where, [str(n) for n in config.service_networks])
        await repair.run_once()
        documents.bootstrapped = True
        if config.write_kubeconfig:
            write_admin_kubeconfig(config, keys, port)
        listener = await loop.create_server(front, sock=sock, ssl=tls_context(keys), backlog=BACKLOG)
        try:
            log.info("Serving securely on %s:%d", config.bind_address, port)
            await until(
                stop, _wait(follower), _sweep_events(server, config.event_ttl), custom.run(), bootstrap.keep(*where), repair.run()
            )
            documents.stopping = True
        finally:
            listener.close()
            cache.close()
            await front.shutdown(SHUTDOWN_S)
            await kubelets.close()
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


def http_log() -> logging.Logger:
    """The HTTP library's log without what clients do wrong on the wire: they are answered 400, and that is all."""
    logger = logging.getLogger("http")
    if not logger.filters:
        logger.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))
    return logger


async def _wait(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)


def listening_socket(config: Config) -> socket.socket:
    """Raises Nsk8sError."""
    family = socket.AF_INET6 if ":" in config.bind_address else socket.AF_INET
    try:
        # An unspecified IPv6 address means both families, as in Go.
        return socket.create_server(
            (config.bind_address, config.secure_port), family=family, backlog=BACKLOG,
            dualstack_ipv6=config.bind_address == "::" and socket.has_dualstack_ipv6(),
        )  # fmt: skip
    except OSError as e:
        if e.errno == errno.EADDRINUSE:
            raise Nsk8sError(
                f"port {config.secure_port} on {config.bind_address} is already in use",
                "stop what listens there or choose another --secure-port",
            ) from e
        raise Nsk8sError(f"cannot listen on {config.bind_address}:{config.secure_port}: {e.strerror or e}") from e


async def _sweep_events(server: Server, ttl: timedelta) -> None:
    kind = server.scheme.resource("", "v1", "events")
    while kind is not None:
        await asyncio.sleep(min(EVENT_SWEEP_S, max(1.0, ttl.total_seconds() / 4)))
        await server.registry.remove_expired(kind, older_than(ttl))


def write_admin_kubeconfig(config: Config, keys: Keys, port: int) -> None:
    """A kubeconfig in the group system:masters. Raises Nsk8sError without the authority's key."""
    if keys.ca is None:
        raise Nsk8sError("--write-kubeconfig needs the key of --client-ca-file beside it", "or leave out --client-ca-file")
    admin = certs.issue(keys.ca, "kubernetes-admin", ["system:masters", "kubeadm:cluster-admins"])
    host = "127.0.0.1" if config.bind_address == "0.0.0.0" else config.bind_address
    host = f"[{host}]" if ":" in host else host
    client = kubeconfig.ClientConfig(
        server=f"https://{host}:{port}", ca_pem=keys.ca.cert_pem, cert_pem=admin.cert_pem, key_pem=admin.key_pem
    )
    try:
        kubeconfig.write(config.write_kubeconfig, kubeconfig.render(client, "nsk8s", "kubernetes-admin"))
    except OSError as e:
        raise Nsk8sError(f"cannot write {config.write_kubeconfig}: {e.strerror}") from e
