"""What a pod's spec can ask of the kubelet, each with the real runtime and API server."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path

import pytest
from kubelet_node import KubeletNode, is_ready, pod

pytestmark = pytest.mark.root
TOKEN_S = 3


@pytest.fixture(scope="module")
def world(node: KubeletNode):
    """The node with a network, and a kubelet that looks at volumes every second."""
    node.network()
    node.kill("kubelet", signal.SIGTERM)
    node.start_kubelet("--sync-frequency", "1s")
    node.kubectl("wait", "--for=condition=Ready", "node/node1", "--timeout=60s")
    return node


def main_status(found, name="main"):
    known = (found["status"].get("containerStatuses") or []) + (found["status"].get("initContainerStatuses") or [])
    return next((s for s in known if s["name"] == name), {"state": {}, "restartCount": 0})


def shell(node: KubeletNode, name: str, script: str) -> str:
    answer = node.exec_sync(name, "sh", "-c", script)
    assert answer["exitCode"] == 0, base64.b64decode(answer["stderr"]).decode()
    return base64.b64decode(answer["stdout"]).decode()


def leases(node: KubeletNode) -> set[str]:
    """The addresses that host-local has given out."""
    folder = node.path("/run/cni/cache/networks/cbr0")
    if not folder.exists():
        folder = node.path("/var/lib/cni/networks/cbr0")
    return {p.name for p in folder.iterdir() if p.name[0].isdigit()}


def test_a_killed_pause_costs_the_pod_its_address_and_nothing_leaks(world: KubeletNode):
    world.apply(pod("boxed", "sleep", "1000"))
    before = world.wait_running("boxed")
    old = before["status"]["podIP"]
    assert old in leases(world)
    os.kill(world.sandbox_of(before)["pid"], signal.SIGKILL)
    after = world.wait_pod("boxed", lambda p: is_ready(p) and main_status(p)["restartCount"] == 1, "remade")
    assert not any(r == "BackOff" for r, _ in world.events("boxed")), "at once"
    new = after["status"]["podIP"]
    assert new != old
    world.wait_event("boxed", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
    assert old not in leases(world), "CNI DEL gave the address back"
    assert main_status(after)["lastState"]["terminated"]["exitCode"] == 137
    assert shell(world, "boxed", "cat /etc/hosts").count(f"{new}\tboxed") == 1
    world.kubectl("delete", "pod", "boxed")
    world.wait(lambda: new not in leases(world), "the second address is free as well")


PORT_8080 = (
    "import os,socket,time\nwhile not os.path.exists('/tmp/go'): time.sleep(0.05)\n"
    "s=socket.socket(); s.bind(('',8080)); s.listen(); time.sleep(1000)"
)


def test_tcp_probes_and_a_startup_probe_that_holds_the_others_back(world: KubeletNode):
    world.apply(
        pod("slow", "python3", "-c", PORT_8080, image="python", container={
            "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 300},
            "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 60},
        }),
        pod("never", "sleep", "1000", terminationGracePeriodSeconds=1, container={
            "startupProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2},
        }),
    )  # fmt: skip
    found = world.wait_pod("slow", lambda p: p["status"].get("phase") == "Running", "running")
    assert main_status(found)["started"] is False
    assert not is_ready(found)
    shell(world, "slow", "touch /tmp/go")
    found = world.wait_running("slow")
    assert (main_status(found)["started"], main_status(found)["restartCount"]) == (True, 0)
    world.wait_pod("never", lambda p: main_status(p)["restartCount"] >= 1, "killed by its startup probe")
    world.wait_event("never", "Killing", "Container main failed startup probe, will be restarted")
    world.kubectl("delete", "pod", "slow", "never", "--grace-period=1")


def test_a_grpc_probe_is_refused_in_words(world: KubeletNode):
    world.apply(pod("grpc", "sleep", "1000", container={"readinessProbe": {"grpc": {"port": 1}, "periodSeconds": 1}}))
    world.wait(lambda: any(r == "Unsupported" and "grpc" in m for r, m in world.events("grpc")), "the event")
    world.wait(lambda: any("supports exec, httpGet and tcpSocket probes only" in m for _, m in world.events("grpc")), "Unhealthy")
    world.kubectl("delete", "pod", "grpc", "--grace-period=1")


def test_post_start_runs_before_the_container_counts_as_running(world: KubeletNode):
    good = {"postStart": {"exec": {"command": ["sh", "-c", "echo hooked > /tmp/hook"]}}}
    bad = {"postStart": {"exec": {"command": ["sh", "-c", "echo no; exit 3"]}}}
    world.apply(
        pod("hooked", "sleep", "1000", container={"lifecycle": good}),
        pod("unhooked", "sleep", "1000", terminationGracePeriodSeconds=1, container={"lifecycle": bad}),
    )
    world.wait_running("hooked")
    assert shell(world, "hooked", "cat /tmp/hook") == "hooked\n"
    world.wait(lambda: any(r == "FailedPostStartHook" for r, _ in world.events("unhooked")), "FailedPostStartHook")
    world.wait_pod("unhooked", lambda p: "terminated" in main_status(p).get("lastState", {}) or main_status(p)["restartCount"], "killed")
    world.kubectl("delete", "pod", "hooked", "unhooked", "--grace-period=1")


def test_termination_messages(world: KubeletNode):
    world.apply(
        pod("own", "sh", "-c", "echo mine > /dev/shm/../why; echo mine > /why", restartPolicy="Never",
            container={"terminationMessagePath": "/why"}),
        pod("logged", "sh", "-c", "echo first; echo last; exit 1", restartPolicy="Never",
            container={"terminationMessagePolicy": "FallbackToLogsOnError"}),
        pod("silent", "sh", "-c", "echo noise", restartPolicy="Never",
            container={"terminationMessagePolicy": "FallbackToLogsOnError"}),
    )  # fmt: skip
    for name, message in (("own", "mine\n"), ("logged", "first\nlast\n"), ("silent", None)):
        found = world.wait_pod(name, lambda p: "terminated" in main_status(p)["state"], "ended")
        assert main_status(found)["state"]["terminated"].get("message") == message
    world.kubectl("delete", "pod", "own", "logged", "silent")


def test_volumes_are_as_asked_and_follow_their_objects(world: KubeletNode):
    cm = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "live", "namespace": "default"}, "data": {"k": "one"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "live", "namespace": "default"}, "stringData": {"s": "pw"}}
    world.apply(
        cm, secret,
        pod(
            "vols", "sleep", "1000", metadata={"labels": {"colour": "red"}},
            securityContext={"fsGroup": 4242, "runAsUser": 1000, "runAsGroup": 1000},
            volumes=[
                {"name": "cm", "configMap": {"name": "live"}}, {"name": "secret", "secret": {"secretName": "live", "defaultMode": 0o400}},
                {"name": "down", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "all", "projected": {"sources": [
                    {"configMap": {"name": "live", "items": [{"key": "k", "path": "a/b"}]}}, {"secret": {"name": "live"}},
                    {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                ]}},
                {"name": "tmp", "emptyDir": {}}, {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "64Ki"}},
            ],
            container={"volumeMounts": [
                {"name": "cm", "mountPath": "/cm"}, {"name": "secret", "mountPath": "/secret"}, {"name": "down", "mountPath": "/down"},
                {"name": "all", "mountPath": "/all"}, {"name": "tmp", "mountPath": "/scratch"}, {"name": "mem", "mountPath": "/mem"},
                {"name": "cm", "mountPath": "/etc/one", "subPath": "k"}, {"name": "tmp", "mountPath": "/part", "subPath": "x/y"},
                {"name": "tmp", "mountPath": "/named", "subPathExpr": "of-$(ME)"}, {"name": "cm", "mountPath": "/ro", "readOnly": True},
            ], "env": [{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
        ),
    )  # fmt: skip
    world.wait_running("vols")
    assert shell(world, "vols", "id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '") == "1000 4242 "
    assert shell(world, "vols", "cat /cm/k /secret/s /all/a/b /all/s /all/name /etc/one; cat /down/labels") == (
        'onepwonepwvolsonecolour="red"'
    )
    assert shell(world, "vols", "stat -L -c '%a %g' /secret/s /scratch; stat -f -c %T /mem").split("\n")[:3] == [
        "440 4242", "2777 4242", "tmpfs"
    ]  # fmt: skip
    assert shell(world, "vols", "touch /part/p /named/n; ls /scratch/x/y /scratch/of-vols") == "/scratch/of-vols:\nn\n\n/scratch/x/y:\np\n"
    assert shell(world, "vols", "head -c 200000 /dev/zero > /mem/big 2>/dev/null && echo fits || echo full") == "full\n"
    assert shell(world, "vols", "echo x > /ro/k 2>/dev/null && echo written || echo refused") == "refused\n"
    world.kubectl("patch", "configmap", "live", "--type=merge", "-p", '{"data":{"k":"two","new":"n"}}')
    world.kubectl("patch", "secret", "live", "--type=merge", "-p", '{"stringData":{"s":"changed"}}')
    world.kubectl("label", "pod", "vols", "--overwrite", "colour=blue")
    want = 'twochangedtwochangedn colour="blue" one'
    script = 'echo "$(cat /cm/k /secret/s /all/a/b /all/s /cm/new) $(cat /down/labels) $(cat /etc/one)"'
    world.wait(lambda: shell(world, "vols", script).strip() == want, "volumes follow, a subPath does not")
    world.kubectl("delete", "pod", "vols", "--grace-period=1")


def test_a_service_account_token_is_bound_to_the_pod_and_renewed(world: KubeletNode):
    source = {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "tests"}}
    world.apply(
        pod("holder", "sleep", "1000", volumes=[{"name": "t", "projected": {"sources": [source]}}],
            container={"volumeMounts": [{"name": "t", "mountPath": "/t"}]})
    )  # fmt: skip
    found = world.wait_running("holder")
    token = shell(world, "holder", "cat /t/token")
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert claims["aud"] == ["tests"]
    assert claims["sub"] == "system:serviceaccount:default:default"
    assert claims["kubernetes.io"]["pod"] == {"name": "holder", "uid": found["metadata"]["uid"]}
    assert 500 < claims["exp"] - time.time() <= 600
    world.kubectl("delete", "pod", "holder", "--grace-period=1")


def test_out_of_memory_is_seen_and_restarted(world: KubeletNode):
    eat = "import time; time.sleep(0.3); x = bytearray(200 << 20); time.sleep(1000)"
    world.apply(pod("eater", "python3", "-c", eat, image="python", container={"resources": {"limits": {"memory": "48Mi"}}}))
    found = world.wait_pod("eater", lambda p: main_status(p)["restartCount"] >= 1, "restarted")
    last = main_status(found)["lastState"]["terminated"]
    assert (last["reason"], last["exitCode"]) == ("OOMKilled", 137)
    assert found["status"]["qosClass"] == "Burstable"
    world.kubectl("delete", "pod", "eater", "--grace-period=1")


def cgroup_value(world: KubeletNode, pid: int, controller: str, name: str) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        home = world.cgroups._home(controller)
        if home and (controller in controllers.split(",") or (not controllers and controller in world.cgroups.v2_controllers)):
            return Path(f"{home}{path}/{name}").read_text().strip()
    pytest.skip(f"no {controller} control group")


def test_quality_of_service(world: KubeletNode):
    limits = {"cpu": "250m", "memory": "64Mi"}
    world.apply(
        pod("sure", "sleep", "1000", container={"resources": {"limits": limits}}), pod("any", "sleep", "1000"),
        pod("some", "sleep", "1000", container={"resources": {"requests": {"cpu": "100m", "memory": "1Mi"}}}),
    )  # fmt: skip
    scores = {}
    for name, qos in (("sure", "Guaranteed"), ("any", "BestEffort"), ("some", "Burstable")):
        found = world.wait_running(name)
        assert found["status"]["qosClass"] == qos
        pid = world.container_of(found)["pid"]
        scores[name] = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        if name == "sure" and "cpu" in world.cgroups.v1:
            assert cgroup_value(world, pid, "cpu", "cpu.cfs_quota_us") == "25000"
            assert cgroup_value(world, pid, "cpu", "cpu.shares") == "256"
            assert cgroup_value(world, pid, "memory", "memory.limit_in_bytes") == str(64 << 20)
        if name == "any" and "cpu" in world.cgroups.v1:
            assert cgroup_value(world, pid, "cpu", "cpu.shares") == "2"
    assert scores["any"] == 1000, "what asked for nothing goes first"
    assert scores["sure"] < scores["some"] < scores["any"]
    world.kubectl("delete", "pod", "sure", "any", "some", "--grace-period=1")


def test_an_ephemeral_container_joins_a_running_pod(world: KubeletNode):
    world.apply(pod("patient", "sleep", "1000"))
    found = world.wait_running("patient")
    look = "tr '\\0' ' ' < /proc/1/cmdline; echo; sleep 1000"
    world.kubectl("debug", "patient", "--image=busybox", "--target=main", "-c", "doctor", "--", "sh", "-c", look)
    found = world.wait_pod(
        "patient", lambda p: any("running" in s["state"] for s in p["status"].get("ephemeralContainerStatuses") or []), "doctor runs"
    )
    assert is_ready(found)
    assert main_status(found)["restartCount"] == 0
    seen = world.wait(lambda: world.log("patient", "doctor"), "what it sees")
    assert "sleep 1000" in seen, "it shares the target's processes"
    world.kubectl("delete", "pod", "patient", "--grace-period=1")


def test_a_local_volume_that_outgrows_its_limit_evicts_the_pod(world: KubeletNode):
    world.apply(
        pod("greedy", "sh", "-c", "head -c 3000000 /dev/zero > /v/big; sleep 1000",
            volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
            container={"volumeMounts": [{"name": "v", "mountPath": "/v"}]})
    )  # fmt: skip
    found = world.wait_pod("greedy", lambda p: p["status"].get("phase") == "Failed", "evicted")
    assert found["status"]["reason"] == "Evicted"
    assert found["status"]["message"] == 'Usage of EmptyDir volume "v" exceeds the limit "1Mi". '
    world.wait_event("greedy", "Evicted")
    world.kubectl("delete", "pod", "greedy")
