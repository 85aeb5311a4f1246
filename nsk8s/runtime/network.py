"""The pod's network, through CNI: loopback first, then the node's first conflist. Runs in the runtime itself where
all plugins are ours (2 ms), else in its forked helpers.

Touches: whatever the plugins touch. Upstream: containerd's internal/cri/server/sandbox_run.go (setupPodNetwork), go-cni.
"""

from __future__ import annotations

import contextlib
import os

# All of these at start, so that the forks share them and none imports anything on a pod's way.
import cni.bridge
import cni.host_local
import cni.loopback
import cni.portmap  # noqa: F401
from cni import SEARCH_PATH, libcni
from cni.errors import CniError
from cni.result import convert
from nsk8s.runtime.errors import CriError
from nsk8s.runtime.neighbours import pin_when_crowded, unpin
from nsk8s.runtime.offload import follow_node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IFNAME = "eth0"
PLUGIN_TIMEOUT_S = 110
"""How long one call of somebody else's plugin may take: a little less than the kubelet's runtimeRequestTimeout, so that the
Event names the plugin."""
NOT_INITIALIZED = "cni plugin not initialized"
_LOOPBACK = libcni.parse_list(b'{"cniVersion":"1.0.0","name":"cni-loopback","plugins":[{"type":"loopback"}]}')


class Network:
    """Where the configuration and the plugins are."""

    def __init__(self, conf_dir: str, bin_dir: str, cache_dir: str, timeout_s: float = PLUGIN_TIMEOUT_S) -> None:
        self.conf_dir = conf_dir
        self.cni_path = bin_dir or SEARCH_PATH
        self.cache_dir = cache_dir
        self.run = libcni.run_here_within(timeout_s)

    def problem(self) -> str:
        """Why no pod can have a network yet; empty when there is a configuration."""
        try:
            libcni.first_network(self.conf_dir)
        except CniError:
            return NOT_INITIALIZED
        return ""

    def attachments(self, record: dict[str, Any]) -> tuple[libcni.Attachment, libcni.Attachment]:
        metadata = record["config"]["metadata"]
        args = (
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", metadata["namespace"]),
            ("K8S_POD_NAME", metadata["name"]),
            ("K8S_POD_INFRA_CONTAINER_ID", record["id"]),
            ("K8S_POD_UID", metadata["uid"]),
        )
        capabilities: dict[str, Any] = {}
        ports = [
            {
                "hostPort": int(p["hostPort"]),
                "containerPort": int(p["containerPort"]),
                "protocol": str(p.get("protocol") or "TCP").lower(),
                "hostIP": p.get("hostIp") or p.get("hostIP") or "",
            }
            for p in record["config"].get("portMappings") or []
            if p.get("hostPort")
        ]
        if ports:
            capabilities["portMappings"] = ports
        dns = record["config"].get("dnsConfig")
        if dns:
            capabilities["dns"] = dns
        netns = record["netns"]
        return (
            libcni.Attachment(record["id"], netns, "lo", args),
            libcni.Attachment(record["id"], netns, IFNAME, args, capabilities),
        )

    def _networks(self, record: dict[str, Any], ending: bool) -> list[libcni.NetworkList]:
        """What set_up, or (`ending`) tear_down, works on; empty when it can do nothing."""
        known = libcni.cached_network(record["id"], IFNAME, self.cache_dir) if ending else None
        try:
            return [_LOOPBACK, known or libcni.first_network(self.conf_dir)]
        except CniError:
            return []

    def is_quick(self, record: dict[str, Any], *, ending: bool = False) -> bool:
        """Whether set_up (or, `ending`, tear_down) of this sandbox executes nothing: then it takes less time than a fork."""
        capabilities = self.attachments(record)[1].capability_args
        return all(libcni.all_ours(n, self.cni_path, capabilities) for n in self._networks(record, ending))

    def is_foreign(self, record: dict[str, Any], *, ending: bool = False) -> bool:
        """Whether it executes somebody else's plugins, which may wait for whatever they like."""
        return any(libcni.any_foreign(n, self.cni_path) for n in self._networks(record, ending))

    def set_up(self, record: dict[str, Any]) -> dict[str, Any]:
        """ADD. Returns `{"ips": [...]}`. On failure everything is deleted again and CriError raised with upstream's words."""
        lo, eth0 = self.attachments(record)
        how = {"cni_path": self.cni_path, "cache_dir": self.cache_dir, "run": self.run}
        try:
            try:
                network = libcni.first_network(self.conf_dir)
            except CniError as e:
                raise CniError(NOT_INITIALIZED) from e
            libcni.add(_LOOPBACK, lo, **how)  # type: ignore[arg-type]
            result = libcni.add(network, eth0, **how)  # type: ignore[arg-type]
            ips = libcni.pod_ips(result, IFNAME)
            if not ips:
                raise CniError(f'network plugin returned no addresses for interface "{IFNAME}"')
            pin_when_crowded(eth0.netns, convert(result, "1.1.0"), IFNAME)
            follow_node(eth0.netns, IFNAME)
            return {"ips": ips, "network": network.name}
        except (CniError, OSError) as e:
            with contextlib.suppress(CriError):  # StopPodSandbox tries again; the first failure is what the user needs
                self.tear_down(record)
            raise CriError(f'failed to setup network for sandbox "{record["id"]}": {e}') from e

    def tear_down(self, record: dict[str, Any]) -> None:
        """DEL, also for a sandbox whose ADD never ran or whose namespace is gone. Raises CriError."""
        lo, eth0 = self.attachments(record)
        known = libcni.cached_result(record["id"], IFNAME, self.cache_dir)
        if known is not None:
            unpin(known, IFNAME)
        if not os.path.exists(eth0.netns):
            eth0.netns = lo.netns = ""
        how = {"cni_path": self.cni_path, "cache_dir": self.cache_dir, "run": self.run}
        try:
            try:
                # The one it is on, though another may have taken its place since.
                network = libcni.cached_network(record["id"], IFNAME, self.cache_dir) or libcni.first_network(self.conf_dir)
            except CniError:
                return  # without a network there is nothing to leave
            if libcni.all_ours(network, self.cni_path, eth0.capability_args):
                # Ours need no namespace for DEL: its end, right after this, takes the link along; deleting a link costs 19 ms.
                eth0.netns = ""
            libcni.delete(network, eth0, **how)  # type: ignore[arg-type]
            lo.netns = ""
            libcni.delete(_LOOPBACK, lo, **how)  # type: ignore[arg-type]
        except (CniError, OSError) as e:
            raise CriError(f'failed to destroy network for sandbox "{record["id"]}": {e}') from e

    def stale(self, valid: set[str]) -> bool:
        """Whether the cache knows attachments of sandboxes that do not exist (after a reboot)."""
        return any(a.container_id not in valid for a in libcni.attachments(cache_dir=self.cache_dir))

    def collect(self, valid: set[str]) -> None:
        """DEL what `stale` found, each from the network it was on, then GC of today's. Raises CriError."""
        how = {"cni_path": self.cni_path, "cache_dir": self.cache_dir, "run": self.run}
        for to in libcni.attachments(cache_dir=self.cache_dir):
            was_on = libcni.cached_network(to.container_id, to.ifname, self.cache_dir)
            if to.container_id not in valid and was_on is not None:
                with contextlib.suppress(CniError, OSError):  # its plugin may be gone; the others must not wait for it
                    libcni.delete(was_on, to, **how)  # type: ignore[arg-type]
        try:
            network = libcni.first_network(self.conf_dir)
            libcni.gc(network, [(i, IFNAME) for i in valid], **how)  # type: ignore[arg-type]
            libcni.gc(_LOOPBACK, [(i, "lo") for i in valid], **how)  # type: ignore[arg-type]
        except CniError as e:
            raise CriError(str(e)) from e
