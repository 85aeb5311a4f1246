"""apps, batch, policy, autoscaling, and ReplicationController. Pure. Upstream: pkg/apis/{apps,batch,policy,autoscaling}."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nsk8s.api import names
from nsk8s.api.meta import Object
from nsk8s.api.scheme import Cause
from nsk8s.api.validation.common import (
    Causes,
    check_int_or_percent,
    check_selector,
    named,
    selector_matches,
    shown_labels,
)
from nsk8s.api.validation.pod import check_template
from nsk8s.api.validation.volumes import check_claim_spec

_NO_MATCH = "`selector` does not match template `labels`"


def _check_workload(causes: Causes, spec: Object) -> None:
    """Selector, template, and that they fit."""
    selector, template = spec.get("selector"), spec.get("template") or {}
    if selector is None:
        causes.required("spec.selector")
    else:
        check_selector(causes, "spec.selector", selector)
        if not (selector.get("matchLabels") or selector.get("matchExpressions")):
            causes.invalid("spec.selector", selector, "empty selector is invalid for deployment")
    labels = (template.get("metadata") or {}).get("labels")
    if selector and not selector_matches(selector, labels):
        causes.invalid_as("spec.template.metadata.labels", shown_labels(labels), _NO_MATCH)
    check_template(causes, "spec.template", template)


def _check_counts(causes: Causes, spec: Object, *keys: str) -> None:
    for key in keys:
        causes.non_negative(f"spec.{key}", spec.get(key))


def validate_deployment(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    _check_counts(causes, spec, "replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")
    _check_workload(causes, spec)
    strategy = spec.get("strategy") or {}
    match strategy.get("type"):
        case "Recreate":
            if strategy.get("rollingUpdate") is not None:
                causes.forbidden("spec.strategy.rollingUpdate",
                                 "may not be specified when strategy `type` is 'Recreate'")  # fmt: skip
        case "RollingUpdate":
            _check_rolling(causes, "spec.strategy.rollingUpdate", strategy.get("rollingUpdate") or {})
        case other:
            causes.unsupported("spec.strategy.type", other or "", ("Recreate", "RollingUpdate"))
    deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds", 0)
    if deadline is not None and deadline <= ready:
        causes.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")
    return causes


def _zero(value: object) -> bool:
    return value in (0, "0%", None)


def _check_rolling(causes: Causes, at: str, rolling: Object) -> None:
    unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
    check_int_or_percent(causes, f"{at}.maxUnavailable", unavailable)
    check_int_or_percent(causes, f"{at}.maxSurge", surge)
    if _zero(unavailable) and _zero(surge):
        causes.invalid(f"{at}.maxUnavailable", unavailable, "may not be 0 when `maxSurge` is 0")
    if isinstance(unavailable, str) and unavailable[:-1].isdigit() and int(unavailable[:-1]) > 100:
        causes.invalid(f"{at}.maxUnavailable", unavailable, "must not be greater than 100%")


def validate_selector_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    causes.immutable("spec.selector", (new.get("spec") or {}).get("selector"), (old.get("spec") or {}).get("selector"))
    return causes


def validate_replica_set(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    _check_counts(causes, spec, "replicas", "minReadySeconds")
    _check_workload(causes, spec)
    return causes


def validate_replication_controller(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    _check_counts(causes, spec, "replicas", "minReadySeconds")
    selector = spec.get("selector") or {}
    if not selector:
        causes.required("spec.selector")
    template = spec.get("template")
    if template is None:
        causes.required("spec.template")
        return causes
    labels: Mapping[str, str] = (template.get("metadata") or {}).get("labels") or {}
    if any(labels.get(k) != v for k, v in selector.items()):
        causes.invalid_as("spec.template.metadata.labels", shown_labels(dict(labels)), _NO_MATCH)
    check_template(causes, "spec.template", template)
    return causes


def validate_pod_template(obj: Object) -> list[Cause]:
    causes = named(obj)
    check_template(causes, "template", obj.get("template") or {}, ("Always", "OnFailure", "Never"))
    return causes


def validate_stateful_set(obj: Object) -> list[Cause]:
    causes = named(obj, names.label_problems)
    spec = obj.get("spec") or {}
    _check_counts(causes, spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    if spec.get("podManagementPolicy") not in ("OrderedReady", "Parallel"):
        causes.invalid("spec.podManagementPolicy", spec.get("podManagementPolicy", ""),
                       "must be 'OrderedReady' or 'Parallel'")  # fmt: skip
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") not in ("RollingUpdate", "OnDelete"):
        causes.invalid("spec.updateStrategy", strategy, "must be 'RollingUpdate' or 'OnDelete'")
    elif strategy["type"] == "OnDelete" and strategy.get("rollingUpdate") is not None:
        causes.invalid("spec.updateStrategy.rollingUpdate", strategy["rollingUpdate"],
                       "only allowed for updateStrategy 'RollingUpdate'")  # fmt: skip
    rolling = strategy.get("rollingUpdate") or {}
    causes.non_negative("spec.updateStrategy.rollingUpdate.partition", rolling.get("partition"))
    retention = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for key in ("whenDeleted", "whenScaled"):
        if key in retention and retention[key] not in ("Retain", "Delete"):
            causes.unsupported(f"spec.persistentVolumeClaimRetentionPolicy.{key}", retention[key], ("Retain", "Delete"))
    _check_workload(causes, spec)
    for i, claim in enumerate(spec.get("volumeClaimTemplates") or []):
        check_claim_spec(causes, f"spec.volumeClaimTemplates[{i}].spec", claim.get("spec") or {})
    return causes


_STATEFUL_MUTABLE = ("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
                     "persistentVolumeClaimRetentionPolicy", "minReadySeconds")  # fmt: skip


def validate_stateful_set_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()

    def fixed(obj: Object) -> Object:
        return {k: v for k, v in (obj.get("spec") or {}).items() if k not in _STATEFUL_MUTABLE}

    if fixed(new) != fixed(old):
        causes.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
            "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        )
    return causes


def validate_daemon_set(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    _check_counts(causes, spec, "minReadySeconds", "revisionHistoryLimit")
    _check_workload(causes, spec)
    strategy = spec.get("updateStrategy") or {}
    match strategy.get("type"):
        case "OnDelete":
            pass
        case "RollingUpdate":
            rolling = strategy.get("rollingUpdate") or {}
            at = "spec.updateStrategy.rollingUpdate"
            unavailable, surge = rolling.get("maxUnavailable"), rolling.get("maxSurge")
            check_int_or_percent(causes, f"{at}.maxUnavailable", unavailable)
            check_int_or_percent(causes, f"{at}.maxSurge", surge)
            if _zero(unavailable) and _zero(surge):
                causes.required(f"{at}.maxUnavailable", "cannot be 0 when maxSurge is 0")
            elif not _zero(unavailable) and not _zero(surge):
                causes.invalid(f"{at}.maxSurge", surge, "may not be set when maxUnavailable is non-zero")
        case other:
            causes.unsupported("spec.updateStrategy", other or "", ("RollingUpdate", "OnDelete"))
    return causes


def validate_controller_revision(obj: Object) -> list[Cause]:
    causes = named(obj)
    if obj.get("data") is None:
        causes.required("data", "data is mandatory")
    causes.non_negative("revision", obj.get("revision"))
    return causes


def validate_controller_revision_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    causes.immutable("data", new.get("data"), old.get("data"))
    return causes


def _check_job_spec(causes: Causes, path: str, spec: Object) -> None:
    for key in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished",
                "backoffLimitPerIndex", "maxFailedIndexes"):  # fmt: skip
        causes.non_negative(f"{path}.{key}", spec.get(key))
    mode = spec.get("completionMode")
    if mode is not None and mode not in ("NonIndexed", "Indexed"):
        causes.unsupported(f"{path}.completionMode", mode, ("Indexed", "NonIndexed"))
    if mode == "Indexed" and spec.get("completions") is None:
        causes.required(f"{path}.completions", "when completion mode is Indexed")
    if spec.get("backoffLimitPerIndex") is not None and mode != "Indexed":
        causes.invalid(f"{path}.backoffLimitPerIndex", spec["backoffLimitPerIndex"],
                       "requires indexed completion mode")  # fmt: skip
    template = spec.get("template") or {}
    check_template(causes, f"{path}.template", template, ("OnFailure", "Never"))


def validate_job(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    _check_job_spec(causes, "spec", spec)
    selector = spec.get("selector")
    if selector is None:
        causes.required("spec.selector")
    else:
        check_selector(causes, "spec.selector", selector)
        labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
        if not selector_matches(selector, labels):
            causes.invalid_as("spec.template.metadata.labels", shown_labels(labels), _NO_MATCH)
    return causes


def validate_job_update(new: Object, old: Object) -> list[Cause]:
    causes = Causes()
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    indexed = before.get("completionMode") == "Indexed"
    if not (indexed and spec.get("completions") == spec.get("parallelism")):
        causes.immutable("spec.completions", spec.get("completions"), before.get("completions"))
    for key in ("selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"):
        causes.immutable(f"spec.{key}", spec.get(key), before.get(key))
    if not (before.get("suspend") and not (old.get("status") or {}).get("startTime")):
        causes.immutable("spec.template", spec.get("template"), before.get("template"))
    return causes


_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def schedule_problem(schedule: str) -> str:
    """What is wrong with a cron schedule; empty if nothing. Upstream: robfig/cron ParseStandard."""
    if schedule in _MACROS or re.fullmatch(r"@every (\d+(\.\d+)?(ns|us|ms|s|m|h))+", schedule):
        return ""
    if schedule.startswith("@"):
        return f"unrecognized descriptor: {schedule}"
    parts = schedule.split()
    if len(parts) != 5:
        return f"expected exactly 5 fields, found {len(parts)}: {parts}"
    for part, (low, high), words in zip(parts, _RANGES, ((), (), (), _MONTHS, _DAYS), strict=True):
        for piece in part.split(","):
            if problem := _piece_problem(piece, low, high, words):
                return problem
    return ""


def _piece_problem(piece: str, low: int, high: int, words: tuple[str, ...]) -> str:
    span, slash, step = piece.partition("/")
    if slash and not (step.isascii() and step.isdigit() and int(step) > 0):
        return f"failed to parse int from {step}: strconv.Atoi: parsing \"{step}\": invalid syntax"
    if span in ("*", "?"):
        return ""
    bounds = []
    for text in span.split("-"):
        if text.lower() in words:
            bounds.append(words.index(text.lower()) + (1 if words is _MONTHS else 0))
        elif text.isascii() and text.isdigit():
            bounds.append(int(text))
        else:
            return f"failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"
    if len(bounds) > 2:
        return f"too many hyphens: {piece}"
    if bounds[0] < low:
        return f"beginning of range ({bounds[0]}) below minimum ({low}): {piece}"
    if bounds[-1] > high:
        return f"end of range ({bounds[-1]}) above maximum ({high}): {piece}"
    if bounds[0] > bounds[-1]:
        return f"beginning of range ({bounds[0]}) beyond end of range ({bounds[-1]}): {piece}"
    return ""


def validate_cron_job(obj: Object) -> list[Cause]:
    causes = named(obj)
    name = str(obj["metadata"].get("name", ""))
    if len(name) > 52:
        causes.invalid("metadata.name", name, "must be no more than 52 characters")
    spec = obj.get("spec") or {}
    schedule = spec.get("schedule", "")
    if not schedule:
        causes.required("spec.schedule")
    elif "TZ" in schedule:
        causes.invalid("spec.schedule", schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
    elif problem := schedule_problem(schedule):
        causes.invalid("spec.schedule", schedule, problem)
    causes.choice("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), ("Allow", "Forbid", "Replace"))
    _check_counts(causes, spec, "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")
    zone = spec.get("timeZone")
    if zone is not None and (not zone or zone.lower() == "local"):
        causes.invalid("spec.timeZone", zone, "timeZone must be nil or non-empty string" if not zone
                       else "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")  # fmt: skip
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    _check_job_spec(causes, "spec.jobTemplate.spec", job)
    if job.get("selector") is not None and not job.get("manualSelector"):
        causes.invalid("spec.jobTemplate.spec.selector", job["selector"], "`selector` will be auto-generated")
    return causes


def validate_pod_disruption_budget(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    low, high = spec.get("minAvailable"), spec.get("maxUnavailable")
    if low is not None and high is not None:
        causes.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    check_int_or_percent(causes, "spec.minAvailable", low)
    check_int_or_percent(causes, "spec.maxUnavailable", high)
    check_selector(causes, "spec.selector", spec.get("selector"))
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy is not None and policy not in ("AlwaysAllow", "IfHealthyBudget"):
        causes.unsupported("spec.unhealthyPodEvictionPolicy", policy, ("AlwaysAllow", "IfHealthyBudget"))
    return causes


_METRICS = {"Object": "object", "Pods": "pods", "Resource": "resource", "External": "external",
            "ContainerResource": "containerResource"}  # fmt: skip


def validate_horizontal_pod_autoscaler(obj: Object) -> list[Cause]:
    causes = named(obj)
    spec = obj.get("spec") or {}
    target = spec.get("scaleTargetRef") or {}
    for key in ("kind", "name"):
        if not target.get(key):
            causes.required(f"spec.scaleTargetRef.{key}")
    low, high = spec.get("minReplicas"), spec.get("maxReplicas", 0)
    if low is not None and low < 1:
        causes.invalid("spec.minReplicas", low, "must be greater than or equal to 1")
    if high < 1:
        causes.invalid("spec.maxReplicas", high, "must be greater than 0")
    if low is not None and high < low:
        causes.invalid("spec.maxReplicas", high, "must be greater than or equal to `minReplicas`")
    for i, metric in enumerate(spec.get("metrics") or []):
        at = f"spec.metrics[{i}]"
        kind = metric.get("type", "")
        if kind not in _METRICS:
            causes.choice(f"{at}.type", kind, tuple(_METRICS))
        elif _METRICS[kind] not in metric:
            causes.required(f"{at}.{_METRICS[kind]}", "must populate information for the given metric source")
    return causes


def check_scale(scale: Object) -> list[Cause]:
    """An autoscaling/v1 Scale."""
    causes = Causes()
    causes.non_negative("spec.replicas", (scale.get("spec") or {}).get("replicas", 0))
    return causes

