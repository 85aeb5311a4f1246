"""Manifests of static pods, and their mirrors."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nsk8s.kubelet.static import BadManifest, is_mirror, is_static, mirror_of, parse

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
GOOD = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers: [{name: main, image: nsk8s/echo, resources: {limits: {cpu: 10m}}}]
  volumes: [{name: v, hostPath: {path: /srv}}]
"""


def parsed(text=GOOD, path="/etc/kubernetes/manifests/web.yaml", node="node1"):
    return parse(text, path, node, NOW)


def test_a_manifest_becomes_a_whole_pod():
    pod = parsed()
    metadata, spec = pod["metadata"], pod["spec"]
    assert (metadata["name"], metadata["namespace"], metadata["labels"]) == ("web-node1", "default", {"app": "web"})
    assert metadata["annotations"]["kubernetes.io/config.source"] == "file"
    assert metadata["annotations"]["kubernetes.io/config.hash"] == metadata["uid"]
    assert (spec["nodeName"], spec["restartPolicy"], spec["terminationGracePeriodSeconds"]) == ("node1", "Always", 30)
    assert {"operator": "Exists", "effect": "NoExecute"} in spec["tolerations"]
    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "10m"}
    assert is_static(pod)
    assert not is_mirror(pod)


def test_its_uid_says_where_and_what_it_is():
    uid = parsed()["metadata"]["uid"]
    assert uid == parsed()["metadata"]["uid"]
    others = [parsed(node="node2"), parsed(path="/x"), parsed(GOOD.replace("web", "wob", 1))]
    assert uid not in {p["metadata"]["uid"] for p in others}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "couldn't parse"), ("[]", "want apiVersion v1"), (GOOD.replace("kind: Pod", "kind: Service"), "want apiVersion v1"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "needs metadata.name and spec"),
        (GOOD.replace("name: main", "name: Main!"), r"spec.containers\[0\].name"), (GOOD.replace("[{name: main", "5 #"), "invalid pod"),
        (GOOD.replace("hostPath: {path: /srv}", "secret: {secretName: s}"), "may not reference secrets"),
        (GOOD.replace("hostPath: {path: /srv}", "configMap: {name: c}"), "may not reference configmaps"),
        (GOOD.replace("spec:\n", "spec:\n  serviceAccountName: x\n"), "may not reference serviceaccounts"),
    ],
)  # fmt: skip
def test_what_is_no_static_pod_is_said(text, message):
    with pytest.raises(BadManifest, match=message):
        parsed(text)


def test_the_mirror():
    pod = parsed()
    mirror = mirror_of(pod, {"metadata": {"name": "node1", "uid": "n"}})
    assert is_mirror(mirror)
    assert mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] == pod["metadata"]["uid"]
    assert mirror["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "n", "controller": True}
    ]
    assert "uid" not in mirror["metadata"]
