"""Short ways to write pods, sandboxes and containers."""

from __future__ import annotations

from typing import Any

from nsk8s.kubelet.podruntime import CREATED, EXITED, RUNNING, Container, PodRuntime, Sandbox, container_hash

UID = "u1"
S = 1_000_000_000


def spec(name: str = "main", **extra: Any) -> dict[str, Any]:
    return {"name": name, "image": "app:1", **extra}


def pod(
    *containers: dict[str, Any], init: tuple[dict[str, Any], ...] = (), meta: dict[str, Any] | None = None, **extra: Any
) -> Any:
    metadata = {"name": "p", "namespace": "default", "uid": UID, **(meta or {})}
    body: dict[str, Any] = {"containers": list(containers or (spec(),)), "nodeName": "node1", **extra}
    if init:
        body["initContainers"] = list(init)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def box(attempt: int = 0, *, ready: bool = True, ip: str = "10.244.1.2") -> Sandbox:
    return Sandbox(f"box{attempt}", UID, "p", "default", attempt, ready, (attempt + 1) * S, (ip,) if ip else ())


def ran(name: str = "main", state: str = RUNNING, code: int = 0, attempt: int = 0, sandbox: int = 0, **extra: Any) -> Container:
    """A container of the image app:1; started at 10 s + attempt, ended a second later."""
    return Container(
        id=extra.pop("id", f"{name}-{attempt}"), sandbox_id=f"box{sandbox}", pod_uid=UID, name=name, attempt=attempt, state=state,
        created_at=(10 + attempt) * S, started_at=0 if state == CREATED else (10 + attempt) * S,
        finished_at=(11 + attempt) * S if state == EXITED else 0, exit_code=code, image="app:1", image_ref="sha256:1",
        hash=extra.pop("hash", container_hash({"name": name, "image": "app:1"})), **extra,
    )  # fmt: skip


def runtime(*containers: Container, boxes: tuple[Sandbox, ...] | None = None) -> PodRuntime:
    found = sorted(containers, key=lambda c: -c.created_at)
    return PodRuntime(UID, "p", "default", [box()] if boxes is None else list(boxes), found)


def dead(name: str = "main", code: int = 0, attempt: int = 0, **extra: Any) -> Container:
    return ran(name, EXITED, code, attempt, **extra)
