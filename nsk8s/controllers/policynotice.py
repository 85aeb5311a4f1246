"""Says of each NetworkPolicy that nothing enforces it, in an Event that `kubectl describe` shows. Touches: the API (Events).

The API server warns whoever creates one; this is for who looks later, or applied it through something that swallows warnings.
Upstream has no counterpart: a policy without an enforcing network plugin is silently without effect there.
"""

from __future__ import annotations

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client.controller import Controller
from nsk8s.client.events import WARNING
from nsk8s.client.resources import NETWORKPOLICIES
from nsk8s.controllers.context import Context

REASON = "NotEnforced"
MESSAGE = "nothing enforces this policy: all traffic passes (`network: {policy: true}` in cluster.yaml starts what does)"


class PolicyNoticeController:
    def __init__(self, ctx: Context) -> None:
        self._recorder = ctx.recorder("network-policy-notice-controller")
        self._policies = ctx.informer(NETWORKPOLICIES)
        self._told: dict[str, int] = {}
        self._loop = Controller("network-policy-notice-controller", self._reconcile, workers=1)
        self._loop.watch(self._policies)
        self.run = self._loop.run

    async def _reconcile(self, key: str) -> float | None:
        """Tell once a policy and generation; again after a restart, as a second count of the same Event."""
        policy: Object | None = self._policies.get(key)
        if policy is None or meta.is_deleting(policy):
            self._told.pop(key, None)
            return None
        generation = int(policy["metadata"].get("generation") or 0)
        if self._told.get(key) != generation:
            self._told[key] = generation
            self._recorder.event(policy, WARNING, REASON, MESSAGE)
        return None
