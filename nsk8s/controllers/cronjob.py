"""CronJobs: Jobs by the clock. Touches: the API (decide, latest_due and surplus are pure).

Upstream: pkg/controller/cronjob (cronjob_controllerv2.go, utils.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.events import NORMAL, WARNING
from nsk8s.client.resources import CRONJOBS, JOBS
from nsk8s.client.rest import Unreachable
from nsk8s.controllers.context import Context, copy, utcnow
from nsk8s.controllers.pods import created_at
from nsk8s.controllers.schedule import Schedule, parse, parse_zone
from nsk8s.errors import AlreadyExists, NotFound, StatusError

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
MANY_MISSED = 100


def finished_as(job: Object) -> str:
    """Complete, Failed, or empty while the Job runs. Pure."""
    for kind in ("Complete", "Failed"):
        if meta.is_condition_true(job, kind):
            return kind
    return ""


@dataclass
class Due:
    """The newest time that has come, how many came before it unserved, and the next."""

    at: datetime | None
    missed: int
    next: datetime | None


def latest_due(cronjob: Object, schedule: Schedule, zone: tzinfo, now: datetime) -> Due:
    """Looking back to the last start (or the creation), no further than startingDeadlineSeconds. Pure."""
    last = (cronjob.get("status") or {}).get("lastScheduleTime") or cronjob["metadata"].get("creationTimestamp")
    since = meta.parse_time(last) if last else now
    deadline = cronjob["spec"].get("startingDeadlineSeconds")
    if deadline is not None:
        since = max(since, now - timedelta(seconds=int(deadline)))
    at, missed, upcoming = None, 0, schedule.after(since, zone)
    while upcoming is not None and upcoming <= now:
        at, missed = upcoming, missed + 1
        if missed > MANY_MISSED:
            return _newest(schedule, zone, since, now)
        upcoming = schedule.after(upcoming, zone)
    return Due(at, missed, upcoming)


def _newest(schedule: Schedule, zone: tzinfo, since: datetime, now: datetime) -> Due:
    """Too many to walk through: the newest time is looked for backwards from now, in windows that double."""
    back = timedelta(minutes=1)
    while back < now - since and ((first := schedule.after(now - back, zone)) is None or first > now):
        back *= 2
    at, upcoming = None, schedule.after(max(since, now - back), zone)
    while upcoming is not None and upcoming <= now:
        at, upcoming = upcoming, schedule.after(upcoming, zone)
    return Due(at, MANY_MISSED + 1, upcoming)


@dataclass
class Step:
    """What to do now."""

    start: datetime | None = None
    delete: list[Object] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)
    again_s: float | None = None


def decide(cronjob: Object, active: Sequence[Object], schedule: Schedule, zone: tzinfo, now: datetime) -> Step:
    """Whether a Job starts now, and which must end for it. Pure."""
    spec, step = cronjob["spec"], Step()
    if spec.get("suspend"):
        return step
    due = latest_due(cronjob, schedule, zone, now)
    if due.next is not None:
        step.again_s = max(0.0, (due.next - now).total_seconds()) + 0.05
    if due.missed > MANY_MISSED:
        step.events.append((
            WARNING, "TooManyMissedTimes",
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
        ))  # fmt: skip
    if due.at is None:
        return step
    deadline = spec.get("startingDeadlineSeconds")
    if deadline is not None and due.at + timedelta(seconds=int(deadline)) < now:
        step.events.append((WARNING, "MissSchedule", f"Missed scheduled time to start a job: {_rfc1123(due.at)}"))
        return step
    policy = spec.get("concurrencyPolicy") or "Allow"
    if policy == "Forbid" and active:
        step.events.append((
            NORMAL, "JobAlreadyActive",
            "Not starting job because prior execution is running and concurrency policy is Forbid",
        ))  # fmt: skip
        return step
    if policy == "Replace":
        step.delete = list(active)
    step.start = due.at
    return step


def _rfc1123(t: datetime) -> str:
    return t.strftime("%a, %d %b %Y %H:%M:%S +0000")


def job_name(cronjob: Object, at: datetime) -> str:
    """The name says the minute, so that a start is never made twice. Pure."""
    return f"{meta.name(cronjob)}-{int(at.timestamp()) // 60}"


def make_job(cronjob: Object, at: datetime, zone: tzinfo) -> Object:
    """The Job for one start. Pure."""
    template = cronjob["spec"]["jobTemplate"]
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(cronjob, at),
            "namespace": meta.namespace(cronjob),
            "labels": dict(metadata.get("labels") or {}),
            "annotations": {**(metadata.get("annotations") or {}), SCHEDULED_AT: at.astimezone(zone).isoformat()},
            "ownerReferences": [meta.owner_reference(cronjob)],
        },
        "spec": copy(template["spec"]),
    }


def surplus(cronjob: Object, jobs: Sequence[Object]) -> list[Object]:
    """Finished Jobs beyond the history limits, the oldest first. Pure."""
    out: list[Object] = []
    for kind, name, default in (("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)):
        limit = cronjob["spec"].get(name)
        done = sorted((j for j in jobs if finished_as(j) == kind), key=lambda j: (_started(j), meta.name(j)))
        out += done[: max(0, len(done) - (default if limit is None else int(limit)))]
    return out


def _started(job: Object) -> str:
    return (job.get("status") or {}).get("startTime") or created_at(job)


def reference(job: Object) -> Object:
    return {
        "apiVersion": "batch/v1", "kind": "Job", "name": meta.name(job), "namespace": meta.namespace(job),
        "uid": meta.uid(job), "resourceVersion": meta.resource_version(job),
    }  # fmt: skip


class CronJobController:
    def __init__(self, ctx: Context) -> None:
        self._client, self._recorder = ctx.client, ctx.recorder("cronjob-controller")
        self._cronjobs, self._jobs = ctx.informer(CRONJOBS), ctx.informer(JOBS)
        self._loop = Controller("cronjob-controller", self._reconcile, workers=2)
        self._loop.watch(self._cronjobs)
        self._loop.watch(self._jobs, _keys_of_job)
        self.run = self._loop.run

    async def _reconcile(self, key: str) -> float | None:
        cronjob = self._cronjobs.get(key)
        if cronjob is None or meta.is_deleting(cronjob):
            return None
        try:
            schedule, zone = parse(cronjob["spec"].get("schedule") or "")
            if cronjob["spec"].get("timeZone"):
                zone = parse_zone(cronjob["spec"]["timeZone"])
        except ValueError as e:
            self._recorder.event(
                cronjob, WARNING, "UnparseableSchedule", f"unparseable schedule: {cronjob['spec'].get('schedule')!r} : {e}"
            )
            return None
        jobs = self._jobs.by_index("owner", meta.uid(cronjob))
        status = copy(cronjob.get("status") or {})
        running = self._note_finished(cronjob, jobs, status)
        for job in surplus(cronjob, jobs):
            await self._delete(cronjob, job)
        now = utcnow()
        step = decide(cronjob, running, schedule, zone or UTC, now)
        for event in step.events:
            self._recorder.event(cronjob, *event)
        for job in step.delete:
            await self._delete(cronjob, job)
            running.remove(job)
        if step.start is not None:
            made = await self._start(cronjob, step.start, zone or UTC)
            if made is not None:
                running.append(made)
            status["lastScheduleTime"] = meta.rfc3339(step.start)
        status["active"] = [reference(j) for j in sorted(running, key=meta.name)]
        if not status["active"]:
            del status["active"]
        if status != (cronjob.get("status") or {}):
            await self._client.update_status(CRONJOBS, {**cronjob, "status": status})
        return step.again_s

    def _note_finished(self, cronjob: Object, jobs: Sequence[Object], status: Object) -> list[Object]:
        """The Jobs that run; those that ended since the last look are told about and dated."""
        listed = {a.get("uid") for a in status.get("active") or []}
        running: list[Object] = []
        for job in jobs:
            ended = finished_as(job)
            if not ended:
                if not meta.is_deleting(job):
                    running.append(job)
                continue
            if meta.uid(job) in listed:
                self._recorder.event(
                    cronjob, NORMAL, "SawCompletedJob",
                    f"Saw completed job: {meta.name(job)}, condition: {ended}",
                )  # fmt: skip
            done = (job.get("status") or {}).get("completionTime")
            if ended == "Complete" and done and done > (status.get("lastSuccessfulTime") or ""):
                status["lastSuccessfulTime"] = done
        return running

    async def _start(self, cronjob: Object, at: datetime, zone: tzinfo) -> Object | None:
        try:
            made = await self._client.create(JOBS, make_job(cronjob, at, zone))
        except AlreadyExists:
            found = await self._client.get(JOBS, job_name(cronjob, at), meta.namespace(cronjob))
            ours = (meta.controller_of(found) or {}).get("uid") == meta.uid(cronjob)
            return found if ours and not finished_as(found) else None
        except (StatusError, Unreachable) as e:
            self._recorder.event(cronjob, WARNING, "FailedCreate", f"Error creating job: {e.message}")
            raise
        self._recorder.event(cronjob, NORMAL, "SuccessfulCreate", f"Created job {meta.name(made)}")
        return made

    async def _delete(self, cronjob: Object, job: Object) -> None:
        try:
            await self._client.delete(JOBS, meta.name(job), meta.namespace(job), uid=meta.uid(job), propagation="Background")
        except NotFound:
            return
        self._recorder.event(cronjob, NORMAL, "SuccessfulDelete", f"Deleted job {meta.name(job)}")


def _keys_of_job(job: Object) -> list[str]:
    controller = meta.controller_of(job)
    if controller is None or controller.get("kind") != "CronJob":
        return []
    return [f"{meta.namespace(job)}/{controller['name']}"]
