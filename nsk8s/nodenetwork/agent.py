"""node-network at work: watches Nodes and keeps this node's part of the pod network true. Upstream: flanneld, kindnetd.

Touches: the API (Nodes), files (the conflist), netlink (routes, VXLAN), iptables. Works without kube-proxy and beside it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.birdkeeper import BirdKeeper
from nsk8s.client.component import until
from nsk8s.client.controller import Controller
from nsk8s.client.informer import Informer
from nsk8s.client.podnetconfig import PodNetworkConfig
from nsk8s.client.resources import NODES
from nsk8s.client.rest import STRATEGIC_PATCH, Client
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import bird, iptables, routes
from nsk8s.kernel.iptables import Iptables, IptablesError
from nsk8s.kernel.routes import Via
from nsk8s.kernel.rtmsg import Link
from nsk8s.net import bird as bird_conf
from nsk8s.net import chainset, podnet
from nsk8s.net.podnet import BRIDGE_S, DEFAULT, FORGET_S, SETTLE_S, Settings
from nsk8s.nodenetwork import plan, vxlan
from nsk8s.nodenetwork.cnifiles import CniFiles
from nsk8s.nodenetwork.plan import Overlay

log = logging.getLogger("node-network")

RESYNC_S = 30.0
"""How often routes and masquerade are looked after when nothing happens: someone may have flushed them."""
CONDITION = "NetworkUnavailable"
BIRD_RUN = Path("/run/node-network-bird")
_KEY = "network"


class Agent:
    """One node's agent. All work is one key of a work queue: any event makes the whole node's state be looked at again."""

    def __init__(
        self, node: str, cluster_cidrs: Sequence[str], inside_cidrs: Sequence[str], *,
        cni: CniFiles, kubeconfig_path: str, variant: str = "auto", settings: Settings = DEFAULT,
        bird_run: Path = BIRD_RUN, bird_conf: Path | None = None,
    ) -> None:  # fmt: skip
        self._node = node
        self._cluster_cidrs = cluster_cidrs
        self._inside_cidrs = inside_cidrs
        self._cni = cni
        self._kubeconfig = kubeconfig_path
        self._variant = variant
        self._tables: list[Iptables] = []
        self._masquerade_due = 0.0
        self._started_with = settings
        self._bird_run, self._bird_conf = bird_run, bird_conf or bird_run / "bird.conf"
        self._settings: Settings | None = None
        """What is in force; None until the API has been asked."""
        self._changed_at = self._speaks_from = self._told_from = -math.inf
        """When settings changed; when BIRD is told of it; and when what it has learnt is from those it is to speak with now."""
        self._lacks_bird = False
        """Whether BGP is asked for and cannot be had."""
        self._bird_failed = False
        """Whether BIRD did not take its configuration: it is soon asked again."""
        self._waits_for_bgp = False
        """Whether routes of the mode before are still there, because BGP has not told the way yet."""

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`. Routes, rules and conflist stay when it ends."""
        if iptables.in_root_namespace():
            raise Nsk8sError(
                "this is the machine's own network namespace, whose routes and rules are left alone",
                "start it in a node's: ip netns exec NAMESPACE nsk8s component node-network …",
            )
        self._tables.append(iptables.detect(self._variant))
        if any(":" in c for c in self._cluster_cidrs):
            self._tables.append(iptables.detect(self._tables[0].variant, ipv6=True))
        config = kubeconfig.load(self._kubeconfig) if self._kubeconfig else kubeconfig.in_cluster()
        async with Client(config) as client:
            self._client = client
            self._nodes = Informer(client, NODES)
            controller = Controller("node-network", self._reconcile, workers=1)
            controller.watch(self._nodes, lambda _: [_KEY])
            self._config = PodNetworkConfig(client, self._started_with, lambda: controller.queue.add(_KEY))
            self._bird = BirdKeeper(self._bird_conf, self._bird_run, lambda: controller.queue.add(_KEY))
            # The masquerade needs no API: pods that are there already go on when the API server is down.
            await self._ensure_masquerade()
            await until(stop, self._nodes.run(), self._config.run(), self._start(controller))

    async def _start(self, controller: Controller) -> None:
        await self._config.known()
        await controller.run()

    async def _reconcile(self, _: str) -> float:
        """Bring everything in line; returns when to look again (s)."""
        own = self._nodes.get(self._node)
        settings = self._in_force()
        since = asyncio.get_running_loop().time() - self._changed_at
        links = await self._ensure_vxlan(own, settings, since)
        self._ensure_routes(own, settings, links, settled=since >= SETTLE_S)
        await self._ensure_bird(settings, settled=since >= SETTLE_S)
        if asyncio.get_running_loop().time() >= self._masquerade_due:  # it depends on no Node
            await self._ensure_masquerade()
        mtu = min((link.mtu for link in links.values()), default=0)
        if own is not None and podnet.pod_cidrs(own) and self._cni.ensure(own, mtu):
            await self._report_network(own)
        steady = since >= 2 * SETTLE_S and not self._waits_for_bgp and not self._bird_failed
        return RESYNC_S if steady else SETTLE_S / 3

    def _in_force(self) -> Settings:
        before, now = self._settings, self._config.in_force()
        lacks_bird = now.mode == "bgp" and bird.program() is None
        if lacks_bird:
            if not self._lacks_bird:
                log.error("mode bgp: bird is missing: other nodes' pods are reached by plain routes (%s)", bird.REMEDY)
            now = replace(now, mode="routes")
        self._lacks_bird = lacks_bird
        if before is not None and (now.mode != before.mode or (now.mode == "bgp" and now.bgp != before.bgp)):
            if now.mode != before.mode:
                log.info("mode is %s now, was %s", now.mode, before.mode)
            else:
                log.info("bgp: %s, AS %d now; was %s, AS %d", now.bgp.topology, now.bgp.asn, before.bgp.topology, before.bgp.asn)
            self._changed_at = asyncio.get_running_loop().time()
            self._speaks_from = self._changed_at + (BRIDGE_S if before.mode == now.mode else 0)
            self._told_from = math.inf
        self._settings = now
        return now

    async def _ensure_vxlan(self, own: Object | None, settings: Settings, since: float) -> dict[Overlay, Link]:
        """This node's ends of the VXLANs, one a family, with all others' entries in them; those that there are."""
        links: dict[Overlay, Link] = {}
        if settings.mode == "vxlan" and own is not None:
            for overlay in plan.OVERLAYS:
                cidr = next(filter(overlay.has, podnet.pod_cidrs(own)), "")
                ip = next(filter(overlay.has, podnet.internal_ips(own)), "")
                link = self._ensure_overlay(overlay, ip, cidr) if cidr and ip else None
                if link is not None:
                    links[overlay] = link
        if own is not None and (settings.mode != "vxlan" or podnet.pod_cidrs(own)):
            await self._annotate(own, {overlay: link.mac for overlay, link in links.items()})
        # Others may still send through it, or (until SETTLE_S) this node itself.
        if settings.mode != "vxlan" and since >= 2 * SETTLE_S and not self._waits_for_bgp:
            for overlay in plan.OVERLAYS:
                if vxlan.remove_device(overlay):
                    log.info("%s removed", overlay.device)
        return links

    def _ensure_overlay(self, overlay: Overlay, ip: str, cidr: str) -> Link | None:
        try:
            link = vxlan.ensure_device(ip, cidr, overlay)
            done, removed = vxlan.ensure_peers(link.index, plan.peers(self._nodes.items(), self._node, overlay), overlay)
        except (vxlan.NoVxlan, OSError) as e:
            log.error("%s: %s: other nodes' pods are reached by plain routes", overlay.device, e)
            return None
        for gateway in done:
            log.info("%s: entries for %s set", overlay.device, gateway)
        for gateway in removed:
            log.info("%s: entries for %s removed", overlay.device, gateway)
        return link

    async def _annotate(self, own: Object, macs: Mapping[Overlay, str]) -> None:
        """Tell the other nodes of this one's ends of the VXLANs, or that there is none."""
        held = meta.annotations(own)
        changed = {k: v for k, v in plan.vtep_annotations(own, macs).items() if held.get(k) != v}
        if changed and not any(vxlan.is_foreign(overlay) for overlay in plan.OVERLAYS):
            body = {"metadata": {"annotations": changed}}
            await self._client.patch(NODES, self._node, body, subresource="status", content_type=STRATEGIC_PATCH)

    def _ensure_routes(self, own: Object | None, settings: Settings, links: Mapping[Overlay, Link], *, settled: bool) -> None:
        """In mode router there are none, the default route leads to who knows; in mode bgp they are BIRD's. The old ones go once
        the new ones are there."""
        nodes = self._nodes.items()
        around = routes.around()
        want = {dst: Via(around.gateway(via)) for dst, via in podnet.routes(nodes, self._node).items()}
        known = set(want)
        for overlay, link in links.items():
            found = [p for p in plan.peers(nodes, self._node, overlay) if p.cidr in want]
            want = {**plan.neighbours(found, overlay, link.index), **want, **{p.cidr: Via(p.gateway, link.index) for p in found}}
        if not settled:
            # The router may not know them yet: the ways around it stay until it does.
            far = {dst for dst, via in podnet.routes(nodes, self._node).items() if around.gateway(via) != via}
            want |= {dst: via for dst, via in routes.ours().items() if dst in far and dst in want}
        if settings.mode == "router":
            want = {} if settled else {dst: via for dst, via in routes.ours().items() if dst in known}
        elif settings.mode == "bgp" and settled and asyncio.get_running_loop().time() >= self._told_from:
            told = routes.learnt()
            want = {dst: want[dst] for dst in routes.ours() if dst in want and dst not in told}
        self._waits_for_bgp = settings.mode == "bgp" and bool(want)
        refuse = podnet.pod_cidrs(own) if own is not None and settings.router_knows_pods else []
        done, removed, failed = routes.ensure(want, own=refuse)
        for destination in done:
            log.info("route to %s set", destination)
        for destination in removed:
            log.info("route to %s removed", destination)
        for destination, why in failed.items():
            log.error("route to %s: %s", destination, why)

    async def _ensure_bird(self, settings: Settings, *, settled: bool) -> None:
        """After the routes: where BGP's neighbours change, they bridge the time until the new ones have told everything."""
        if settings.mode != "bgp":
            if settled and await self._bird.end():
                log.info("bird ended; removed routes to %s", ", ".join(routes.forget_learnt()) or "nowhere")
            return
        if asyncio.get_running_loop().time() < self._speaks_from:
            return
        uplink, gateways = routes.uplink()
        text = bird_conf.for_node(
            self._node, self._nodes.items(), settings.bgp, uplink=uplink, pods=self._cluster_cidrs, gateways=gateways
        )
        if not text:
            return
        self._bird_failed = False
        try:
            if await self._bird.ensure(text):
                self._told_from = min(self._told_from, asyncio.get_running_loop().time() + FORGET_S)
        except (bird.BirdError, OSError) as e:
            self._bird_failed = True
            log.error("%s", e)

    async def _ensure_masquerade(self) -> None:
        self._masquerade_due = asyncio.get_running_loop().time() + RESYNC_S / 2
        for used in self._tables:
            want = plan.masquerade(
                self._cluster_cidrs, self._inside_cidrs, ipv6=used.ipv6, random_fully=used.has_random_fully
            )
            try:
                have = chainset.outline(await used.save("nat"))
                text = masquerade_text(have, want)
                if text:
                    await used.restore(text)
                    log.info("masquerade of what leaves the cluster written (%s)", used.variant)
            except IptablesError as e:
                log.error("masquerade: %s", e)

    async def _report_network(self, own: Object) -> None:
        """Set the condition NetworkUnavailable to False, as a cloud's route controller or flannel does."""
        held = meta.find_condition(own, CONDITION)
        if held is not None and held.get("status") == "False":
            return
        now = meta.rfc3339(datetime.now(UTC))
        condition = {
            "type": CONDITION,
            "status": "False",
            "reason": "RouteCreated",
            "message": "node-network wrote the CNI configuration and the routes",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        body = {"status": {"conditions": [condition]}}
        await self._client.patch(NODES, self._node, body, subresource="status", content_type=STRATEGIC_PATCH)


def masquerade_text(have: chainset.ChainSet, want: chainset.ChainSet) -> str:
    """Restore text that puts the masquerade chain and its jump in place; empty when both are there. Pure."""
    if not want.tables["nat"]:
        return ""
    held, wanted = have.chain("nat", plan.MASQ_CHAIN), want.tables["nat"][plan.MASQ_CHAIN]
    jumps = chainset.missing_jumps(have, [plan.MASQ_JUMP])
    same = held is not None and chainset.canonical_rules(held.rules) == chainset.canonical_rules(wanted.rules)
    if same and not jumps:
        return ""
    return chainset.render_table("nat", {plan.MASQ_CHAIN: wanted}, insert=jumps)
