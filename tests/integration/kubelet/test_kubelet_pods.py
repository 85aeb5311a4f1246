"""The kubelet with the real API server and the real runtime, on a node of its own."""

from __future__ import annotations

import json
import re
import signal

import pytest
from kubelet_node import KubeletNode, is_ready, pod

pytestmark = pytest.mark.root


def condition(obj, kind):
    return next(c for c in obj["status"]["conditions"] if c["type"] == kind)


def wait_reasons(node, name, *reasons):
    for reason in reasons:
        node.wait_event(name, reason)


def main_status(found, name="main"):
    """The container's status; an empty one before there is any."""
    known = found["status"].get("containerStatuses") or []
    return next((s for s in known if s["name"] == name), {"state": {}, "restartCount": 0})


def waiting(found):
    """The reason main waits, if it does."""
    return (main_status(found)["state"].get("waiting") or {}).get("reason")


def config_map(name, **data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


def test_the_node_is_not_ready_until_there_is_a_network(node: KubeletNode):
    found = node.get("node", "node1")
    ready = condition(found, "Ready")
    assert ready["status"] == "False"
    assert ready["message"] == (
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady "
        "message:Network plugin returns error: cni plugin not initialized"
    )
    node.network()
    node.kubectl("wait", "--for=condition=Ready", "node/node1", "--timeout=60s")
    found = node.get("node", "node1")
    assert condition(found, "Ready")["reason"] == "KubeletReady"
    assert found["status"]["nodeInfo"]["kubeletVersion"] == "v1.33.0+nsk8s"
    assert {a["type"]: a["address"] for a in found["status"]["addresses"]} == {
        "InternalIP": "192.168.56.11", "Hostname": "node1"
    }  # fmt: skip
    lease = node.get("lease", "node1", "kube-node-lease")
    assert lease["spec"]["holderIdentity"] == "node1"
    assert lease["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]
    wait_reasons(node, "node1", "Starting", "NodeReady", "NodeHasSufficientMemory")


def test_a_pod_runs_with_what_kubernetes_promises_it(node: KubeletNode):
    node.apply(
        config_map("cfg", colour="red"),
        pod(
            "full", "sh", "-c", "env; cat /etc/hosts /etc/resolv.conf; hostname; cat /cfg/colour; echo; exec sleep 1000",
            metadata={"labels": {"app": "web"}},
            volumes=[{"name": "cfg", "configMap": {"name": "cfg"}}, {"name": "tmp", "emptyDir": {"medium": "Memory"}}],
            container={
                "env": [
                    {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "colour"}}},
                ],
                "volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}, {"name": "tmp", "mountPath": "/scratch"}],
            },
        ),
    )  # fmt: skip
    found = node.wait_running("full")
    ip = found["status"]["podIP"]
    assert re.fullmatch(r"10\.244\.1\.\d+", ip)
    assert found["status"]["podIPs"] == [{"ip": ip}]
    assert found["status"]["hostIP"] == "192.168.56.11"
    assert found["status"]["qosClass"] == "BestEffort"
    assert {c["type"]: c["status"] for c in found["status"]["conditions"]} == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"), "True"
    )
    log = node.wait(lambda: (t := node.log("full")).endswith("\nred\n") and t, "the log")
    assert "B=12\n" in log
    assert f"IP={ip}\n" in log
    assert "COLOUR=red\n" in log
    assert "KUBERNETES_SERVICE_HOST=10.96.0.1\n" in log
    assert f"{ip}\tfull\n" in log
    assert "search default.svc.cluster.local svc.cluster.local cluster.local" in log
    assert "nameserver 10.96.0.10\n" in log
    assert "options ndots:5\n" in log
    assert "\nfull\n" in log
    wait_reasons(node, "full", "Pulled", "Created", "Started")
    uid = found["metadata"]["uid"]
    assert any(uid in m for m in node.mounts())
    node.kubectl("delete", "pod", "full")
    node.wait(lambda: not (node.base / "kubelet" / "pods" / uid).exists(), "the pod's folder is gone")
    assert not any(uid in m for m in node.mounts())
    node.wait_event("full", "Killing", "Stopping container main")


def test_a_crashing_container_is_restarted_with_back_off(node: KubeletNode):
    node.apply(pod("crash", "sh", "-c", "echo try; echo why > /dev/termination-log; exit 3"))
    found = node.wait_pod("crash", lambda p: waiting(p) == "CrashLoopBackOff" and main_status(p)["restartCount"] == 1, "back-off")
    status = main_status(found)
    uid = found["metadata"]["uid"]
    assert status["state"]["waiting"]["message"] == f"back-off 10s restarting failed container=main pod=crash_default({uid})"
    last = status["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"], last["message"]) == (3, "Error", "why\n")
    assert found["status"]["phase"] == "Running"
    assert not is_ready(found)
    node.wait_event("crash", "BackOff", f"Back-off restarting failed container main in pod crash_default({uid})")
    assert node.log("crash", previous="true") == "try\n"
    node.kubectl("delete", "pod", "crash", "--grace-period=1")


@pytest.mark.parametrize(
    ("name", "policy", "script", "phase", "reason"),
    [("ok", "Never", "exit 0", "Succeeded", "Completed"), ("bad", "Never", "exit 7", "Failed", "Error"),
     ("done", "OnFailure", "true", "Succeeded", "Completed")],
)  # fmt: skip
def test_a_pod_that_ends(node: KubeletNode, name, policy, script, phase, reason):
    node.apply(pod(name, "sh", "-c", script, restartPolicy=policy))
    found = node.wait_pod(name, lambda p: p["status"].get("phase") == phase, phase)
    assert main_status(found)["state"]["terminated"]["reason"] == reason
    assert condition(found, "Ready")["reason"] == ("PodCompleted" if phase == "Succeeded" else "PodFailed")
    node.kubectl("delete", "pod", name)


def test_init_containers_run_in_order_and_sidecars_stay(node: KubeletNode):
    inits = [
        {"name": "one", "image": "debian", "command": ["sh", "-c", "echo 1 >> /w/log"]},
        {"name": "side", "image": "debian", "command": ["sh", "-c", "echo 2 >> /w/log; exec sleep 1000"],
         "restartPolicy": "Always"},
        {"name": "two", "image": "debian", "command": ["sh", "-c", "echo 3 >> /w/log"]},
    ]
    mount = [{"name": "w", "mountPath": "/w"}]
    for c in inits:
        c["volumeMounts"] = mount
    node.apply(
        pod("init", "sh", "-c", "cat /w/log; exec sleep 1000", initContainers=inits, volumes=[{"name": "w", "emptyDir": {}}],
            container={"volumeMounts": mount})
    )  # fmt: skip
    found = node.wait_running("init")
    assert node.wait(lambda: node.log("init"), "log") == "1\n2\n3\n"
    states = {s["name"]: s for s in found["status"]["initContainerStatuses"]}
    assert states["one"]["state"]["terminated"]["reason"] == "Completed"
    assert "running" in states["side"]["state"]
    assert states["side"]["ready"]
    node.kubectl("delete", "pod", "init")


def test_what_cannot_start_says_why(node: KubeletNode):
    node.apply(
        pod("noimage", "x", image="registry.invalid/none:1"),
        pod("nocfg", "sleep", "1", container={"envFrom": [{"configMapRef": {"name": "missing"}}]}),
        pod("novol", "sleep", "1", volumes=[{"name": "v", "secret": {"secretName": "absent"}}]),
        pod("nocmd", "/no/such/command"),
    )
    found = node.wait_pod("noimage", lambda p: waiting(p) in ("ErrImagePull", "ImagePullBackOff"), "pull")
    assert found["status"]["phase"] == "Pending"
    wait_reasons(node, "noimage", "Pulling", "Failed")
    found = node.wait_pod("nocfg", lambda p: waiting(p) == "CreateContainerConfigError", "config error")
    assert main_status(found)["state"]["waiting"]["message"] == 'configmap "missing" not found'
    node.wait_event("novol", "FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "absent" not found')
    node.wait_pod("nocmd", lambda p: waiting(p) in ("RunContainerError", "CrashLoopBackOff"), "RunContainerError")
    node.apply(config_map("missing", A="b"))
    for name in ("noimage", "nocfg", "novol", "nocmd"):
        node.kubectl("delete", "pod", name, "--wait=false")
    node.wait(lambda: not any(node.get("pod", n) for n in ("noimage", "nocfg", "novol", "nocmd")), "all deleted")


SERVER = (
    "import http.server,os,sys\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    " def do_GET(s):\n"
    "  s.send_response(200 if os.path.exists('/tmp/ok') else 503); s.end_headers()\n"
    " def log_message(s,*a): pass\n"
    "http.server.HTTPServer(('',8080),H).serve_forever()\n"
)


def test_probes_decide_over_readiness_and_life(node: KubeletNode):
    probe = {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 60}
    node.apply(
        pod("probed", "python3", "-c", SERVER, image="python", container={
            "readinessProbe": probe, "ports": [{"name": "web", "containerPort": 8080}],
            "livenessProbe": {**probe, "httpGet": None, "exec": {"command": ["sh", "-c", "test ! -e /tmp/dead"]}},
        })
    )  # fmt: skip
    node.wait_pod("probed", lambda p: p["status"].get("phase") == "Running", "running")
    node.wait(lambda: any("Readiness probe failed: " in m for _, m in node.events("probed")), "Unhealthy")
    assert not is_ready(node.get("pod", "probed"))
    assert condition(node.get("pod", "probed"), "Ready")["message"] == "containers with unready status: [main]"
    node.exec_sync("probed", "touch", "/tmp/ok")
    node.wait_running("probed")
    node.exec_sync("probed", "touch", "/tmp/dead")
    found = node.wait_pod("probed", lambda p: main_status(p)["restartCount"] == 1, "restart")
    node.wait_event("probed", "Killing", "Container main failed liveness probe, will be restarted")
    assert main_status(found)["lastState"]["terminated"]["exitCode"] in (137, 143)
    node.kubectl("delete", "pod", "probed")


def test_termination_keeps_grace_and_runs_hooks(node: KubeletNode):
    script = "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    node.apply(
        pod("polite", "sh", "-c", script, terminationGracePeriodSeconds=90,
            container={"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo stopping > /proc/1/fd/1"]}}}}),
        pod("stubborn", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done", terminationGracePeriodSeconds=90),
    )  # fmt: skip
    node.wait_running("polite")
    node.wait_running("stubborn")
    for name in ("polite", "stubborn"):
        node.wait(lambda n=name: "up" in node.log(n), "trap is set")
    node.kubectl("delete", "pod", "polite", "--wait=false")
    node.wait(lambda: node.get("pod", "polite") is None, "polite ends well before its grace", 45)
    node.kubectl("delete", "pod", "stubborn", "--wait=false")
    node.wait_pod("stubborn", lambda p: p["metadata"].get("deletionTimestamp"), "terminating")
    node.kubectl("delete", "pod", "stubborn", "--grace-period=1", "--wait=false")
    node.wait(lambda: node.get("pod", "stubborn") is None, "a shorter grace takes effect", 45)


def test_a_dead_sandbox_is_remade(node: KubeletNode):
    node.apply(pod("boxed", "sleep", "1000"))
    before = node.wait_running("boxed")
    node.call("StopPodSandbox", podSandboxId=node.sandbox_of(before)["id"])
    after = node.wait_pod("boxed", lambda p: is_ready(p) and main_status(p)["restartCount"] == 1, "remade")
    assert after["status"]["podIP"]
    wait_reasons(node, "boxed", "SandboxChanged")
    assert node.sandbox_of(after)["metadata"]["attempt"] == 1
    node.kubectl("delete", "pod", "boxed")


def test_a_restarted_kubelet_or_runtime_disturbs_nothing(node: KubeletNode):
    probe = {"exec": {"command": ["true"]}, "initialDelaySeconds": 1}
    node.apply(pod("steady", "sleep", "1000", container={"readinessProbe": probe}))
    before = node.wait_running("steady")
    pid = node.container_of(before)["pid"]
    version = before["metadata"]["resourceVersion"]
    node.kill("kubelet")
    node.start_kubelet()
    node.wait(lambda: node.get_url("/healthz").returncode == 0, "kubelet serves")
    node.wait(lambda: "steady" in node.get_url("/pods").stdout, "kubelet knows its pods")
    after = node.get("pod", "steady")
    assert after["metadata"]["resourceVersion"] == version, "nothing was to be changed"
    assert is_ready(after)
    node.kill("runtime")
    node.start_runtime()
    node.wait(lambda: node.path("/run/nsk8s/runtime.sock").exists(), "runtime")
    node.exec_sync_when_back("steady", "true")
    after = node.get("pod", "steady")
    assert node.container_of(after)["pid"] == pid
    assert main_status(after)["restartCount"] == 0
    assert after["status"]["podIP"] == before["status"]["podIP"]


def states(node, found):
    return {(c["state"], c["metadata"]["attempt"]) for c in node.containers_of(found)}


def test_a_container_is_restarted_while_the_api_server_is_away(node: KubeletNode):
    before = node.get("pod", "steady") or pytest.fail("needs the pod of the test before")
    node.kill("apiserver")
    try:
        node.run("kill", "-9", str(node.container_of(before)["pid"]))
        node.wait(lambda: {("CONTAINER_RUNNING", 1)} & states(node, before), "restarted")
    finally:
        node.start_api()
        node.wait(lambda: node.try_kubectl("get", "--raw", "/readyz"), "API server")
    node.wait_pod("steady", lambda p: main_status(p)["restartCount"] == 1, "told when it is back")


def test_a_pod_deleted_while_no_kubelet_ran_is_an_orphan(node: KubeletNode):
    found = node.get("pod", "steady")
    node.kill("kubelet", signal.SIGTERM)
    node.kubectl("delete", "pod", "steady", "--force", "--grace-period=0")
    assert node.containers_of(found)
    node.start_kubelet()
    node.wait(lambda: not node.containers_of(found), "killed and removed")


def test_the_node_refuses_what_it_cannot_hold(node: KubeletNode):
    node.apply(pod("greedy", "sleep", "1", container={"resources": {"requests": {"cpu": "1000"}}}),
               pod("choosy", "sleep", "1", nodeSelector={"disk": "ssd"}))  # fmt: skip
    found = node.wait_pod("greedy", lambda p: p["status"].get("phase") == "Failed", "rejected")
    assert found["status"]["reason"] == "OutOfcpu"
    message = "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: 0"
    assert found["status"]["message"].startswith(message)
    wait_reasons(node, "greedy", "OutOfcpu")
    found = node.wait_pod("choosy", lambda p: p["status"].get("phase") == "Failed", "rejected")
    assert found["status"]["reason"] == "NodeAffinity"
    node.kubectl("delete", "pod", "greedy", "choosy")


def test_active_deadline(node: KubeletNode):
    node.apply(pod("late", "sleep", "1000", activeDeadlineSeconds=1))
    found = node.wait_pod("late", lambda p: p["status"].get("phase") == "Failed", "deadline")
    assert found["status"]["reason"] == "DeadlineExceeded"
    assert "terminated" in node.wait_pod("late", lambda p: "terminated" in main_status(p)["state"], "killed")["status"][
        "containerStatuses"][0]["state"]  # fmt: skip
    node.kubectl("delete", "pod", "late")


def test_the_server_wants_an_admin_certificate(node: KubeletNode):
    assert node.get_url("/pods", cert="stranger").stdout.startswith("403 Forbidden (user=mallory")
    assert node.get_url("/pods", cert="").stdout.startswith("401")
    assert json.loads(node.get_url("/pods").stdout[4:])["kind"] == "PodList"
    assert node.get_url("/containerLogs/default/nobody/x").stdout == '404 pods "nobody" not found'
    assert "kubelet_running_pods" in node.get_url("/metrics").stdout
    assert json.loads(node.get_url("/stats/summary").stdout[4:])["node"]["nodeName"] == "node1"


@pytest.mark.parametrize(
    ("name", "security", "flag"),
    [("strict", {}, "1"), ("asked", {"allowPrivilegeEscalation": True}, "0"), ("mighty", {"privileged": True}, "0"),
     ("admin", {"capabilities": {"add": ["SYS_ADMIN"]}}, "0"), ("said", {"allowPrivilegeEscalation": False}, "1")],
)  # fmt: skip
def test_no_new_privileges_unless_asked_for(node: KubeletNode, name, security, flag):
    node.apply(pod(name, "grep", "NoNewPrivs", "/proc/self/status", restartPolicy="Never", container={"securityContext": security}))
    node.wait_pod(name, lambda p: p["status"].get("phase") == "Succeeded", "ended")
    assert node.log(name) == f"NoNewPrivs:\t{flag}\n"
    node.kubectl("delete", "pod", name)
