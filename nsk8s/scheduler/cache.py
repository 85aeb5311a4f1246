"""What the scheduler knows: nodes, the pods on them, and pods it has just placed (assumed). Pure.

Upstream: pkg/scheduler/backend/cache. Assumed pods count at once, so the next decision sees them long before the watch does.
"""

from __future__ import annotations

from collections.abc import Mapping

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.scheduler.framework import NodeInfo, PodInfo, Snapshot


class Cache:
    def __init__(self) -> None:
        self._nodes: dict[str, NodeInfo] = {}  # also names of nodes that only have pods yet (node is None)
        self._place: dict[str, str] = {}  # pod uid → node name
        self._assumed: set[str] = set()
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._nominated: dict[str, dict[str, PodInfo]] = {}  # node name → pod uid → pod
        self._start = 0

    def set_node(self, node: Object) -> None:
        self._info(meta.name(node)).set_node(node)

    def remove_node(self, name: str) -> None:
        info = self._nodes.get(name)
        if info is None:
            return
        info.node = None
        if not info.pods:
            del self._nodes[name]

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Remember a namespace's labels; None forgets it."""
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels

    def put_pod(self, pod: Object) -> None:
        """A pod that the API server says is on spec.nodeName."""
        known = self._known(meta.uid(pod))
        if known is not None and self._place[known.uid] == pod["spec"]["nodeName"] and known.counts_as(pod):
            known.pod = pod  # only its status is new: most of what the watch brings
            self._assumed.discard(known.uid)
            self.unnominate(known.uid)
            return
        info = PodInfo.of(pod)
        self._remove(info.uid)
        self._assumed.discard(info.uid)
        self.unnominate(info.uid)
        self._place[info.uid] = pod["spec"]["nodeName"]
        self._info(pod["spec"]["nodeName"]).add(info)

    def _known(self, uid: str) -> PodInfo | None:
        place = self._place.get(uid)
        return self._nodes[place].pods.get(uid) if place is not None else None

    def assume(self, pod: PodInfo, node: str) -> None:
        """Count `pod` on `node` before the API server has said so; `forget` takes it back."""
        self._remove(pod.uid)
        self._assumed.add(pod.uid)
        self._place[pod.uid] = node
        self._info(node).add(pod)

    def is_assumed(self, uid: str) -> bool:
        return uid in self._assumed

    def forget(self, uid: str) -> None:
        if uid in self._assumed:
            self._assumed.discard(uid)
            self._remove(uid)

    def remove_pod(self, uid: str) -> bool:
        """The pod is gone or has ended; True if it had been on a node."""
        self._assumed.discard(uid)
        self.unnominate(uid)
        return self._remove(uid)

    def nominate(self, pod: PodInfo, node: str) -> None:
        """Keep the room that preemption makes on `node` for `pod`."""
        self.unnominate(pod.uid)
        self._nominated.setdefault(node, {})[pod.uid] = pod

    def unnominate(self, uid: str) -> None:
        for node, pods in list(self._nominated.items()):
            if pods.pop(uid, None) is not None and not pods:
                del self._nominated[node]

    def snapshot(self) -> Snapshot:
        """The nodes, beginning with another one each time, so that equally good nodes take turns."""
        nodes = [info for info in self._nodes.values() if info.node is not None]
        if nodes:
            self._start = (self._start + 1) % len(nodes)
            nodes = nodes[self._start :] + nodes[: self._start]
        nominated = {node: tuple(pods.values()) for node, pods in self._nominated.items()}
        return Snapshot(nodes, self._namespaces, nominated)

    def _info(self, name: str) -> NodeInfo:
        info = self._nodes.get(name)
        if info is None:
            info = self._nodes[name] = NodeInfo(name)
        return info

    def _remove(self, uid: str) -> bool:
        name = self._place.pop(uid, None)
        if name is None:
            return False
        info = self._nodes[name]
        info.remove(uid)
        if info.node is None and not info.pods:
            del self._nodes[name]
        return True
