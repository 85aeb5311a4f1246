"""A pod's network settings on a whole cluster, as upstream defines them: host ports, host names, sysctls, shared processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import apply, get, in_pod, netns, nsk8s, pod, until
from e2e_settled import answered_everywhere

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
HERE = {"nodeName": "node1"}
LONG = "x" * 40


def with_ports(name: str, *ports: dict[str, Any], image: str = "nsk8s/echo", **spec: Any) -> dict[str, Any]:
    made = pod(name, image, **spec)
    made["metadata"]["labels"] = {"app": name.partition("-")[0]}
    made["spec"]["containers"][0]["ports"] = list(ports)
    if image != "busybox":
        del made["spec"]["containers"][0]["command"]
    return made


def sysctls(**values: str) -> dict[str, Any]:
    return {"securityContext": {"sysctls": [{"name": k.replace("__", "."), "value": v} for k, v in values.items()]}}


def several_containers() -> dict[str, Any]:
    made = pod("shared", shareProcessNamespace=True, **HERE)
    made["spec"]["containers"].append({"name": "other", "image": "busybox", "command": ["sleep", "4321"]})
    return made


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("podsettings") / "cluster.yaml"
    file.write_text("nodes: 2\nkubelet: {config: {allowedUnsafeSysctls: [net.core.somaxconn, 'kernel.msg*']}}\n")
    try:
        nsk8s("up", "-q", "-f", str(file))
        headless = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sub"},
                    "spec": {"clusterIP": "None", "selector": {"app": "named"}, "ports": [{"port": 80}]}}  # fmt: skip
        apply(
            headless,
            with_ports("host", {"containerPort": 8080}, hostNetwork=True, **HERE),
            with_ports("tcp", {"containerPort": 8080, "hostPort": 7001, "hostIP": "127.0.0.1"}, **HERE),
            with_ports("udp-1", {"containerPort": 9, "hostPort": 7002, "protocol": "UDP"}, image="busybox", **HERE),
            pod("named", hostname="one", subdomain="sub", hostAliases=[{"ip": "10.9.8.7", "hostnames": ["old", "old.example"]}], **HERE),
            pod("full", hostname="two", subdomain="sub", setHostnameAsFQDN=True, **HERE),
            pod("toolong", hostname=LONG, subdomain="sub", setHostnameAsFQDN=True, **HERE),
            pod("safe", **sysctls(net__ipv4__ip_local_port_range="20000 20100", kernel__shm_rmid_forced="1"), **HERE),
            pod("allowed", **sysctls(net__core__somaxconn="321", kernel__msgmax="7777"), **HERE),
            pod("unsafe", **sysctls(net__ipv4__tcp_syn_retries="2"), **HERE),
            several_containers(),
        )
        yield
    finally:
        nsk8s("down", "-q", ok=False)


def running(name: str) -> dict[str, Any]:
    def look() -> Any:
        found = get("pods", name)
        return found if found["status"].get("phase") == "Running" and found["status"].get("podIP") else None

    return until(f"pod {name} runs", look)


def events(name: str) -> list[tuple[str, str]]:
    return [(e["reason"], e["message"]) for e in get("events")["items"] if e["involvedObject"]["name"] == name]


def test_a_pod_on_the_hosts_network_is_its_node() -> None:
    status = running("host")["status"]
    assert status["podIP"] == status["hostIP"] == "192.168.56.11"
    assert get("pods", "host")["spec"]["containers"][0]["ports"][0]["hostPort"] == 8080, "defaulted, so that it is scheduled as one"
    assert in_pod("host", "hostname").strip() == "node1"
    assert "cni0" in in_pod("host", "ip", "-o", "link")
    assert "# Kubernetes-managed hosts file (host network).\n" in in_pod("host", "cat", "/etc/hosts")
    answered_everywhere(("node2",), "http://192.168.56.11:8080/")


def test_a_host_port_of_one_address_and_of_udp() -> None:
    running("tcp")
    answered_everywhere(("node1",), "http://127.0.0.1:7001/")
    assert netns("node1", "curl", "-sf", "-m", "2", "http://192.168.56.11:7001/").returncode != 0
    running("udp-1")
    hear = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9)); s.settimeout(60); d, a = s.recvfrom(99); " \
           "s.sendto(d + a[0].encode(), a)"  # fmt: skip
    nsk8s("exec", "udp-1", "--", "sh", "-c", f'nohup python3 -c "{hear}" >/dev/null 2>&1 & until grep -q :0009 /proc/net/udp; do sleep 0.05; done')
    ask = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(15); s.sendto(b'from ', ('192.168.56.11', 7002)); " \
          "print(s.recv(99).decode())"  # fmt: skip
    assert netns("client", "python3", "-c", ask).stdout.strip() == "from 203.0.113.10", "with the client's own address"


def test_host_ports_collide_at_scheduling_by_port_protocol_and_address() -> None:
    udp = {"containerPort": 9, "hostPort": 7002, "protocol": "UDP"}
    keeps_out = {"tolerations": [], "nodeSelector": {"kubernetes.io/hostname": "node1"}}
    apply(
        with_ports("udp-2", udp, image="busybox", **keeps_out),
        with_ports("free-proto", {**udp, "protocol": "TCP"}, image="busybox", **keeps_out),
        with_ports("free-address", {"containerPort": 80, "hostPort": 7001, "hostIP": "192.168.56.11"}, image="busybox", **keeps_out),
        with_ports("taken-address", {"containerPort": 80, "hostPort": 7001}, image="busybox", **keeps_out),
        with_ports("taken-hostnet", {"containerPort": 8080}, image="busybox", hostNetwork=True, **keeps_out),
    )
    running("free-proto")
    running("free-address")
    for name in ("udp-2", "taken-address", "taken-hostnet"):
        says = until("why it waits", lambda name=name: [m for r, m in events(name) if r == "FailedScheduling"])
        assert "1 node(s) didn't have free ports for the requested pod ports" in says[0]
    nsk8s("delete", "pod", "udp-1")
    running("udp-2")


def test_names_and_aliases() -> None:
    ip = running("named")["status"]["podIP"]
    assert in_pod("named", "hostname").strip() == "one"
    lines = in_pod("named", "cat", "/etc/hosts").splitlines()
    assert lines[0] == "# Kubernetes-managed hosts file."
    assert f"{ip}\tone.sub.default.svc.cluster.local\tone" in lines
    assert lines[-2:] == ["# Entries added by HostAliases.", "10.9.8.7\told\told.example"]
    assert in_pod("named", "getent", "hosts", "old.example").split()[0] == "10.9.8.7"
    assert running("full")
    assert in_pod("full", "hostname").strip() == "two.sub.default.svc.cluster.local"
    assert in_pod("full", "cat", "/etc/hostname").strip() == "two.sub.default.svc.cluster.local"


def test_a_full_name_that_is_too_long_waits_with_an_event() -> None:
    name = f"{LONG}.sub.default.svc.cluster.local"
    wanted = f"FQDN {name} is too long (64 is the max, {len(name)} characters requested)"
    until("the Event", lambda: any(r == "FailedCreatePodSandBox" and wanted in m for r, m in events("toolong")))
    assert get("pods", "toolong")["status"]["phase"] == "Pending"


def test_sysctls_safe_allowed_and_forbidden() -> None:
    running("safe")
    assert in_pod("safe", "cat", "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/kernel/shm_rmid_forced").split() == ["20000", "20100", "1"]
    running("allowed")
    assert in_pod("allowed", "cat", "/proc/sys/net/core/somaxconn", "/proc/sys/kernel/msgmax").split() == ["321", "7777"]
    status = until("it is refused", lambda: s if (s := get("pods", "unsafe")["status"])["phase"] == "Failed" else None)
    assert status["reason"] == "SysctlForbidden"
    assert status["message"] == 'Pod was rejected: forbidden sysctl: "net.ipv4.tcp_syn_retries" not allowlisted'
    event = ("SysctlForbidden", 'forbidden sysctl: "net.ipv4.tcp_syn_retries" not allowlisted')
    until("the Event", lambda: event in events("unsafe"))
    refused = nsk8s("apply", "-f", "-", text=json.dumps(pod("both", hostNetwork=True, **sysctls(net__ipv4__tcp_rmem="1"))), ok=False)
    assert "may not be specified when 'hostNetwork' is true" in refused.stderr


def test_containers_that_share_processes_see_and_signal_one_another() -> None:
    running("shared")
    seen = in_pod("shared", "sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done").splitlines()
    assert "sleep 4321 " in seen
    assert "sleep infinity " in seen
    before = next(c for c in get("pods", "shared")["status"]["containerStatuses"] if c["name"] == "other")["restartCount"]
    kill = """for p in /proc/[0-9]*; do [ "$(tr '\\0' ' ' < $p/cmdline)" = "sleep 4321 " ] && kill -KILL ${p#/proc/}; done; true"""
    in_pod("shared", "sh", "-c", kill)
    until("it is started again", lambda: any(
        c["name"] == "other" and c["restartCount"] > before for c in get("pods", "shared")["status"]["containerStatuses"]))  # fmt: skip
    running("named")
    alone = in_pod("named", "sh", "-c", "ls -d /proc/[0-9]* | wc -l")
    assert int(alone) < 6


def test_a_policy_that_nothing_enforces_is_loud() -> None:
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "nothing"}, "spec": {"podSelector": {}}}
    said = nsk8s("apply", "-f", "-", text=json.dumps(policy)).stderr
    assert "Warning: NetworkPolicy has no effect in nsk8s by itself: nothing enforces policies" in said
    until("an Event", lambda: any(r == "NotEnforced" and "nothing enforces this policy" in m for r, m in events("nothing")))
    assert "NotEnforced" in nsk8s("describe", "networkpolicy", "nothing").stdout


def test_the_kubelets_flag_is_in_its_configuration(tmp_path: Path) -> None:
    assert "allowedUnsafeSysctls:\n- net.core.somaxconn" in nsk8s("enter", "node1", "--", "cat", "/var/lib/kubelet/config.yaml").stdout
    for wrong, says in (("{allowedUnsafeSysctls: [vm.swappiness]}", "not known to be namespaced"), ("{nosuch: 1}", 'unknown field "nosuch"')):
        file = tmp_path / "cluster.yaml"
        file.write_text(f"kubelet: {{config: {wrong}}}\n")
        done = nsk8s("up", "-q", "-f", str(file), ok=False, cluster="never")
        assert (done.returncode, says in done.stderr, len(done.stderr.splitlines())) == (1, True, 1), done.stderr
