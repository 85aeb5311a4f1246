"""The kinds of apps, batch, policy and autoscaling. Pure. Upstream: pkg/registry/{apps,batch,policy,autoscaling}."""

from __future__ import annotations

from nsk8s.api.defaults import workloads as defaults
from nsk8s.api.kinds.common import scale, status
from nsk8s.api.meta import Object
from nsk8s.api.models import apps, autoscaling, batch, policy
from nsk8s.api.printers import workloads as printers
from nsk8s.api.scheme import Kind, Strategy
from nsk8s.api.validation import workloads as validation


def _status_replicas(obj: Object) -> str:
    return str((obj.get("status") or {}).get("replicas", 0))


def _job_successful(obj: Object) -> str:
    return str((obj.get("status") or {}).get("succeeded", 0))


KINDS: tuple[Kind, ...] = (
    Kind(
        "apps", "v1", "Deployment", "deployments", True, apps.Deployment, short_names=("deploy",), categories=("all",),
        subresources=(status("Deployment"), scale()),
        strategy=Strategy(default=defaults.default_deployment, validate=validation.validate_deployment,
                          validate_update=validation.validate_selector_update),
        printer=printers.DEPLOYMENT,
    ),
    Kind(
        "apps", "v1", "ReplicaSet", "replicasets", True, apps.ReplicaSet, short_names=("rs",), categories=("all",),
        subresources=(status("ReplicaSet"), scale()),
        strategy=Strategy(default=defaults.default_replica_set, validate=validation.validate_replica_set,
                          validate_update=validation.validate_selector_update),
        printer=printers.REPLICA_SET,
        fields={"status.replicas": _status_replicas},
    ),
    Kind(
        "apps", "v1", "StatefulSet", "statefulsets", True, apps.StatefulSet, short_names=("sts",), categories=("all",),
        subresources=(status("StatefulSet"), scale()),
        strategy=Strategy(default=defaults.default_stateful_set, validate=validation.validate_stateful_set,
                          validate_update=validation.validate_stateful_set_update),
        printer=printers.STATEFUL_SET,
    ),
    Kind(
        "apps", "v1", "DaemonSet", "daemonsets", True, apps.DaemonSet, short_names=("ds",), categories=("all",),
        subresources=(status("DaemonSet"),),
        strategy=Strategy(default=defaults.default_daemon_set, validate=validation.validate_daemon_set,
                          validate_update=validation.validate_selector_update),
        printer=printers.DAEMON_SET,
    ),
    Kind(
        "apps", "v1", "ControllerRevision", "controllerrevisions", True, apps.ControllerRevision,
        strategy=Strategy(validate=validation.validate_controller_revision,
                          validate_update=validation.validate_controller_revision_update,
                          has_status=False, has_generation=False),
        printer=printers.CONTROLLER_REVISION,
    ),
    Kind(
        "batch", "v1", "Job", "jobs", True, batch.Job, categories=("all",),
        subresources=(status("Job"),),
        strategy=Strategy(default=defaults.default_job, prepare_create=defaults.create_job,
                          validate=validation.validate_job, validate_update=validation.validate_job_update),
        printer=printers.JOB,
        fields={"status.successful": _job_successful},
    ),
    Kind(
        "batch", "v1", "CronJob", "cronjobs", True, batch.CronJob, short_names=("cj",), categories=("all",),
        subresources=(status("CronJob"),),
        strategy=Strategy(default=defaults.default_cron_job, validate=validation.validate_cron_job),
        printer=printers.CRON_JOB,
    ),
    Kind(
        "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", True, policy.PodDisruptionBudget,
        short_names=("pdb",), subresources=(status("PodDisruptionBudget"),),
        strategy=Strategy(validate=validation.validate_pod_disruption_budget),
        printer=printers.POD_DISRUPTION_BUDGET,
    ),
    Kind(
        "autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", True,
        autoscaling.HorizontalPodAutoscaler, short_names=("hpa",), categories=("all",),
        subresources=(status("HorizontalPodAutoscaler"),),
        strategy=Strategy(default=defaults.default_horizontal_pod_autoscaler,
                          validate=validation.validate_horizontal_pod_autoscaler, has_generation=False),
        printer=printers.HORIZONTAL_POD_AUTOSCALER,
    ),
)  # fmt: skip
