"""Images before a container can start: policy, pulling, back-off, events. Touches: the runtime's socket, the clock.

Upstream: kubelet/images/image_manager.go.
"""

from __future__ import annotations

import time

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.events import NORMAL, WARNING, EventRecorder
from nsk8s.kubelet.backoff import Backoff
from nsk8s.kubelet.cri import RuntimeClient, RuntimeFailure
from nsk8s.kubelet.podruntime import field_path
from nsk8s.kubelet.problems import StartProblem

BACK_OFF_PERIOD_S = 10.0
"""Upstream's backOffPeriod: a pod whose sync failed is synced again after so long."""


def pull_policy(container: Object) -> str:
    """The given policy, or Always for `:latest` and untagged images. Pure."""
    given = container.get("imagePullPolicy")
    if given:
        return str(given)
    image = str(container.get("image", ""))
    tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return "Always" if tag in ("", "latest") and "@" not in image else "IfNotPresent"


def go_duration(seconds: float) -> str:
    """A short duration as Go prints it, to the millisecond. Pure."""
    return f"{round(seconds * 1000)}ms" if seconds < 1 else f"{round(seconds, 3):g}s"


class ImageManager:
    def __init__(self, runtime: RuntimeClient, recorder: EventRecorder, backoff: Backoff) -> None:
        self._runtime = runtime
        self._recorder = recorder
        self._backoff = backoff
        self._failures: dict[str, tuple[float, str]] = {}  # key → (when, what the runtime said)

    def forget(self, uid: str) -> None:
        self._backoff.forget(uid)
        for key in [k for k in self._failures if k.startswith(uid)]:
            del self._failures[key]

    async def ensure(self, pod: Object, container: Object) -> None:
        """Returns when the image is there. Raises StartProblem (ErrImagePull …), RuntimeFailure when the runtime is away."""
        image = str(container.get("image", ""))
        where = field_path(pod, container["name"])
        policy = pull_policy(container)
        if policy != "Always" and await self._present(image):
            self._recorder.event(
                pod, NORMAL, "Pulled", f'Container image "{image}" already present on machine', field_path=where
            )
            return
        if policy == "Never":
            message = f'Container image "{image}" is not present with pull policy of Never'
            self._recorder.event(pod, WARNING, "ErrImageNeverPull", message, field_path=where)
            raise StartProblem("ErrImageNeverPull", message)
        key = f"{meta.uid(pod)}_{image}"
        now = time.monotonic()
        failed_at, last = self._failures.get(key, (now, ""))
        wait_s = self._backoff.remaining(key, failed_at, now)
        if wait_s > 0:
            message = f'Back-off pulling image "{image}"'
            self._recorder.event(pod, NORMAL, "BackOff", message, field_path=where)
            raise StartProblem("ImagePullBackOff", f"{message}: ErrImagePull: {last}" if last else message, wait_s)
        self._recorder.event(pod, NORMAL, "Pulling", f'Pulling image "{image}"', field_path=where)
        try:
            await self._runtime.call("PullImage", image={"image": image})
        except RuntimeFailure as e:
            if e.code == "Unavailable":
                raise
            self._recorder.event(pod, WARNING, "Failed", f'Failed to pull image "{image}": {e}', field_path=where)
            now = time.monotonic()
            self._backoff.next(key, now, now)
            self._failures[key] = now, str(e)
            # Looked at again before the next try, as upstream's sync does: by then it is an ImagePullBackOff.
            raise StartProblem("ErrImagePull", str(e), min(self._backoff.delay(key) / 2, BACK_OFF_PERIOD_S)) from e
        took = go_duration(time.monotonic() - now)
        self._recorder.event(
            pod, NORMAL, "Pulled", f'Successfully pulled image "{image}" in {took} ({took} including waiting)', field_path=where
        )

    async def _present(self, image: str) -> bool:
        try:
            answer = await self._runtime.call("ImageStatus", image={"image": image})
        except RuntimeFailure as e:
            if e.code == "NotFound":
                return False
            raise
        return bool(answer.get("image"))
