"""What a Job does next, given its pods. Pure.

Upstream: pkg/controller/job (job_controller.go, indexed_job_utils.go, tracking_utils.go, backoff_utils.go). Every pod carries a
finalizer until it is counted: a finished pod is first named in status.uncountedTerminatedPods, then loses its finalizer, and
only then moves into status.succeeded or failed, so that no crash in between counts a pod twice or never.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.controllers.context import copy
from nsk8s.controllers.pods import from_template, is_active, is_ready, phase, restarts

TRACKING = "batch.kubernetes.io/job-tracking"
INDEX = "batch.kubernetes.io/job-completion-index"
NAME_LABELS = ("batch.kubernetes.io/job-name", "job-name")
UID_LABELS = ("batch.kubernetes.io/controller-uid", "controller-uid")
BACKOFF_FIRST_S, BACKOFF_MAX_S = 10.0, 600.0
MAX_UNCOUNTED = 500


@dataclass
class Step:
    """What to do: make pods (None, or the completion index of each), delete pods, count pods; and the new status."""

    create: list[int | None] = field(default_factory=list)
    delete: list[Object] = field(default_factory=list)
    release: bool = False
    """The pods of `delete` are not to count as failed: their finalizer goes first."""
    count: list[Object] = field(default_factory=list)
    """Finished pods whose finalizer is to be removed once the status that names them is written."""
    status: Object = field(default_factory=dict)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    again_s: float | None = None


def finished_as(job: Object) -> str:
    """Complete, Failed, or empty while the Job runs."""
    return next((kind for kind in ("Complete", "Failed") if meta.is_condition_true(job, kind)), "")


def is_indexed(job: Object) -> bool:
    return bool(job["spec"].get("completionMode") == "Indexed")


def index_of(pod: Object) -> int | None:
    text = meta.annotations(pod).get(INDEX, "")
    return int(text) if text.isdigit() else None


def parse_indexes(text: str, completions: int) -> set[int]:
    """`1,3-5` as a set; what lies beyond `completions` is dropped."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found.update(range(int(first), min(int(last) if last.isdigit() else int(first), completions - 1) + 1))
    return {i for i in found if i < completions}


def format_indexes(indexes: Iterable[int]) -> str:
    """A set as `1,3-5`."""
    runs: list[list[int]] = []
    for i in sorted(indexes):
        if runs and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(str(a) if a == b else f"{a},{b}" if b == a + 1 else f"{a}-{b}" for a, b in runs)


def _has_finalizer(pod: Object) -> bool:
    return TRACKING in (pod["metadata"].get("finalizers") or [])


def _ended(job: Object, pod: Object) -> str:
    """succeeded or failed for a pod that will not run again; empty otherwise.

    A pod that is being deleted counts as failed at once, unless podReplacementPolicy waits for its end.
    """
    if phase(pod) == "Succeeded":
        return "succeeded"
    waits = job["spec"].get("podReplacementPolicy") == "Failed" and bool(pod["spec"].get("nodeName"))
    return "failed" if phase(pod) == "Failed" or (meta.is_deleting(pod) and not waits) else ""


class Tally:
    """The pods counted: numbers, uids on their way into the numbers, indexes done."""

    def __init__(self, job: Object, pods: Sequence[Object]) -> None:
        old = job.get("status") or {}
        uncounted = old.get("uncountedTerminatedPods") or {}
        self.completions = int(job["spec"].get("completions") or 0)
        self.counted = {"succeeded": int(old.get("succeeded") or 0), "failed": int(old.get("failed") or 0)}
        self.uncounted: dict[str, list[str]] = {"succeeded": [], "failed": []}
        self.done = parse_indexes(old.get("completedIndexes") or "", self.completions) if is_indexed(job) else set()
        self.to_count: list[Object] = []
        held = {meta.uid(p): p for p in pods if _has_finalizer(p)}
        for kind in ("succeeded", "failed"):
            for uid in uncounted.get(kind) or []:
                if uid in held:
                    self.uncounted[kind].append(uid)
                    self.to_count.append(held[uid])
                elif not (is_indexed(job) and kind == "succeeded"):
                    self.counted[kind] += 1
        known = {uid for uids in self.uncounted.values() for uid in uids}
        for uid, pod in held.items():
            kind = _ended(job, pod)
            if not kind or uid in known or len(self.to_count) >= MAX_UNCOUNTED:
                continue
            index = index_of(pod)
            if is_indexed(job) and kind == "succeeded":
                if index is None or index >= self.completions:
                    kind = ""
                else:
                    self.done.add(index)
            if kind:
                self.uncounted[kind].append(uid)
            self.to_count.append(pod)
        if is_indexed(job):
            self.counted["succeeded"] = len(self.done)
            self.uncounted["succeeded"] = [u for u in self.uncounted["succeeded"] if u in held]

    @property
    def succeeded(self) -> int:
        return self.counted["succeeded"] + (0 if self.done else len(self.uncounted["succeeded"]))

    @property
    def failed(self) -> int:
        return self.counted["failed"] + len(self.uncounted["failed"])


def decide(job: Object, pods: Sequence[Object], now: datetime, *, may_create: bool = True) -> Step:
    """The next step of a Job that has these pods. `may_create`: the cache shows all that was asked for."""
    step = Step()
    old = job.get("status") or {}
    status = step.status = copy(old)
    tally = Tally(job, pods)
    step.count = tally.to_count
    active = [p for p in pods if is_active(p)]
    conditions: list[Object] = status.get("conditions") or []
    finished = finished_as(job)
    if not finished:
        conditions = _judge(job, tally, active, status, conditions, step, now)
        if not _ending(conditions) and not job["spec"].get("suspend") and may_create:
            _fill(job, tally, active, pods, step, now)
        elif _ending(conditions) or job["spec"].get("suspend"):
            step.delete, step.release = list(active), not _ending(conditions)
    else:
        step.delete = list(active)
    left = [p for p in active if p not in step.delete]
    _write(status, tally, len(left), sum(1 for p in left if is_ready(p)), is_indexed(job))
    terminating = sum(1 for p in pods if meta.is_deleting(p) and phase(p) not in ("Succeeded", "Failed"))
    _set(status, "terminating", terminating)
    conditions = _conclude(job, conditions, status, tally, bool(active) or bool(terminating), step, now)
    if conditions:
        status["conditions"] = conditions
    return step


def _ending(conditions: Sequence[Object]) -> bool:
    return any(c["type"] in ("SuccessCriteriaMet", "FailureTarget") and c["status"] == "True" for c in conditions)


def _condition(
    conditions: Sequence[Object], kind: str, reason: str, message: str, now: datetime, status: str = "True"
) -> list[Object]:
    new = {"type": kind, "status": status, "reason": reason, "message": message, "lastProbeTime": meta.rfc3339(now)}
    return meta.set_condition(conditions, new, now)


def _judge(
    job: Object, tally: Tally, active: Sequence[Object], status: Object, conditions: list[Object], step: Step, now: datetime
) -> list[Object]:
    """Suspension, deadline, backoff limit and completion."""
    spec = job["spec"]
    suspended = any(c["type"] == "Suspended" and c["status"] == "True" for c in conditions)
    if spec.get("suspend"):
        if not suspended:
            conditions = _condition(conditions, "Suspended", "JobSuspended", "Job suspended", now)
            step.events.append(("Normal", "Suspended", "Job suspended"))
        status.pop("startTime", None)
        return conditions
    if suspended:
        conditions = _condition(conditions, "Suspended", "JobResumed", "Job resumed", now, "False")
        step.events.append(("Normal", "Resumed", "Job resumed"))
    status.setdefault("startTime", meta.rfc3339(now))
    if _ending(conditions):
        return conditions
    limit = spec.get("backoffLimit")
    limit = 6 if limit is None else int(limit)
    deadline = spec.get("activeDeadlineSeconds")
    left = None
    if deadline is not None:
        left = (meta.parse_time(status["startTime"]) + timedelta(seconds=int(deadline)) - now).total_seconds()
    on_failure = (spec["template"].get("spec") or {}).get("restartPolicy") == "OnFailure"
    retries = sum(restarts(p) for p in active if phase(p) in ("Running", "Pending")) if on_failure else 0
    if tally.failed > limit or (retries and retries >= limit) or (retries and limit == 0):
        message = "Job has reached the specified backoff limit"
        return _condition(conditions, "FailureTarget", "BackoffLimitExceeded", message, now)
    if left is not None and left <= 0:
        message = "Job was active longer than specified deadline"
        return _condition(conditions, "FailureTarget", "DeadlineExceeded", message, now)
    if _complete(job, tally, active):
        message = "Reached expected number of succeeded pods"
        return _condition(conditions, "SuccessCriteriaMet", "CompletionsReached", message, now)
    if left is not None:
        step.again_s = left + 0.05
    return conditions


def _complete(job: Object, tally: Tally, active: Sequence[Object]) -> bool:
    completions = job["spec"].get("completions")
    if completions is None:  # a work queue: done when one has succeeded and none runs
        return tally.succeeded > 0 and not active
    return tally.succeeded >= int(completions)


def _fill(job: Object, tally: Tally, active: Sequence[Object], pods: Sequence[Object], step: Step, now: datetime) -> None:
    """Pods to make or delete so that as many run as should."""
    spec = job["spec"]
    parallelism = 1 if spec.get("parallelism") is None else int(spec["parallelism"])
    completions = spec.get("completions")
    if completions is not None:
        wanted = min(parallelism, max(0, int(completions) - tally.succeeded))
    else:
        wanted = len(active) if tally.succeeded else parallelism
        wanted = min(wanted, parallelism)
    if len(active) > wanted:
        order = sorted(active, key=lambda p: (is_ready(p), phase(p) == "Running", bool(p["spec"].get("nodeName"))))
        step.delete, step.release = order[: len(active) - wanted], True
        return
    missing = wanted - len(active)
    if not missing:
        return
    wait = _backoff_s(job, pods, now)
    if wait > 0:
        step.again_s = wait if step.again_s is None else min(wait, step.again_s)
        return
    if not is_indexed(job):
        step.create = [None] * missing
        return
    used = tally.done | {i for p in pods if not _ended(job, p) and (i := index_of(p)) is not None}
    free = (i for i in range(tally.completions) if i not in used)
    step.create = [i for i, _ in zip(free, range(missing), strict=False)]


def _backoff_s(job: Object, pods: Sequence[Object], now: datetime) -> float:
    """After a failure the next pod waits 10 s, doubling with each, at most 10 minutes; a success starts anew."""
    failures = sorted((_finish_time(p) for p in pods if _ended(job, p) == "failed"), reverse=True)
    last_success = max((_finish_time(p) for p in pods if _ended(job, p) == "succeeded"), default=None)
    recent = [t for t in failures if last_success is None or t >= last_success]
    if not recent:
        return 0.0
    delay = min(BACKOFF_FIRST_S * 2 ** min(len(recent) - 1, 10), BACKOFF_MAX_S)
    return float(max(0.0, (recent[0] + timedelta(seconds=delay) - now).total_seconds()))


def _finish_time(pod: Object) -> datetime:
    status = pod.get("status") or {}
    times = [
        t for s in status.get("containerStatuses") or []
        if (t := ((s.get("state") or {}).get("terminated") or {}).get("finishedAt"))
    ]  # fmt: skip
    ready = meta.find_condition(pod, "Ready") or {}
    text = max(times, default=None) or ready.get("lastTransitionTime") or pod["metadata"].get("deletionTimestamp")
    return meta.parse_time(text or pod["metadata"].get("creationTimestamp") or "1970-01-01T00:00:00Z")


def _set(status: Object, name: str, value: int) -> None:
    if value or name == "terminating":
        status[name] = value
    else:
        status.pop(name, None)


def _write(status: Object, tally: Tally, active: int, ready: int, indexed: bool) -> None:
    _set(status, "active", active)
    status["ready"] = ready
    _set(status, "succeeded", tally.counted["succeeded"])
    _set(status, "failed", tally.counted["failed"])
    uncounted = {kind: uids for kind, uids in tally.uncounted.items() if uids}
    status["uncountedTerminatedPods"] = uncounted
    if indexed:
        text = format_indexes(tally.done)
        if text:
            status["completedIndexes"] = text


def _conclude(
    job: Object, conditions: list[Object], status: Object, tally: Tally, running: bool, step: Step, now: datetime
) -> list[Object]:
    """A Job that is to end has ended when nothing runs and every pod is counted."""
    if finished_as(job) or running or tally.to_count or any(tally.uncounted.values()):
        return conditions
    target = next((c for c in conditions if c["type"] in ("SuccessCriteriaMet", "FailureTarget") and c["status"] == "True"), None)
    if target is None:
        return conditions
    if target["type"] == "SuccessCriteriaMet":
        status["completionTime"] = meta.rfc3339(now)
        step.events.append(("Normal", "Completed", "Job completed"))
        return _condition(conditions, "Complete", target["reason"], target["message"], now)
    step.events.append(("Warning", target["reason"], target["message"]))
    return _condition(conditions, "Failed", target["reason"], target["message"], now)


def make_pod(job: Object, index: int | None) -> Object:
    """One pod of a Job; with an index also its hostname, label, annotation and environment."""
    pod = from_template(job["spec"]["template"], job)
    metadata = pod["metadata"]
    metadata["finalizers"] = [*(metadata.get("finalizers") or []), TRACKING]
    metadata["labels"] |= {k: meta.name(job) for k in NAME_LABELS} | {k: meta.uid(job) for k in UID_LABELS}
    if index is None:
        return pod
    spec = pod["spec"] = copy(pod["spec"])
    metadata["generateName"] = f"{meta.name(job)}-{index}-"
    metadata["labels"][INDEX] = str(index)
    metadata["annotations"][INDEX] = str(index)
    spec["hostname"] = f"{meta.name(job)}-{index}"
    variable = {"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}}
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        if not any(e.get("name") == "JOB_COMPLETION_INDEX" for e in container.get("env") or []):
            container["env"] = [*(container.get("env") or []), variable]
    return pod


def expires_in_s(job: Object, now: datetime) -> float | None:
    """Seconds until ttlSecondsAfterFinished is over; None if the Job is kept."""
    ttl = job["spec"].get("ttlSecondsAfterFinished")
    kind = finished_as(job)
    if ttl is None or not kind:
        return None
    since = (meta.find_condition(job, kind) or {}).get("lastTransitionTime")
    return (meta.parse_time(since) + timedelta(seconds=int(ttl)) - now).total_seconds() if since else None
