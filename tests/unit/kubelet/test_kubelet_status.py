"""Phases, conditions and container statuses as upstream's getPhase and generateAPIPodStatus have them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from kubelet_objects import box, dead, pod, ran, runtime, spec

from nsk8s.api.meta import find_condition
from nsk8s.kubelet.podruntime import CREATED
from nsk8s.kubelet.status import (
    ProbeView,
    generate_status,
    get_phase,
    qos_class,
    rejected_status,
    status_patch,
)

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
RUNNING = {"state": {"running": {}}, "started": True}
WAITING = {"state": {"waiting": {}}}
BACKING_OFF = {"state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 1}}}


def ended(code):
    return {"state": {"terminated": {"exitCode": code}}}


def make(p, r, **extra):
    return generate_status(p, r, host_ips=["192.168.56.11"], now=extra.pop("now", NOW), **extra)


@pytest.mark.parametrize(
    ("policy", "states", "phase"),
    [
        ("Always", [RUNNING, RUNNING], "Running"),
        ("Always", [RUNNING, WAITING], "Pending"),
        ("Always", [WAITING, WAITING], "Pending"),
        ("Always", [RUNNING, BACKING_OFF], "Running"),
        ("Always", [BACKING_OFF, BACKING_OFF], "Running"),
        ("Always", [ended(0), ended(0)], "Running"),
        ("OnFailure", [ended(0), ended(0)], "Succeeded"),
        ("OnFailure", [ended(0), ended(1)], "Running"),
        ("OnFailure", [ended(0), RUNNING], "Running"),
        ("Never", [ended(0), ended(0)], "Succeeded"),
        ("Never", [ended(0), ended(1)], "Failed"),
        ("Never", [ended(1), RUNNING], "Running"),
        ("Never", [RUNNING], "Pending"),  # nothing is known of the second
    ],
)
def test_phase(policy, states, phase):
    p = pod(spec("c0"), spec("c1"), restartPolicy=policy)
    assert get_phase(p, [{"name": f"c{i}", **s} for i, s in enumerate(states)]) == phase


@pytest.mark.parametrize(
    ("init", "main", "policy", "phase"),
    [
        (RUNNING, WAITING, "Always", "Pending"),
        (ended(0), RUNNING, "Always", "Running"),
        (ended(1), WAITING, "Never", "Failed"),
        (ended(1), WAITING, "Always", "Pending"),
        (BACKING_OFF, WAITING, "Never", "Failed"),
        (WAITING, WAITING, "Always", "Pending"),
    ],
)
def test_phase_with_an_init_container(init, main, policy, phase):
    p = pod(spec("c"), init=(spec("i"),), restartPolicy=policy)
    assert get_phase(p, [{"name": "i", **init}, {"name": "c", **main}]) == phase


@pytest.mark.parametrize(
    ("sidecar", "main", "phase"),
    [
        (RUNNING, RUNNING, "Running"),
        ({"state": {"running": {}}, "started": False}, WAITING, "Pending"),
        ({"state": {"running": {}}, "started": False}, RUNNING, "Running"),
        (ended(1), ended(0), "Succeeded"),
        (RUNNING, ended(0), "Running"),
        (BACKING_OFF, RUNNING, "Running"),
    ],
)
def test_phase_with_a_sidecar(sidecar, main, phase):
    p = pod(spec("c"), init=(spec("s", restartPolicy="Always"),), restartPolicy="Never")
    assert get_phase(p, [{"name": "s", **sidecar}, {"name": "c", **main}]) == phase


def test_terminal_pods_do_not_wait_for_their_policy():
    p = pod(spec("c0"))
    assert get_phase(p, [{"name": "c0", **ended(0)}], terminal=True) == "Succeeded"
    assert get_phase(p, [{"name": "c0", **ended(137)}], terminal=True) == "Failed"


def test_a_pod_that_is_being_made():
    status = make(pod(), runtime(boxes=()))
    assert status["phase"] == "Pending"
    assert status["containerStatuses"] == [
        {"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}, "ready": False,
         "restartCount": 0, "image": "app:1", "imageID": "", "started": False}
    ]  # fmt: skip
    assert {c["type"]: (c["status"], c.get("reason"), c.get("message")) for c in status["conditions"]} == {
        "PodReadyToStartContainers": ("False", None, None),
        "Initialized": ("True", None, None),
        "Ready": ("False", "ContainersNotReady", "containers with unready status: [main]"),
        "ContainersReady": ("False", "ContainersNotReady", "containers with unready status: [main]"),
        "PodScheduled": ("True", None, None),
    }
    assert "podIP" not in status
    assert status["startTime"] == "2026-11-21T10:00:00Z"


def test_a_running_pod():
    status = make(pod(), runtime(ran()))
    assert status["phase"] == "Running"
    assert status["podIP"] == "10.244.1.2"
    assert status["hostIPs"] == [{"ip": "192.168.56.11"}]
    assert status["containerStatuses"][0] == {
        "name": "main", "state": {"running": {"startedAt": "1970-01-01T00:00:10Z"}}, "lastState": {}, "ready": True,
        "restartCount": 0, "image": "app:1", "imageID": "sha256:1", "containerID": "nsk8s://main-0", "started": True,
    }  # fmt: skip
    assert all(c["status"] == "True" for c in status["conditions"])


def test_crash_loop():
    r = runtime(dead(code=1, attempt=2), dead(code=1, attempt=1))
    plain = make(pod(), r)["containerStatuses"][0]
    assert plain["state"]["terminated"]["containerID"] == "nsk8s://main-2"
    assert plain["lastState"]["terminated"]["containerID"] == "nsk8s://main-1"
    backing = make(pod(), r, reasons={"main": ("CrashLoopBackOff", "back-off 20s …")})["containerStatuses"][0]
    assert backing["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s …"}}
    assert backing["lastState"]["terminated"]["containerID"] == "nsk8s://main-2"
    assert backing["restartCount"] == 2


def test_a_reason_does_not_hide_what_is_not_to_be_restarted():
    status = make(pod(restartPolicy="Never"), runtime(dead(code=1)), reasons={"main": ("X", "")})
    assert status["phase"] == "Failed"
    assert "terminated" in status["containerStatuses"][0]["state"]


def test_a_created_container_waits():
    assert make(pod(), runtime(ran(state=CREATED)))["containerStatuses"][0]["state"] == {"waiting": {}}


def test_probes_decide_over_ready_and_started():
    unready = ProbeView(lambda _n, _i: True, lambda _n, _i: False)
    status = make(pod(), runtime(ran()), probes=unready)
    assert (status["containerStatuses"][0]["started"], status["containerStatuses"][0]["ready"]) == (True, False)
    assert find_condition({"status": status}, "Ready")["status"] == "False"
    unstarted = ProbeView(lambda _n, _i: False, lambda _n, _i: True)
    assert make(pod(), runtime(ran()), probes=unstarted)["containerStatuses"][0]["ready"] is False


def test_initialization():
    p = pod(init=(spec("i"), spec("j")))
    status = make(p, runtime(dead("i"), ran("j")))
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}
    assert [s["name"] for s in status["initContainerStatuses"]] == ["i", "j"]
    condition = find_condition({"status": status}, "Initialized")
    assert (condition["status"], condition["message"]) == ("False", "containers with incomplete status: [j]")
    done = make(p, runtime(dead("i"), dead("j"), ran()))
    assert find_condition({"status": done}, "Initialized")["status"] == "True"


def test_a_restarting_sidecar_leaves_the_pod_initialized_and_makes_it_unready():
    p = pod(init=(spec("s", restartPolicy="Always"),))
    status = make(p, runtime(dead("s", 1), ran()))
    assert find_condition({"status": status}, "Initialized")["status"] == "True"
    assert find_condition({"status": status}, "Ready")["message"] == "containers with unready status: [s]"


def test_ended_pods_keep_address_phase_and_reason():
    running = make(pod(restartPolicy="Never"), runtime(ran()))
    over = make(pod(restartPolicy="Never"), runtime(dead(), boxes=(box(ready=False),)), old=running)
    assert (over["phase"], over["podIP"]) == ("Succeeded", "10.244.1.2")
    assert find_condition({"status": over}, "Ready")["reason"] == "PodCompleted"
    later = make(pod(), runtime(boxes=()), old={**over, "phase": "Failed", "reason": "Evicted", "message": "m"})
    assert (later["phase"], later["reason"], later["message"]) == ("Failed", "Evicted", "m")
    assert "terminated" in later["containerStatuses"][0]["state"]


def test_an_override_settles_the_phase():
    status = make(pod(), runtime(ran()), override=("Failed", "DeadlineExceeded", "late"))
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "DeadlineExceeded", "late")
    assert find_condition({"status": status}, "Ready")["reason"] == "PodFailed"


def test_traces_lost_in_a_boot():
    running = make(pod(), runtime(ran(attempt=4)))
    after = make(pod(), runtime(boxes=()), old=running)["containerStatuses"][0]
    assert after["restartCount"] == 4
    assert after["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert after["lastState"]["terminated"]["exitCode"] == 137
    assert after["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"


def test_host_network_has_the_hosts_address():
    assert make(pod(hostNetwork=True), runtime(ran(), boxes=(box(ip=""),)))["podIP"] == "192.168.56.11"
    assert "podIP" not in make(pod(hostNetwork=True), runtime(boxes=()))


def test_transition_times_move_only_with_the_status():
    first = make(pod(), runtime(ran()))
    later = make(pod(), runtime(ran()), old=first, now=NOW + timedelta(hours=1))
    assert later == first
    broken = make(pod(), runtime(dead(code=1)), old=first, now=NOW + timedelta(hours=1))
    assert find_condition({"status": broken}, "Ready")["lastTransitionTime"] == "2026-11-21T11:00:00Z"
    assert find_condition({"status": broken}, "PodScheduled")["lastTransitionTime"] == "2026-11-21T10:00:00Z"


def test_readiness_gates():
    gated = pod(readinessGates=[{"conditionType": "lb"}])
    condition = find_condition({"status": make(gated, runtime(ran()))}, "Ready")
    assert condition["reason"] == "ReadinessGatesNotReady"
    assert condition["message"] == 'corresponding condition of pod readiness gate "lb" does not exist.'
    gated["status"] = {"conditions": [{"type": "lb", "status": "True"}]}
    status = make(gated, runtime(ran()))
    assert find_condition({"status": status}, "Ready")["status"] == "True"
    assert {"type": "lb", "status": "True"} in status["conditions"], "others' conditions stay"


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_qos(resources, qos):
    assert qos_class(pod(spec(resources=resources))) == qos


def test_rejected():
    status = rejected_status(pod(), "OutOfcpu", "no cpu", NOW)
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "OutOfcpu", "Pod was rejected: no cpu")


def test_the_patch_holds_only_what_changed():
    old = make(pod(), runtime(boxes=()))
    new = make(pod(), runtime(ran()), old=old)
    assert status_patch(new, new, "u1") is None
    patch = status_patch(old, new, "u1")
    assert patch["metadata"] == {"uid": "u1"}
    assert set(patch["status"]) == {"phase", "conditions", "podIP", "podIPs", "containerStatuses"}
    assert patch["status"]["podIPs"] == [{"$patch": "replace"}, {"ip": "10.244.1.2"}]
    sent = {c["type"]: c for c in patch["status"]["conditions"]}
    assert set(sent) == {"PodReadyToStartContainers", "Ready", "ContainersReady"}
    assert sent["Ready"]["reason"] is None, "what has vanished is nulled"


def test_the_patch_leaves_other_writers_alone():
    old = {"conditions": [{"type": "DisruptionTarget", "status": "True"}], "nominatedNodeName": "n"}
    assert status_patch(old, {"conditions": []}, "u1") is None
    assert status_patch({"reason": "x"}, {}, "u1")["status"] == {"reason": None}
