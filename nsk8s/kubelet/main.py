"""`kubelet`: flags, settings, and the parts that run. Upstream: cmd/kubelet. Touches: files, the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from nsk8s.client import component, kubeconfig
from nsk8s.client.rest import Client
from nsk8s.errors import Nsk8sError
from nsk8s.kubelet import config as settings
from nsk8s.kubelet import sysctls
from nsk8s.kubelet.config import Config
from nsk8s.kubelet.kubelet import Kubelet
from nsk8s.kubelet.server import KubeletServer

log = logging.getLogger("kubelet")


def build_config(flags: dict[str, Any]) -> tuple[Config, list[str]]:
    """(settings, what to warn about): the file's values, and the given flags over them. Raises Nsk8sError."""
    config, ignored = settings.load_file(flags["config"]) if flags.get("config") else (Config(), [])
    changes: dict[str, Any] = {}
    for flag, name in (
        ("container_runtime_endpoint", "runtime_endpoint"), ("root_dir", "root_dir"), ("pod_manifest_path", "static_pod_path"),
        ("cluster_domain", "cluster_domain"), ("tls_cert_file", "tls_cert_file"), ("resolv_conf", "resolv_conf"),
        ("tls_private_key_file", "tls_private_key_file"), ("client_ca_file", "client_ca_file"), ("port", "port"),
        ("healthz_port", "healthz_port"), ("max_pods", "max_pods"), ("address", "address"),
        ("healthz_bind_address", "healthz_address"), ("register_node", "register_node"),
    ):  # fmt: skip
        if flags.get(flag) is not None:
            changes[name] = flags[flag]
    try:
        if flags.get("cluster_dns"):
            changes["cluster_dns"] = tuple(p for p in flags["cluster_dns"].split(",") if p)
        if flags.get("allowed_unsafe_sysctls"):
            changes["allowed_unsafe_sysctls"] = sysctls.patterns(flags["allowed_unsafe_sysctls"].split(","))
        if flags.get("register_with_taints"):
            changes["register_taints"] = tuple(settings.parse_taint(t) for t in flags["register_with_taints"].split(",") if t)
        if flags.get("node_labels"):
            changes["node_labels"] = settings.parse_labels(flags["node_labels"])
        for flag, name in (
            ("node_status_update_frequency", "node_status_update_s"), ("sync_frequency", "sync_frequency_s"),
            ("runtime_request_timeout", "runtime_timeout_s"),
        ):  # fmt: skip
            if flags.get(flag):
                changes[name] = settings.parse_duration(flags[flag]) or getattr(config, name)
    except ValueError as e:
        raise Nsk8sError(str(e)) from e
    if flags.get("node_ip"):
        changes["node_ips"] = settings.parse_node_ips(flags["node_ip"])
    changes["node_name"] = (flags.get("hostname_override") or os.uname().nodename).strip().lower()
    return replace(config, **changes), ignored


@click.command("kubelet", context_settings=component.CONTEXT_SETTINGS)
@click.option("--kubeconfig", "kubeconfig_path", required=True, help="How to reach the API server, and as whom.")
@click.option("--hostname-override", help="The Node's name; the host name by default.")
@click.option("--node-ip", help="Address(es) of the node, comma-separated; found by a route to the API server by default.")
@click.option("--config", help="A KubeletConfiguration file; flags win over it.")
@click.option("--container-runtime-endpoint", help="The runtime's socket.  [default: unix:///run/nsk8s/runtime.sock]")
@click.option("--root-dir", help="Where pods' volumes and files lie.  [default: /var/lib/kubelet]")
@click.option("--pod-manifest-path", help="Directory of static pods.")
@click.option("--register-node/--no-register-node", default=None, help="Create the Node object if it is missing.")
@click.option("--register-with-taints", help="Taints the node is registered with: key=value:Effect,…")
@click.option("--node-labels", help="Labels the node is registered with: key=value,…")
@click.option("--cluster-dns", help="Name servers of ClusterFirst pods, comma-separated.")
@click.option("--cluster-domain", help="The cluster's DNS domain.  [default: cluster.local]")
@click.option("--resolv-conf", help="The node's resolver configuration.  [default: /etc/resolv.conf]")
@click.option("--tls-cert-file", help="Serving certificate; self-signed by default.")
@click.option("--tls-private-key-file", help="Key of the serving certificate.")
@click.option("--client-ca-file", help="Whose client certificates may use the API on --port.")
@click.option("--address", help="Where to listen.  [default: the node's address]")
@click.option("--port", type=int, help="HTTPS port of logs, exec and metrics.  [default: 10250]")
@click.option("--healthz-port", type=int, help="Port of /healthz on localhost, 0 for none.  [default: 10248]")
@click.option("--healthz-bind-address", help="Where /healthz listens.  [default: 127.0.0.1]")
@click.option("--max-pods", type=int, help="How many pods the node takes.  [default: 110]")
@click.option("--allowed-unsafe-sysctls", help="Sysctls beyond the safe ones that pods may set: a,b.*")
@click.option("--runtime-request-timeout", help="How long a call of the runtime may take.  [default: 2m]")
@click.option("--node-status-update-frequency", help="How often the node's status is computed.  [default: 10s]")
@click.option("--sync-frequency", help="How often volumes of running pods are refreshed.  [default: 1m]")
@click.option("-v", "--v", "verbosity", type=int, default=2, help="Log verbosity.")
def command(kubeconfig_path: str, verbosity: int, **flags: Any) -> int:
    """The node agent: runs the pods that are bound to this node through the container runtime.

    Example: kubelet --kubeconfig /etc/kubernetes/kubelet.conf --hostname-override node1 --node-ip 192.168.56.11
    """
    component.setup_logging(verbosity)
    try:
        config, ignored = build_config(flags)
    except Nsk8sError as e:
        raise click.ClickException(e.message) from e
    for name in ignored:
        log.warning("KubeletConfiguration: %s has no effect here", name)

    async def serve(stop: asyncio.Event) -> None:
        access = kubeconfig.load(kubeconfig_path)
        ready = config if config.node_ips else replace(config, node_ips=(_own_address(access.server),))
        Path(ready.root_dir).mkdir(parents=True, exist_ok=True, mode=0o750)
        async with Client(access, "kubelet/v1.33.0") as client:
            kubelet = Kubelet(ready, client)
            server = KubeletServer(kubelet)
            await server.start()
            try:
                await component.until(stop, kubelet.run())
                if ready.shutdown_grace_s:
                    log.info("node shutdown is the supervisor's business: pods go on running")
            finally:
                await server.stop()

    return component.run(serve)


def _own_address(server: str) -> str:
    """The source address of a packet to the API server (none is sent)."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(server)
    try:
        family, kind, proto, _, address = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as s:
            s.connect(address)
            return str(s.getsockname()[0])
    except OSError as e:
        raise Nsk8sError(f"no route to {server}: {e.strerror or e}", "give --node-ip") from e


def main(argv: list[str]) -> int:
    return component.invoke(command, argv)
