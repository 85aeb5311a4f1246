"""Pulling an image: what a pod's waiting state shows while it fails."""

from __future__ import annotations

from typing import Any

import pytest
from kubelet_objects import pod

from nsk8s.kubelet.backoff import Backoff
from nsk8s.kubelet.cri import RuntimeFailure
from nsk8s.kubelet.images import BACK_OFF_PERIOD_S, ImageManager
from nsk8s.kubelet.problems import StartProblem


class Runtime:
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def call(self, method: str, *_: Any, **__: Any) -> dict[str, Any]:
        self.calls.append(method)
        raise RuntimeFailure("NotFound", "no such image")


class Recorder:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def event(self, _: object, __: str, reason: str, message: str, **___: Any) -> None:
        self.seen.append((reason, message))


async def test_a_failed_pull_is_looked_at_again_before_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """ErrImagePull, then ImagePullBackOff for most of the time, with longer and longer waits between the pulls."""
    now = 1000.0
    monkeypatch.setattr("nsk8s.kubelet.images.time.monotonic", lambda: now)
    runtime, recorder = Runtime(), Recorder()
    manager = ImageManager(runtime, recorder, Backoff(max_s=300))  # type: ignore[arg-type]
    wanted = pod()
    shown = []
    for _ in range(7):
        with pytest.raises(StartProblem) as problem:
            await manager.ensure(wanted, {"name": "c", "image": "x:1", "imagePullPolicy": "Always"})
        assert problem.value.retry_s is not None
        shown.append((problem.value.reason, round(now - 1000), problem.value.retry_s <= BACK_OFF_PERIOD_S))
        now += problem.value.retry_s
    assert shown == [
        ("ErrImagePull", 0, True), ("ImagePullBackOff", 5, True), ("ErrImagePull", 10, True), ("ImagePullBackOff", 20, True),
        ("ErrImagePull", 30, True), ("ImagePullBackOff", 40, False), ("ErrImagePull", 70, True),
    ]  # fmt: skip
    assert runtime.calls == ["PullImage"] * 4
    assert [r for r, _ in recorder.seen] == ["Pulling", "Failed", "BackOff"] * 3 + ["Pulling", "Failed"]
