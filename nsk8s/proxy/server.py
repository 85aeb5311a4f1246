"""kube-proxy at work: informers feed the proxiers, the runner syncs them. Upstream: cmd/kube-proxy/app/server.go.

Touches: the API, iptables, sysctls of its own namespace, TCP servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.component import until
from nsk8s.client.events import WARNING, EventRecorder
from nsk8s.client.informer import Informer, wait_synced
from nsk8s.client.resources import ENDPOINTSLICES, NODES, SERVICE_CIDRS, SERVICES
from nsk8s.client.rest import Client
from nsk8s.errors import Forbidden, NotFound, Nsk8sError
from nsk8s.kernel import iptables, nft, syscalls
from nsk8s.kernel.iptables import Iptables, IptablesError
from nsk8s.proxy import health, sysctls
from nsk8s.proxy.addresses import parse_cidr
from nsk8s.proxy.cleanup import clean_up_other_modes
from nsk8s.proxy.config import Config, parse_port_range, split_address
from nsk8s.proxy.configwatch import ConfigWatch
from nsk8s.proxy.iptables import IptablesProxier
from nsk8s.proxy.metrics import Metrics
from nsk8s.proxy.nftables import NftablesProxier
from nsk8s.proxy.nodeaddresses import NodePortAddresses
from nsk8s.proxy.nodefacts import NodeFacts, detector
from nsk8s.proxy.rules import Context
from nsk8s.proxy.runner import BoundedFrequencyRunner
from nsk8s.proxy.services import SELECTOR
from nsk8s.proxy.sync import FULL_SYNC_PERIOD_S, Proxier

log = logging.getLogger("proxy")

SERVICE_CIDRS_RETRY_S = 5.0
QUIET_S = 1.0
"""So long after a change it is looked at what became of the chains that did not change; in large clusters, syncPeriod."""
NODE_WAIT_S = 2.0
"""How long the first sync waits for what the node says of itself; a node that comes later causes a full sync."""


class Server:
    """One kube-proxy."""

    def __init__(self, config: Config, variant: str = "auto", master: str = "", watch: ConfigWatch | None = None) -> None:
        """`master`: the API server's URL, whatever the kubeconfig says. `watch`: on the file that `config` stood in."""
        self._config = config
        self._watch = watch
        self._master = master
        self._name = config.hostname_override or socket.gethostname().lower()
        self._variant, self._used_variant = variant, ""
        self._metrics = Metrics(config.mode)
        self._health = health.ProxyHealth(2 * config.sync_period_s)
        self._facts = NodeFacts.of(None, config.bind_address)
        self._proxiers: list[tuple[bool, Proxier]] = []
        self._described = config.mode
        self._contexts: dict[bool, Context] = {}
        self._runner = BoundedFrequencyRunner(
            self._sync, min_interval_s=config.min_sync_period_s, retry_s=config.sync_period_s, max_interval_s=FULL_SYNC_PERIOD_S
        )
        self._synced = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        self._ready = False
        self._cleaned = False
        self._service_health = health.ServiceHealth(self._health, self._no_health_check)
        self._events: EventRecorder | None = None

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`. Rules stay when it ends, so that connections go on."""
        for warning in self._config.warnings:
            log.warning("%s", warning)
        self.initialise()
        async with Client(self._client_config()) as client:
            self._events = EventRecorder(client, "kube-proxy", self._name)
            services = Informer(client, SERVICES, label_selector=SELECTOR, keep=who)
            slices = Informer(client, ENDPOINTSLICES, label_selector=SELECTOR, keep=who)
            node = Informer(client, NODES, field_selector=f"metadata.name={self._name}")
            services.add_handler(self._service_changed)
            slices.add_handler(self._slice_changed)
            node.add_handler(self._node_changed)
            log.info("kube-proxy on %s: %s mode, %s", self._name, self._config.mode, self._described)
            if self._config.mode == "iptables":
                log.info("no nfacct counters are kept: the metrics based on them are not available")
            try:
                await until(
                    stop, services.run(), slices.run(), node.run(), self._start_syncing(services, slices, node),
                    self._watch_canaries(), self._watch_chains(), self._watch_service_cidrs(client), self._events.run(),
                    *self._servers(), *([self._watch.run()] if self._watch else []),
                )  # fmt: skip
            finally:
                await self._service_health.close()

    def initialise(self) -> None:
        """What needs root at the start: the programs found, this process' and this namespace's settings. Raises Nsk8sError."""
        refuse_root_namespace()
        self._start_proxiers()
        sysctls.apply_conntrack(self._config)
        sysctls.apply_oom_score(self._config.oom_score_adj)

    def _client_config(self) -> kubeconfig.ClientConfig:
        if not self._config.kubeconfig:
            return kubeconfig.ClientConfig(self._master) if self._master else kubeconfig.in_cluster()
        config = kubeconfig.load(self._config.kubeconfig)
        return replace(config, server=self._master) if self._master else config

    def _start_proxiers(self) -> None:
        if self._config.mode == "nftables":
            program = nft.detect()
            self._described = f"nft {'.'.join(map(str, program.version))}"
            for ipv6 in (False, True):
                addresses, context = self._prepare(ipv6)
                self._proxiers.append((ipv6, NftablesProxier(program, context, self._name, addresses, self._metrics)))
            return
        if self._config.mode == "ipvs":
            self._require_ipvs()
        used = iptables.detect(self._variant)
        self._used_variant = used.variant
        self._described = f"iptables {'.'.join(map(str, used.version))} ({used.variant})"
        try:
            # Both families in one variant: rules in two worlds would be half invisible.
            families = [used, iptables.detect(used.variant, ipv6=True)]
        except IptablesError as e:
            log.warning("no IPv6 services: %s", e)
            families = [used]
        for programs in families:
            addresses, context = self._prepare(programs.ipv6, programs.has_random_fully)
            self._proxiers.append((programs.ipv6, self._iptables_proxier(programs, context, addresses)))

    def _iptables_proxier(self, programs: Iptables, context: Context, addresses: NodePortAddresses) -> Proxier:
        if self._config.mode == "iptables":
            return IptablesProxier(programs, context, self._name, addresses, self._metrics)
        if self._config.mode == "ipvs":
            return self._ipvs_proxier(programs, context, addresses)
        from nsk8s.proxy.proxysocket import Sockets  # their code costs other modes nothing
        from nsk8s.proxy.userspace import UserspaceProxier

        sockets = Sockets(programs.ipv6, self._config.udp_idle_timeout_s, parse_port_range(self._config.port_range))
        return UserspaceProxier(programs, context, self._name, addresses, self._metrics, sockets)

    def _require_ipvs(self) -> None:
        """Raises Nsk8sError, naming what this kernel lacks."""
        from nsk8s.kernel import ipvsprobe
        from nsk8s.kernel.ipvs import Ipvs

        ipvsprobe.require(self._config.ipvs_scheduler)
        sysctls.apply_ipvs(self._config.ipvs_strict_arp)
        timeouts = (self._config.ipvs_tcp_timeout_s, self._config.ipvs_tcp_fin_timeout_s, self._config.ipvs_udp_timeout_s)
        if any(timeouts):
            with Ipvs() as ipvs:
                ipvs.set_timeouts(*map(int, timeouts))

    def _ipvs_proxier(self, programs: Iptables, context: Context, addresses: NodePortAddresses) -> Proxier:
        from nsk8s.kernel.ipvsstate import IpvsState
        from nsk8s.proxy.ipvs import IpvsProxier, Settings

        excluded = tuple(n for n in map(parse_cidr, self._config.ipvs_exclude_cidrs) if n is not None)
        settings = Settings(self._config.ipvs_scheduler, excluded)
        return IpvsProxier(programs, IpvsState(), context, self._name, addresses, self._metrics, settings)

    def _prepare(self, ipv6: bool, random_fully: bool = True) -> tuple[NodePortAddresses, Context]:
        addresses = NodePortAddresses(self._config.node_port_addresses, ipv6)
        wanted = self._config.localhost_node_ports and self._config.mode == "iptables"
        localhost = wanted and not ipv6 and addresses.contains_loopback
        if localhost:
            localhost = sysctls.ensure(sysctls.ROUTE_LOCALNET, 1)
        context = Context(
            ipv6=ipv6,
            detector=detector(self._config, self._facts, ipv6),
            masquerade_all=self._config.masquerade_all,
            masquerade_bit=self._config.masquerade_bit,
            random_fully=random_fully,
            localhost_node_ports=localhost,
            tcp_be_liberal=self._config.tcp_be_liberal or bool(sysctls.read(sysctls.BE_LIBERAL)),
        )
        self._contexts[ipv6] = context
        return addresses, context

    # ── what the informers say ─────────────────────────────────────────────────────────────────────────────────────────

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        self._queue([p for _, p in self._proxiers if p.service_changed(old, new)])

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        self._queue([p for _, p in self._proxiers if p.slice_changed(old, new)])

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:  # its addresses stay until somebody takes them away: connections go on
            self._facts = replace(self._facts, zone="", eligible=False)
        else:
            self._facts = NodeFacts.of(new, self._config.bind_address)
        self._health.node_eligible = self._facts.eligible
        changed = []
        for ipv6, proxier in self._proxiers:
            context = replace(
                self._contexts[ipv6], detector=detector(self._config, self._facts, ipv6), node_ip=self._facts.ip(ipv6)
            )
            ips = (self._facts.ip(ipv6),) if self._facts.ip(ipv6) else ()
            if proxier.node_changed(zone=self._facts.zone, context=context, node_ips=ips):
                changed.append(proxier)
        self._queue(changed)

    async def _watch_service_cidrs(self, client: Client) -> None:
        """nftables mode drops what goes to unallocated ClusterIPs, if the API tells which those are."""
        if self._config.mode == "nftables":
            with contextlib.suppress(NotFound, Forbidden):
                while True:
                    try:
                        await client.list(SERVICE_CIDRS)
                        break
                    except (NotFound, Forbidden):
                        raise
                    except Nsk8sError as e:
                        log.debug("ServiceCIDRs: %s", e)
                        await asyncio.sleep(SERVICE_CIDRS_RETRY_S)
                informer = Informer(client, SERVICE_CIDRS)
                informer.add_handler(lambda old, new: self._service_cidrs_changed(informer))
                await informer.run()
        await asyncio.Event().wait()

    def _service_cidrs_changed(self, informer: Informer) -> None:
        cidrs = {c for each in informer.items() for c in (each.get("spec") or {}).get("cidrs") or []}
        self._queue([p for _, p in self._proxiers if isinstance(p, NftablesProxier) and p.service_cidrs_changed(cidrs)])

    def _queue(self, changed: Iterable[Proxier]) -> None:
        for proxier in changed:
            self._health.queued(proxier.family)
            proxier.note_queued()
            if self._ready:
                self._runner.request()

    # ── syncing ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _start_syncing(self, services: Informer, slices: Informer, node: Informer) -> None:
        """Nothing is written before Services and EndpointSlices were listed: half a list would cut what works."""
        await wait_synced(services, slices)
        try:
            async with asyncio.timeout(NODE_WAIT_S):
                await node.synced.wait()
        except TimeoutError:
            log.warning("node %s could not be read yet", self._name)
        if self._config.detect_local_mode == "NodeCIDR":
            while not self._facts.pod_cidrs:
                log.info("waiting for node %s to get a pod CIDR", self._name)
                await asyncio.sleep(1)
        for ipv6 in (False, True):
            by_cluster = self._config.detect_local_mode == "ClusterCIDR" and self._config.cluster_cidr
            if by_cluster and self._facts.has(ipv6) and not detector(self._config, self._facts, ipv6):
                log.warning("clusterCIDR has no IPv%d CIDR: local traffic of that family is not told apart", 6 if ipv6 else 4)
        self._ready = True
        self._runner.request()
        await self._runner.loop()

    async def _sync(self) -> bool:
        good = True
        for ipv6, proxier in self._proxiers:
            if not (proxier.has_work and (proxier.is_needed or self._facts.has(ipv6))):
                proxier.nothing_pending()
                self._health.nothing_to_do(proxier.family)
            elif await proxier.sync():
                self._health.updated(proxier.family)
            else:
                good = False
        if good and not self._cleaned:  # only now, so that no Service is without rules in between
            self._cleaned = True
            seen = {mode for _, p in self._proxiers for mode in p.seen}
            await clean_up_other_modes(self._config.mode, seen, self._used_variant)
            self._settle()
        self._synced.set()
        await self._sync_service_health()
        wishes = [p.wants_another_s for _, p in self._proxiers if p.wants_another_s]
        if wishes:
            if self._again is not None:
                self._again.cancel()
            self._again = asyncio.get_running_loop().call_later(min(wishes), self._runner.request)
        return good

    def _settle(self) -> None:
        """What the first sync has made stays: no collection needs to look through it (0.1 s and more at 10,000 Services)."""
        gc.freeze()
        if any(proxier.is_large for _, proxier in self._proxiers):
            syscalls.trim_heap()

    async def _sync_service_health(self) -> None:
        """One server a Service, on the addresses of the families it has."""
        ports: dict[str, health.Listening] = {}
        local: dict[str, int] = {}
        for ipv6, proxier in self._proxiers:
            found = proxier.health_check_ports()
            here = self._node_port_addresses(ipv6) if found else ()
            for key, port in found.items():
                ports[key] = (port, (*(ports[key][1] if key in ports else ()), *here))
            for key, count in proxier.local_ready_counts().items():
                local[key] = max(local.get(key, 0), count)
        await self._service_health.sync(ports, local)

    def _no_health_check(self, service: str, message: str) -> None:
        namespace, _, name = service.partition("/")
        about = {"kind": "Service", "apiVersion": "v1", "metadata": {"namespace": namespace, "name": name}}
        if self._events is not None:
            self._events.event(about, WARNING, "FailedToStartServiceHealthcheck", f"node {self._name} {message}")

    def _node_port_addresses(self, ipv6: bool) -> tuple[str, ...]:
        node_ips = tuple(filter(None, [self._facts.ip(ipv6)]))
        current = NodePortAddresses(self._config.node_port_addresses, ipv6, node_ips).current()
        if current is None:
            return ("::" if ipv6 else "0.0.0.0",)
        return tuple(current)

    async def _watch_canaries(self) -> None:
        """Every syncPeriod, look whether the rules are still there; if someone flushed them, write everything again."""

        async def are_gone(proxier: Proxier) -> bool:
            return not await proxier.is_intact()

        while True:
            await asyncio.sleep(self._config.sync_period_s)
            await self._write_again_where(are_gone)

    async def _watch_chains(self) -> None:
        """Once nothing has changed for a while, heal what the changes' syncs would have healed upstream."""
        while True:
            await self._synced.wait()
            while self._synced.is_set():
                self._synced.clear()
                await asyncio.sleep(self._config.sync_period_s if any(p.is_large for _, p in self._proxiers) else QUIET_S)
            await self._write_again_where(lambda proxier: proxier.lost_rules())

    async def _write_again_where(self, is_wrong: Callable[[Proxier], Awaitable[bool]]) -> None:
        for _, proxier in self._proxiers:
            try:
                if not proxier.has_written or not await is_wrong(proxier):
                    continue
            except (Nsk8sError, OSError) as e:
                log.warning("cannot look after the rules: %s", e)
                continue
            proxier.force_full_sync()
            self._queue([proxier])

    # ── servers ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _servers(self) -> list[asyncio.Future[None]]:
        found = []
        hard_fail = self._config.bind_address_hard_fail
        if self._config.healthz_bind_address:
            host, port = split_address("healthzBindAddress", self._config.healthz_bind_address)
            server = health.HttpServer(self._answer_health, lambda: health.NOSNIFF)
            found.append(health.serve("healthz", server, host, port, hard_fail))
        if self._config.metrics_bind_address:
            host, port = split_address("metricsBindAddress", self._config.metrics_bind_address)
            found.append(health.serve("metrics", health.HttpServer(self._answer_metrics), host, port, hard_fail))
        return [asyncio.ensure_future(f) for f in found]

    def _answer_health(self, path: str) -> health.Answer | None:
        if path == "/healthz":
            return health.healthz(self._health, self._metrics)
        if path == "/livez":
            return health.livez(self._health, self._metrics)
        return None

    def _answer_metrics(self, path: str) -> health.Answer | None:
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4", self._metrics.render()
        if path == "/proxyMode":
            return 200, "text/plain", self._config.mode
        if path == "/configz":
            from nsk8s.proxy.configfile import API_VERSION, to_document

            return 200, "application/json", json.dumps({API_VERSION.partition("/")[0]: to_document(self._config)})
        return (200, "text/plain", "ok") if path == "/healthz" else None


def who(obj: Object) -> Object:
    """What the informers keep of an object whose content the proxiers hold as values. Pure."""
    return {"metadata": {f: v for f, v in obj["metadata"].items() if f in ("name", "namespace", "resourceVersion", "labels")}}


def refuse_root_namespace() -> None:
    """Raises Nsk8sError in the machine's own network namespace: nsk8s never writes rules there."""
    if iptables.in_root_namespace():
        raise Nsk8sError(
            "this is the machine's own network namespace, whose rules are left alone",
            "start it in a node's: ip netns exec NAMESPACE nsk8s component …",
        )
