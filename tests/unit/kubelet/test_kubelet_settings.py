"""Flags and KubeletConfiguration, the Node's status, admission."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from kubelet_objects import pod, spec

from nsk8s.errors import Nsk8sError
from nsk8s.kubelet import nodestatus
from nsk8s.kubelet.admission import admit, node_matches, pod_requests
from nsk8s.kubelet.config import Config, from_document, parse_duration, parse_taint
from nsk8s.kubelet.containerconfig import (
    container_config,
    escalation_allowed,
    oom_score_adj,
    pod_resources,
    quota,
    sandbox_config,
    shares,
    unsupported,
)
from nsk8s.kubelet.dns import DNSConfig
from nsk8s.kubelet.env import ConfigError
from nsk8s.kubelet.machine import Machine, memory_total, os_image
from nsk8s.kubelet.main import build_config
from nsk8s.kubelet.podruntime import sort_ips

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
HEAD = {"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1"}
MACHINE = Machine(2, 4 << 30, 10 << 30, "amd64", "6.1", "Debian", "m" * 32, "uuid", "boot", "node1")
CONFIG = Config(node_name="node1", node_ips=("192.168.56.11",))


def test_a_duration_of_zero_is_not_set():
    """As in the KubeletConfiguration that kubeadm writes."""
    durations = ("runtimeRequestTimeout", "syncFrequency", "nodeStatusUpdateFrequency", "nodeStatusReportFrequency")
    assert from_document({**HEAD, **dict.fromkeys(durations, "0s")}, "f") == (Config(), [])
    config, _ = build_config({"runtime_request_timeout": "0", "hostname_override": "node1"})
    assert config.runtime_timeout_s == Config().runtime_timeout_s


def test_the_configuration_file():
    config, ignored = from_document(
        {**HEAD, "clusterDNS": ["10.96.0.10"], "maxPods": 50, "nodeStatusUpdateFrequency": "1m30s", "evictionHard": {"x": "1"},
         "authentication": {"x509": {"clientCAFile": "/ca"}, "anonymous": {"enabled": False}}}, "f"
    )  # fmt: skip
    assert (config.cluster_dns, config.max_pods, config.node_status_update_s, config.client_ca_file) == (
        ("10.96.0.10",), 50, 90.0, "/ca"
    )  # fmt: skip
    assert ignored == ["evictionHard"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not a KubeletConfiguration"),
        ({"kind": "Pod"}, "want kind KubeletConfiguration"),
        ({**HEAD, "maxPodz": 1}, 'unknown field "maxPodz"'),
        ({**HEAD, "maxPods": "many"}, "maxPods"),
        ({**HEAD, "syncFrequency": "1 minute"}, "invalid duration"),
        ({**HEAD, "authentication": 5}, "authentication"),
    ],
)
def test_what_is_wrong_with_it_is_said(document, message):
    with pytest.raises(Nsk8sError, match=message):
        from_document(document, "f")


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nmaxPods: 50\nport: 1\n")
    config, _ = build_config({"config": str(file), "max_pods": 7, "hostname_override": "Node1", "node_ip": "10.0.0.1,fd00::1"})
    assert (config.max_pods, config.port, config.node_name, config.node_ips) == (7, 1, "node1", ("10.0.0.1", "fd00::1"))
    for wrong in ("10.0.0.1,10.0.0.2", "fd00::1,10.0.0.1,fd00::2", "node1"):
        with pytest.raises(Nsk8sError, match=f"--node-ip {wrong}: "):
            build_config({"node_ip": wrong})


def test_a_pods_addresses_are_in_the_nodes_order_one_a_family() -> None:
    given = ["fd00::2", "10.0.0.2", "10.0.0.3"]
    assert sort_ips(given, ipv6_first=False) == ("10.0.0.2", "fd00::2")
    assert sort_ips(given, ipv6_first=True) == ("fd00::2", "10.0.0.2")
    assert sort_ips(["fd00::2"], ipv6_first=False) == ("fd00::2",)
    with pytest.raises(Nsk8sError, match="invalid taint spec"):
        build_config({"register_with_taints": "a"})


def test_durations_and_taints():
    assert [parse_duration(t) for t in ("10s", "1h1m", "0", "1.5s", "300ms")] == [10, 3660, 0, 1.5, 0.3]
    assert parse_taint("k=v:NoSchedule") == {"key": "k", "value": "v", "effect": "NoSchedule"}
    assert parse_taint("k:NoExecute") == {"key": "k", "effect": "NoExecute"}


def test_machine_files():
    assert os_image('NAME=x\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n') == "Debian GNU/Linux 12 (bookworm)"
    assert memory_total("MemFree: 1 kB\nMemTotal:  2048 kB\n") == 2048 * 1024


def test_ready_in_upstreams_words():
    ok = {"type": "RuntimeReady", "status": True}
    network = {"type": "NetworkReady", "status": False, "reason": "NetworkPluginNotReady", "message": "cni plugin not initialized"}
    assert nodestatus.ready_condition({"RuntimeReady": ok, "NetworkReady": {**ok, "type": "NetworkReady"}})["status"] == "True"
    assert nodestatus.ready_condition({"RuntimeReady": ok, "NetworkReady": network})["message"] == (
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
    )
    assert nodestatus.ready_condition(None, "refused")["message"] == "container runtime is down: refused"


def test_the_node_object():
    conditions = [*nodestatus.pressure_conditions(1 << 30), nodestatus.ready_condition(None)]
    node = nodestatus.initial_node(Config(node_name="n", register_taints=(parse_taint("a:NoSchedule"),)), MACHINE, conditions, NOW)
    assert node["metadata"]["labels"] == {
        "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": "n", "kubernetes.io/os": "linux"
    }  # fmt: skip
    assert node["spec"]["taints"] == [{"key": "a", "effect": "NoSchedule"}]
    assert node["status"]["capacity"]["memory"] == "4194304Ki"
    later = nodestatus.status(Config(node_name="n"), MACHINE, conditions, node["status"], NOW + timedelta(minutes=1))
    assert not nodestatus.changed(node["status"], later), "heartbeats are no change"
    assert later["conditions"][0]["lastTransitionTime"] == node["status"]["conditions"][0]["lastTransitionTime"]
    assert later["conditions"][0]["lastHeartbeatTime"] == "2026-11-21T10:01:00Z"
    assert nodestatus.changed(later, {**later, "capacity": {}})


def test_reservations_and_labels():
    config = Config(node_name="n", system_reserved={"cpu": "500m"}, node_labels={"a": "b"})
    assert nodestatus.allocatable(config, MACHINE)["cpu"] == "1500m"
    have = {"metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux", "x": "y"}}}
    assert nodestatus.reconcile_labels(have, config, MACHINE) == {
        "a": "b", "kubernetes.io/arch": "amd64", "kubernetes.io/hostname": "n"
    }  # fmt: skip


def test_the_lease():
    lease = nodestatus.lease("n", "uid", 40, NOW)
    assert lease["spec"] == {"holderIdentity": "n", "leaseDurationSeconds": 40, "renewTime": "2026-11-21T10:00:00.000000Z"}
    assert nodestatus.renew_interval_s(40) == 10


ALLOCATABLE = {"cpu": "2", "memory": "1Gi", "pods": "3"}
NODE = {"metadata": {"name": "node1", "labels": {"disk": "hdd", "size": "5"}}, "spec": {}}


def asks(**requests):
    return pod(spec(resources={"requests": requests}))


def test_admission():
    assert admit(asks(cpu="2"), [], NODE, ALLOCATABLE) is None
    refusal = admit(asks(cpu="500m"), [asks(cpu="1800m")], NODE, ALLOCATABLE)
    assert refusal == ("OutOfcpu", "Node didn't have enough resource: cpu, requested: 500, used: 1800, capacity: 2000")
    assert admit(pod(), [pod()] * 3, NODE, ALLOCATABLE).reason == "OutOfpods"
    assert admit(pod(nodeSelector={"disk": "ssd"}), [], NODE, ALLOCATABLE).reason == "NodeAffinity"
    ported = pod(spec(ports=[{"containerPort": 80, "hostPort": 80}]))
    assert admit(ported, [ported], NODE, ALLOCATABLE).reason == "NodePorts"
    assert admit(ported, [pod(spec(ports=[{"containerPort": 80}]))], NODE, ALLOCATABLE) is None
    tainted = {**NODE, "spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "NoSchedule"}]}}
    assert admit(pod(), [], tainted, ALLOCATABLE).reason == "TaintToleration"
    assert admit(pod(tolerations=[{"key": "a", "operator": "Exists"}]), [], tainted, ALLOCATABLE) is None


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ({"key": "disk", "operator": "In", "values": ["hdd"]}, True), ({"key": "disk", "operator": "NotIn", "values": ["hdd"]}, False),
        ({"key": "x", "operator": "Exists"}, False), ({"key": "x", "operator": "DoesNotExist"}, True),
        ({"key": "size", "operator": "Gt", "values": ["4"]}, True), ({"key": "size", "operator": "Lt", "values": ["4"]}, False),
    ],
)  # fmt: skip
def test_node_affinity(expression, matches):
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    assert node_matches(pod(affinity=affinity), NODE) is matches


def test_requests_with_init_containers_and_sidecars():
    def of(name, cpu, **extra):
        return spec(name, resources={"requests": {"cpu": cpu}}, **extra)

    p = pod(of("a", "1"), of("b", "1"), init=(of("s", "500m", restartPolicy="Always"), of("i", "3")))
    assert str(pod_requests(p)["cpu"]) == "3500m"


def test_resources_of_cgroups():
    assert (shares(0), shares(500), shares(10**6)) == (2, 512, 262144)
    assert (quota(0), quota(1), quota(1500)) == (0, 1000, 150000)
    half = spec("a", resources={"limits": {"cpu": "500m", "memory": "64Mi"}})
    assert pod_resources(pod(half)) == {"cpuPeriod": 100000, "cpuQuota": 50000, "cpuShares": 512, "memoryLimitInBytes": 64 << 20}
    assert pod_resources(pod(half, spec("b")))["cpuQuota"] == 0, "one container without a limit: the pod has none"


def test_the_sandbox_and_what_it_cannot_do():
    p = pod(spec(ports=[{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]), shareProcessNamespace=True)
    config = sandbox_config(p, 2, "p", DNSConfig(("1.1.1.1",)))
    assert config["metadata"] == {"name": "p", "uid": "u1", "namespace": "default", "attempt": 2}
    assert config["portMappings"] == [{"protocol": "TCP", "containerPort": 80, "hostPort": 8080, "hostIP": ""}]
    assert config["linux"]["securityContext"]["namespaceOptions"] == {"network": "POD", "pid": "POD", "ipc": "POD"}
    with pytest.raises(Nsk8sError, match="hostPID"):
        sandbox_config(pod(hostPID=True), 0, "p", DNSConfig())
    loud = unsupported(pod(spec(livenessProbe={"grpc": {"port": 1}}), runtimeClassName="gvisor"))
    assert loud == ["container main: livenessProbe.grpc", "runtimeClassName gvisor"]
    assert unsupported(pod()) == []


def test_the_container_config():
    container = spec(
        command=["run", "$(A)"], securityContext={"runAsUser": 5, "capabilities": {"drop": ["ALL"]}}, tty=True,
        resources={"limits": {"memory": "1Mi"}},
    )  # fmt: skip
    config = container_config(
        pod(container, securityContext={"runAsUser": 9, "runAsGroup": 7, "fsGroup": 3}), container, attempt=4,
        environment={"A": "1"}, mounts=[], termination_file="/t",
    )  # fmt: skip
    assert config["command"] == ["run", "1"]
    assert config["logPath"] == "main/4.log"
    assert config["linux"]["resources"]["memoryLimitInBytes"] == 1 << 20
    security = config["linux"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["supplementalGroups"]) == ({"value": 5}, {"value": 7}, [3])
    with pytest.raises(ConfigError, match="runAsNonRoot and image will run as root"):
        container_config(pod(securityContext={"runAsNonRoot": True}), spec(), attempt=0, environment={}, mounts=[], termination_file="")


@pytest.mark.parametrize(
    ("security", "allowed"),
    [
        ({}, False), ({"allowPrivilegeEscalation": False}, False), ({"allowPrivilegeEscalation": True}, True),
        ({"privileged": True}, True), ({"capabilities": {"add": ["NET_ADMIN"]}}, False),
        ({"capabilities": {"add": ["CAP_SYS_ADMIN"]}}, True), ({"capabilities": {"add": ["sys_admin"], "drop": ["ALL"]}}, True),
        ({"capabilities": {"add": ["ALL"]}}, True), ({"capabilities": None, "allowPrivilegeEscalation": None}, False),
    ],
)  # fmt: skip
def test_privileges_are_raised_only_when_asked_for(security, allowed):
    assert escalation_allowed(security) is allowed
    config = container_config(pod(), spec(securityContext=security), attempt=0, environment={}, mounts=[], termination_file="")
    assert config["linux"]["securityContext"]["noNewPrivs"] is not allowed


def test_who_goes_first_when_memory_is_short():
    gib = 1 << 30
    sure = spec(resources={"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}})
    assert oom_score_adj(pod(sure), sure, 4 * gib) == -997
    assert oom_score_adj(pod(spec()), spec(), 4 * gib) == 1000
    scores = []
    for request in ("0", "1Gi", "4Gi", "100Gi"):
        container = spec(resources={"requests": {"memory": request, "cpu": "1m"}})
        scores.append(oom_score_adj(pod(container), container, 4 * gib))
    assert scores == [999, 750, 3, 3]


def test_an_ephemeral_container_may_join_anothers_processes():
    config = container_config(
        pod(), spec(), attempt=0, environment={}, mounts=[], termination_file="", target_id="abc"
    )  # fmt: skip
    assert config["linux"]["securityContext"]["namespaceOptions"] == {"pid": "TARGET", "targetId": "abc"}


def test_seccomp_profiles():
    def config(**security):
        return container_config(pod(), spec(securityContext=security), attempt=0, environment={}, mounts=[], termination_file="")

    def asked(kind):
        return {"seccompProfile": {"type": kind}}

    assert config(**asked("Unconfined"))["linux"]["securityContext"]["seccomp"] == {"profileType": "Unconfined"}
    assert "seccomp" not in config(**asked("RuntimeDefault"))["linux"]["securityContext"]
    assert [unsupported(pod(spec(securityContext=asked(k)))) for k in ("Unconfined", "RuntimeDefault")] == [[], []]
    assert unsupported(pod(spec(securityContext=asked("Localhost")))) == ["container main: securityContext.seccompProfile Localhost"]
