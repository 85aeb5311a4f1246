"""TaintNodesByCondition and NodeRestriction: a new node starts tainted, and a kubelet touches only what is its own.

Upstream: plugin/pkg/admission/{nodetaint,noderestriction}.
"""

from __future__ import annotations

from nsk8s.api.meta import Object
from nsk8s.apiserver import failures
from nsk8s.apiserver.admission.pods import NOT_READY
from nsk8s.apiserver.authz import NODES
from nsk8s.apiserver.cache import Cache
from nsk8s.apiserver.call import Call

_LEASES = "leases.coordination.k8s.io"
_NODE_LABELS = ("node-restriction.kubernetes.io",)


async def taint_new_node(call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
    """node.kubernetes.io/not-ready:NoSchedule, until the node lifecycle controller sees it ready."""
    if operation != "CREATE" or call.kind.group_resource != "nodes" or obj is None:
        return
    spec = obj.setdefault("spec", {})
    taints = spec.get("taints") or []
    if not any(t.get("key") == NOT_READY and t.get("effect") == "NoSchedule" for t in taints):
        spec["taints"] = [*taints, {"key": NOT_READY, "effect": "NoSchedule"}]


def node_of(call: Call) -> str:
    """The node that the caller is the kubelet of; "" for everybody else."""
    user = call.user
    if NODES not in user.groups or not user.name.startswith("system:node:"):
        return ""
    return user.name.removeprefix("system:node:")


class NodeRestriction:
    def __init__(self, cache: Cache) -> None:
        self._pods = cache.resource("pods")

    async def validate(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        node = node_of(call)
        if not node:
            return
        subject = obj or old or {}
        name = str(subject.get("metadata", {}).get("name", ""))
        resource = call.kind.group_resource
        if resource == "nodes":
            self._node(call, node, operation, name, obj, old)
        elif resource == "pods":
            self._pod(call, node, operation, name, subject)
        elif resource == _LEASES:
            if call.info.namespace != "kube-node-lease":
                raise failures.forbidden(
                    call.kind, name, 'can only access leases in the "kube-node-lease" system namespace'
                )
            if name != node:
                raise failures.forbidden(call.kind, name, "can only access node lease with the same name as the requesting node")

    def _node(self, call: Call, node: str, operation: str, name: str, obj: Object | None, old: Object | None) -> None:
        if name != node:
            verb = {"CREATE": "create", "DELETE": "delete"}.get(operation, "modify")
            raise failures.forbidden(call.kind, name, f'node "{node}" is not allowed to {verb} node "{name}"')
        if operation == "DELETE":
            raise failures.forbidden(call.kind, name, f'node "{node}" is not allowed to delete itself')
        after, before_spec = ((o or {}).get("spec") or {} for o in (obj, old))
        if operation == "UPDATE" and not call.info.subresource and after.get("taints") != before_spec.get("taints"):
            raise failures.forbidden(call.kind, name, f'node "{node}" is not allowed to modify taints')
        labels = (obj or {}).get("metadata", {}).get("labels") or {}
        before = (old or {}).get("metadata", {}).get("labels") or {}
        changed = [k for k in labels if labels[k] != before.get(k) and k.partition("/")[0].endswith(_NODE_LABELS)]
        if changed:
            raise failures.forbidden(call.kind, name, f'is not allowed to modify labels: {", ".join(sorted(changed))}')

    def _pod(self, call: Call, node: str, operation: str, name: str, pod: Object) -> None:
        where = (pod.get("spec") or {}).get("nodeName", "")
        if operation == "CREATE":
            if "kubernetes.io/config.mirror" not in (pod["metadata"].get("annotations") or {}):
                raise failures.forbidden(
                    call.kind,
                    name,
                    f'pod does not have "kubernetes.io/config.mirror" annotation, node "{node}" can only create mirror pods',
                )
            if where != node:
                raise failures.forbidden(call.kind, name, f'node "{node}" can only create pods with spec.nodeName set to itself')
        elif where != node:
            raise failures.forbidden(
                call.kind, name, f'node "{node}" can only {"delete" if operation == "DELETE" else "update pod status for"} pods '
                "with spec.nodeName set to itself",
            )  # fmt: skip
