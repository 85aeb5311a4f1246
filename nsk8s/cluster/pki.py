"""The cluster's certificates and kubeconfigs, placed where each machine looks for them.

Counterpart: kubeadm init phase certs, kubeconfig.  Touches: files below
the state directory.  The CA's key stays on the host side (`pki/ca.key`); a node only gets its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from nsk8s.client import certs, kubeconfig
from nsk8s.client.certs import KeyPair
from nsk8s.client.kubeconfig import ClientConfig
from nsk8s.cluster.state import ClusterState, NodeState, Paths
from nsk8s.config import ClusterConfig
from nsk8s.net.topology import CONTROL_PLANE, ROUTER

API_PORT = 6443
"""The API server's port inside the cluster; on the machine's loopback it may be another."""


SPEAKERS = "system:load-balancer-speakers"
"""The group of those who lead load balancers' addresses to nodes: they read Services, EndpointSlices and Nodes."""


def authority(ip: str, port: int) -> str:
    """IP:PORT as URLs and flags have it. Pure."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


class Authority:
    """The cluster's CA and what is signed with it."""

    def __init__(self, paths: Paths, config: ClusterConfig) -> None:
        self.paths, self.config = paths, config
        found = certs.read(paths.pki, "ca")
        self.ca = found or certs.new_ca("kubernetes")
        if found is None:
            certs.write(paths.pki, "ca", self.ca)

    def _kubeconfig(self, path: Path, user: str, groups: Sequence[str], server: str) -> None:
        pair = certs.issue(self.ca, user, groups)
        client = ClientConfig(server=server, ca_pem=self.ca.cert_pem, cert_pem=pair.cert_pem, key_pem=pair.key_pem)
        kubeconfig.write(path, kubeconfig.render(client, self.config.name, user))

    @property
    def _internal(self) -> str:
        return f"https://{authority(self.config.control_plane_ips[0], API_PORT)}"

    def admin(self, state: ClusterState) -> None:
        """The user's kubeconfig, for the loopback port (written anew each time: the port may have changed)."""
        pair = certs.read(self.paths.pki, "admin")
        if pair is None:
            pair = certs.issue(self.ca, "kubernetes-admin", ["system:masters"])
            certs.write(self.paths.pki, "admin", pair)
        client = ClientConfig(
            server=f"https://127.0.0.1:{state.api_port}", ca_pem=self.ca.cert_pem, cert_pem=pair.cert_pem, key_pem=pair.key_pem
        )
        kubeconfig.write(self.paths.admin_conf, kubeconfig.render(client, self.config.name, f"{self.config.name}-admin"))

    def control_plane(self) -> None:
        """What kube-apiserver, kube-scheduler and kube-controller-manager need, on the control plane's disk."""
        etc = self.paths.node_root(CONTROL_PLANE) / "etc/kubernetes"
        pki = etc / "pki"
        if (pki / "sa.key").exists():
            return
        domain = self.config.cluster_domain
        hosts = [
            "kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{domain}", "localhost",
            CONTROL_PLANE, "127.0.0.1", *self.config.control_plane_ips, self.config.kubernetes_ip,
        ]  # fmt: skip
        certs.write(pki, "apiserver", certs.issue(self.ca, "kube-apiserver", hosts=hosts))
        certs.write(
            pki, "apiserver-kubelet-client", certs.issue(self.ca, "kube-apiserver-kubelet-client", ["system:masters"])
        )
        signing = certs.new_key()
        (pki / "sa.pub").write_text(certs.public_key(signing))
        self._kubeconfig(etc / "scheduler.conf", "system:kube-scheduler", [], self._internal)
        self._kubeconfig(etc / "controller-manager.conf", "system:kube-controller-manager", [], self._internal)
        certs.write(pki, "sa", KeyPair("", signing))  # last: its presence says that all is there

    def load_balancers(self) -> None:
        """What cloud-controller-manager and router-agent need."""
        for path, user, groups in (
            (self.paths.node_root(CONTROL_PLANE) / "etc/kubernetes/cloud-controller-manager.conf",
             "system:cloud-controller-manager", []),
            (self.paths.node_root(ROUTER) / "router-agent.conf", "system:router-agent", [SPEAKERS]),
        ):  # fmt: skip
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._kubeconfig(path, user, groups, self._internal)

    def node(self, node: NodeState) -> None:
        """What the components of one node need, on that node's disk."""
        etc = self.paths.node_root(node.name) / "etc/kubernetes"
        pki = etc / "pki"
        if self.config.network.policy and not (etc / "network-policy.conf").exists():  # perhaps switched on later
            user = f"system:network-policy:{node.name}"
            self._kubeconfig(etc / "network-policy.conf", user, ["system:node-network"], self._internal)
        if (pki / "kubelet.key").exists():
            return
        pki.mkdir(parents=True, exist_ok=True, mode=0o700)
        (pki / "ca.crt").write_text(self.ca.cert_pem)
        self._kubeconfig(etc / "kubelet.conf", f"system:node:{node.name}", ["system:nodes"], self._internal)
        self._kubeconfig(etc / "kube-proxy.conf", "system:kube-proxy", ["system:node-proxier"], self._internal)
        self._kubeconfig(
            etc / "node-network.conf", f"system:node-network:{node.name}", ["system:node-network"], self._internal
        )
        if self.config.load_balancer.mode == "l2":
            self._kubeconfig(etc / "speaker.conf", f"system:speaker:{node.name}", [SPEAKERS], self._internal)
        hosts = [node.name, *self.config.node_ips(IPv4Address(node.ip))]
        certs.write(pki, "kubelet", certs.issue(self.ca, f"system:node:{node.name}", ["system:nodes"], hosts))


def forget_node(paths: Paths, name: str) -> None:
    """Remove a node's disk."""
    shutil.rmtree(paths.node_root(name), ignore_errors=True)
