"""Random requests: paths, queries, headers and bodies that are nearly right. Deterministic for a given Random."""

from __future__ import annotations

import copy
import http.client
import json
import ssl
from collections.abc import Mapping
from random import Random
from typing import Any
from urllib.parse import quote

Schema = Mapping[str, Any]

TEXTS = (
    "", "a", "default", "x" * 300, "ä", "\u0000", "\ud7ff", "../..", "a/b", "-1", "0", "65536", "1.5", "1e400", "100Mi", "10%", "101%",
    "10.96.0.9", "::1", "1.2.3.4/40", "None", "*/5 * * * *", "2026-11-21T10:00:00Z", "2026-13-99T99:99:99Z", "a=b", "a in (b", "!x",
    "true", "null", "{}", "Always", "TCP", "NodePort", "ClusterIP", "In", "Exists", "kubernetes.io/x", "$(X)", "metadata.name", ".",
)  # fmt: skip
GOOD = ("a", "b", "web", "default", "TCP", "80", "Always", "ClusterIP", "1.2.3.4", "10.96.7.7", "http", "/x", "busybox")
NUMBERS = (0, 1, -1, 80, 30080, 65536, 2**31, 2**63, -(2**63), 10**30, 1.5, -0.0, 1e308)
ODD: tuple[Any, ...] = (None, True, [], {}, [None], {"": None}, "", 0, [[]], {"a": {"a": {"a": []}}})
QUERIES = (
    "watch", "limit", "continue", "resourceVersion", "resourceVersionMatch", "labelSelector", "fieldSelector", "timeoutSeconds", "dryRun",
    "fieldManager", "fieldValidation", "force", "pretty", "allowWatchBookmarks", "sendInitialEvents", "gracePeriodSeconds",
    "propagationPolicy", "orphanDependents", "container", "tailLines", "sinceSeconds", "sinceTime", "follow", "command", "stdout",
    "includeObject", "verbose", "exclude", "ports",
)  # fmt: skip
ACCEPTS = (
    "application/json", "*/*", "", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=Nope", "text/html",
    "application/vnd.kubernetes.protobuf", "application/yaml", ";;;", "application/json;q=", "application/json;as=PartialObjectMetadataList",
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "\xff",
)  # fmt: skip
BODIES = (
    "application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/merge-patch+json",
    "application/json-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", "text/plain", "", ";",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "NONSENSE")


class Connection:
    """One kept-alive connection as cluster-admin; opened again when the server closes it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port, self._context = port, context
        self._http: http.client.HTTPSConnection | None = None

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        if self._http is None:
            self._http = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=20)
        try:
            self._http.putrequest(method, path, skip_accept_encoding=True)
            for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self._http.putheader(key, value.encode("latin-1", "replace"))
            self._http.endheaders(body)
            answer = self._http.getresponse()
            raw = answer.read()
            if answer.will_close:
                self.close()
            return answer.status, raw
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None


class Kinds:
    """What the server's own OpenAPI says there is."""

    def __init__(self, connection: Connection) -> None:
        self.schemas: dict[str, Schema] = {}
        self.kinds: list[tuple[str, str, str]] = []
        """(collection path with {namespace}, apiVersion, schema name)."""
        _, raw = connection.ask("GET", "/openapi/v3")
        for where in json.loads(raw)["paths"].values():
            _, raw = connection.ask("GET", where["serverRelativeURL"])
            document = json.loads(raw)
            self.schemas |= (document.get("components") or {}).get("schemas") or {}
            for path, verbs in document["paths"].items():
                post = verbs.get("post") or {}
                content = (post.get("requestBody") or {}).get("content") or {}
                kind = post.get("x-kubernetes-group-version-kind")
                schema = next((c["schema"].get("$ref", "") for c in content.values() if c.get("schema")), "")
                if kind and not path.endswith("}") and "{name}" not in path:
                    version = f"{kind['group']}/{kind['version']}" if kind.get("group") else kind["version"]
                    self.kinds.append((path, version, schema.rpartition("/")[2] or self._schema_of(kind)))

    def _schema_of(self, kind: Mapping[str, str]) -> str:
        for name, schema in self.schemas.items():
            if any(k == kind for k in schema.get("x-kubernetes-group-version-kind") or ()):
                return name
        return ""


def value(random: Random, schemas: Mapping[str, Schema], schema: Schema, depth: int = 0, wrong: float = 0.03) -> Any:
    """A random instance of `schema`: the right types, odd contents, and now and then something else altogether."""
    if random.random() < wrong:
        return copy.deepcopy(random.choice(ODD))
    for wrapper in ("allOf", "oneOf", "anyOf"):
        if schema.get(wrapper):
            return value(random, schemas, random.choice(schema[wrapper]), depth, wrong)
    reference = schema.get("$ref")
    if reference:
        return value(random, schemas, schemas.get(reference.rpartition("/")[2], {}), depth, wrong)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        if not properties:
            inner = schema.get("additionalProperties")
            count = random.randrange(3) if depth < 9 else 0
            inner = inner if isinstance(inner, Mapping) else {"type": "string"}
            return {random.choice(TEXTS): value(random, schemas, inner, depth + 1, wrong) for _ in range(count)}
        share = 0.9 if depth < 2 else 0.45 if depth < 5 else 0.2
        required = schema.get("required") or ()
        chosen = [n for n in properties if n in required or random.random() < share]
        return {n: value(random, schemas, properties[n], depth + 1, wrong) for n in chosen if depth < 12}
    if kind == "array":
        count = random.choice((0, 1, 1, 2, 3)) if depth < 9 else 0
        return [value(random, schemas, schema.get("items") or {}, depth + 1, wrong) for _ in range(count)]
    if kind in ("integer", "number"):
        return random.choice(NUMBERS) if random.random() < wrong * 5 else random.randrange(0, 100)
    if kind == "boolean":
        return random.random() < 0.5
    if schema.get("enum"):
        return random.choice(schema["enum"])
    if schema.get("format") == "quantity" or "uantity" in str(schema.get("description")):
        return random.choice(("1", "100m", "1Gi", "0", "-1", "1e3", "9" * 40))
    return random.choice(TEXTS) if random.random() < wrong * 5 else random.choice(GOOD)


def instance(random: Random, kinds: Kinds, path: str, version: str, name: str) -> Any:
    schema = kinds.schemas.get(name, {})
    made = value(random, kinds.schemas, schema, wrong=random.choice((0.0, 0.0, 0.01, 0.1)))
    if not isinstance(made, dict):
        return made
    if random.random() < 0.9:
        made["apiVersion"] = version
        made["kind"] = name.rpartition(".")[2] if random.random() < 0.95 else "Other"
        for group in kinds.schemas.get(name, {}).get("x-kubernetes-group-version-kind") or ():
            made["kind"] = group["kind"]
    if random.random() < 0.85:
        made["metadata"] = {"name": f"f{random.randrange(6)}"}
        if random.random() < 0.4:
            odd = value(random, kinds.schemas, {"type": "object", "properties": _METADATA}, 2, 0.05)
            if isinstance(odd, dict):
                made["metadata"] |= odd
    return made


_PROBE = {"httpGet": {"path": "/", "port": "http", "httpHeaders": [{"name": "a", "value": "b"}]}, "periodSeconds": 1, "failureThreshold": 3}
_POD_SPEC: dict[str, Any] = {
    "containers": [{
        "name": "c", "image": "busybox", "command": ["sleep"], "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP", "hostPort": 8080}],
        "env": [{"name": "A", "value": "$(B)"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
        "envFrom": [{"prefix": "x", "configMapRef": {"name": "cm", "optional": True}}],
        "resources": {"requests": {"cpu": "10m", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "readinessProbe": _PROBE, "livenessProbe": {"exec": {"command": ["true"]}}, "startupProbe": {"tcpSocket": {"port": 80}},
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}, "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "runAsUser": 1, "privileged": False},
    }],
    "initContainers": [{"name": "i", "image": "busybox", "restartPolicy": "Always"}],
    "volumes": [{"name": "v", "projected": {"sources": [{"downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                                                       {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}],
    "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}}]}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"a": "b"}}}],
    "dnsConfig": {"nameservers": ["1.2.3.4"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}, "hostAliases": [{"ip": "1.2.3.4"}],
    "securityContext": {"sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}], "fsGroup": 1}, "terminationGracePeriodSeconds": 1,
}  # fmt: skip
_TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": _POD_SPEC}
_SELECTOR = {"matchLabels": {"a": "b"}}
_JOB = {"template": {**_TEMPLATE, "spec": {**_POD_SPEC, "restartPolicy": "Never"}}, "completions": 2, "parallelism": 1, "backoffLimit": 1,
        "completionMode": "Indexed", "podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}}
VALID: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("v1", "pods", "Pod", {"spec": _POD_SPEC}),
    ("v1", "services", "Service", {"spec": {
        "type": "NodePort", "selector": {"a": "b"}, "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}},
        "ports": [{"name": "x", "port": 80, "targetPort": "http"}, {"name": "y", "port": 80, "protocol": "UDP"}], "ipFamilies": ["IPv4"],
        "externalTrafficPolicy": "Local", "externalIPs": ["1.2.3.4"], "clusterIPs": [""], "ipFamilyPolicy": "SingleStack"}}),
    ("v1", "endpoints", "Endpoints", {"subsets": [{"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 80}]}]}),
    ("v1", "replicationcontrollers", "ReplicationController", {"spec": {"replicas": 1, "selector": {"a": "b"}, "template": _TEMPLATE}}),
    ("v1", "resourcequotas", "ResourceQuota", {"spec": {"hard": {"count/none": "1"}, "scopes": ["BestEffort"]}}),
    ("v1", "limitranges", "LimitRange", {"spec": {"limits": [{"type": "Container", "max": {"cpu": "64"}, "default": {"cpu": "1"}}]}}),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", {"spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
    ("v1", "secrets", "Secret", {"type": "kubernetes.io/tls", "stringData": {"tls.crt": "a"}, "data": {"tls.key": "YQ=="}}),
    ("v1", "events", "Event", {"involvedObject": {"namespace": "default"}, "firstTimestamp": "2026-11-21T10:00:00Z", "count": 1}),
    ("apps/v1", "deployments", "Deployment", {"spec": {
        "replicas": 2, "selector": _SELECTOR, "template": _TEMPLATE, "strategy": {"rollingUpdate": {"maxSurge": "10%", "maxUnavailable": 0}}}}),
    ("apps/v1", "statefulsets", "StatefulSet", {"spec": {
        "selector": _SELECTOR, "template": _TEMPLATE, "serviceName": "x", "updateStrategy": {"rollingUpdate": {"partition": 1}},
        "volumeClaimTemplates": [{"metadata": {"name": "d"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}]}}),
    ("apps/v1", "daemonsets", "DaemonSet", {"spec": {"selector": _SELECTOR, "template": _TEMPLATE, "updateStrategy": {"type": "OnDelete"}}}),
    ("batch/v1", "jobs", "Job", {"spec": _JOB}),
    ("batch/v1", "cronjobs", "CronJob", {"spec": {"schedule": "*/5 * * * *", "timeZone": "Etc/UTC", "jobTemplate": {"spec": _JOB}}}),
    ("discovery.k8s.io/v1", "endpointslices", "EndpointSlice", {
        "addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4"], "conditions": {"ready": True}}], "ports": [{"name": "", "port": 80}]}),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", {"spec": {
        "podSelector": _SELECTOR, "policyTypes": ["Ingress"], "ingress": [{"from": [{"ipBlock": {"cidr": "1.2.0.0/16", "except": ["1.2.3.0/24"]}}],
                                                                          "ports": [{"port": 80, "endPort": 90}]}]}}),
    ("networking.k8s.io/v1", "ingresses", "Ingress", {"spec": {"rules": [{"host": "*.a.b", "http": {"paths": [
        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "x", "port": {"number": 80}}}}]}}], "tls": [{"hosts": ["a.b"]}]}}),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", {"spec": {"selector": _SELECTOR, "minAvailable": "10%"}}),
    ("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", {"spec": {
        "scaleTargetRef": {"kind": "Deployment", "name": "x", "apiVersion": "apps/v1"}, "maxReplicas": 3,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}}),
    ("rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", {
        "roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}, "subjects": [{"kind": "User", "name": "u"}]}),
    ("rbac.authorization.k8s.io/v1", "roles", "Role", {"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
    ("apps/v1", "deployments/scale", "Scale", {"apiVersion": "autoscaling/v1", "spec": {"replicas": 1}}),
    ("v1", "pods/eviction", "Eviction", {"apiVersion": "policy/v1", "deleteOptions": {"gracePeriodSeconds": 0}}),
    ("v1", "pods/binding", "Binding", {"target": {"kind": "Node", "name": "n"}}),
    ("v1", "serviceaccounts/token", "TokenRequest", {"apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 600}}),
    ("v1", "pods/ephemeralcontainers", "Pod", {"spec": {"ephemeralContainers": [{"name": "d", "image": "busybox"}]}}),
    ("apiextensions.k8s.io/v1", "/customresourcedefinitions", "CustomResourceDefinition", {"metadata": {"name": "boats.sea.example"}, "spec": {
        "group": "sea.example", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat", "shortNames": ["bt"], "categories": ["all"]},
        "versions": [{"name": "v1", "served": True, "storage": True, "subresources": {"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
            "additionalPrinterColumns": [{"name": "L", "type": "integer", "jsonPath": ".spec.list[?(@.a=='b')].c"}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "replicas": {"type": "integer", "minimum": 0, "default": 1}, "name": {"type": "string", "pattern": "^a+$", "maxLength": 3},
                "list": {"type": "array", "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}, "maxItems": 2,
                         "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]},
                "any": {"x-kubernetes-int-or-string": True}, "map": {"type": "object", "additionalProperties": {"type": "number"}}}}}}}}]}}),
    ("sea.example/v1", "boats", "Boat", {"spec": {"replicas": 1, "name": "aa", "list": [{"a": "b", "c": 1}], "any": "x", "map": {"k": 1.5}}}),
    ("v1", "/nodes", "Node", {"spec": {"podCIDR": "10.244.1.0/24", "taints": [{"key": "a", "effect": "NoSchedule"}]},
                              "status": {"capacity": {"cpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}}),
    ("v1", "/namespaces", "Namespace", {"spec": {"finalizers": ["kubernetes"]}}),
    ("authorization.k8s.io/v1", "/subjectaccessreviews", "SubjectAccessReview", {"spec": {"user": "u", "resourceAttributes": {"verb": "get"}}}),
)  # fmt: skip
"""(apiVersion, resource with its subresource or "/" for cluster scope, kind, the rest)."""


def mutated(random: Random, node: Any, chance: float) -> Any:
    """A copy in which some parts are something else, missing or doubled."""
    if random.random() < chance:
        return copy.deepcopy(random.choice((*ODD, *TEXTS, *NUMBERS)))
    if isinstance(node, dict):
        out = {k: mutated(random, v, chance) for k, v in node.items() if random.random() >= chance}
        if out and random.random() < chance:
            out[random.choice(TEXTS)] = copy.deepcopy(random.choice(list(out.values())))
        return out
    if isinstance(node, list):
        out_list = [mutated(random, v, chance) for v in node if random.random() >= chance]
        return out_list * 2 if random.random() < chance else out_list
    return node


def nearly_valid(random: Random) -> tuple[str, str, bytes, dict[str, str]]:
    """A write of an object that was right before a few of its parts were changed."""
    version, resource, kind, rest = random.choice(VALID)
    resource, _, sub = resource.rpartition("/") if "/" in resource.lstrip("/") else (resource, "", "")
    if sub and not resource:
        resource, sub = f"/{sub}", ""
    name = (rest.get("metadata") or {}).get("name") or f"f{random.randrange(4)}"
    size = len(json.dumps(rest)) / 12
    obj = mutated(random, {"apiVersion": version, "kind": kind, **rest}, random.choice((0.0, 0.5, 1.0, 3.0)) / size)
    if not isinstance(obj, dict) or random.random() < 0.02:
        return "POST", "/api/v1/namespaces", dumps(obj), {}
    if random.random() < 0.95:
        obj["metadata"] = {"name": name, "labels": {"a": "b"}}
    prefix = "/api/v1" if version == "v1" else f"/apis/{version}"
    where = prefix + (resource if resource.startswith("/") else f"/namespaces/default/{resource}")
    method = random.choice(("POST", "POST", "PUT", "PATCH", "PATCH", "DELETE", "GET"))
    if method != "POST" or sub:
        where += f"/{name}" + (f"/{sub}" if sub else random.choice(("", "", "", "/status", "/scale")))
    content = random.choice(BODIES[3:7]) if method == "PATCH" else "application/json"
    query = random.choice(("", "", "?dryRun=All", "?fieldManager=a&force=true", "?fieldManager=b", "?fieldValidation=Strict"))
    if content == "application/json-patch+json":
        at = random.choice(("/spec", "/metadata/labels/a", "/spec/ports/0/port", "/spec/containers/0", "/spec/template/spec/containers/-"))
        document: Any = [{"op": random.choice(("replace", "add", "remove", "test", "copy")), "path": at, "from": "/spec",
                          "value": random.choice((obj.get("spec"), *ODD))}]  # fmt: skip
        return method, where + query, dumps(document), {"Content-Type": content}
    accept = random.choice(("application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"))
    return method, where + query, b"" if method in ("GET", "DELETE") else dumps(obj), {"Content-Type": content, "Accept": accept}


_TEXT: Schema = {"type": "string"}
_METADATA: dict[str, Schema] = {
    "labels": {"type": "object"}, "annotations": {"type": "object"}, "generateName": _TEXT, "uid": _TEXT, "resourceVersion": _TEXT,
    "finalizers": {"type": "array", "items": _TEXT}, "creationTimestamp": _TEXT, "deletionTimestamp": _TEXT, "generation": {"type": "integer"},
    "ownerReferences": {"type": "array", "items": {"type": "object", "properties": {
        "apiVersion": _TEXT, "kind": _TEXT, "name": _TEXT, "uid": _TEXT, "controller": {"type": "boolean"}}}},
    "managedFields": {"type": "array", "items": {"type": "object", "properties": {
        "manager": _TEXT, "operation": _TEXT, "fieldsV1": {"type": "object"}, "fieldsType": _TEXT, "time": _TEXT}}},
}  # fmt: skip


def query(random: Random) -> str:
    names = [random.choice(QUERIES) for _ in range(random.choice((0, 0, 0, 0, 0, 1, 2, 4)))]
    terms = [f"{quote(n)}={quote(random.choice(TEXTS), safe='')}" for n in names if n not in ("watch", "follow")]
    if "watch" in names:
        terms += ["watch=1", "timeoutSeconds=1"] if random.random() < 0.2 else ["watch=0"]
    return "?" + "&".join(terms) if terms else ""


def patch_of(random: Random, obj: Any) -> bytes:
    """A patch document: the object itself, part of it, or a list of operations on it."""
    if random.random() < 0.4:
        operations = []
        for _ in range(random.randrange(4)):
            pointer = "/" + "/".join(random.choice(("spec", "metadata", "labels", "0", "-", "containers", "a~1b", "~", "status", "")) for _ in range(3))
            operation = {"op": random.choice(("add", "remove", "replace", "move", "copy", "test", "nope")), "path": pointer,
                         "from": "/metadata", "value": random.choice((*ODD, *NUMBERS))}  # fmt: skip
            operations.append({k: v for k, v in operation.items() if random.random() < 0.9})
        return dumps(operations)
    if isinstance(obj, dict) and random.random() < 0.6:
        obj = {k: v for k, v in obj.items() if random.random() < 0.6}
        obj["$patch"] = random.choice(("replace", "delete", "merge", "nope", 3))
        if random.random() < 0.5:
            obj.pop("$patch")
        if random.random() < 0.2:
            obj["$setElementOrder/spec"] = random.choice(ODD)
    return dumps(obj)


def dumps(obj: Any) -> bytes:
    return json.dumps(obj).encode()


def damaged(random: Random, raw: bytes) -> bytes:
    if not raw or random.random() < 0.85:
        return raw
    at = random.randrange(len(raw))
    return random.choice((
        raw[:at], raw[:at] + bytes([random.randrange(256)]) + raw[at + 1 :], raw * 2, b"", b"\xff", b"k8s\0" + raw, b"[" * 5000,
        b'{"a":' * 3000, raw.replace(b'"', b"'"), b"- " + raw, b"&a [*a, *a]", b"!!python/object:os.system {}",
    ))  # fmt: skip


def request(random: Random, kinds: Kinds) -> tuple[str, str, bytes, dict[str, str]]:
    """(method, path with query, body, headers)."""
    path, version, name = random.choice(kinds.kinds)
    where = path.replace("{namespace}", "default" if random.random() < 0.95 else quote(random.choice(TEXTS), safe=""))
    method = random.choice(("POST", "POST", "POST", "PUT", "PUT", "PATCH", "PATCH", "PATCH", "GET", "GET", "DELETE", random.choice(METHODS)))
    obj = instance(random, kinds, path, version, name)
    if method in ("PUT", "PATCH", "DELETE", "GET") and random.random() < 0.85:
        own = (obj.get("metadata") or {}).get("name") if isinstance(obj, dict) and isinstance(obj.get("metadata"), dict) else None
        where += "/" + quote(str(own) if isinstance(own, str) and random.random() < 0.9 else random.choice(TEXTS), safe="")
        if random.random() < 0.25:
            where += "/" + random.choice(("status", "scale", "log", "exec", "eviction", "binding", "token", "proxy", "finalize", "attach",
                                          "ephemeralcontainers", "nope", "portforward", "resize"))  # fmt: skip
    if random.random() < 0.03:
        where = random.choice(("/", "/api", "/apis", "/apis/x", "/openapi/v2", "/openapi/v3/x", "/version", "/metrics", "/readyz/x",
                               "/%00", "//api//v1", "/api/v1/namespaces//pods", "/apis/apps/v1/namespaces/a/b/c/d/e", "*"))  # fmt: skip
    content = random.choice(BODIES[3:7]) if method == "PATCH" and random.random() < 0.9 else "application/json"
    if random.random() < 0.1:
        content = random.choice(BODIES)
    body = patch_of(random, obj) if method == "PATCH" and content != "application/apply-patch+yaml" else dumps(obj)
    if method in ("GET", "HEAD", "DELETE") and random.random() < 0.6:
        body = b""
    headers = {"Content-Type": content}
    if random.random() < 0.15:
        headers["Accept"] = random.choice(ACCEPTS)
    if random.random() < 0.03:
        headers |= random.choice(({"Authorization": "Bearer x.y.z"}, {"Authorization": "\xff"}, {"Impersonate-User": "a"}, {"Upgrade": "websocket"},
                                  {"Impersonate-Group": "b"}, {"Impersonate-Extra-%zz": "c"}, {"User-Agent": "x" * 5000}))  # fmt: skip
    return method, where + query(random), damaged(random, body), headers
