"""The status of a pod, from its spec, what the runtime knows and what the probes say. Pure.

Upstream: kubelet_pods.go (getPhase, generateAPIPodStatus, convertToAPIContainerStatuses) and status/generate.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.kubelet.actions import restart_policy, should_restart
from nsk8s.kubelet.podruntime import (
    CONTAINER_ID_PREFIX,
    CREATED,
    EXITED,
    RUNNING,
    Container,
    PodRuntime,
    is_sidecar,
)

Reasons = Mapping[str, tuple[str, str]]
"""Container name → (reason, message) of why it could not be started last time (CrashLoopBackOff, ErrImagePull …)."""

OWNED_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


@dataclass(frozen=True)
class ProbeView:
    """What the prober says of a running container: `started(name, id)` and `ready(name, id)`."""

    started: Callable[[str, str], bool]
    ready: Callable[[str, str], bool]


ALWAYS_READY = ProbeView(started=lambda _name, _id: True, ready=lambda _name, _id: True)


def time_of(nanoseconds: int) -> str | None:
    """metav1.Time of nanoseconds since the epoch; None for 0."""
    if not nanoseconds:
        return None
    return meta.rfc3339(datetime.fromtimestamp(nanoseconds / 1e9, UTC))


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort. Upstream: qos.ComputePodQOS."""
    given = (pod.get("status") or {}).get("qosClass")
    if given:
        return str(given)
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    guaranteed = True
    for container in [*(pod["spec"].get("containers") or []), *(pod["spec"].get("initContainers") or [])]:
        resources = container.get("resources") or {}
        wanted = resources.get("requests") or {}
        most = resources.get("limits") or {}
        for name in ("cpu", "memory"):
            limit = Quantity.parse(most[name]) if name in most else Quantity.parse(0)
            request = Quantity.parse(wanted[name]) if name in wanted else limit
            if request:
                requests[name] = requests.get(name, Quantity.parse(0)) + request
            if limit:
                limits[name] = limits.get(name, Quantity.parse(0)) + limit
            else:
                guaranteed = False
    if not requests and not limits:
        return "BestEffort"
    if guaranteed and requests == limits:
        return "Guaranteed"
    return "Burstable"


def get_phase(pod: Object, statuses: Iterable[Object], terminal: bool = False) -> str:
    """The phase that these container statuses (init and main) amount to; `terminal`: nothing will be started any more."""
    spec = pod["spec"]
    by_name = {s["name"]: s for s in statuses}
    inits = spec.get("initContainers") or []
    pending_init = failed_init = pending_sidecars = 0
    unknown = running = waiting = stopped = succeeded = 0
    for container in inits:
        if is_sidecar(container):
            continue
        status = by_name.get(container["name"])
        state = (status or {}).get("state") or {}
        last = ((status or {}).get("lastState") or {}).get("terminated")
        if state.get("terminated"):
            failed_init += state["terminated"]["exitCode"] != 0
        elif state.get("waiting") is not None and last:
            failed_init += last["exitCode"] != 0
        else:
            pending_init += 1
    for container in inits:
        if not is_sidecar(container):
            continue
        status = by_name.get(container["name"])
        if status is None:
            unknown += 1
            continue
        state = status.get("state") or {}
        if state.get("running") is not None:
            pending_sidecars += not status.get("started")
            running += 1
        elif state.get("terminated"):
            pass
        elif state.get("waiting") is not None:
            if not (status.get("lastState") or {}).get("terminated"):
                pending_sidecars += 1
                waiting += 1
        else:
            pending_sidecars += 1
            unknown += 1
    any_started = False
    for container in spec.get("containers") or []:
        status = by_name.get(container["name"])
        if status is None:
            unknown += 1
            continue
        state = status.get("state") or {}
        last = (status.get("lastState") or {}).get("terminated")
        if state.get("running") is not None:
            running += 1
            any_started = True
        elif state.get("terminated"):
            stopped += 1
            any_started = True
            succeeded += state["terminated"]["exitCode"] == 0
        elif state.get("waiting") is not None:
            if last:
                stopped += 1
                any_started = True
            else:
                waiting += 1
        else:
            unknown += 1

    policy = restart_policy(pod)
    if failed_init and policy == "Never":
        return "Failed"
    if pending_init or (pending_sidecars and not any_started) or waiting:
        return "Pending"
    if running and not unknown:
        return "Running"
    if stopped and not unknown:
        if terminal:
            return "Succeeded" if stopped == succeeded else "Failed"
        if policy == "Always":
            return "Running"
        if stopped == succeeded:
            return "Succeeded"
        return "Failed" if policy == "Never" else "Running"
    return "Pending"


def container_statuses(
    containers: Sequence[Object], pod: Object, runtime: PodRuntime, reasons: Reasons, old: Mapping[str, Object],
    probes: ProbeView, *, init: bool, terminal: bool,
) -> list[Object]:  # fmt: skip
    """One status per container of one of the three lists, in spec order."""
    has_init = bool(pod["spec"].get("initContainers"))
    default_reason = "PodInitializing" if has_init else "ContainerCreating"
    return [
        _container_status(c, pod, runtime, reasons, old.get(c["name"]), probes, default_reason, init=init, terminal=terminal)
        for c in containers
    ]


def _container_status(
    container: Object, pod: Object, runtime: PodRuntime, reasons: Reasons, old: Object | None, probes: ProbeView,
    default_reason: str, *, init: bool, terminal: bool,
) -> Object:  # fmt: skip
    name = container["name"]
    history = runtime.history(name)
    if not history:
        status = _never_seen(container, old, default_reason, terminal)
    else:
        newest = history[0]
        status = {
            "name": name,
            "state": _state(newest),
            "lastState": {},
            "ready": False,
            "restartCount": newest.attempt,
            "image": newest.image or container.get("image", ""),
            "imageID": newest.image_ref,
            "containerID": CONTAINER_ID_PREFIX + newest.id,
            "started": False,
        }
        if len(history) > 1 and history[1].state == EXITED:
            status["lastState"] = _state(history[1])
        elif old is not None and (old.get("lastState") or {}).get("terminated") and old.get("restartCount") == newest.attempt:
            status["lastState"] = old["lastState"]
        if newest.running:
            status["started"] = probes.started(name, newest.id)
            status["ready"] = bool(status["started"]) and (
                probes.ready(name, newest.id) if not init or is_sidecar(container) else False
            )
        elif init and not is_sidecar(container) and newest.state == EXITED and newest.exit_code == 0:
            status["ready"] = True
    reason = reasons.get(name)
    finished_init = init and bool((status["state"].get("terminated") or {"exitCode": 1})["exitCode"] == 0)
    done = finished_init and not is_sidecar(container)
    if reason is not None and not terminal and not done and should_restart(pod, container, runtime):
        if status["state"].get("terminated"):
            status["lastState"] = status["state"]
        status["state"] = {"waiting": {"reason": reason[0], **({"message": reason[1]} if reason[1] else {})}}
    return status


def _never_seen(container: Object, old: Object | None, default_reason: str, terminal: bool) -> Object:
    """The runtime knows no such container: it was never made, or its traces are gone (a node's boot)."""
    status: Object = {
        "name": container["name"],
        "state": {"waiting": {"reason": default_reason}},
        "lastState": {},
        "ready": False,
        "restartCount": 0,
        "image": container.get("image", ""),
        "imageID": "",
        "started": False,
    }
    if old is None:
        return status
    status["restartCount"] = old.get("restartCount") or 0
    old_state = old.get("state") or {}
    if old_state.get("terminated"):
        return {**status, **old}
    if old_state.get("running") is not None:
        lost = {
            "exitCode": 137,
            "reason": "ContainerStatusUnknown",
            "message": "The container could not be located when the pod was "
            + ("terminated" if terminal else "deleted.  The container used to be Running"),
            "startedAt": None,
            "finishedAt": None,
        }
        if terminal:
            status["state"] = {"terminated": lost}
        else:
            status["lastState"] = {"terminated": lost}
        if old.get("containerID"):
            status["containerID"] = old["containerID"]
    elif (old.get("lastState") or {}).get("terminated"):
        status["lastState"] = old["lastState"]
    return status


def _state(container: Container) -> Object:
    if container.state == RUNNING:
        return {"running": {"startedAt": time_of(container.started_at)}}
    if container.state == CREATED:
        return {"waiting": {}}
    reason = container.reason or ("Completed" if container.exit_code == 0 else "Error")
    terminated: Object = {
        "exitCode": container.exit_code if container.state == EXITED else 137,
        "reason": reason if container.state == EXITED else "ContainerStatusUnknown",
        "startedAt": time_of(container.started_at),
        "finishedAt": time_of(container.finished_at),
        "containerID": CONTAINER_ID_PREFIX + container.id,
    }
    if container.message:
        terminated["message"] = container.message
    return {"terminated": terminated}


def _condition(kind: str, ok: bool, reason: str = "", message: str = "") -> Object:
    condition: Object = {"type": kind, "status": "True" if ok else "False"}
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _names(names: Sequence[str]) -> str:
    return "[" + " ".join(names) + "]"


def initialized_condition(pod: Object, statuses: Sequence[Object], main: Sequence[Object], phase: str) -> Object:
    by_name = {s["name"]: s for s in statuses}
    inits = pod["spec"].get("initContainers") or []
    unknown = [c["name"] for c in inits if c["name"] not in by_name]
    incomplete = []
    for container in inits:
        status = by_name.get(container["name"])
        if status is None:
            continue
        done = bool(status.get("started")) if is_sidecar(container) else bool(status.get("ready"))
        if not done:
            incomplete.append(container["name"])
    if phase == "Succeeded" and not unknown:
        return _condition("Initialized", True, "PodCompleted")
    sidecars_only = all(is_sidecar(c) for c in inits if c["name"] in incomplete)
    begun = any((s.get("state") or {}).get("running") is not None or s.get("containerID") for s in main)
    if incomplete and sidecars_only and begun and not unknown:
        incomplete = []  # a sidecar that restarts later does not undo the pod's initialization
    return _incomplete("Initialized", unknown, incomplete, "ContainersNotInitialized", "incomplete")


def _incomplete(kind: str, unknown: list[str], rest: list[str], reason: str, word: str) -> Object:
    parts = []
    if unknown:
        parts.append(f"containers with unknown status: {_names(unknown)}")
    if rest:
        parts.append(f"containers with {word} status: {_names(rest)}")
    return _condition(kind, False, reason, ", ".join(parts)) if parts else _condition(kind, True)


def containers_ready_condition(pod: Object, statuses: Sequence[Object], phase: str) -> Object:
    spec = pod["spec"]
    by_name = {s["name"]: s for s in statuses}
    wanted = [c for c in spec.get("initContainers") or [] if is_sidecar(c)] + list(spec.get("containers") or [])
    unknown = [c["name"] for c in wanted if c["name"] not in by_name]
    unready = [c["name"] for c in wanted if c["name"] in by_name and not by_name[c["name"]].get("ready")]
    if phase == "Succeeded" and not unknown:
        return _condition("ContainersReady", False, "PodCompleted")
    if phase == "Failed":
        return _condition("ContainersReady", False, "PodFailed")
    return _incomplete("ContainersReady", unknown, unready, "ContainersNotReady", "unready")


def ready_condition(pod: Object, containers_ready: Object) -> Object:
    if containers_ready["status"] != "True":
        return {**containers_ready, "type": "Ready"}
    have = {c["type"]: c.get("status") for c in (pod.get("status") or {}).get("conditions") or []}
    missing = []
    for gate in pod["spec"].get("readinessGates") or []:
        kind = gate["conditionType"]
        if kind not in have:
            missing.append(f'corresponding condition of pod readiness gate "{kind}" does not exist.')
        elif have[kind] != "True":
            missing.append(f'the status of pod readiness gate "{kind}" is not "True", but {have[kind]}')
    if missing:
        return _condition("Ready", False, "ReadinessGatesNotReady", ", ".join(missing))
    return _condition("Ready", True)


def generate_status(
    pod: Object, runtime: PodRuntime, *, host_ips: Sequence[str], now: datetime, old: Object | None = None,
    reasons: Reasons | None = None, probes: ProbeView = ALWAYS_READY, terminal: bool = False,
    override: tuple[str, str, str] | None = None,
) -> Object:  # fmt: skip
    """The whole status. `old` is the last one (times and restart counts are kept from it), `terminal`: nothing is to be
    started any more, `override` a (phase, reason, message) that settles the matter (DeadlineExceeded, rejected, evicted)."""
    old = old if old is not None else pod.get("status") or {}
    spec = pod["spec"]
    reasons = reasons or {}
    finished = old.get("phase") in ("Succeeded", "Failed")

    def statuses(spec_key: str, status_key: str, init: bool) -> list[Object]:
        previous = {s["name"]: s for s in old.get(status_key) or []}
        return container_statuses(
            spec.get(spec_key) or [], pod, runtime, reasons, previous, probes, init=init, terminal=terminal or finished
        )

    main = sorted(statuses("containers", "containerStatuses", False), key=lambda s: str(s["name"]))
    init = statuses("initContainers", "initContainerStatuses", True)
    phase = get_phase(pod, [*init, *main], terminal)
    if finished:
        phase = old["phase"]
    status: Object = {"phase": phase, "qosClass": qos_class(pod)}
    if old.get("reason"):
        status["reason"] = old["reason"]
    if old.get("message"):
        status["message"] = old["message"]
    if override is not None and not finished:
        status["phase"], status["reason"], status["message"] = override
        phase = override[0]
    elif not finished and phase not in ("Failed",):
        status.pop("reason", None)
        status.pop("message", None)

    ips = list(runtime.ips)
    if spec.get("hostNetwork"):
        ips = list(host_ips) if runtime.sandbox is not None else []
    if not ips and (finished or terminal or phase in ("Succeeded", "Failed")):
        ips = [i["ip"] for i in old.get("podIPs") or []]  # a pod that has ended keeps the address it had
    sandbox_up = runtime.sandbox is not None and runtime.sandbox.ready and bool(ips)
    containers_ready = containers_ready_condition(pod, [*init, *main], phase)
    wanted = [
        _condition("PodReadyToStartContainers", sandbox_up),
        initialized_condition(pod, init, main, phase),
        ready_condition(pod, containers_ready),
        containers_ready,
        _condition("PodScheduled", True),
    ]
    status["conditions"] = _merge_conditions(old.get("conditions") or [], wanted, now)
    if host_ips:
        status["hostIP"] = host_ips[0]
        status["hostIPs"] = [{"ip": ip} for ip in host_ips]
    if ips:
        status["podIP"] = ips[0]
        status["podIPs"] = [{"ip": ip} for ip in ips]
    status["startTime"] = old.get("startTime") or meta.rfc3339(now)
    if init:
        status["initContainerStatuses"] = init
    status["containerStatuses"] = main
    if spec.get("ephemeralContainers"):
        status["ephemeralContainerStatuses"] = statuses("ephemeralContainers", "ephemeralContainerStatuses", False)
    return status


def rejected_status(pod: Object, reason: str, message: str, now: datetime) -> Object:
    """What a pod the node would not take gets. Upstream: rejectPod."""
    return {
        **(pod.get("status") or {}),
        "phase": "Failed",
        "reason": reason,
        "message": f"Pod was rejected: {message}",
        "qosClass": qos_class(pod),
        "startTime": (pod.get("status") or {}).get("startTime") or meta.rfc3339(now),
    }


def _merge_conditions(old: Sequence[Object], wanted: Sequence[Object], now: datetime) -> list[Object]:
    """Our conditions with transition times kept, then those that others own."""
    before = {c["type"]: c for c in old}
    out = []
    for condition in wanted:
        was = before.get(condition["type"])
        since = was.get("lastTransitionTime") if was is not None and was.get("status") == condition["status"] else None
        out.append({**condition, "lastProbeTime": None, "lastTransitionTime": since or meta.rfc3339(now)})
    return out + [c for c in old if c["type"] not in OWNED_CONDITIONS]


def status_patch(old: Mapping[str, object], new: Mapping[str, object], uid: str) -> Object | None:
    """A strategic merge patch that turns status `old` into `new`, None when nothing differs.

    Lists that the server would merge by key (addresses) are marked to be replaced; of the conditions only ours are sent,
    so that another writer's (DisruptionTarget, readiness gates) are never undone.
    """
    body: Object = {}
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if key in ("conditions", "resize", "nominatedNodeName", "observedGeneration", "resourceClaimStatuses"):
            continue
        if after is None:
            body[key] = None
        elif key in ("podIPs", "hostIPs") and isinstance(after, list):
            body[key] = [{"$patch": "replace"}, *after]
        else:
            body[key] = after
    before_by_type = {c["type"]: c for c in _list(old.get("conditions"))}
    changed = [
        c for c in _list(new.get("conditions"))
        if c["type"] in OWNED_CONDITIONS and not _same_condition(before_by_type.get(c["type"]), c)
    ]  # fmt: skip
    if changed:
        body["conditions"] = [_explicit(before_by_type.get(c["type"]), c) for c in changed]
    return {"metadata": {"uid": uid}, "status": body} if body else None


def _list(value: object) -> list[Object]:
    return value if isinstance(value, list) else []


def _same_condition(old: Object | None, new: Object) -> bool:
    keys = ("status", "reason", "message")
    return old is not None and all((old.get(k) or "") == (new.get(k) or "") for k in keys)


def _explicit(old: Object | None, new: Object) -> Object:
    """A condition in which what has vanished is set to null, as a merge needs it."""
    gone = {k: None for k in ("reason", "message") if old is not None and old.get(k) and not new.get(k)}
    return {**new, **gone}
