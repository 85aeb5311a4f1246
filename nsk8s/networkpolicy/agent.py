"""network-policy at work: watches policies, pods and namespaces, keeps the node's table true. Upstream: kube-network-policies.

Touches: the API, nftables. Fails closed: a node's table stays when the agent ends, and where there is none yet, pods are held
until the agent has heard of everything. A transaction replaces the table whole, so that no packet meets half of one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client import pages as http
from nsk8s.client.component import until
from nsk8s.client.controller import Controller
from nsk8s.client.informer import Informer
from nsk8s.client.resources import NAMESPACES, NETWORKPOLICIES, NODES, PODS
from nsk8s.client.rest import Client
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import iptables, nft
from nsk8s.net import nftset
from nsk8s.net.nftset import NftTable
from nsk8s.networkpolicy import render
from nsk8s.networkpolicy.metrics import Metrics
from nsk8s.networkpolicy.model import Pod, Policy, World

log = logging.getLogger("network-policy")

RESYNC_S = 30.0
"""How often the table is looked after when nothing happens: someone may have deleted or flushed it."""
BRIDGE_NF = "/proc/sys/net/bridge/bridge-nf-call-{}"
_KEY = "rules"


class Agent:
    """One node's agent. All work is one key of a work queue, as any change may concern any rule."""

    def __init__(
        self, node: str, cluster_cidrs: Sequence[str], *, kubeconfig_path: str, pause_s: float = 0.0,
        pages: tuple[str, int] | None = None,
    ) -> None:  # fmt: skip
        """`pause_s`: between two syncs; what changes meanwhile goes into one. After a quiet time nothing waits.
        `pages`: where /healthz and /metrics are served."""
        self._node = node
        self._cluster_cidrs = cluster_cidrs
        self._kubeconfig = kubeconfig_path
        self._pause_s = pause_s
        self._pages = pages
        self._metrics = Metrics()
        self._nft: nft.Nft
        self._written: NftTable | None = None
        self._pods: dict[str, Pod] = {}
        self._policies: dict[str, Policy] = {}
        self._namespaces: dict[str, dict[str, str]] = {}

    async def serve(self, stop: asyncio.Event) -> None:
        """Run until `stop`. The rules stay when it ends."""
        if iptables.in_root_namespace():
            raise Nsk8sError(
                "this is the machine's own network namespace, whose rules are left alone",
                "start it in a node's: ip netns exec NAMESPACE nsk8s component network-policy …",
            )
        self._nft = nft.detect()
        show_switched_packets()
        if not nft.table_exists(render.FAMILY, render.TABLE):
            await self._write(render.held(self._cluster_cidrs))
            log.info("no rules yet: pods are held until all policies are known")
        config = kubeconfig.load(self._kubeconfig) if self._kubeconfig else kubeconfig.in_cluster()
        async with Client(config) as client:
            self._client = client
            self._controller = Controller("network-policy", self._reconcile, workers=1)
            self._nodes = Informer(client, NODES, field_selector=f"metadata.name={self._node}")
            pods, namespaces, policies = (Informer(client, r) for r in (PODS, NAMESPACES, NETWORKPOLICIES))
            self._controller.watch(self._nodes, lambda _: [_KEY])
            for informer, changed in (
                (pods, self._pod_changed), (namespaces, self._namespace_changed), (policies, self._policy_changed)
            ):  # fmt: skip
                self._controller.watch(informer, lambda _: [])  # to wait for its first list; `changed` says what matters
                informer.add_handler(changed)
            served = await self._serve_pages()
            try:
                await until(
                    stop, self._nodes.run(), pods.run(), namespaces.run(), policies.run(), self._controller.run()
                )
            finally:
                if served is not None:
                    served.close()

    async def _serve_pages(self) -> asyncio.Server | None:
        """A port that is taken is no reason to leave a node without its policies."""
        try:
            return await http.serve(*self._pages, self._metrics.pages()) if self._pages else None
        except Nsk8sError as e:
            log.error("%s", e.message)
            return None

    # ── what the informers say ─────────────────────────────────────────────────────────────────────────────────────────

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        key = meta.key(new or old or {})
        pod = Pod.of(new) if new is not None else None
        if pod == self._pods.get(key):
            return
        if pod is None:
            del self._pods[key]
        else:
            self._pods[key] = pod
        self._controller.queue.add(_KEY)

    def _namespace_changed(self, old: Object | None, new: Object | None) -> None:
        name = meta.name(new or old or {})
        labels = meta.labels(new) if new is not None else None
        if labels == self._namespaces.get(name):
            return
        if labels is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = labels
        self._controller.queue.add(_KEY)

    def _policy_changed(self, old: Object | None, new: Object | None) -> None:
        key = meta.key(new or old or {})
        if new is None:
            self._policies.pop(key, None)
        else:
            policy = self._policies[key] = Policy.of(new)
            for problem in policy.problems:
                log.error("%s: %s: this part allows nothing", key, problem)
        self._controller.queue.add(_KEY)

    # ── what is done about it ──────────────────────────────────────────────────────────────────────────────────────────

    async def _reconcile(self, _: str) -> float:
        """Write the table if it is not what it should be; returns when to look again (s)."""
        with self._metrics.sync(len(self._policies), len(self._pods)):
            await self._sync()
        await asyncio.sleep(self._pause_s)
        return RESYNC_S

    async def _sync(self) -> None:
        show_switched_packets()
        own = self._nodes.get(self._node) or {}
        spec = own.get("spec") or {}
        cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
        world = World(
            tuple(self._policies[k] for k in sorted(self._policies)), tuple(self._pods.values()), self._namespaces
        )
        wanted = render.table(world, self._node, cidrs)
        if wanted != self._written or not self._is_there(wanted):
            await self._write(wanted)
            self._metrics.written += 1
            log.info("rules written: %d policies, %d pods", len(self._policies), len(self._pods))

    def _is_there(self, table: NftTable) -> bool:
        """Whether the kernel still holds a table, and rules in every chain that should have some."""
        return nft.table_exists(table.family, table.name) and all(
            self._nft.has_rules(table.family, table.name, name) for name, chain in table.chains.items() if chain.rules
        )

    async def _write(self, table: NftTable) -> None:
        self._written = None
        await self._nft.run(replacing(table))
        self._written = table


def replacing(table: NftTable) -> str:
    """The script that puts this table in the place of whatever is there, in one transaction. Pure."""
    return f"add table {table.where}\ndelete table {table.where}\n{nftset.render(table)}"


def show_switched_packets() -> None:
    """Let the forward hook see what the bridge switches between two pods; without it they could not be kept apart."""
    for name in ("iptables", "ip6tables"):
        path = Path(BRIDGE_NF.format(name))
        try:
            if path.read_text().strip() != "1":
                path.write_text("1")
        except OSError as e:
            raise Nsk8sError(
                f"{path}: {e.strerror}: traffic between pods of this node would pass unseen", "modprobe br_netfilter"
            ) from e
