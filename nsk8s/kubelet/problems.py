"""Why a container could not be started: what its waiting state shows. Pure. Upstream: the reasons of kuberuntime and images."""

from __future__ import annotations

from nsk8s.errors import Nsk8sError


class StartProblem(Nsk8sError):
    """`reason` is the waiting reason; `retry_s` says when another try makes sense (None: the worker's own back-off)."""

    def __init__(self, reason: str, message: str, retry_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_s = retry_s
