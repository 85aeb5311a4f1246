"""What has to be done for a pod: sandbox, init containers, containers to start and to kill. Pure.

Upstream: kuberuntime's computePodActions and computeInitContainerActions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.kubelet.podruntime import (
    CREATED,
    EXITED,
    RUNNING,
    UNKNOWN,
    Container,
    PodRuntime,
    container_hash,
    is_sidecar,
)

ProbeResults = Mapping[tuple[str, str], bool]
"""("liveness" | "readiness" | "startup", container id) → last settled result; absent while there is none."""


@dataclass(frozen=True)
class Kill:
    """A container to stop, the message of its Killing event, and why (`FailedLivenessProbe`, `FailedStartupProbe` or "")."""

    container: Container
    message: str
    reason: str = ""


@dataclass
class Actions:
    """Containers are indices into spec.containers, spec.initContainers and spec.ephemeralContainers."""

    kill_pod: bool = False
    create_sandbox: bool = False
    sandbox_id: str = ""
    attempt: int = 0
    init_to_start: list[int] = field(default_factory=list)
    to_start: list[int] = field(default_factory=list)
    ephemeral_to_start: list[int] = field(default_factory=list)
    to_kill: list[Kill] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(
            self.kill_pod or self.create_sandbox or self.init_to_start or self.to_start or self.ephemeral_to_start or self.to_kill
        )


def sandbox_changed(pod: Object, runtime: PodRuntime) -> tuple[bool, int, str]:
    """(a new sandbox is needed, its attempt, the present sandbox's id). Upstream: PodSandboxChanged."""
    newest = runtime.sandbox
    if newest is None:
        return True, 0, ""
    ready = sum(1 for s in runtime.sandboxes if s.ready)
    if ready > 1 or not newest.ready:
        return True, newest.attempt + 1, newest.id
    if not pod["spec"].get("hostNetwork") and not newest.ips:
        return True, newest.attempt + 1, newest.id
    return False, newest.attempt, newest.id


def restart_policy(pod: Object) -> str:
    return str(pod["spec"].get("restartPolicy") or "Always")


def should_restart(pod: Object, container: Object, runtime: PodRuntime) -> bool:
    """Whether a container that does not run is to be started (again). Upstream: ShouldContainerBeRestarted."""
    if meta.is_deleting(pod):
        return False
    status = runtime.container(container["name"])
    if status is None:
        return True
    if status.state == RUNNING:
        return False
    if status.state in (UNKNOWN, CREATED):
        return True
    policy = "Always" if is_sidecar(container) else restart_policy(pod)
    if policy == "Never":
        return False
    return not (policy == "OnFailure" and status.exit_code == 0)


def compute_pod_actions(pod: Object, runtime: PodRuntime, probes: ProbeResults) -> Actions:
    changed, attempt, sandbox_id = sandbox_changed(pod, runtime)
    actions = Actions(kill_pod=changed, create_sandbox=changed, sandbox_id=sandbox_id, attempt=attempt)
    spec = pod["spec"]
    containers: list[Object] = spec.get("containers") or []
    inits: list[Object] = spec.get("initContainers") or []
    if changed:
        if restart_policy(pod) == "Never" and attempt != 0 and runtime.containers:
            actions.create_sandbox = False  # what has run once and must not run again needs no new sandbox
            return actions
        wanted = [
            i for i, c in enumerate(containers)
            if not (restart_policy(pod) == "OnFailure" and _succeeded(runtime.container(c["name"])))
        ]  # fmt: skip
        if not wanted:
            actions.create_sandbox = False
            return actions
        if inits:
            actions.init_to_start = [0]
        else:
            actions.to_start = wanted
        return actions

    for i, c in enumerate(spec.get("ephemeralContainers") or []):
        if runtime.container(c["name"]) is None:
            actions.ephemeral_to_start.append(i)

    initialized = _compute_init_actions(pod, inits, containers, runtime, probes, actions)
    if actions.kill_pod or not initialized:
        return actions

    kept = 0
    for i, c in enumerate(containers):
        status = runtime.container(c["name"])
        if status is None or status.state != RUNNING:
            if should_restart(pod, c, runtime):
                actions.to_start.append(i)
                if status is not None and status.state == UNKNOWN:
                    actions.to_kill.append(
                        Kill(status, f'Container is in "{status.state}" state, try killing it before restart')
                    )
            continue
        kill = _kill_reason(c, status, probes)
        if kill is None:
            kept += 1
            continue
        message, reason, always = kill
        if always or restart_policy(pod) != "Never":
            message += ", will be restarted"
            actions.to_start.append(i)
        actions.to_kill.append(Kill(status, message, reason))
    if kept == 0 and not actions.to_start:
        actions.kill_pod = True
        actions.init_to_start = []  # a pod that is done needs no sidecars either
    return actions


def _succeeded(status: Container | None) -> bool:
    return status is not None and status.state == EXITED and status.exit_code == 0


def _kill_reason(container: Object, status: Container, probes: ProbeResults) -> tuple[str, str, bool] | None:
    """(message, reason, restart whatever the policy) when a running container must go."""
    name = container["name"]
    if status.hash and status.hash != container_hash(container):
        return f"Container {name} definition changed", "", True
    if probes.get(("liveness", status.id)) is False:
        return f"Container {name} failed liveness probe", "FailedLivenessProbe", False
    if probes.get(("startup", status.id)) is False:
        return f"Container {name} failed startup probe", "FailedStartupProbe", False
    return None


def _compute_init_actions(
    pod: Object, inits: list[Object], containers: list[Object], runtime: PodRuntime, probes: ProbeResults, actions: Actions
) -> bool:
    """Fill in init containers to start and kill; True once the main containers may run.

    Goes from the last init container to the first: earlier ones may have been collected already, and the last one that has
    a status tells how far initialization has come.
    """
    if not inits:
        return True
    started = (runtime.container(c["name"]) for c in containers)
    current = runtime.sandbox.id if runtime.sandbox else ""
    initialized = any(
        s is not None and (s.state in (CREATED, RUNNING) or (s.state == EXITED and s.sandbox_id == current)) for s in started
    )
    passed = initialized  # the init container looked at has run before a later one that was found
    to_start: list[int] = []
    for i in range(len(inits) - 1, -1, -1):
        container = inits[i]
        sidecar = is_sidecar(container)
        status = runtime.container(container["name"])
        if status is not None and status.sandbox_id != current and status.state != RUNNING:
            status = None  # it ran in an earlier sandbox: initialization starts afresh in a new one
        if status is None:
            if passed and sidecar:
                to_start.append(i)
            continue
        if passed and not sidecar:
            continue
        last = i == len(inits) - 1
        if status.state == RUNNING:
            if sidecar:
                startup = probes.get(("startup", status.id))
                if container.get("startupProbe") and startup is not True:
                    if startup is False:
                        message = f"Init container {container['name']} failed startup probe, will be restarted"
                        actions.to_kill.append(Kill(status, message, "FailedStartupProbe"))
                        to_start.append(i)
                else:
                    if last:
                        initialized = True
                    elif not passed:
                        to_start.append(i + 1)
                    if probes.get(("liveness", status.id)) is False:
                        message = f"Init container {container['name']} failed liveness probe, will be restarted"
                        actions.to_kill.append(Kill(status, message, "FailedLivenessProbe"))
                        to_start.append(i)
        elif status.state == EXITED:
            if sidecar:
                to_start.append(i)
            elif status.exit_code != 0:
                if restart_policy(pod) == "Never":
                    actions.kill_pod = True
                    actions.init_to_start = []
                    return False
                to_start.append(i)
            elif last:
                initialized = True
            else:
                to_start.append(i + 1)
        else:  # created and never started, or unknown
            if status.state == UNKNOWN:
                message = f'Init container is in "{status.state}" state, try killing it before restart'
                actions.to_kill.append(Kill(status, message))
            to_start.append(i)
        passed = True
    if not passed:
        to_start.append(0)
    actions.init_to_start = sorted(set(to_start))
    return initialized
