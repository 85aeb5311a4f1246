"""Which components run on which machine, with which flags. Pure. Counterpart: kubeadm's static pod manifests and unit files.

Every flag is the component's own upstream flag, so that `ps` reads like a real node's.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import yaml

from cni import SEARCH_PATH
from nsk8s.cluster.pki import API_PORT, authority
from nsk8s.cluster.state import ClusterState, NodeState, Paths
from nsk8s.config import FIRST_NODE, ClusterConfig
from nsk8s.kernel.machine import netns_path
from nsk8s.net.topology import CONTROL_PLANE, ROUTER, inside_interfaces, netns_name

Spec = dict[str, Any]

ETC = "/etc/kubernetes"
CNI_TEMPLATES = f"{ETC}/cni"
"""Where a node has the configurations of cni.confDir before they are filled in."""
TARGETS = {
    "kube-apiserver": "nsk8s.apiserver.main:main",
    "kube-scheduler": "nsk8s.scheduler.main:main",
    "kube-controller-manager": "nsk8s.controllers.main:main",
    "kubelet": "nsk8s.kubelet.main:main",
    "kube-proxy": "nsk8s.proxy.main:main",
    "node-network": "nsk8s.nodenetwork.main:main",
    "network-policy": "nsk8s.networkpolicy.main:main",
    "runtime": "nsk8s.runtime.main:main",
    "dns": "nsk8s.dns.main:main",
    "ingress": "nsk8s.ingress.main:main",
    "cloud-controller-manager": "nsk8s.loadbalancer.main:controller_manager",
    "router-agent": "nsk8s.loadbalancer.main:router_agent",
    "speaker": "nsk8s.loadbalancer.main:speaker",
}
"""What `nsk8s component NAME` and the supervisor start."""
LEAN = {"runtime"}


def _spec(paths: Paths, config: ClusterConfig, machine: str, name: str, argv: list[str]) -> Spec:
    return {
        "id": f"{machine}/{name}",
        "name": name,
        "machine": machine,
        "target": TARGETS[name],
        "kind": "lean" if name in LEAN else "fork",
        "argv": argv,
        "netns": str(netns_path(netns_name(config, machine))),
        "mnt": str(paths.pin(machine)),
        "cgroup": f"{paths.cgroup}/{machine}/{name}",
        "log": str(paths.log(machine, name)),
        # Always: what the shell of `up` says of iptables is in the settings, and not to be inherited beside them.
        "env": {"XTABLES_LOCKFILE": "/run/xtables.lock", "NSK8S_IPTABLES": config.iptables},
    }


def forwarder(paths: Paths, config: ClusterConfig, port: int) -> Spec:
    """127.0.0.1:port of the machine → the API server."""
    return {
        "id": f"{CONTROL_PLANE}/apiserver-forwarder",
        "name": "apiserver-forwarder",
        "machine": CONTROL_PLANE,
        "target": "nsk8s.cluster.forwarder:main",
        "kind": "fork",
        "argv": [f"--to={authority(config.control_plane_ips[0], API_PORT)}"],
        "listen": ["127.0.0.1", port],
        "netns": str(netns_path(netns_name(config, CONTROL_PLANE))),
        "mnt": "",
        "cgroup": f"{paths.cgroup}/{CONTROL_PLANE}/apiserver-forwarder",
        "log": str(paths.log(CONTROL_PLANE, "apiserver-forwarder")),
    }


def control_plane(paths: Paths, config: ClusterConfig) -> list[Spec]:
    """kube-apiserver, kube-controller-manager, kube-scheduler; cloud-controller-manager for load balancers."""
    pki, timing, api_ip = f"{ETC}/pki", config.timing, config.control_plane_ips[0]
    apiserver = [
        "--data-dir=/var/lib/kube-apiserver",
        f"--bind-address={api_ip}",
        f"--advertise-address={api_ip}",
        f"--secure-port={API_PORT}",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--service-account-issuer=https://kubernetes.default.svc.{config.cluster_domain}",
        f"--service-cluster-ip-range={','.join(config.service_cidrs)}",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        f"--default-not-ready-toleration-seconds={timing.not_ready_toleration}",
        f"--default-unreachable-toleration-seconds={timing.unreachable_toleration}",
    ]
    if config.network.policy:
        apiserver.append("--network-policies-enforced")
    controllers = [
        f"--kubeconfig={ETC}/controller-manager.conf",
        "--allocate-node-cidrs=true",
        f"--cluster-cidr={','.join(config.pod_cidrs)}",
        *_mask_sizes(config),
        f"--node-cidr-first-address={','.join(_first_addresses(config))}",
        f"--service-cluster-ip-range={','.join(config.service_cidrs)}",
        f"--root-ca-file={pki}/ca.crt",
        f"--node-monitor-period={timing.node_monitor_period}s",
        f"--node-monitor-grace-period={timing.node_monitor_grace_period}s",
    ]
    if config.network.policy:  # else it says of each policy that nothing enforces it
        controllers.append("--controllers=*,-network-policy-notice-controller")
    wanted = {
        "kube-apiserver": apiserver,
        "kube-controller-manager": controllers,
        "kube-scheduler": [f"--kubeconfig={ETC}/scheduler.conf"],
    }
    if config.load_balancer.mode != "off":
        wanted["cloud-controller-manager"] = [f"--kubeconfig={ETC}/cloud-controller-manager.conf", _pool(config)]
    return [_spec(paths, config, CONTROL_PLANE, n, a) for n, a in wanted.items() if n not in config.without]


def _mask_sizes(config: ClusterConfig) -> list[str]:
    """One flag for one family, one each for two, as upstream's kube-controller-manager wants it."""
    four, six = config.subnets.node_mask, config.subnets.node_mask6
    if config.has_ipv4 and config.has_ipv6:
        return [f"--node-cidr-mask-size-ipv4={four}", f"--node-cidr-mask-size-ipv6={six}"]
    return [f"--node-cidr-mask-size={four}" if config.has_ipv4 else f"--node-cidr-mask-size-ipv6={six}"]


def _first_addresses(config: ClusterConfig) -> list[str]:
    """The address that each rack's hosts are counted from."""
    firsts = [rack.subnet[FIRST_NODE] for rack in config.all_racks]
    return [str(ip) if config.has_ipv4 else config.node_ips(ip)[0] for ip in firsts]


def _pool(config: ClusterConfig) -> str:
    return f"--load-balancer-pool={','.join(config.load_balancer_pools)}"


def _network(config: ClusterConfig) -> list[str]:
    expose = [f"--expose={','.join(config.network.expose)}"] if config.network.expose else []
    asked, default = config.network.bgp, type(config.network.bgp)()
    bgp = {"topology": "bgp-topology", "asn": "bgp-asn", "hold_time": "bgp-hold-time"}
    said = [f"--{flag}={getattr(asked, key)}" for key, flag in bgp.items() if getattr(asked, key) != getattr(default, key)]
    return [f"--mode={config.network.mode}", *expose, *said]


def router(paths: Paths, config: ClusterConfig) -> list[Spec]:
    """What runs on the router: its agent. It has no disk of its own."""
    argv = [f"--kubeconfig={paths.node_root(ROUTER)}/router-agent.conf", f"--service-cidr={','.join(config.service_cidrs)}"]
    if config.load_balancer.mode == "ecmp":
        argv.append(_pool(config))
    if len(config.all_racks) > 1:
        argv.append(f"--inside={','.join(inside_interfaces(config))}")
    argv += [*_network(config), f"--bird-dir={paths.run}/bird"]
    return [{**_spec(paths, config, ROUTER, "router-agent", argv), "mnt": ""}]


def node(paths: Paths, config: ClusterConfig, state: NodeState) -> list[Spec]:
    """The four processes of a node, and those that were asked for; the runtime goes with the kubelet."""
    kubelet = [
        f"--hostname-override={state.name}",
        f"--kubeconfig={ETC}/kubelet.conf",
        "--config=/var/lib/kubelet/config.yaml",
        f"--node-ip={','.join(config.node_ips(IPv4Address(state.ip)))}",
        f"--tls-cert-file={ETC}/pki/kubelet.crt",
        f"--tls-private-key-file={ETC}/pki/kubelet.key",
        f"--client-ca-file={ETC}/pki/ca.crt",
    ]
    if state.labels:
        kubelet.append("--node-labels=" + ",".join(f"{k}={v}" for k, v in state.labels.items()))
    if state.taints:
        kubelet.append("--register-with-taints=" + ",".join(state.taints))
    wanted = {}
    if config.network.policy:  # first: it holds pods until it knows their policies
        wanted["network-policy"] = [
            f"--node-name={state.name}",
            f"--kubeconfig={ETC}/network-policy.conf",
            f"--cluster-cidr={','.join(config.pod_cidrs)}",
            f"--min-sync-period={min(POLICY_SYNC_S, SYNC_SHARE_S * (len(config.nodes) + 1)):g}",
        ]
    wanted |= {
        "runtime": _runtime(paths, config, state.name),
        "kubelet": kubelet,
        "node-network": [
            f"--node-name={state.name}",
            f"--kubeconfig={ETC}/node-network.conf",
            f"--cluster-cidr={','.join(config.pod_cidrs)}",
            f"--node-cidr={','.join(config.node_cidrs)}",
            f"--service-cidr={','.join(config.service_cidrs)}",
            *_network(config),
            "--bird-dir=/run/bird",  # where birdc looks
            "--bird-conf=/etc/bird/bird.conf",
            *([f"--mtu={config.network.mtu}"] if config.network.mtu else []),
            *([f"--cni-conf-template-dir={CNI_TEMPLATES}"] if config.cni.conf else []),
        ],
        "kube-proxy": [
            f"--hostname-override={state.name}",
            f"--kubeconfig={ETC}/kube-proxy.conf",
            "--config=/var/lib/kube-proxy/config.conf",
        ],
    }
    if config.load_balancer.mode == "l2":
        wanted["speaker"] = [f"--node-name={state.name}", f"--kubeconfig={ETC}/speaker.conf", _pool(config)]
    left_out = set(config.without) | ({"runtime"} if "kubelet" in config.without else set())
    return [_spec(paths, config, state.name, n, a) for n, a in wanted.items() if n not in left_out]


def search_path(config: ClusterConfig) -> str:
    """CNI_PATH of the nodes: the folders asked for, and the usual ones after them."""
    return ":".join([*config.cni.bin_dir, SEARCH_PATH])


def _runtime(paths: Paths, config: ClusterConfig, node: str) -> list[str]:
    argv = [f"--cgroup-parent={paths.cgroup}/{node}/pods"]
    if config.cni.bin_dir:
        argv.append(f"--cni-bin-dir={search_path(config)}")
    timeout = config.kubelet.config.get("runtimeRequestTimeout")
    if timeout:
        from nsk8s.kubelet.config import parse_duration

        timeout_s = parse_duration(str(timeout))
        if timeout_s:  # The plugin's end comes before the call's: or no Event could name the plugin
            argv.append(f"--cni-timeout={max(1, int(timeout_s * 0.9))}")
    return argv


def all_specs(paths: Paths, state: ClusterState) -> list[Spec]:
    """Everything that should run, control plane first."""
    config = state.cluster_config()
    specs = [*control_plane(paths, config), forwarder(paths, config, state.api_port)]
    for n in state.nodes:
        if not n.stopped:
            specs += node(paths, config, n)
    return specs + router(paths, config)


POLICY_SYNC_S = 0.5
"""The longest pause between two syncs of policies: a change holds within a second."""
SYNC_SHARE_S = 0.025
"""What one more node adds to every proxy's pause between syncs: they share this machine's cores."""


def min_sync_period(nodes: int) -> str:
    """iptables.minSyncPeriod: upstream's second is made for large clusters; a small one follows sooner. Pure."""
    return f"{min(1000, round(nodes * SYNC_SHARE_S * 1000))}ms"


def node_files(config: ClusterConfig) -> dict[str, str]:
    """Configuration files on a node's disk, relative to its root: path → text."""
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "clusterDNS": config.dns_ips,
        "clusterDomain": config.cluster_domain,
        "nodeLeaseDurationSeconds": config.timing.node_lease_duration,
        "staticPodPath": "/etc/kubernetes/manifests",
        "nodeStatusUpdateFrequency": f"{config.timing.node_status_update_frequency}s",
        **config.kubelet.config,
    }
    sync = {"masqueradeAll": config.proxy.masquerade_all, "minSyncPeriod": min_sync_period(len(config.nodes) + 1)}
    # In ipvs mode every node has a load balancer's address: where one answers ARP for it, the others must not.
    ipvs = {"minSyncPeriod": sync["minSyncPeriod"], "strictARP": config.load_balancer.mode == "l2"}
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": config.proxy.mode,
        "clusterCIDR": ",".join(config.pod_cidrs),
        **({"bindAddress": "::"} if config.network.ip_families[0] == "IPv6" else {}),
        "iptables": dict(sync),
        "nftables": dict(sync),
        "ipvs": ipvs,
        **config.proxy.config,
    }
    return {
        "var/lib/kubelet/config.yaml": yaml.safe_dump(kubelet, sort_keys=False),
        "var/lib/kube-proxy/config.conf": yaml.safe_dump(proxy, sort_keys=False),
        **{f"{CNI_TEMPLATES[1:]}/{name}": text for name, text in config.cni.conf.items()},
    }
