"""Static pods with the real runtime and API server."""

from __future__ import annotations

import json
import signal

import pytest
from kubelet_node import KubeletNode, is_ready

pytestmark = pytest.mark.root


def manifest(text: str) -> str:
    container = {"name": "main", "image": "debian", "command": ["sh", "-c", f"echo {text}; exec sleep 1000"]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fixed", "namespace": "kube-system"}, "spec": spec})


def mirror(node: KubeletNode):
    return node.get("pod", "fixed-node1", "kube-system") or {}


def wait_ready(node: KubeletNode, other_than: str = ""):
    return node.wait(
        lambda: (m := mirror(node)) and m["metadata"]["uid"] != other_than and is_ready({"status": m["status"]}) and m, "mirror is ready"
    )


def test_a_static_pod_lives_by_its_file_alone(node: KubeletNode):
    node.network()
    folder = node.path("/run/manifests")
    folder.mkdir()
    (folder / "fixed.yaml").write_text(manifest("one"))
    (folder / ".hidden").write_text(manifest("hidden"))
    (folder / "broken.yaml").write_text("kind: [")
    node.kill("kubelet", signal.SIGTERM)
    node.kill("apiserver")
    node.start_kubelet("--pod-manifest-path", "/run/manifests")
    try:
        running = node.wait(
            lambda: [c for c in node.call("ListContainers")["containers"] if c["state"] == "CONTAINER_RUNNING"], "runs without an API"
        )
    finally:
        node.start_api()
        node.wait(lambda: node.try_kubectl("get", "--raw", "/readyz"), "API server")
    first = wait_ready(node)
    assert first["metadata"]["annotations"]["kubernetes.io/config.source"] == "file"
    assert first["metadata"]["ownerReferences"][0]["kind"] == "Node"
    assert first["status"]["podIP"]
    pid = running[0]["pid"]
    assert [c["pid"] for c in node.call("ListContainers")["containers"]] == [pid], "the others are no pods"
    assert node.wait(lambda: node.kubectl("logs", "fixed-node1", "-n", "kube-system"), "log") == "one\n"
    # the mirror is a picture: to delete it changes nothing
    node.kubectl("delete", "pod", "fixed-node1", "-n", "kube-system", "--wait=false")
    second = wait_ready(node, first["metadata"]["uid"])
    assert [c["pid"] for c in node.call("ListContainers")["containers"]] == [pid]
    # another kubelet knows it again
    node.kill("kubelet")
    node.start_kubelet("--pod-manifest-path", "/run/manifests")
    node.wait(lambda: "fixed-node1" in node.get_url("/pods").stdout, "kubelet knows it")
    assert [c["pid"] for c in node.call("ListContainers")["containers"]] == [pid]
    assert mirror(node)["metadata"]["uid"] == second["metadata"]["uid"]
    # another manifest is another pod
    (folder / "fixed.yaml").write_text(manifest("two"))
    node.wait(lambda: [c for c in node.call("ListContainers")["containers"] if c["pid"] not in (0, pid)], "restarted")
    wait_ready(node, second["metadata"]["uid"])
    assert node.wait(lambda: node.kubectl("logs", "fixed-node1", "-n", "kube-system"), "log") == "two\n"
    (folder / "fixed.yaml").unlink()
    node.wait(lambda: not mirror(node), "the mirror has gone")
    node.wait(lambda: not node.call("ListPodSandbox")["items"], "and the pod")
