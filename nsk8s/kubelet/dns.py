"""resolv.conf and hosts of a pod. Pure. Upstream: kubelet/network/dns, kubelet_pods.go (managed hosts file)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.errors import Nsk8sError

MAX_NAMESERVERS, MAX_SEARCHES, MAX_SEARCH_CHARS = 3, 32, 2048
MAX_KERNEL_HOSTNAME = 64


class DNSConfig(NamedTuple):
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def as_cri(self) -> dict[str, list[str]]:
        return {"servers": list(self.servers), "searches": list(self.searches), "options": list(self.options)}


def parse_resolv_conf(text: str) -> DNSConfig:
    """The node's own resolv.conf; the last `search` and `options` lines count, as in glibc."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        fields = line.split("#", 1)[0].split(";", 1)[0].split()
        if len(fields) < 2:
            continue
        if fields[0] == "nameserver":
            servers.append(fields[1])
        elif fields[0] in ("search", "domain"):
            searches = [s if s == "." else s.rstrip(".") for s in fields[1:]]
        elif fields[0] == "options":
            options = fields[1:]
    return DNSConfig(tuple(servers), tuple(searches), tuple(options))


def pod_dns(pod: Object, *, node: DNSConfig, cluster_dns: Sequence[str], cluster_domain: str) -> tuple[DNSConfig, list[str]]:
    """(the pod's DNS configuration, warnings for DNSConfigForming and MissingClusterDNS events)."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    warnings: list[str] = []
    if policy == "ClusterFirst" and spec.get("hostNetwork"):
        policy = "Default"
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and not cluster_dns:
        warnings.append(
            f"pod: {meta.name(pod)}_{meta.namespace(pod)}({meta.uid(pod)}). kubelet does not have ClusterDNS IP configured and "
            f'cannot create Pod using "{policy}" policy. Falling back to "Default" policy.'
        )
        policy = "Default"
    if policy == "None":
        config = DNSConfig()
    elif policy == "Default":
        config = node
    else:
        searches: tuple[str, ...] = ()
        if cluster_domain:
            searches = (f"{meta.namespace(pod)}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain)
        config = DNSConfig(tuple(cluster_dns), _unique([*searches, *node.searches]), ("ndots:5",))
    own = spec.get("dnsConfig") or {}
    if own:
        config = DNSConfig(
            _unique([*config.servers, *(own.get("nameservers") or [])]),
            _unique([*config.searches, *(own.get("searches") or [])]),
            _merge_options(config.options, own.get("options") or []),
        )
    return _limit(config, warnings), warnings


def _unique(items: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _merge_options(base: Sequence[str], own: Sequence[Object]) -> tuple[str, ...]:
    merged: dict[str, str] = {}
    for option in base:
        name, _, value = option.partition(":")
        merged[name] = value
    for entry in own:
        merged[entry["name"]] = str(entry.get("value") or "")
    return tuple(f"{n}:{v}" if v else n for n, v in merged.items())


def _limit(config: DNSConfig, warnings: list[str]) -> DNSConfig:
    servers, searches = config.servers, config.searches
    if len(servers) > MAX_NAMESERVERS:
        servers = servers[:MAX_NAMESERVERS]
        warnings.append(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            + " ".join(servers)
        )
    kept = searches[:MAX_SEARCHES]
    while len(" ".join(kept)) > MAX_SEARCH_CHARS:
        kept = kept[:-1]
    if kept != searches:
        warnings.append(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: " + " ".join(kept)
        )
    return DNSConfig(servers, kept, config.options)


def hostname(pod: Object, node_hostname: str, cluster_domain: str) -> tuple[str, str]:
    """(host name, its domain or "") of a pod."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        return node_hostname, ""
    name = spec.get("hostname") or meta.name(pod)
    if len(name) > 63:
        name = name[:63].rstrip("-.")
    domain = ""
    if spec.get("subdomain"):
        domain = f"{spec['subdomain']}.{meta.namespace(pod)}.svc.{cluster_domain}"
    return name, domain


def kernel_hostname(pod: Object, name: str, domain: str) -> str:
    """What `uname -n` says in the pod: with setHostnameAsFQDN the full name. Raises Nsk8sError for one the kernel cannot hold.

    Upstream: util.GetNodenameForKernel.
    """
    if not (pod["spec"].get("setHostnameAsFQDN") and domain):
        return name
    full = f"{name}.{domain}"
    if len(full) > MAX_KERNEL_HOSTNAME:
        raise Nsk8sError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long "
            f"({MAX_KERNEL_HOSTNAME} is the max, {len(full)} characters requested)"
        )
    return full


def hosts_file(pod: Object, ips: Sequence[str], name: str, domain: str, node_hosts: str) -> str:
    """/etc/hosts of a pod's containers."""
    aliases = pod["spec"].get("hostAliases") or []
    if pod["spec"].get("hostNetwork"):
        text = "# Kubernetes-managed hosts file (host network).\n" + node_hosts
    else:
        text = (
            "# Kubernetes-managed hosts file.\n"
            "127.0.0.1\tlocalhost\n"
            "::1\tlocalhost ip6-localhost ip6-loopback\n"
            "fe00::0\tip6-localnet\n"
            "fe00::0\tip6-mcastprefix\n"
            "fe00::1\tip6-allnodes\n"
            "fe00::2\tip6-allrouters\n"
        )
        for ip in ips:
            text += f"{ip}\t{name}.{domain}\t{name}\n" if domain else f"{ip}\t{name}\n"
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        for alias in aliases:
            text += f"{alias['ip']}\t" + "\t".join(alias.get("hostnames") or []) + "\n"
    return text
