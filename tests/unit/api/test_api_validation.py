"""Defaults and validation: golden objects and upstream's messages."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nsk8s.api.decode import decode
from nsk8s.api.kinds import builtin
from nsk8s.api.kinds.core import qos_class
from nsk8s.api.scale import apply_scale, scale_of
from nsk8s.api.validation.common import invalid
from nsk8s.api.validation.pod import validate_ephemeral_containers_update
from nsk8s.api.validation.workloads import schedule_problem
from nsk8s.errors import BadRequest

TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
SELECTOR = {"matchLabels": {"app": "x"}}


def made(group: str, kind: str, obj: dict[str, Any]) -> dict[str, Any]:
    data = builtin(group, kind)
    obj = copy.deepcopy(obj)
    obj.setdefault("metadata", {}).setdefault("name", "x")
    obj, unknown = decode(data, {"apiVersion": data.api_version, "kind": kind, **obj})
    assert unknown == []
    if data.strategy.default:
        data.strategy.default(obj)
    if data.strategy.prepare_create:
        data.strategy.prepare_create(obj)
    return obj


def problems(group: str, kind: str, obj: dict[str, Any]) -> list[str]:
    data = builtin(group, kind)
    assert data.strategy.validate
    return [f"{c.field}: {c.message}" for c in data.strategy.validate(made(group, kind, obj))]


def changes(group: str, kind: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    data = builtin(group, kind)
    assert data.strategy.validate_update
    before, after = made(group, kind, old), made(group, kind, new)
    if data.strategy.prepare_update:
        data.strategy.prepare_update(after, before)
    return [f"{c.field}: {c.message}" for c in data.strategy.validate_update(after, before)]


def pod(**spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "c", "image": "nginx"}], **spec}}


def container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "c", "image": "nginx", **fields}]}}


def service(**spec: Any) -> dict[str, Any]:
    return {"spec": {"ports": [{"port": 80}], **spec}}


def test_defaults_of_a_pod() -> None:
    obj = made("", "Pod", {"spec": {
        "containers": [{
            "name": "c", "image": "nginx:1", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}},
            "readinessProbe": {"httpGet": {"port": 80}},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        }],
        "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "s"}},
                    {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}],
    }})  # fmt: skip
    assert obj["spec"] == {
        "containers": [{
            "name": "c", "image": "nginx:1", "imagePullPolicy": "IfNotPresent",
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                               "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name", "apiVersion": "v1"}}}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        }],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
                    {"name": "p", "projected": {"defaultMode": 420, "sources": [
                        {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}],
        "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "enableServiceLinks": True,
        "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler",
    }  # fmt: skip
    assert obj["status"] == {"phase": "Pending", "qosClass": "Burstable"}


@pytest.mark.parametrize(
    ("image", "policy"),
    [("nginx", "Always"), ("nginx:latest", "Always"), ("nginx:1", "IfNotPresent"), ("reg:5000/nginx", "Always"),
     ("reg:5000/n:1", "IfNotPresent"), ("n@sha256:aa", "IfNotPresent")],
)  # fmt: skip
def test_image_pull_policy(image: str, policy: str) -> None:
    obj = made("", "Pod", {"spec": {"containers": [{"name": "c", "image": image}]}})
    assert obj["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_defaults_of_a_deployment() -> None:
    spec = made("apps", "Deployment", {"spec": {"selector": SELECTOR, "template": TEMPLATE}})["spec"]
    del spec["template"], spec["selector"]
    assert spec == {
        "replicas": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
    }
    zero = made("apps", "Deployment", {"spec": {"replicas": 0, "selector": SELECTOR, "template": TEMPLATE}})
    assert zero["spec"]["replicas"] == 0


def test_defaults_of_services() -> None:
    assert made("", "Service", service())["spec"] == {
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
    }  # fmt: skip
    spec = made("", "Service", service(type="NodePort", sessionAffinity="ClientIP"))["spec"]
    assert spec["externalTrafficPolicy"] == "Cluster"
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


def test_service_updates_keep_what_was_given() -> None:
    kind = builtin("", "Service")
    assert kind.strategy.prepare_update
    old = made("", "Service", service(type="NodePort", clusterIP="10.96.0.5", clusterIPs=["10.96.0.5"]))
    old["spec"]["ports"][0]["nodePort"] = 30080
    new = made("", "Service", service(type="NodePort"))
    kind.strategy.prepare_update(new, old)
    assert new["spec"]["clusterIP"] == "10.96.0.5"
    assert new["spec"]["ports"][0]["nodePort"] == 30080
    new = copy.deepcopy(old)
    new["spec"]["type"] = "ClusterIP"
    kind.strategy.prepare_update(new, old)
    assert "nodePort" not in new["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in new["spec"]
    assert changes("", "Service", service(clusterIP="10.96.0.5", clusterIPs=["10.96.0.5"]),
                   service(clusterIP="10.96.0.6", clusterIPs=["10.96.0.6"])) == [
        'spec.clusterIPs[0]: Invalid value: ["10.96.0.6"]: may not change once set']  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"clusterIPs": ["10.96.0.5"]},
         ['spec.clusterIPs: Invalid value: ["10.96.0.5"]: must be empty when `clusterIP` is not specified']),
        ({"clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.5"]},
         ['spec.clusterIPs: Invalid value: ["10.96.0.5"]: first value must match `clusterIP`']),
        ({"clusterIP": "None", "clusterIPs": ["None", "fd00::5"]},
         ['spec.clusterIPs: Invalid value: ["None","fd00::5"]: \'None\' must be the first and only value']),
        ({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "None"]},
         ['spec.clusterIPs[1]: Invalid value: "None": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)']),
        ({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5", "fd00::6"], "ipFamilyPolicy": "RequireDualStack"},
         ['spec.clusterIPs: Invalid value: ["10.96.0.5","fd00::5","fd00::6"]: may only hold up to 2 values']),
        ({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "10.96.0.6"], "ipFamilyPolicy": "RequireDualStack"},
         ['spec.clusterIPs: Invalid value: ["10.96.0.5","10.96.0.6"]: may specify no more than one IP for each IP family']),
        ({"clusterIP": "fd00::5", "clusterIPs": ["fd00::5"], "ipFamilies": ["IPv4"]},
         ['spec.clusterIPs[0]: Invalid value: "fd00::5": expected an IPv4 value as indicated by `ipFamilies[0]`']),
        ({"clusterIP": "fd00::5", "ipFamilies": ["IPv4"]},
         ['spec.clusterIPs[0]: Invalid value: "fd00::5": expected an IPv4 value as indicated by `ipFamilies[0]`']),
        ({"ipFamilies": ["IPv4", "IPv4"]}, ['spec.ipFamilies[1]: Duplicate value: "IPv4"']),
        ({"ipFamilies": ["IPv5"]}, ['spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"']),
        ({"ipFamilyPolicy": "Both"}, ['spec.ipFamilyPolicy: Unsupported value: "Both": supported values: "PreferDualStack", '
                                      '"RequireDualStack", "SingleStack"']),
        ({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ipFamilies": ["IPv4", "IPv6"],
          "ipFamilyPolicy": "RequireDualStack"}, []),
    ],
)  # fmt: skip
def test_families_and_addresses_of_services(spec: dict[str, Any], why: list[str]) -> None:
    assert problems("", "Service", service(**spec)) == why


DUAL: dict[str, Any] = {
    "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"], "ipFamilies": ["IPv4", "IPv6"],
    "ipFamilyPolicy": "RequireDualStack",
}  # fmt: skip
ONE: dict[str, Any] = {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
BARE: dict[str, Any] = {"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (ONE, DUAL, []),
        (DUAL, ONE, []),
        (DUAL, {**DUAL, "ipFamilyPolicy": "SingleStack"}, []),  # the server shortens the rest
        (DUAL, {**DUAL, "clusterIPs": ["10.96.0.5"]}, ['spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be set to '
                                                       "'SingleStack' when releasing the secondary clusterIP"]),
        (DUAL, {**DUAL, "ipFamilies": ["IPv4"]}, ['spec.ipFamilyPolicy: Invalid value: "RequireDualStack": must be set to '
                                                  "'SingleStack' when releasing the secondary ipFamily"]),
        (DUAL, {**DUAL, "clusterIPs": ["10.96.0.5", "fd00::6"]},
         ['spec.clusterIPs[1]: Invalid value: ["10.96.0.5","fd00::6"]: may not change once set']),
        (DUAL, {**ONE, "clusterIP": "fd00::5", "clusterIPs": ["fd00::5"], "ipFamilies": ["IPv6"]},
         ['spec.clusterIPs[0]: Invalid value: ["fd00::5"]: may not change once set',
          'spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set']),
        (ONE, {**ONE, "clusterIP": "None"}, ['spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set']),
        (ONE, {"clusterIP": "10.96.0.6"}, ['spec.clusterIPs[0]: Invalid value: ["10.96.0.6"]: may not change once set']),
        (BARE, {**BARE, "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}, []),
        (BARE, {**BARE, "ipFamilies": ["IPv6"]}, []),
        (DUAL, {"type": "ExternalName", "externalName": "a.example"}, []),
    ],
)  # fmt: skip
def test_only_a_second_family_comes_and_goes(before: dict[str, Any], after: dict[str, Any], why: list[str]) -> None:
    assert changes("", "Service", service(**before), service(**after)) == why


def test_namespaces_keep_their_finalizer() -> None:
    kind = builtin("", "Namespace")
    old = made("", "Namespace", {})
    assert old["spec"] == {"finalizers": ["kubernetes"]}
    assert old["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    new = {"metadata": {"name": "x"}, "spec": {}}
    assert kind.strategy.prepare_update
    kind.strategy.prepare_update(new, old)
    assert new["spec"] == {"finalizers": ["kubernetes"]}


def test_job_gets_its_selector_and_secret_its_data() -> None:
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    job = made("batch", "Job", {"metadata": {"name": "j", "uid": "u1"}, "spec": {"template": template}})
    assert job["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}}
    assert job["spec"]["template"]["metadata"]["labels"] == {
        "job-name": "j", "controller-uid": "u1", "batch.kubernetes.io/job-name": "j",
        "batch.kubernetes.io/controller-uid": "u1"}  # fmt: skip
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["backoffLimit"]) == (1, 1, 6)
    secret = made("", "Secret", {"stringData": {"a": "b"}, "data": {"c": "ZA=="}})
    assert secret["data"] == {"c": "ZA==", "a": "Yg=="}
    assert "stringData" not in secret
    assert secret["type"] == "Opaque"


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        (pod(), []),
        ({"spec": {}}, ["spec.containers: Required value"]),
        (container(name=""), ["spec.containers[0].name: Required value"]),
        (container(image=""), ["spec.containers[0].image: Required value"]),
        ({"spec": {"containers": [{"name": "c", "image": "i"}] * 2}},
         ['spec.containers[1].name: Duplicate value: "c"']),
        (container(ports=[{"containerPort": 70000}]),
         ["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"]),
        (container(ports=[{"containerPort": 80, "protocol": "X"}]),
         ['spec.containers[0].ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"']),
        (container(volumeMounts=[{"name": "v", "mountPath": "/x"}]),
         ['spec.containers[0].volumeMounts[0].name: Not found: "v"']),
        (container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
         ['spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1']),
        (container(livenessProbe={}), ["spec.containers[0].livenessProbe: Required value: must specify a handler type"]),
        (container(livenessProbe={"tcpSocket": {"port": 1}, "successThreshold": 2}),
         ["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"]),
        (container(env=[{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
         ['spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty']),
        (pod(restartPolicy="Sometimes"),
         ['spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure"']),
        (pod(securityContext={"sysctls": [{"name": n, "value": "1"} for n in ("net/ipv4/tcp_rmem", "vm.x_y-z", "", "Net.x", "a..b", "vm.x_y-z")]}), [
            "spec.securityContext.sysctls[2].name: Required value",
            'spec.securityContext.sysctls[3].name: Invalid value: "Net.x": must have at most 253 characters and match regex '
            r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            'spec.securityContext.sysctls[4].name: Invalid value: "a..b": must have at most 253 characters and match regex '
            r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            'spec.securityContext.sysctls[5].name: Duplicate value: "vm.x_y-z"',
        ]),
        (pod(hostNetwork=True, hostIPC=True, securityContext={"sysctls": [{"name": n, "value": "1"} for n in ("net/core/x", "kernel.sem")]}), [
            "spec.securityContext.sysctls[0].name: Invalid value: \"net/core/x\": may not be specified when 'hostNetwork' is true",
            "spec.securityContext.sysctls[1].name: Invalid value: \"kernel.sem\": may not be specified when 'hostIPC' is true",
        ]),
        (pod(dnsPolicy="None"), ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]),
        (pod(volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]),
         ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"]),
        (pod(tolerations=[{"operator": "Equal"}]),
         ['spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means '
          '"match all values and all keys"']),
        (pod(hostNetwork=True, containers=[{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 81}]}]),
         ["spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort` when `hostNetwork` is true"]),
    ],
)  # fmt: skip
def test_pods(obj: dict[str, Any], wanted: list[str]) -> None:
    assert problems("", "Pod", obj) == wanted


def test_names_in_upstreams_words() -> None:
    assert problems("", "Pod", {**pod(), "metadata": {"name": "My_Pod"}}) == [
        'metadata.name: Invalid value: "My_Pod": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric '
        "characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for "
        r"validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    ]
    assert "DNS-1035 label" in problems("", "Service", {**service(), "metadata": {"name": "1x"}})[0]
    assert problems("", "Namespace", {"metadata": {"name": "a.b"}})[0].startswith(
        'metadata.name: Invalid value: "a.b": a lowercase RFC 1123 label must consist of'
    )
    assert problems("rbac.authorization.k8s.io", "ClusterRole", {"metadata": {"name": "system:Any_thing"}}) == []


def test_pod_updates() -> None:
    image = pod(containers=[{"name": "c", "image": "nginx:2", "imagePullPolicy": "Always"}])
    assert changes("", "Pod", pod(), image) == []
    toleration = {"key": "a", "operator": "Exists"}
    assert changes("", "Pod", pod(), pod(tolerations=[toleration])) == []
    assert changes("", "Pod", pod(tolerations=[toleration]), pod()) != []
    assert changes("", "Pod", pod(), pod(activeDeadlineSeconds=5)) == []
    assert changes("", "Pod", pod(), pod(hostNetwork=True))[0].startswith(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
    )
    two = pod(containers=[{"name": n, "image": "nginx"} for n in "cd"])
    assert changes("", "Pod", pod(), two) == ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    debug = made("", "Pod", pod(ephemeralContainers=[{"name": "d", "image": "i"}]))
    assert validate_ephemeral_containers_update(debug, made("", "Pod", pod())) == []
    assert validate_ephemeral_containers_update(made("", "Pod", pod()), debug)[0].message.endswith("may not be removed")


def deployment(**spec: Any) -> dict[str, Any]:
    return {"spec": {"selector": SELECTOR, "template": TEMPLATE, **spec}}


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        (deployment(), []),
        (deployment(replicas=-1), ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]),
        (deployment(selector={"matchLabels": {"app": "y"}}),
         ['spec.template.metadata.labels: Invalid value: map[string]string{"app":"x"}: '
          "`selector` does not match template `labels`"]),
        (deployment(strategy={"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
         ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]),
        (deployment(strategy={"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
         ['spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0']),
        (deployment(template={**TEMPLATE, "spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}),  # type: ignore[dict-item]
         ['spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"']),
        (deployment(progressDeadlineSeconds=5, minReadySeconds=5),
         ["spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds"]),
    ],
)  # fmt: skip
def test_deployments(obj: dict[str, Any], wanted: list[str]) -> None:
    assert problems("apps", "Deployment", obj) == wanted


def test_immutable_selectors_and_the_422() -> None:
    other = {"app": "y"}
    new = deployment(selector={"matchLabels": other}, template={**TEMPLATE, "metadata": {"labels": other}})
    causes = changes("apps", "Deployment", deployment(), new)
    assert causes == ['spec.selector: Invalid value: {"matchLabels":{"app":"y"}}: field is immutable']
    kind = builtin("apps", "Deployment")
    assert kind.strategy.validate
    error = invalid(kind, "x", kind.strategy.validate(made("apps", "Deployment", deployment(replicas=-1, paused=True))))
    assert error.message == (
        'Deployment.apps "x" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0'
    )
    assert error.details == {"name": "x", "group": "apps", "kind": "Deployment", "causes": [
        {"reason": "FieldValueInvalid", "message": "Invalid value: -1: must be greater than or equal to 0",
         "field": "spec.replicas"}]}  # fmt: skip
    assert error.code == 422


@pytest.mark.parametrize(
    ("obj", "wanted"),
    [
        (service(), []),
        ({"spec": {}}, ["spec.ports: Required value"]),
        ({"spec": {"clusterIP": "None"}}, []),
        (service(type="Foo"), ['spec.type: Unsupported value: "Foo": supported values: "ClusterIP", "ExternalName", '
                               '"LoadBalancer", "NodePort"']),
        (service(ports=[{"port": 1}, {"port": 2}]),
         ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]),
        (service(ports=[{"port": 1, "nodePort": 30000}]),
         ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]),
        (service(externalIPs=["127.0.0.1"]),
         ['spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)']),
        (service(type="NodePort", clusterIP="None"),
         ['spec.clusterIPs[0]: Invalid value: "None": may not be set to \'None\' for NodePort services']),
        ({"spec": {"type": "ExternalName"}}, ["spec.externalName: Required value"]),
        (service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 90000}}),
         ["spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: "
          "must be greater than 0 and less than 86400"]),
    ],
)  # fmt: skip
def test_services(obj: dict[str, Any], wanted: list[str]) -> None:
    assert problems("", "Service", obj) == wanted


@pytest.mark.parametrize(
    ("group", "kind", "obj", "part"),
    [
        ("", "ConfigMap", {"data": {"a b": "x"}}, 'data[a b]: Invalid value: "a b": a valid config key must consist of'),
        ("", "ConfigMap", {"data": {"a": "x" * 2**20}, "binaryData": {"b": "YQ=="}}, "Too long: may not be more than 1048576"),
        ("", "Secret", {"type": "kubernetes.io/tls"}, "data[tls.crt]: Required value"),
        ("", "Node", {"spec": {"taints": [{"key": "a", "effect": "Never"}]}}, "spec.taints[0].effect: Unsupported value"),
        ("", "PersistentVolumeClaim", {"spec": {}}, "spec.accessModes: Required value: at least 1 access mode"),
        ("batch", "CronJob", {"spec": {"schedule": "x"}}, 'spec.schedule: Invalid value: "x": expected exactly 5 fields'),
        ("networking.k8s.io", "Ingress", {"spec": {"rules": [{"http": {"paths": [{"path": "x"}]}}]}}, "pathType must be"),
        ("networking.k8s.io", "NetworkPolicy", {"spec": {"ingress": [{"from": [{}]}]}}, "must specify a peer"),
        ("discovery.k8s.io", "EndpointSlice", {"addressType": "IPv6", "endpoints": [{"addresses": ["1.2.3.4"]}]},
         "must be an IPv6 address"),
        ("rbac.authorization.k8s.io", "Role", {"rules": [{"resources": ["pods"]}]},
         "rules[0].verbs: Required value: verbs must contain at least one value"),
        ("policy", "PodDisruptionBudget", {"spec": {"minAvailable": 1, "maxUnavailable": 1}}, "cannot be both set"),
        ("autoscaling", "HorizontalPodAutoscaler", {"spec": {"maxReplicas": 0}}, "must be greater than 0"),
        ("scheduling.k8s.io", "PriorityClass", {"value": 2_000_000_000}, "maximum allowed value"),
        ("coordination.k8s.io", "Lease", {"spec": {"leaseDurationSeconds": 0}}, "must be greater than 0"),
    ],
)  # fmt: skip
def test_other_kinds(group: str, kind: str, obj: dict[str, Any], part: str) -> None:
    assert any(part in p for p in problems(group, kind, obj)), problems(group, kind, obj)


@pytest.mark.parametrize("schedule", ["* * * * *", "*/5 0-6 1,15 jan-mar mon", "@hourly", "@every 1h30m", "0 0 ? * *"])
def test_good_schedules(schedule: str) -> None:
    assert schedule_problem(schedule) == ""


@pytest.mark.parametrize("schedule", ["", "* * * *", "60 * * * *", "* * 0 * *", "a * * * *", "*/0 * * * *", "@never",
                                      "5-1 * * * *", "1-2-3 * * * *", "* * * * 8"])  # fmt: skip
def test_bad_schedules(schedule: str) -> None:
    assert schedule_problem(schedule)


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: dict[str, Any], wanted: str) -> None:
    assert qos_class({"spec": {"containers": [{"resources": resources}]}}) == wanted


@pytest.mark.parametrize(
    ("spec", "status", "seconds"),
    [({}, {}, 0), ({"nodeName": "n"}, {}, 30), ({"nodeName": "n", "terminationGracePeriodSeconds": 5}, {}, 5),
     ({"nodeName": "n", "terminationGracePeriodSeconds": 0}, {}, 0),
     ({"nodeName": "n", "terminationGracePeriodSeconds": -4}, {}, 1), ({"nodeName": "n"}, {"phase": "Succeeded"}, 0)],
)  # fmt: skip
def test_graceful_seconds(spec: dict[str, Any], status: dict[str, Any], seconds: int) -> None:
    graceful = builtin("", "Pod").strategy.graceful
    assert graceful
    assert graceful({"spec": spec, "status": status}) == seconds


def test_scale() -> None:
    kind = builtin("apps", "Deployment")
    obj = made("apps", "Deployment", deployment(replicas=3))
    obj["status"] = {"replicas": 2}
    scale = scale_of(kind, obj)
    assert (scale["spec"], scale["status"]) == ({"replicas": 3}, {"replicas": 2, "selector": "app=x"})
    assert apply_scale(kind, obj, {"spec": {"replicas": 7}})["spec"]["replicas"] == 7
    assert apply_scale(kind, obj, {"spec": {}})["spec"]["replicas"] == 0
    with pytest.raises(BadRequest):
        apply_scale(kind, obj, {"spec": {"replicas": "x"}})
    paths = {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size", "labelSelectorPath": ".status.sel"}
    custom = {"metadata": {"name": "c"}, "spec": {"size": 4}, "status": {"size": 1, "sel": "a=b"}}
    assert scale_of(kind, custom, paths)["status"] == {"replicas": 1, "selector": "a=b"}
    assert apply_scale(kind, custom, {"spec": {"replicas": 2}}, paths)["spec"] == {"size": 2}
