"""Tables of apps, batch, autoscaling and policy. Pure. Upstream: pkg/printers/internalversion/printers.go."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nsk8s.api.duration import age, human_duration
from nsk8s.api.meta import Object, controller_of, find_condition, is_condition_true, parse_time
from nsk8s.api.printers.common import (
    NONE,
    age_of,
    containers_and_images,
    labels_text,
    name_of,
    printer,
    selector_text,
    spec_of,
    status_of,
    title_bool,
)


def _deployment(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    return [
        name_of(obj),
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age_of(obj, now),
        *containers_and_images(spec.get("template")),
        selector_text(spec.get("selector")),
    ]


def _replica_set(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    return [
        name_of(obj),
        spec.get("replicas", 0),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        age_of(obj, now),
        *containers_and_images(spec.get("template")),
        labels_text(spec.get("selector")) if obj.get("kind") == "ReplicationController"
        else selector_text(spec.get("selector")),
    ]  # fmt: skip


def _stateful_set(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    return [
        name_of(obj),
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
        age_of(obj, now),
        *containers_and_images(spec.get("template")),
    ]


def _daemon_set(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    template = spec.get("template") or {}
    return [
        name_of(obj),
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        labels_text(spec_of(template).get("nodeSelector")),
        age_of(obj, now),
        *containers_and_images(template),
        selector_text(spec.get("selector")),
    ]


def _controller_revision(obj: Object, now: datetime) -> list[Any]:
    owner = controller_of(obj)
    controller = NONE
    if owner:
        group = str(owner.get("apiVersion", "")).rpartition("/")[0]
        resource = str(owner.get("kind", "")).lower() + (f".{group}" if group else "")
        controller = f"{resource}/{owner.get('name', '')}"
    return [name_of(obj), controller, obj.get("revision", 0), age_of(obj, now)]


def _job_status(obj: Object) -> str:
    for condition, word in (("Complete", "Complete"), ("Failed", "Failed")):
        if is_condition_true(obj, condition):
            return word
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for condition in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if is_condition_true(obj, condition):
            return condition
    return "Running"


def _job_duration(obj: Object, now: datetime) -> str:
    status = status_of(obj)
    if not status.get("startTime"):
        return ""
    end = status.get("completionTime")
    if not end and is_condition_true(obj, "Failed"):
        end = (find_condition(obj, "Failed") or {}).get("lastTransitionTime")
    return human_duration((parse_time(end) if end else now) - parse_time(status["startTime"]))


def _job(obj: Object, now: datetime) -> list[Any]:
    spec, succeeded = spec_of(obj), status_of(obj).get("succeeded", 0)
    if spec.get("completions") is not None:
        completions = f"{succeeded}/{spec['completions']}"
    elif (spec.get("parallelism") or 0) > 1:
        completions = f"{succeeded}/1 of {spec['parallelism']}"
    else:
        completions = f"{succeeded}/1"
    return [
        name_of(obj),
        _job_status(obj),
        completions,
        _job_duration(obj, now),
        age_of(obj, now),
        *containers_and_images(spec.get("template")),
        selector_text(spec.get("selector")),
    ]


def _cron_job(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    job = spec_of(spec.get("jobTemplate") or {})
    return [
        name_of(obj),
        spec.get("schedule", ""),
        spec.get("timeZone") or NONE,
        title_bool(spec.get("suspend")),
        len(status.get("active") or []),
        age(status["lastScheduleTime"], now) if status.get("lastScheduleTime") else NONE,
        age_of(obj, now),
        *containers_and_images(job.get("template")),
        selector_text(job.get("selector")),
    ]


def _pod_disruption_budget(obj: Object, now: datetime) -> list[Any]:
    spec = spec_of(obj)
    return [
        name_of(obj),
        str(spec.get("minAvailable", "N/A")),
        str(spec.get("maxUnavailable", "N/A")),
        status_of(obj).get("disruptionsAllowed", 0),
        age_of(obj, now),
    ]


def _amount(value: Object | None) -> str:
    value = value or {}
    if value.get("averageUtilization") is not None:
        return f"{value['averageUtilization']}%"
    if value.get("averageValue") is not None:
        return f"{value['averageValue']} (avg)"
    return str(value.get("value", "<unknown>"))


def _targets(obj: Object) -> str:
    wanted = spec_of(obj).get("metrics") or []
    measured = status_of(obj).get("currentMetrics") or []
    out = []
    for i, metric in enumerate(wanted[:2]):
        kind = metric.get("type", "")
        source = kind[:1].lower() + kind[1:]
        target = (metric.get(source) or {}).get("target")
        current = ((measured[i] if i < len(measured) else {}).get(source) or {}).get("current")
        have = _amount(current).replace(" (avg)", "") if current else "<unknown>"
        label = f"{metric[source].get('name', '')}: " if source in ("resource", "containerResource") else ""
        out.append(f"{label}{have}/{_amount(target)}")
    if not out:
        return NONE
    more = f" + {len(wanted) - 2} more..." if len(wanted) > 2 else ""
    return ", ".join(out) + more


def _horizontal_pod_autoscaler(obj: Object, now: datetime) -> list[Any]:
    spec, status = spec_of(obj), status_of(obj)
    target = spec.get("scaleTargetRef") or {}
    return [
        name_of(obj),
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _targets(obj),
        str(spec.get("minReplicas", "<unset>")),
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        age_of(obj, now),
    ]


DEPLOYMENT = printer(
    "Name | Ready | Up-to-date | Available | Age | *Containers | *Images | *Selector", _deployment
)
REPLICA_SET = printer(
    "Name | Desired:integer | Current:integer | Ready:integer | Age | *Containers | *Images | *Selector", _replica_set
)
STATEFUL_SET = printer("Name | Ready | Age | *Containers | *Images", _stateful_set)
DAEMON_SET = printer(
    "Name | Desired:integer | Current:integer | Ready:integer | Up-to-date:integer | Available:integer | Node Selector"
    " | Age | *Containers | *Images | *Selector",
    _daemon_set,
)
CONTROLLER_REVISION = printer("Name | Controller | Revision | Age", _controller_revision)
JOB = printer("Name | Status | Completions | Duration | Age | *Containers | *Images | *Selector", _job)
CRON_JOB = printer(
    "Name | Schedule | Timezone | Suspend | Active:integer | Last Schedule | Age | *Containers | *Images | *Selector",
    _cron_job,
)
POD_DISRUPTION_BUDGET = printer(
    "Name | Min Available | Max Unavailable | Allowed Disruptions:integer | Age", _pod_disruption_budget
)
HORIZONTAL_POD_AUTOSCALER = printer(
    "Name | Reference | Targets | MinPods | MaxPods | Replicas | Age", _horizontal_pod_autoscaler
)
