"""Names: asked on every node with the pods' own resolver, seen arriving at the DNS pod, and what is refused stays inside."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import Capture, apply, becomes, documents, get, in_pod, nsk8s, pod, pods, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
NODES = {"control-plane", "node1", "node2", "node3"}
CLUSTER_FIRST = "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
NODE2_RESOLV_CONF = "search lab.example\nnameserver 192.0.2.53\nnameserver 192.0.2.54\noptions timeout:1 attempts:1\n"
LOOK_UP = "for name in kubernetes.default peers peers-0.peers peers-1.peers.default.svc.cluster.local; do echo = $name; getent ahostsv4 $name; done"


def agent() -> dict[str, Any]:
    """The example's DaemonSet, on the control plane too."""
    (daemonset,) = documents("daemonset.yaml")
    daemonset["spec"]["template"]["spec"]["tolerations"] = [
        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"}
    ]
    return daemonset


def peers() -> list[dict[str, Any]]:
    """The example's headless Service, its pods a StatefulSet's: with a host name each, in the Service's subdomain."""
    deployment, service = documents("headless.yaml")
    template = deployment["spec"]["template"]
    template["spec"]["terminationGracePeriodSeconds"] = 0
    spec = {"replicas": 2, "serviceName": "peers", "podManagementPolicy": "Parallel", "selector": deployment["spec"]["selector"]}
    return [service, {**deployment, "kind": "StatefulSet", "spec": {**spec, "template": template}}]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q")
        # Its kubelet has read that of before, for a pod, and is to read the new one.
        apply(pod("early", dnsPolicy="Default", nodeName="node2"))
        until("a pod from before", lambda: pods("app=early"))
        nsk8s("enter", "node2", "--", "sh", "-c", f"rm -f /etc/resolv.conf; printf '{NODE2_RESOLV_CONF}' > /etc/resolv.conf")
        there = {"nodeName": "node2"}
        own = {"nameservers": ["198.51.100.1"], "searches": ["a.example", "b.example"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}
        apply(
            agent(), *peers(), pod("debug", nodeName="node3"),
            pod("first", **there), pod("default", dnsPolicy="Default", **there), pod("none", dnsPolicy="None", dnsConfig=own, **there),
            pod("merged", dnsConfig=own, **there), pod("host", hostNetwork=True, **there),
            pod("hostfirst", hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet", **there),
        )  # fmt: skip
        until("an agent on every node", lambda: len(pods("app=agent")) == 4)
        until("two peers", lambda: len(pods("app=peers")) == 2)
        until("the bare pods", lambda: len(pods("app in (debug,first,default,none,merged,host,hostfirst)")) == 7)
        becomes("the DNS knows their names", lambda: looked_up(in_pod("debug", "sh", "-c", LOOK_UP)), names())
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def looked_up(text: str) -> dict[str, set[str]]:
    """name → addresses, of LOOK_UP's output."""
    found = {}
    for part in text.split("= ")[1:]:
        name, *lines = part.splitlines()
        found[name] = {line.split()[0] for line in lines}
    return found


def names() -> dict[str, set[str]]:
    """What `looked_up` is to find."""
    ring = {p["metadata"]["name"]: p["status"]["podIP"] for p in pods("app=peers")}
    return {
        "kubernetes.default": {"10.96.0.1"},
        "peers": set(ring.values()),
        "peers-0.peers": {ring["peers-0"]},
        "peers-1.peers.default.svc.cluster.local": {ring["peers-1"]},
    }


def test_a_pod_on_every_node_resolves_and_its_query_reaches_the_dns_pod_unchanged(cluster: None, tmp_path: Path) -> None:
    agents = pods("app=agent")
    assert {p["spec"]["nodeName"] for p in agents} == NODES
    wanted = names()
    (dns,) = get("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")["items"]
    dns_ip = re.escape(dns["status"]["podIP"])
    capture = Capture(tmp_path, f"pod/kube-system/{dns['metadata']['name']}", expression="udp port 53")
    try:
        for each in agents:
            assert looked_up(in_pod(each["metadata"]["name"], "sh", "-c", LOOK_UP)) == wanted, each["spec"]["nodeName"]
        for each in agents:
            ip = re.escape(each["status"]["podIP"])
            capture.until(rf"^IP {ip}\.\d+ > {dns_ip}\.53: .* A\? kubernetes\.default\.svc\.cluster\.local\.")
            capture.until(rf"^IP {ip}\.\d+ > {dns_ip}\.53: .* A\? peers-0\.peers\.default\.svc\.cluster\.local\.")
            capture.until(rf"^IP {dns_ip}\.53 > {ip}\.\d+: .* A 10\.96\.0\.1\b")
    finally:
        capture.stop()
    sources = {p.split()[1].rpartition(".")[0] for p in capture.packets()}
    assert sources == {p["status"]["podIP"] for p in agents} | {dns["status"]["podIP"]}, "no address but the pods' own"


def test_a_host_name_in_a_subdomain_is_the_pods_full_name_and_resolves_back(cluster: None) -> None:
    ring = {p["metadata"]["name"]: p["status"]["podIP"] for p in pods("app=peers")}
    name = "peers-1.peers.default.svc.cluster.local"
    said = in_pod("peers-0", "sh", "-c", f"hostname -f; hostname; getent hosts {ring['peers-1']}")
    assert said.split() == ["peers-0.peers.default.svc.cluster.local", "peers-0", ring["peers-1"], name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("debug", CLUSTER_FIRST),
        ("first", CLUSTER_FIRST.replace("cluster.local\nnameserver", "cluster.local lab.example\nnameserver")),
        ("default", NODE2_RESOLV_CONF),
        ("none", "search a.example b.example\nnameserver 198.51.100.1\noptions ndots:2 edns0\n"),
        (
            "merged",
            "search default.svc.cluster.local svc.cluster.local cluster.local lab.example a.example b.example\n"
            "nameserver 10.96.0.10\nnameserver 198.51.100.1\noptions ndots:2 edns0\n",
        ),
        ("host", NODE2_RESOLV_CONF),
        ("hostfirst", CLUSTER_FIRST.replace("cluster.local\nnameserver", "cluster.local lab.example\nnameserver")),
    ],
)
def test_resolv_conf_is_upstreams(cluster: None, name: str, text: str) -> None:
    if name == "debug":  # its node's is the machine's own, whose searches go along
        searches = re.findall(r"^(?:search|domain)\s+(.*)", nsk8s("enter", "node3", "--", "cat", "/etc/resolv.conf").stdout, re.M)
        text = text.replace("cluster.local\nnameserver", " ".join(["cluster.local", *searches[-1:]]) + "\nnameserver")
    assert in_pod(name, "cat", "/etc/resolv.conf") == text


def test_the_machines_own_resolv_conf_is_another_file(cluster: None) -> None:
    assert "192.0.2.53" not in Path("/etc/resolv.conf").read_text()


def test_what_is_not_the_clusters_does_not_exist_and_no_packet_leaves(cluster: None, tmp_path: Path) -> None:
    """The router sees one packet only: the one sent at last, to show that it would see any."""
    capture = Capture(tmp_path, "router", expression="udp or tcp port 53")
    try:
        for name, said in (
            ("nothing.default.svc.cluster.local", "NXDOMAIN"),
            ("peers.nowhere.svc.cluster.local", "NXDOMAIN"),
            ("www.example.com", "NXDOMAIN"),
            ("9.113.0.203.in-addr.arpa", "NXDOMAIN"),
        ):
            done = nsk8s("exec", "debug", "--", "nslookup", "-type=a", name, ok=False)
            assert done.returncode == 1, done.stdout
            assert f"can't find {name}: {said}" in done.stdout + done.stderr
        failed = nsk8s("exec", "debug", "--", "getent", "ahostsv4", "www.example.com", ok=False)
        assert (failed.returncode, failed.stdout) == (2, "")
        nsk8s("enter", "node3", "--", "bash", "-c", "echo hello > /dev/udp/203.0.113.10/9")
        packets = capture.until("203.0.113.10.9:")
    finally:
        capture.stop()
    assert len(packets) == 1, packets


def test_the_dns_pod_killed_answers_again_on_the_same_address(cluster: None) -> None:
    (dns,) = get("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")["items"]
    nsk8s("delete", "pod", dns["metadata"]["name"], "-n", "kube-system")
    until("another DNS pod", lambda: [
        p for p in get("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")["items"]
        if p["metadata"]["uid"] != dns["metadata"]["uid"] and p["status"]["phase"] == "Running"
    ])  # fmt: skip
    for each in pods("app=agent"):
        name = each["metadata"]["name"]
        until("an answer", lambda name=name: "10.96.0.1" in nsk8s("exec", name, "--", "getent", "ahostsv4", "kubernetes.default", ok=False).stdout)


def test_kubeadms_coredns_takes_its_place(cluster: None) -> None:
    """The image's name as kubeadm writes it, and a Corefile with other settings and somebody to ask about the world outside."""
    config = get("configmap", "coredns", "-n", "kube-system")
    config["data"]["Corefile"] = config["data"]["Corefile"].replace("insecure", "disabled").replace("loop\n", "forward . 203.0.113.10\n    loop\n")
    deployment = get("deployment", "coredns", "-n", "kube-system")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["image"] = "registry.k8s.io/coredns/coredns:v1.12.0"
    container["args"] = ["-conf", "/etc/coredns/Corefile"]
    for obj in (config, deployment):
        obj["metadata"] = {k: v for k, v in obj["metadata"].items() if k in ("name", "namespace", "labels")}
        obj.pop("status", None)
        nsk8s("apply", "-f", "-", text=json.dumps(obj))
    image = container["image"]

    def replaced() -> bool:
        found = get("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")["items"]
        return [p["spec"]["containers"][0]["image"] for p in found if p["status"]["phase"] == "Running"] == [image]

    until("kubeadm's", replaced)
    until("an answer", lambda: looked("kubernetes.default.svc.cluster.local").returncode == 0)
    # Each asked again while the pod of before may still be in a node's rules.
    until("its own setting", lambda: "NXDOMAIN" in looked("10-1-2-3.default.pod.cluster.local").stdout)
    until("asked outside, where nobody answers", lambda: "SERVFAIL" in looked("www.example.com").stdout)


def looked(name: str) -> subprocess.CompletedProcess[str]:
    return nsk8s("exec", "debug", "--", "nslookup", "-type=a", name, ok=False)
