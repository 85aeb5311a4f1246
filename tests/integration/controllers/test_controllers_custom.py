"""Custom resources are objects like any other: namespaces take them along, owners take their dependents along."""

from __future__ import annotations

import json
import os
from typing import Any

from controllers_cluster import Cluster


def definition(group: str) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"boats.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"}, "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}]},
    }  # fmt: skip


def test_owners_namespaces_and_definitions_take_custom_resources_along(cluster: Cluster, namespace: str) -> None:
    group = f"g{os.urandom(4).hex()}.example"
    boats = f"boats.{group}"
    cluster.apply(definition(group))
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{boats}", "--timeout=60s")

    def boat(name: str, **metadata: Any) -> dict[str, Any]:
        full = {"name": name, "namespace": namespace, **metadata}
        return {"apiVersion": f"{group}/v1", "kind": "Boat", "metadata": full, "spec": {}}

    def there(what: str, name: str) -> bool:
        return cluster.run("-n", namespace, "get", what, name, check=False).returncode == 0

    cluster.apply(boat("ark"), boat("raft"), boat("held", finalizers=["example.com/hold"]))
    uid = cluster.get("-n", namespace, boats, "ark")["metadata"]["uid"]
    owner = {"apiVersion": f"{group}/v1", "kind": "Boat", "name": "ark", "uid": uid}
    cargo = {"name": "cargo", "namespace": namespace, "ownerReferences": [owner]}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": cargo}, boat("dinghy", ownerReferences=[owner]))
    cluster.kubectl("-n", namespace, "delete", boats, "ark")
    cluster.eventually(lambda: not there("configmap", "cargo") and not there(boats, "dinghy"))
    assert there(boats, "raft")

    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
    cluster.eventually(lambda: not there(boats, "raft"))
    assert there(boats, "held"), "a finalizer holds it, and it the namespace"
    conditions = cluster.eventually(lambda: cluster.get("namespace", namespace)["status"].get("conditions"))
    assert "example.com/hold" in json.dumps(conditions)

    cluster.kubectl("delete", "crd", boats, "--wait=false")
    assert cluster.run("get", "crd", boats, check=False).returncode == 0, "while an object is left"
    patch = '{"metadata": {"finalizers": null}}'
    cluster.kubectl("-n", namespace, "patch", boats, "held", "--type=merge", "-p", patch)
    cluster.eventually(lambda: cluster.run("get", "crd", boats, check=False).returncode != 0)
    cluster.eventually(lambda: cluster.run("get", "namespace", namespace, check=False).returncode != 0)
    cluster.kubectl("create", "namespace", namespace)  # for the fixture's end
