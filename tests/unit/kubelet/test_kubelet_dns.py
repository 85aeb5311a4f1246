"""resolv.conf and hosts files."""

from __future__ import annotations

import pytest
from kubelet_objects import pod

from nsk8s.kubelet.dns import DNSConfig, hostname, hosts_file, parse_resolv_conf, pod_dns

NODE = DNSConfig(("1.1.1.1",), ("corp.example",), ("rotate",))
CLUSTER = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local")


def config(p, cluster=("10.96.0.10",)):
    return pod_dns(p, node=NODE, cluster_dns=cluster, cluster_domain="cluster.local")


def test_resolv_conf_is_read_as_glibc_does():
    text = "# c\nnameserver 1.1.1.1\nnameserver ::1\nsearch a\nsearch b. c ; x\noptions ndots:2 rotate\njunk\n"
    assert parse_resolv_conf(text) == DNSConfig(("1.1.1.1", "::1"), ("b", "c"), ("ndots:2", "rotate"))


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, DNSConfig(("10.96.0.10",), (*CLUSTER, "corp.example"), ("ndots:5",))),
        ({"dnsPolicy": "Default"}, NODE),
        ({"hostNetwork": True}, NODE),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"},
         DNSConfig(("10.96.0.10",), (*CLUSTER, "corp.example"), ("ndots:5",))),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{"name": "a"}]}},
         DNSConfig(("9.9.9.9",), ("x",), ("a",))),
        ({"dnsConfig": {"nameservers": ["9.9.9.9", "10.96.0.10"], "options": [{"name": "ndots", "value": "1"}]}},
         DNSConfig(("10.96.0.10", "9.9.9.9"), (*CLUSTER, "corp.example"), ("ndots:1",))),
    ],
)  # fmt: skip
def test_policies(extra, expected):
    assert config(pod(**extra)) == (expected, [])


def test_without_cluster_dns_the_nodes_is_used_and_it_is_said():
    found, warnings = config(pod(), cluster=())
    assert found == NODE
    assert 'cannot create Pod using "ClusterFirst" policy. Falling back to "Default" policy.' in warnings[0]


def test_limits_are_kept_and_told():
    found, warnings = config(pod(dnsConfig={"nameservers": ["1.0.0.1", "1.0.0.2", "1.0.0.3"], "searches": [f"s{i}" for i in range(40)]}))
    assert found.servers == ("10.96.0.10", "1.0.0.1", "1.0.0.2")
    assert len(found.searches) == 32
    assert len(warnings) == 2


def test_hosts_and_names():
    p = pod(subdomain="db", hostname="one", hostAliases=[{"ip": "1.2.3.4", "hostnames": ["a", "b"]}])
    name, domain = hostname(p, "node1", "cluster.local")
    assert (name, domain) == ("one", "db.default.svc.cluster.local")
    text = hosts_file(p, ["10.1.1.1"], name, domain, "")
    assert "10.1.1.1\tone.db.default.svc.cluster.local\tone\n" in text
    assert text.endswith("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n")
    assert hostname(pod(meta={"name": "x" * 62 + ".y"}), "n", "c")[0] == "x" * 62
    host = pod(hostNetwork=True)
    assert hostname(host, "node1", "c") == ("node1", "")
    assert hosts_file(host, [], "node1", "", "::1 me\n") == "# Kubernetes-managed hosts file (host network).\n::1 me\n"
