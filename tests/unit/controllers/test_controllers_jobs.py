"""Jobs and CronJobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from controllers_objects import NOW, ago, pod
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.controllers import cronjob, jobs
from nsk8s.controllers.schedule import parse, parse_zone


def job(status: Object | None = None, **spec: Any) -> Object:
    base = {"completions": 1, "parallelism": 1, "backoffLimit": 6, "template": {"spec": {"restartPolicy": "Never", "containers": [{}]}}}
    return {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j", "namespace": "default", "uid": "j"},
        "spec": {**base, **spec}, "status": status or {},
    }  # fmt: skip


def worker(name: str, phase: str = "Running", *, counted: bool = False, index: int | None = None, **more: Any) -> Object:
    annotations = {} if index is None else {jobs.INDEX: str(index)}
    finalizers = [] if counted else [jobs.TRACKING]
    return pod(name, phase=phase, finalizers=finalizers, annotations=annotations, ready=phase == "Running", **more)


class Run:
    """A Job and its pods; `turn` does what the shell and the API server would."""

    def __init__(self, made: Object) -> None:
        self.job, self.pods, self.now, self.number = made, dict[str, Object](), NOW, 0

    def turn(self) -> jobs.Step:
        step = jobs.decide(self.job, list(self.pods.values()), self.now)
        self.job["status"] = step.status
        for p in step.count:
            p["metadata"]["finalizers"] = []
        for p in step.delete:
            if step.release:
                p["metadata"]["finalizers"] = []
            p["metadata"]["deletionTimestamp"] = ago(0)
        for p in [p for p in self.pods.values() if meta.is_deleting(p) and not p["metadata"]["finalizers"]]:
            del self.pods[meta.name(p)]
        for index in step.create:
            self.number += 1
            self.pods[f"p{self.number}"] = worker(f"p{self.number}", index=index)
        return step

    def end(self, name: str, phase: str) -> None:
        self.pods[name]["status"]["phase"] = phase
        self.pods[name]["status"]["conditions"][0] |= {
            "status": "False", "lastTransitionTime": meta.rfc3339(self.now)
        }  # fmt: skip

    def condition(self) -> dict[str, str]:
        return {c["type"]: c["reason"] for c in self.job["status"].get("conditions", []) if c["status"] == "True"}


def test_completions_with_parallelism() -> None:
    run = Run(job(completions=3, parallelism=2))
    run.turn()
    assert sorted(run.pods) == ["p1", "p2"]
    assert run.job["status"]["startTime"] == ago(0)
    run.end("p1", "Succeeded")
    run.turn()
    assert run.job["status"]["uncountedTerminatedPods"] == {"succeeded": ["p1"]}
    assert "p3" in run.pods, "two of three are left: two run"
    run.turn()
    assert (run.job["status"]["succeeded"], run.job["status"]["uncountedTerminatedPods"]) == (1, {})
    run.end("p2", "Succeeded")
    run.end("p3", "Succeeded")
    run.turn()
    assert run.condition() == {"SuccessCriteriaMet": "CompletionsReached"}
    step = run.turn()
    assert run.condition() == {"SuccessCriteriaMet": "CompletionsReached", "Complete": "CompletionsReached"}
    assert step.events == [("Normal", "Completed", "Job completed")]
    assert run.job["status"]["succeeded"] == 3
    assert run.job["status"]["completionTime"]
    assert run.turn().create == []


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), max_size=40))
def test_every_pod_is_counted_once(script: list[tuple[int, bool, bool]]) -> None:
    run = Run(job(completions=8, parallelism=3, backoffLimit=100))
    good = bad = 0
    for which, succeeds, twice in script:
        run.now += timedelta(hours=1)  # no backoff in the way
        run.turn()
        if twice:
            run.turn()
        running = sorted(n for n, p in run.pods.items() if p["status"]["phase"] == "Running")
        assert len(running) <= 3
        if not running:
            break
        run.end(running[which % len(running)], "Succeeded" if succeeds else "Failed")
        good, bad = good + succeeds, bad + (not succeeds)
    for _ in range(4):
        run.turn()
    assert (run.job["status"].get("succeeded", 0), run.job["status"].get("failed", 0)) == (good, bad)
    assert ("Complete" in run.condition()) == (good == 8)


def test_a_failure_waits_longer_each_time_and_then_is_final() -> None:
    run = Run(job(backoffLimit=1))
    run.turn()
    run.end("p1", "Failed")
    step = run.turn()
    assert (step.create, step.again_s) == ([], 10.0)
    run.now += timedelta(seconds=10)
    assert run.turn().create == [None]
    run.end("p2", "Failed")
    run.turn()
    assert run.condition() == {"FailureTarget": "BackoffLimitExceeded"}
    run.turn()
    assert run.condition()["Failed"] == "BackoffLimitExceeded"
    assert run.job["status"]["failed"] == 2


def test_a_deadline_ends_what_runs() -> None:
    run = Run(job(activeDeadlineSeconds=30))
    assert run.turn().again_s == pytest.approx(30.05)
    run.now += timedelta(seconds=30)
    assert [meta.name(p) for p in run.turn().delete] == ["p1"]
    assert run.condition() == {"FailureTarget": "DeadlineExceeded"}, "not over while its pod still goes"
    run.turn()
    run.turn()
    assert run.condition() == {"FailureTarget": "DeadlineExceeded", "Failed": "DeadlineExceeded"}


def test_indexed_jobs_fill_the_holes() -> None:
    run = Run(job(completions=4, parallelism=4, completionMode="Indexed"))
    assert run.turn().create == [0, 1, 2, 3]
    for name, phase in (("p1", "Succeeded"), ("p2", "Failed"), ("p3", "Succeeded")):
        run.end(name, phase)
    assert run.turn().create == [], "after a failure the next one waits"
    assert run.job["status"]["completedIndexes"] == "0,2"
    assert run.job["status"]["succeeded"] == 2
    run.now += timedelta(seconds=20)
    assert run.turn().create == [1]


def test_suspend_and_resume() -> None:
    run = Run(job(parallelism=2, completions=2))
    run.turn()
    run.job["spec"]["suspend"] = True
    assert len(run.turn().delete) == 2
    run.turn()
    assert (run.pods, run.condition(), run.job["status"].get("failed")) == ({}, {"Suspended": "JobSuspended"}, None)
    run.job["spec"]["suspend"] = False
    assert len(run.turn().create) == 2
    assert run.condition() == {}


def test_less_parallelism_deletes_without_counting() -> None:
    run = Run(job(parallelism=3, completions=5))
    run.turn()
    run.job["spec"]["parallelism"] = 1
    assert len(run.turn().delete) == 2
    run.turn()
    assert len(run.pods) == 1
    assert "failed" not in run.job["status"]


def test_indexes_as_text() -> None:
    assert jobs.format_indexes([7, 1, 3, 4, 5]) == "1,3-5,7"
    assert jobs.parse_indexes("1,3-5,7-900,junk", 9) == {1, 3, 4, 5, 7, 8}


@given(st.sets(st.integers(0, 60)))
def test_indexes_survive_the_way_to_text_and_back(indexes: set[int]) -> None:
    assert jobs.parse_indexes(jobs.format_indexes(indexes), 61) == indexes


def test_an_indexed_pod_knows_its_number() -> None:
    made = jobs.make_pod(job(completionMode="Indexed"), 3)
    assert made["metadata"]["annotations"][jobs.INDEX] == "3"
    assert (made["spec"]["hostname"], made["metadata"]["generateName"]) == ("j-3", "j-3-")
    assert made["spec"]["containers"][0]["env"][0]["name"] == "JOB_COMPLETION_INDEX"


def test_time_to_live() -> None:
    done = job({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": ago(20)}]}, ttlSecondsAfterFinished=30)
    assert jobs.expires_in_s(done, NOW) == 10
    assert jobs.expires_in_s(job(ttlSecondsAfterFinished=30), NOW) is None


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("*/15 * * * *", "2026-11-21T12:00", "2026-11-21T12:15"),
        ("0 0 1 1 *", "2026-11-21T12:00", "2027-01-01T00:00"),
        ("@hourly", "2026-11-21T12:59", "2026-11-21T13:00"),
        ("30 8 * * mon-fri", "2026-11-21T12:00", "2026-11-23T08:30"),
        ("0 0 13 * 5", "2026-11-21T12:00", "2026-11-27T00:00"),
        ("0 0 29 2 *", "2026-11-21T12:00", "2028-02-29T00:00"),
        ("0 12 * * 7", "2026-11-21T12:00", "2026-11-22T12:00"),
        ("5/20 * * * *", "2026-11-21T12:06", "2026-11-21T12:25"),
        ("0 0 31 12 *", "2026-12-31T00:00", "2027-12-31T00:00"),
        ("@every 1h30m", "2026-11-21T12:00", "2026-11-21T13:30"),
    ],
)
def test_schedules(schedule: str, after: str, expected: str) -> None:
    assert parse(schedule)[0].after(at(after)) == at(expected)


def test_a_schedule_that_never_comes_and_zones() -> None:
    assert parse("0 0 30 2 *")[0].after(NOW) is None
    berlin = parse_zone("Europe/Berlin")
    assert parse("0 9 * * *")[0].after(at("2026-07-01T00:00"), berlin) == at("2026-07-01T07:00")
    spring = parse("30 2 * * *")[0].after(at("2027-03-27T12:00"), berlin)
    assert spring == at("2027-03-29T00:30"), "half past two does not exist on the 28th"
    assert parse("TZ=Asia/Tokyo 0 9 * * *")[1] == ZoneInfo("Asia/Tokyo")


@pytest.mark.parametrize("text", ["", "* * * *", "60 * * * *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "a * * * *", "@every x"])
def test_broken_schedules_are_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)


def tick(last: float, **spec: Any) -> Object:
    return {
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "d", "uid": "c", "creationTimestamp": ago(10**6)},
        "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {}}}, **spec},
        "status": {"lastScheduleTime": ago(last)},
    }  # fmt: skip


EVERY_FIVE = parse("*/5 * * * *")[0]


def test_when_a_cron_job_starts() -> None:
    step = cronjob.decide(tick(300), [], EVERY_FIVE, UTC, NOW)
    assert step.start == NOW
    assert step.again_s == pytest.approx(300.05)
    assert cronjob.decide(tick(0), [], EVERY_FIVE, UTC, NOW + timedelta(seconds=60)).start is None
    assert cronjob.decide(tick(300, suspend=True), [], EVERY_FIVE, UTC, NOW).start is None
    late = NOW + timedelta(seconds=90)
    assert cronjob.decide(tick(300, startingDeadlineSeconds=60), [], EVERY_FIVE, UTC, late).start is None
    assert cronjob.decide(tick(300, startingDeadlineSeconds=100), [], EVERY_FIVE, UTC, late).start == NOW


def test_after_a_long_sleep_only_the_newest_start_is_made_up_for() -> None:
    step = cronjob.decide(tick(86400 * 30), [], EVERY_FIVE, UTC, NOW + timedelta(seconds=7))
    assert step.start == NOW
    assert [e[1] for e in step.events] == ["TooManyMissedTimes"]
    assert step.again_s == pytest.approx(293.05)


def test_concurrency_policies() -> None:
    running = [job()]
    assert cronjob.decide(tick(300), running, EVERY_FIVE, UTC, NOW).start == NOW
    forbidden = cronjob.decide(tick(300, concurrencyPolicy="Forbid"), running, EVERY_FIVE, UTC, NOW)
    assert (forbidden.start, forbidden.events[0][1]) == (None, "JobAlreadyActive")
    replaced = cronjob.decide(tick(300, concurrencyPolicy="Replace"), running, EVERY_FIVE, UTC, NOW)
    assert (replaced.start, replaced.delete) == (NOW, running)


def test_names_and_history() -> None:
    assert cronjob.job_name(tick(0), NOW) == f"tick-{int(NOW.timestamp()) // 60}"
    done = [
        {**job({"startTime": ago(100 - i), "conditions": [{"type": kind, "status": "True"}]}), "metadata": {"name": f"{kind}{i}"}}
        for i, kind in enumerate(["Complete"] * 5 + ["Failed"] * 3)
    ]
    assert [meta.name(j) for j in cronjob.surplus(tick(0), done)] == ["Complete0", "Complete1", "Failed5", "Failed6"]
    assert len(cronjob.surplus(tick(0, successfulJobsHistoryLimit=0), done)) == 7
