"""`router-agent`: the router leads load balancers' addresses, services and pods to the nodes. Touches: the API, netlink, sysctls
of its namespace.

Counterpart: what a data centre's router learns by BGP from MetalLB's speakers. It runs on the router machine and knows of the
cluster what the API server tells it. Its routes carry nsk8s' protocol number and stay when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.birdkeeper import BirdKeeper
from nsk8s.client.component import until
from nsk8s.client.controller import Controller
from nsk8s.client.informer import Informer
from nsk8s.client.podnetconfig import PodNetworkConfig
from nsk8s.client.resources import ENDPOINTSLICES, NODES, SERVICE_CIDRS, SERVICES
from nsk8s.client.rest import Client
from nsk8s.kernel.bird import BirdError
from nsk8s.kernel.routes import PROTOCOL
from nsk8s.kernel.rtmsg import NUD_FAILED, RT_SCOPE_UNIVERSE
from nsk8s.kernel.rtnl import Rtnl
from nsk8s.loadbalancer import nodes
from nsk8s.loadbalancer.pool import Pool
from nsk8s.net import bird, podnet
from nsk8s.net.podnet import BRIDGE_S, DEFAULT, SETTLE_S, Bgp, Settings

log = logging.getLogger("router-agent")

ASK_AGAIN_S = 1.0
"""How often next hops that no longer answer are asked again."""
RESYNC_S = 30.0
"""How often the routes are looked after when nothing happens: someone may have removed them."""
_KEY = "routes"
SYSCTLS = {
    # By addresses and ports: or all connections of a client to a service would take the same path.
    "net/ipv4/fib_multipath_hash_policy": "1",
    # A next hop that no longer answers ARP is passed over, long before its Node is NotReady.
    "net/ipv4/fib_multipath_use_neigh": "1",
    # How soon that is noticed, in place of BFD: up to 7.5 s it is believed (the kernel draws half to one and a half of this),
    # 1 s more passes before it is asked, and 1.5 s until three questions are unanswered.
    "net/ipv4/neigh/{inside}/base_reachable_time_ms": "5000",
    "net/ipv4/neigh/{inside}/delay_first_probe_time": "1",
    "net/ipv4/neigh/{inside}/retrans_time_ms": "500",
}
SYSCTLS6 = {"net/ipv6/fib_multipath_hash_policy": "1"}
"""IPv6 routers pass over no next hop by themselves: one that is dead is left out when its Node is NotReady."""
INSIDE, OUTSIDE = "eth0", "eth1"
"""The router's interfaces; with racks there are more inside."""

BACK_PRIORITY = PROTOCOL + 1
"""Of the rules for services; the pool's, which `up` makes, has PROTOCOL."""

OUTSIDE_PRIORITY = PROTOCOL + 2

Routes = Mapping[str, tuple[str, ...]]
"""destination → gateways; without one the destination is unreachable."""


def changes(have: Routes, want: Routes) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """(routes to set, destinations to remove) that turn `have` into `want`. Pure."""
    to_set = {dst: via for dst, via in want.items() if have.get(dst) != via}
    return to_set, [dst for dst in have if dst not in want]


def held(rtnl: Rtnl) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Our routes in the main table, and the destinations that somebody else routes, or that are on a link (layer 2 pools)."""
    found, foreign = {}, set()
    for route in rtnl.routes():
        if route.protocol != PROTOCOL or (route.kind == "unicast" and not route.gateway and not route.nexthops):
            foreign.add(route.dst)
        else:
            hops = tuple(sorted(gateway for gateway, _ in route.nexthops)) or ((route.gateway,) if route.gateway else ())
            found[route.dst] = hops
    return found, foreign


def ensure(want: Routes) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Make our routes exactly `want`; what was set and what was removed. Raises OSError.

    A destination that somebody else has a route to is left to them.
    """
    with Rtnl() as rtnl:
        have, foreign = held(rtnl)
        to_set, to_remove = changes(have, {dst: hops for dst, hops in want.items() if dst not in foreign})
        for dst, hops in to_set.items():
            if len(hops) > 1:
                rtnl.route_replace(dst, nexthops=hops, protocol=PROTOCOL)
            elif hops:
                rtnl.route_replace(dst, gateway=hops[0], protocol=PROTOCOL)
            else:
                rtnl.route_replace(dst, kind="unreachable", protocol=PROTOCOL)
        for dst in to_remove:
            with contextlib.suppress(ProcessLookupError):  # ESRCH: gone already
                rtnl.route_del(dst, kind="unicast" if have[dst] else "unreachable", protocol=PROTOCOL)
    return to_set, to_remove


def ask_again() -> list[str]:
    """Ask by ARP for the next hops of our routes that once gave no answer; those that were asked. Raises OSError.

    The kernel would not: it passes them over (fib_multipath_use_neigh), so no packet makes it ask, and a node that is back
    would be left out for as long as nothing else is sent to it.
    """
    with Rtnl() as rtnl:
        failed = {n.ip: n.index for n in rtnl.neighs(family=socket.AF_INET) if n.state & NUD_FAILED}
        if not failed:
            return []
        have, _ = held(rtnl)
        asked = sorted({hop for hops in have.values() if len(hops) > 1 for hop in hops if hop in failed})
        for hop in asked:
            with contextlib.suppress(FileNotFoundError):  # the kernel has forgotten it, and will ask
                rtnl.neigh_use(failed[hop], hop)
    return asked


def refuse_back(cidrs: Iterable[str], inside: Iterable[str] = (INSIDE,)) -> None:
    """What nodes send back, because they have no such service, is refused: or it would go round until its TTL ends."""
    with Rtnl() as rtnl:
        have = {(rule.dst, rule.iif) for rule in rtnl.rules() if rule.priority == BACK_PRIORITY}
        want = {(cidr, iif) for cidr in cidrs for iif in inside}
        for family in {socket.AF_INET6 if ":" in cidr else socket.AF_INET for cidr, _ in want}:
            rtnl.route_replace("default", table=PROTOCOL, kind="unreachable", protocol=PROTOCOL, family=family)
        for cidr, iif in want - have:
            rtnl.rule_add(BACK_PRIORITY, PROTOCOL, dst=cidr, iif=iif)
        for cidr, iif in have - want:
            rtnl.rule_del(BACK_PRIORITY, PROTOCOL, dst=cidr, iif=iif)


def refuse_outside(cidrs: Iterable[str]) -> None:
    """What comes from outside for pods that the router knows only for the sake of its racks is refused, as without a route."""
    with Rtnl() as rtnl:
        have = {rule.dst for rule in rtnl.rules() if rule.priority == OUTSIDE_PRIORITY}
        want = set(cidrs)
        for cidr in want - have:
            rtnl.rule_add(OUTSIDE_PRIORITY, 0, dst=cidr, iif=OUTSIDE)
        for cidr in have - want:
            rtnl.rule_del(OUTSIDE_PRIORITY, 0, dst=cidr, iif=OUTSIDE)


def set_sysctls(inside: Iterable[str] = (INSIDE,), *, ipv6: bool = False) -> None:
    wanted = {key.format(inside=i): value for i in inside for key, value in SYSCTLS.items()}
    for key, value in {**wanted, **(SYSCTLS6 if ipv6 else {})}.items():
        try:
            with open(f"/proc/sys/{key}", "w", encoding="ascii") as f:
                f.write(value)
        except OSError as e:
            log.warning("%s: %s: connections may spread unevenly", key.replace("/", "."), e.strerror)


class RouterAgent:
    """All work is one key of a work queue: any event makes all routes be looked at again."""

    def __init__(
        self, kubeconfig_path: str, pool: Pool | None, settings: Settings = DEFAULT, service_cidrs: Iterable[str] = (),
        inside: Iterable[str] = (INSIDE,), bird_dir: str = "/run/bird",
    ) -> None:  # fmt: skip
        self._kubeconfig = kubeconfig_path
        self._pool = pool
        self._started_with = settings
        self._service_cidrs = tuple(service_cidrs)
        self._inside = tuple(inside)
        self._bird = BirdKeeper(Path(bird_dir, "bird.conf"), Path(bird_dir, "run"), lambda: self._wake())
        self._wake: Callable[[], None] = lambda: None
        self._exposes_services = asyncio.Event()
        self._reflects: Bgp | None = None
        self._reflects_from = -math.inf
        self._knows_pods = False
        self._knew_pods_at = -math.inf

    async def serve(self, stop: asyncio.Event) -> None:
        set_sysctls(self._inside, ipv6=any(":" in cidr for cidr in self._service_cidrs))
        async with Client(kubeconfig.load(self._kubeconfig), user_agent="router-agent") as client:
            self._nodes = Informer(client, NODES)
            self._services = Informer(client, SERVICES)
            self._slices = Informer(client, ENDPOINTSLICES, indexers={"service": nodes.by_service})
            self._ranges = Informer(client, SERVICE_CIDRS)
            informers = (self._nodes, self._services, self._slices)
            controller = Controller("router-agent", self._reconcile, workers=1)
            for informer in informers:
                controller.watch(informer, _everything)
            self._config = PodNetworkConfig(client, self._started_with, lambda: controller.queue.add(_KEY))
            self._wake = lambda: controller.queue.add(_KEY)
            self._ranges.add_handler(lambda old, new: self._wake())
            await until(
                stop, *(i.run() for i in informers), self._config.run(), self._start(controller), self._keep_asking(),
                self._follow_ranges(),
            )  # fmt: skip

    async def _start(self, controller: Controller) -> None:
        await self._config.known()
        await controller.run()

    async def _follow_ranges(self) -> None:
        """ServiceCIDRs are asked for when they matter first."""
        await self._exposes_services.wait()
        await self._ranges.run()

    def _exposed_services(self, settings: Settings) -> tuple[str, ...]:
        """The ranges of Services that are led here: those of the flag, and any that were added."""
        if "services" not in settings.expose:
            return ()
        self._exposes_services.set()
        families = {":" in cidr for cidr in self._service_cidrs}
        added = (c for r in self._ranges.items() for c in (r.get("spec") or {}).get("cidrs") or [] if (":" in c) in families)
        return tuple(dict.fromkeys((*self._service_cidrs, *added)))

    async def _keep_asking(self) -> None:
        while True:
            await asyncio.sleep(ASK_AGAIN_S)
            try:
                ask_again()
            except OSError as e:
                log.warning("next hops: %s", e)

    async def _reconcile(self, _: str) -> float:
        knew, settings = self._knows_pods, self._config.in_force()
        self._knows_pods = settings.router_knows_pods or (settings.mode != "vxlan" and len(self._inside) > 1)
        usable = {f: nodes.gateways(self._nodes.items(), ipv6=f == "IPv6") for f in ("IPv4", "IPv6")}
        want: dict[str, tuple[str, ...]] = {}
        if self._pool is not None:
            pairs = [(s, self._slices.by_index("service", meta.key(s))) for s in self._services.items()]
            want |= nodes.wanted_routes(self._pool, usable, pairs)
        services = self._exposed_services(settings)
        want |= {cidr: tuple(sorted(usable["IPv6" if ":" in cidr else "IPv4"].values())) for cidr in services}
        now = asyncio.get_running_loop().time()
        if knew or self._knows_pods:
            self._knew_pods_at = now
        # Nodes that have just been told to know the ways themselves may still send packets here; and those of another rack
        # until each has heard of the other's end of the tunnel.
        settling = now - self._knew_pods_at < SETTLE_S * (1 if len(self._inside) == 1 else 2)
        if settling:
            want |= {cidr: (gateway,) for cidr, gateway in podnet.routes(self._nodes.items()).items()}
        reflecting = await self._ensure_reflector(settings, now)
        refuse_back(services, self._inside)
        inner = settling and len(self._inside) > 1 and not settings.router_knows_pods
        refuse_outside(c for n in self._nodes.items() for c in podnet.pod_cidrs(n) if inner)
        done, removed = ensure(want)
        for dst, hops in done.items():
            log.info("route to %s: %s", dst, "via " + " ".join(hops) if hops else "unreachable, no node can take it")
        for dst in removed:
            log.info("route to %s removed", dst)
        return reflecting or (SETTLE_S if settling and not self._knows_pods else RESYNC_S)

    async def _ensure_reflector(self, settings: Settings, now: float) -> float:
        """A BIRD that tells all nodes of all others, or none; in how many seconds to look again, 0 when all is done."""
        wanted = settings.bgp if settings.mode == "bgp" and settings.bgp.topology == "reflector" else None
        if wanted != self._reflects:
            self._reflects_from = now + (0 if self._reflects is None else BRIDGE_S if wanted else SETTLE_S)
            self._reflects = wanted
        if now < self._reflects_from:
            return self._reflects_from - now
        if wanted is not None:
            with Rtnl() as rtnl:
                link = rtnl.link_get(self._inside[0])
                held = rtnl.addrs(link.index) if link is not None else []
            ips = {6 if ":" in a.ip else 4: a.ip for a in reversed(held) if a.scope == RT_SCOPE_UNIVERSE}
            known = self._nodes.items()
            pods = [cidr for node in known for cidr in podnet.pod_cidrs(node)]
            try:
                await self._bird.ensure(bird.for_reflector(ips, known, wanted, pods=pods))
            except (BirdError, OSError) as e:
                log.error("%s", e)
        elif await self._bird.end():
            log.info("bird ended")
        return 0


def _everything(_: Object) -> list[str]:
    return [_KEY]
