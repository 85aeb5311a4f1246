"""batch/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import Model, Time, field, int32, int64
from nsk8s.api.models.core_pod import PodTemplateSpec
from nsk8s.api.models.core_reference import ObjectReference
from nsk8s.api.models.meta import LabelSelector, ObjectMeta

POD_FAILURE_POLICY_ON_EXIT_CODES_OPERATOR = ("In", "NotIn")
POD_FAILURE_POLICY_ACTION = ("FailJob", "FailIndex", "Ignore", "Count")
COMPLETION_MODE = ("NonIndexed", "Indexed")
POD_REPLACEMENT_POLICY = ("TerminatingOrFailed", "Failed")
CONCURRENCY_POLICY = ("Allow", "Forbid", "Replace")


class Job(Model):
    """Runs pods until enough of them have succeeded."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: JobSpec = field(2, "What is wanted.")
    status: JobStatus = field(3, "What is known; written by controllers.")


class PodFailurePolicyOnExitCodesRequirement(Model):
    containerName: str | None = field(1)
    operator: str = field(2, required=True, enum=POD_FAILURE_POLICY_ON_EXIT_CODES_OPERATOR)
    values: list[int32] = field(3, required=True, list_type="set")


class PodFailurePolicyOnPodConditionsPattern(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)


class PodFailurePolicyRule(Model):
    action: str = field(1, required=True, enum=POD_FAILURE_POLICY_ACTION)
    onExitCodes: PodFailurePolicyOnExitCodesRequirement = field(2)
    onPodConditions: list[PodFailurePolicyOnPodConditionsPattern] = field(3, list_type="atomic")


class PodFailurePolicy(Model):
    rules: list[PodFailurePolicyRule] = field(1, required=True, list_type="atomic")


class SuccessPolicy(Model):
    rules: list[SuccessPolicyRule] = field(1, required=True, list_type="atomic")


class SuccessPolicyRule(Model):
    succeededIndexes: str | None = field(1)
    succeededCount: int32 | None = field(2)


class JobSpec(Model):
    """What a Job runs, how often and how long."""

    parallelism: int32 | None = field(1, "How many pods may run at one time.")
    completions: int32 | None = field(2, "How many must succeed.")
    activeDeadlineSeconds: int64 | None = field(3, "Seconds the Job may take.")
    podFailurePolicy: PodFailurePolicy = field(11)
    successPolicy: SuccessPolicy = field(16)
    backoffLimit: int32 | None = field(7, "How many failures are too many; default 6.")
    backoffLimitPerIndex: int32 | None = field(12)
    maxFailedIndexes: int32 | None = field(13)
    selector: LabelSelector = field(4, "Made by the server.")
    manualSelector: bool | None = field(5)
    template: PodTemplateSpec = field(6, "What the pods look like; restartPolicy OnFailure or Never.", required=True)
    ttlSecondsAfterFinished: int32 | None = field(8, "Seconds after its end until the Job is deleted.")
    completionMode: str | None = field(9, "NonIndexed or Indexed.", enum=COMPLETION_MODE)
    suspend: bool | None = field(10, "No pods run while this is set.")
    podReplacementPolicy: str | None = field(14, enum=POD_REPLACEMENT_POLICY)
    managedBy: str | None = field(15)


class JobStatus(Model):
    conditions: list[JobCondition] = field(1, merge_key="type", list_type="atomic")
    startTime: Time = field(2)
    completionTime: Time = field(3)
    active: int32 = field(4)
    succeeded: int32 = field(5)
    failed: int32 = field(6)
    terminating: int32 | None = field(11)
    completedIndexes: str = field(7)
    failedIndexes: str | None = field(10)
    uncountedTerminatedPods: UncountedTerminatedPods = field(8)
    ready: int32 | None = field(9)


class UncountedTerminatedPods(Model):
    succeeded: list[str] = field(1, list_type="set")
    failed: list[str] = field(2, list_type="set")


class JobCondition(Model):
    type: str = field(1, required=True)
    status: str = field(2, required=True)
    lastProbeTime: Time = field(3)
    lastTransitionTime: Time = field(4)
    reason: str = field(5)
    message: str = field(6)


class JobTemplateSpec(Model):
    metadata: ObjectMeta = field(1)
    spec: JobSpec = field(2)


class CronJob(Model):
    """Makes Jobs on a schedule."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    spec: CronJobSpec = field(2, "What is wanted.")
    status: CronJobStatus = field(3, "What is known; written by controllers.")


class CronJobSpec(Model):
    schedule: str = field(1, "When, in cron's five fields.", required=True)
    timeZone: str | None = field(8, "The time zone of the schedule.")
    startingDeadlineSeconds: int64 | None = field(2, "How late a Job may still be started.")
    concurrencyPolicy: str = field(
        3, "What happens when the last Job still runs: Allow, Forbid or Replace.", enum=CONCURRENCY_POLICY
    )
    suspend: bool | None = field(4, "No Jobs are made while this is set.")
    jobTemplate: JobTemplateSpec = field(5, "What the Jobs look like.", required=True)
    successfulJobsHistoryLimit: int32 | None = field(6, "How many good Jobs are kept; default 3.")
    failedJobsHistoryLimit: int32 | None = field(7, "How many failed Jobs are kept; default 1.")


class CronJobStatus(Model):
    active: list[ObjectReference] = field(1, list_type="atomic")
    lastScheduleTime: Time = field(4)
    lastSuccessfulTime: Time = field(5)
