"""kube-controller-manager as a process: flags, leader election, the controllers. Upstream: cmd/kube-controller-manager.

Touches: the API, files, event loop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nsk8s.client import component, kubeconfig, leaderelection
from nsk8s.client.rest import Client
from nsk8s.controllers.context import Address, Context, Network, Runnable, Settings
from nsk8s.controllers.cronjob import CronJobController
from nsk8s.controllers.daemonset import DaemonSetController
from nsk8s.controllers.deployment import DeploymentController
from nsk8s.controllers.disruption import DisruptionController
from nsk8s.controllers.endpointcontrollers import (
    EndpointsController,
    EndpointSliceController,
    EndpointSliceMirroringController,
)
from nsk8s.controllers.garbagecollector import GarbageCollector
from nsk8s.controllers.job import JobController, TTLAfterFinishedController
from nsk8s.controllers.namespace import NamespaceController
from nsk8s.controllers.nodeipam import NodeIpamController, mask_sizes
from nsk8s.controllers.nodelifecycle import NodeLifecycleController
from nsk8s.controllers.podgc import PodGCController
from nsk8s.controllers.policynotice import PolicyNoticeController
from nsk8s.controllers.replicaset import ReplicaSetController, replication_controller
from nsk8s.controllers.resourcequota import ResourceQuotaController
from nsk8s.controllers.serviceaccount import RootCAPublisher, ServiceAccountController
from nsk8s.controllers.servicecidrs import ServiceCIDRController
from nsk8s.controllers.statefulset import StatefulSetController
from nsk8s.controllers.tainteviction import TaintEvictionController
from nsk8s.errors import Nsk8sError

log = logging.getLogger("controllers")

CONTROLLERS: dict[str, Callable[[Context], Runnable]] = {
    "deployment-controller": DeploymentController,
    "replicaset-controller": ReplicaSetController,
    "replicationcontroller-controller": replication_controller,
    "daemonset-controller": DaemonSetController,
    "statefulset-controller": StatefulSetController,
    "job-controller": JobController,
    "ttl-after-finished-controller": TTLAfterFinishedController,
    "cronjob-controller": CronJobController,
    "endpointslice-controller": EndpointSliceController,
    "endpoints-controller": EndpointsController,
    "endpointslice-mirroring-controller": EndpointSliceMirroringController,
    "disruption-controller": DisruptionController,
    "resourcequota-controller": ResourceQuotaController,
    "node-lifecycle-controller": NodeLifecycleController,
    "taint-eviction-controller": TaintEvictionController,
    "node-ipam-controller": NodeIpamController,
    "pod-garbage-collector-controller": PodGCController,
    "serviceaccount-controller": ServiceAccountController,
    "root-ca-certificate-publisher-controller": RootCAPublisher,
    "namespace-controller": NamespaceController,
    "service-cidr-controller": ServiceCIDRController,
    "network-policy-notice-controller": PolicyNoticeController,
    "garbage-collector-controller": GarbageCollector,  # last: it shares the others' informers
}
ALIASES = {
    "deployment": "deployment-controller", "replicaset": "replicaset-controller",
    "daemonset": "daemonset-controller", "statefulset": "statefulset-controller", "job": "job-controller",
    "ttl-after-finished": "ttl-after-finished-controller", "cronjob": "cronjob-controller",
    "replicationcontroller": "replicationcontroller-controller", "endpointslice": "endpointslice-controller",
    "endpoint": "endpoints-controller", "endpointslicemirroring": "endpointslice-mirroring-controller",
    "nodelifecycle": "node-lifecycle-controller", "nodeipam": "node-ipam-controller",
    "disruption": "disruption-controller", "resourcequota": "resourcequota-controller",
    "podgc": "pod-garbage-collector-controller", "serviceaccount": "serviceaccount-controller",
    "root-ca-cert-publisher": "root-ca-certificate-publisher-controller", "namespace": "namespace-controller",
    "garbagecollector": "garbage-collector-controller",
}  # fmt: skip
"""Upstream's older names."""


def chosen(wanted: str) -> list[str]:
    """The controllers that `--controllers` names: `*` is all of them, `-name` all but one. Raises Nsk8sError. Pure."""
    entries = [e.strip() for e in wanted.split(",") if e.strip()]
    names: dict[str, bool] = {}
    for entry in entries:
        if entry == "*":
            continue
        name = entry.removeprefix("-")
        name = ALIASES.get(name, name)
        if name not in CONTROLLERS:
            raise Nsk8sError(f"--controllers: no controller {name!r}", f"known: {', '.join(CONTROLLERS)}")
        names.setdefault(name, not entry.startswith("-"))
    return [name for name in CONTROLLERS if names.get(name, "*" in entries)]


def duration(text: str) -> float:
    """Go's time.Duration (`1m30s`, `500ms`) in seconds. Raises ValueError."""
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", text)
    if not parts or "".join(n + unit for n, unit in parts) != text:
        raise ValueError(text)
    return sum(float(n) * {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}[unit] for n, unit in parts)


def networks(text: str) -> tuple[Network, ...]:
    """Comma-separated CIDRs. Raises ValueError."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def addresses(text: str) -> tuple[Address, ...]:
    """IP addresses, separated by commas. Raises ValueError."""
    return tuple(ipaddress.ip_address(word.strip()) for word in text.split(",") if word.strip())


def _flag(name: str, default: Any, type_: Any = None, help_: str = "") -> Callable[[Any], Any]:
    return click.option(f"--{name}", type=type_, default=default, show_default=True, help=help_)


def _switch(name: str, default: bool, help_: str = "") -> Callable[[Any], Any]:
    """A Go boolean flag: `--x`, `--x=true`, `--x=false`."""
    return click.option(f"--{name}", type=bool, is_flag=False, flag_value=True, default=default, show_default=True, help=help_)


@click.command("kube-controller-manager", context_settings=component.CONTEXT_SETTINGS)
@click.option("--kubeconfig", "kubeconfig_path", required=True, metavar="FILE", help="How to reach the API server.")
@_switch("leader-elect", True)
@_flag("leader-elect-lease-duration", "15s", duration)
@_flag("leader-elect-renew-deadline", "10s", duration)
@_flag("leader-elect-retry-period", "2s", duration)
@_flag("controllers", "*", str, "Which controllers run: *, names, -name.")
@_flag("cluster-cidr", "", networks, "Pod CIDRs of the cluster.")
@_switch("allocate-node-cidrs", False, "Give every node a pod CIDR.")
@_flag("node-cidr-mask-size", 0, int, "Of a node's subnet; 0 is 24 for IPv4, 64 for IPv6. Not for dual-stack.")
@_flag("node-cidr-mask-size-ipv4", 0, int, "The same for IPv4 in a dual-stack cluster.")
@_flag("node-cidr-mask-size-ipv6", 0, int, "The same for IPv6 in a dual-stack cluster.")
@_flag("node-cidr-first-address", "", addresses, "The node with this InternalIP gets the first subnet, and so on; one a rack.")
@_flag("service-cluster-ip-range", "", networks)
@_flag("node-monitor-period", "5s", duration, "Accepted; nodes are judged by their own deadlines, not by a period.")
@_flag("node-monitor-grace-period", "50s", duration)
@_flag("node-startup-grace-period", "60s", duration)
@_flag("node-eviction-rate", 0.1, float)
@_flag("secondary-node-eviction-rate", 0.01, float)
@_flag("unhealthy-zone-threshold", 0.55, float)
@_flag("large-cluster-size-threshold", 50, int)
@_flag("terminated-pod-gc-threshold", 12500, int)
@_flag("pod-gc-quarantine", "40s", duration, "How long pods of a vanished node are kept (upstream's constant).")
@_flag("root-ca-file", "", str, "What kube-root-ca.crt contains in every namespace.")
@_flag("service-account-private-key-file", "", str, "Accepted; tokens are made by the API server.")
@_switch("use-service-account-credentials", False, "Accepted; all controllers use the kubeconfig's identity.")
@_flag("cluster-name", "kubernetes", str, "Accepted.")
@_flag("bind-address", "", str, "Accepted; no port is served.")
@_flag("secure-port", 0, int, "Accepted; no port is served.")
@click.option("-v", "--v", "verbosity", default=0, type=int, help="Log verbosity; 4 and above is debug.")
def command(kubeconfig_path: str, verbosity: int, **flags: Any) -> int:
    """Runs the controllers.

    Example: kube-controller-manager --kubeconfig /etc/kubernetes/controller-manager.conf --allocate-node-cidrs
    --cluster-cidr 10.244.0.0/16
    """
    component.setup_logging(verbosity)
    settings = settings_of(flags)
    names = chosen(flags["controllers"])
    if not settings.allocate_node_cidrs and "node-ipam-controller" in names:
        names.remove("node-ipam-controller")
    if not settings.root_ca and "root-ca-certificate-publisher-controller" in names:
        log.info("no --root-ca-file: kube-root-ca.crt is not published")
        names.remove("root-ca-certificate-publisher-controller")
    client_config = kubeconfig.load(kubeconfig_path)
    timing = leaderelection.Timing(
        flags["leader_elect_lease_duration"], flags["leader_elect_renew_deadline"], flags["leader_elect_retry_period"]
    )

    async def serve(stop: asyncio.Event) -> None:
        async with Client(client_config, "kube-controller-manager") as client:

            async def work() -> None:
                await run_controllers(client, settings, names)

            identity = leaderelection.own_identity()
            lead = leaderelection.lead(client, "kube-controller-manager", identity, work, timing)
            await component.until(stop, lead if flags["leader_elect"] else work())

    return component.run(serve)


def settings_of(flags: dict[str, Any]) -> Settings:
    """Settings from parsed flags. Raises Nsk8sError for flags that do not go together, and if the root CA cannot be read."""
    mask_ipv4, mask_ipv6 = mask_sizes(
        flags["cluster_cidr"], flags["node_cidr_mask_size"], flags["node_cidr_mask_size_ipv4"], flags["node_cidr_mask_size_ipv6"]
    )
    root_ca = ""
    if flags["root_ca_file"]:
        try:
            root_ca = Path(flags["root_ca_file"]).read_text()
        except OSError as e:
            raise Nsk8sError(f"--root-ca-file {flags['root_ca_file']}: {e.strerror}") from e
    return Settings(
        cluster_cidrs=flags["cluster_cidr"],
        allocate_node_cidrs=flags["allocate_node_cidrs"],
        node_cidr_mask_size=mask_ipv4,
        node_cidr_mask_size_ipv6=mask_ipv6,
        service_cluster_ip_ranges=flags["service_cluster_ip_range"],
        node_cidr_first_address=flags["node_cidr_first_address"],
        node_monitor_grace_s=flags["node_monitor_grace_period"],
        node_startup_grace_s=flags["node_startup_grace_period"],
        node_eviction_rate=flags["node_eviction_rate"],
        secondary_node_eviction_rate=flags["secondary_node_eviction_rate"],
        unhealthy_zone_threshold=flags["unhealthy_zone_threshold"],
        large_cluster_size_threshold=flags["large_cluster_size_threshold"],
        terminated_pod_gc_threshold=flags["terminated_pod_gc_threshold"],
        pod_gc_quarantine_s=flags["pod_gc_quarantine"],
        root_ca=root_ca,
    )


async def run_controllers(client: Client, settings: Settings, names: list[str]) -> None:
    """Run the named controllers on shared informers until cancelled, or until one of them fails."""
    ctx = Context(client, settings)
    controllers = [CONTROLLERS[name](ctx) for name in names]
    log.info("running %s", ", ".join(names))
    tasks = [asyncio.ensure_future(ctx.run()), *(asyncio.ensure_future(c.run()) for c in controllers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main(argv: list[str]) -> int:
    try:
        return component.invoke(command, argv)
    except Nsk8sError as e:
        click.echo(f"error: {e.message}" + (f" ({e.remedy})" if e.remedy else ""), err=True)
        return 1


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
