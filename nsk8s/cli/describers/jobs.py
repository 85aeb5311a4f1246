"""Job, CronJob. Pure."""

from __future__ import annotations

from nsk8s.api import meta
from nsk8s.api.duration import human_duration
from nsk8s.api.meta import Object
from nsk8s.api.selectors import from_label_selector
from nsk8s.cli.describers.generic import header
from nsk8s.cli.describers.pod import template
from nsk8s.cli.describers.text import Text, annotation_lines, date, go, or_unset, pairs


def job(out: Text, obj: Object) -> None:
    spec, status = obj["spec"], obj.get("status") or {}
    out.line(0, "Name:", meta.name(obj))
    out.line(0, "Namespace:", meta.namespace(obj))
    if spec.get("selector"):
        out.line(0, "Selector:", from_label_selector(spec["selector"]))
    pairs(out, "Labels", meta.labels(obj))
    annotation_lines(out, meta.annotations(obj))
    owner = meta.controller_of(obj)
    if owner:
        out.line(0, "Controlled By:", f"{owner['kind']}/{owner['name']}")
    out.line(0, "Parallelism:", or_unset(spec.get("parallelism")))
    out.line(0, "Completions:", or_unset(spec.get("completions")))
    for title, key in (("Completion Mode", "completionMode"), ("Suspend", "suspend"), ("Backoff Limit", "backoffLimit")):
        if spec.get(key) is not None:
            out.line(0, f"{title}:", go(spec[key]))
    if spec.get("ttlSecondsAfterFinished") is not None:
        out.line(0, "TTL Seconds After Finished:", spec["ttlSecondsAfterFinished"])
    start, end = status.get("startTime"), status.get("completionTime")
    if start:
        out.line(0, "Start Time:", date(start))
    if end:
        out.line(0, "Completed At:", date(end))
    if start and end:
        out.line(0, "Duration:", human_duration(meta.parse_time(end) - meta.parse_time(start)))
    if spec.get("activeDeadlineSeconds") is not None:
        out.line(0, "Active Deadline Seconds:", f"{spec['activeDeadlineSeconds']}s")
    active = f"{status.get('active', 0)} Active" + (f" ({status['ready']} Ready)" if status.get("ready") is not None else "")
    out.line(0, "Pods Statuses:", f"{active} / {status.get('succeeded', 0)} Succeeded / {status.get('failed', 0)} Failed")
    if spec.get("completionMode") == "Indexed":
        out.line(0, "Completed Indexes:", status.get("completedIndexes") or "<none>")
    template(out, spec.get("template") or {})


def cron_job(out: Text, obj: Object) -> None:
    spec, status = obj["spec"], obj.get("status") or {}
    header(out, obj)
    out.line(0, "Schedule:", spec.get("schedule", ""))
    if spec.get("timeZone"):
        out.line(0, "Time Zone:", spec["timeZone"])
    out.line(0, "Concurrency Policy:", spec.get("concurrencyPolicy", ""))
    out.line(0, "Suspend:", str(bool(spec.get("suspend"))))
    out.line(0, "Successful Job History Limit:", or_unset(spec.get("successfulJobsHistoryLimit")))
    out.line(0, "Failed Job History Limit:", or_unset(spec.get("failedJobsHistoryLimit")))
    deadline = spec.get("startingDeadlineSeconds")
    out.line(0, "Starting Deadline Seconds:", "<unset>" if deadline is None else f"{deadline}s")
    inner = (spec.get("jobTemplate") or {}).get("spec") or {}
    chosen = inner.get("selector")
    out.line(0, "Selector:", from_label_selector(chosen) if chosen else "<unset>")
    out.line(0, "Parallelism:", or_unset(inner.get("parallelism")))
    out.line(0, "Completions:", or_unset(inner.get("completions")))
    template(out, inner.get("template") or {})
    out.line(0, "Last Schedule Time:", date(status["lastScheduleTime"]) if status.get("lastScheduleTime") else "<unset>")
    out.line(0, "Active Jobs:", ", ".join(a.get("name", "") for a in status.get("active") or []) or "<none>")
