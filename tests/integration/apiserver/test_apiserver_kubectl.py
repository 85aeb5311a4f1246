"""The real kubectl, 1.30 and later, against the server alone: every verb that needs nothing but the API."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import yaml

Kubectl = Callable[..., subprocess.CompletedProcess[str]]

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: nginx, ports: [{containerPort: 80}]}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  containers: [{name: c, image: busybox}]
"""


def test_create_get_describe_delete(kubectl: Kubectl) -> None:
    assert kubectl("create", "-f", "-", stdin=POD).stdout == "pod/one created\n"
    again = kubectl("create", "-f", "-", stdin=POD, check=False)
    assert 'pods "one" already exists' in again.stderr
    table = kubectl("get", "pods").stdout.splitlines()
    assert table[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert table[1].split()[:4] == ["one", "0/1", "Pending", "0"]
    assert "NOMINATED NODE" in kubectl("get", "pods", "-o", "wide").stdout
    described = kubectl("describe", "pod", "one").stdout
    assert "Service Account:  default" in described
    assert "kube-api-access-" in described
    pod = yaml.safe_load(kubectl("get", "pod", "one", "-o", "yaml").stdout)
    assert pod["spec"]["tolerations"][0]["tolerationSeconds"] == 300
    assert kubectl("delete", "pod", "one").stdout.startswith('pod "one" deleted')
    assert 'pods "one" not found' in kubectl("get", "pod", "one", check=False).stderr


def test_apply_and_what_changes_a_deployment(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=DEPLOYMENT).stdout == "deployment.apps/web created\n"
    assert kubectl("apply", "-f", "-", stdin=DEPLOYMENT).stdout == "deployment.apps/web unchanged\n"
    changed = DEPLOYMENT.replace("replicas: 2", "replicas: 3").replace("image: nginx", "image: nginx:2")
    assert kubectl("apply", "-f", "-", stdin=changed).stdout == "deployment.apps/web configured\n"
    kubectl("scale", "deployment", "web", "--replicas=5")
    kubectl("set", "image", "deployment/web", "web=nginx:3")
    kubectl("rollout", "restart", "deployment/web")
    kubectl("rollout", "pause", "deployment/web")
    kubectl("label", "deployment", "web", "tier=front")
    kubectl("annotate", "deployment", "web", "note=hello")
    kubectl("patch", "deployment", "web", "--type=json", "-p", '[{"op": "add", "path": "/spec/minReadySeconds", "value": 7}]')
    kubectl("patch", "deployment", "web", "--type=merge", "-p", '{"spec": {"revisionHistoryLimit": 4}}')
    web = json.loads(kubectl("get", "deployment", "web", "-o", "json").stdout)
    assert web["spec"]["replicas"] == 5
    assert web["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:3"
    assert web["spec"]["paused"] is True
    assert (web["spec"]["minReadySeconds"], web["spec"]["revisionHistoryLimit"]) == (7, 4)
    assert (web["metadata"]["labels"]["tier"], web["metadata"]["annotations"]["note"]) == ("front", "hello")
    assert web["metadata"]["generation"] == 8
    before = web["metadata"]["resourceVersion"]
    assert "(no change)" in kubectl("patch", "deployment", "web", "-p", '{"spec": {"replicas": 5}}').stdout
    assert json.loads(kubectl("get", "deployment", "web", "-o", "json").stdout)["metadata"]["resourceVersion"] == before
    assert "web" in kubectl("get", "all").stdout
    assert kubectl("diff", "-f", "-", stdin=DEPLOYMENT, check=False).returncode == 1
    replaced = kubectl("replace", "-f", "-", stdin=DEPLOYMENT)
    assert replaced.stdout == "deployment.apps/web replaced\n"
    kubectl("delete", "deployment", "web", "--cascade=background")


def test_server_side_apply_owns_fields_and_reports_conflicts(kubectl: Kubectl) -> None:
    applied = kubectl("apply", "--server-side", "-f", "-", stdin=DEPLOYMENT)
    assert applied.stdout == "deployment.apps/web serverside-applied\n"
    kubectl("scale", "deployment", "web", "--replicas=4")
    other = DEPLOYMENT.replace("replicas: 2", "replicas: 9")
    conflict = kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=other, check=False)
    assert conflict.returncode == 1
    assert "Apply failed with 1 conflict" in conflict.stderr
    assert ".spec.replicas" in conflict.stderr
    kubectl("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", stdin=other)
    web = json.loads(kubectl("get", "deployment", "web", "-o", "json", "--show-managed-fields").stdout)
    assert web["spec"]["replicas"] == 9
    owners = {
        e["manager"] for e in web["metadata"]["managedFields"] if "f:replicas" in e["fieldsV1"].get("f:spec", {})
    }
    assert owners == {"other"}


def test_imperative_creates_and_reviews(kubectl: Kubectl) -> None:
    """From 1.32 on kubectl sends these as protobuf."""
    kubectl("create", "configmap", "cm", "--from-literal=a=b")
    kubectl("create", "secret", "generic", "s", "--from-literal=k=v")
    kubectl("create", "deployment", "d", "--image=nginx", "--replicas=2")
    kubectl("create", "service", "nodeport", "svc", "--tcp=80:8080")
    kubectl("create", "serviceaccount", "sa")
    kubectl("create", "role", "r", "--verb=get", "--resource=pods")
    kubectl("create", "rolebinding", "rb", "--role=r", "--serviceaccount=default:sa")
    kubectl("create", "quota", "q", "--hard=pods=100")
    kubectl("create", "poddisruptionbudget", "pdb", "--selector=app=d", "--min-available=1")
    kubectl("create", "job", "j", "--image=busybox")
    kubectl("create", "cronjob", "cj", "--image=busybox", "--schedule=0 0 * * *")
    kubectl("create", "ingress", "i", "--rule=a.example/*=svc:80")
    kubectl("run", "p", "--image=nginx", "--port=80")
    kubectl("expose", "deployment", "d", "--port=80")
    assert kubectl("get", "secret", "s", "-o", "jsonpath={.data.k}").stdout == "dg=="
    assert int(kubectl("get", "service", "svc", "-o", "jsonpath={.spec.ports[0].nodePort}").stdout) in range(30000, 32768)
    assert kubectl("create", "token", "sa").stdout.count(".") == 2
    assert kubectl("auth", "can-i", "delete", "nodes").stdout == "yes\n"
    denied = kubectl("auth", "can-i", "delete", "nodes", "--as=nobody", check=False)
    assert denied.returncode == 1
    assert "*.*" in kubectl("auth", "can-i", "--list").stdout
    assert "kubernetes-admin" in kubectl("auth", "whoami").stdout


def test_discovery_explain_and_wait(kubectl: Kubectl) -> None:
    names = kubectl("api-resources", "-o", "name").stdout.split()
    assert {"pods", "deployments.apps", "leases.coordination.k8s.io", "endpointslices.discovery.k8s.io"} <= set(names)
    assert "apps/v1" in kubectl("api-versions").stdout.split()
    assert "KIND:       Deployment" in kubectl("explain", "deployment.spec.replicas").stdout
    assert "v1.33" in kubectl("version").stdout
    kubectl("create", "-f", "-", stdin=POD)
    kubectl("wait", "--for=jsonpath={.status.phase}=Pending", "pod/one", "--timeout=30s")
    gone = kubectl("wait", "--for=condition=Ready", "pod/one", "--timeout=1s", check=False)
    assert "timed out waiting" in gone.stderr
    assert kubectl("get", "--raw", "/readyz").stdout == "ok"
    assert kubectl("events").returncode == 0
    kubectl("delete", "pod", "one", "--now")


def test_bad_manifests_are_refused_in_upstreams_words(kubectl: Kubectl) -> None:
    unknown = kubectl("create", "-f", "-", stdin=POD.replace("image:", "imagge:"), check=False)
    assert 'strict decoding error: unknown field "spec.containers[0].imagge"' in unknown.stderr
    wrong = kubectl("create", "-f", "-", stdin=DEPLOYMENT.replace("replicas: 2", "replicas: two"), check=False)
    assert "cannot be handled as a Deployment" in wrong.stderr
    invalid = kubectl("create", "-f", "-", stdin=POD.replace("name: one", "name: One_"), check=False)
    assert 'The Pod "One_" is invalid: metadata.name: Invalid value' in invalid.stderr
    kind = kubectl("create", "-f", "-", stdin="apiVersion: v1\nkind: Nonsense\nmetadata: {name: a}\n", check=False)
    assert 'no matches for kind "Nonsense"' in kind.stderr
