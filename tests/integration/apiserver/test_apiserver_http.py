"""The server over plain HTTPS: bad input, watches, pages, preconditions, tokens, death and return."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NS = "/api/v1/namespaces/default"
CM = f"{NS}/configmaps"


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "busybox"}], **spec}}


def unique(prefix: str = "x") -> str:
    return f"{prefix}{os.urandom(4).hex()}"


BAD = [
    ("GET", "/nowhere", None, {}, 404),
    ("GET", "/api/v2/pods", None, {}, 404),
    ("GET", "/apis/none.example/v1/things", None, {}, 404),
    ("GET", f"{NS}/pods/none/nothing", None, {}, 404),
    ("GET", "/api/v1/namespaces/../../etc/passwd", None, {}, 404),
    ("GET", "/api/v1/namespaces/%2e%2e%2f/pods/x", None, {}, 404),
    ("GET", f"{NS}/pods/%00", None, {}, 400),
    ("GET", f"{NS}/pods/%ff", None, {}, 400),
    ("GET", f"{NS}/pods?limit=many", None, {}, 400),
    ("GET", f"{NS}/pods?limit=-1", None, {}, 400),
    ("GET", f"{NS}/pods?resourceVersion=abc", None, {}, 400),
    ("GET", f"{NS}/pods?watch=1&resourceVersion=abc", None, {}, 400),
    ("GET", f"{NS}/pods?watch=1&timeoutSeconds=x", None, {}, 400),
    ("GET", f"{NS}/pods?labelSelector=a%3D%3D%3D", None, {}, 400),
    ("GET", f"{NS}/pods?fieldSelector=spec.nonsense%3Dx", None, {}, 400),
    ("GET", f"{NS}/pods?continue=!!!", None, {}, 400),
    ("GET", f"{NS}/pods", None, {"Accept": "text/html"}, 406),
    ("POST", "/api/v1/pods", b"{}", {}, 405),
    ("PATCH", f"{NS}/pods", b"{}", {}, 405),
    ("POST", CM, b"", {}, 400),
    ("POST", CM, b"{", {}, 400),
    ("POST", CM, b"[]", {}, 400),
    ("POST", CM, b"null", {}, 400),
    ("POST", CM, b'"text"', {}, 400),
    ("POST", CM, b"\xff\xfe", {}, 400),
    ("POST", CM, b'{"metadata": 3}', {}, 400),
    ("POST", CM, b'{"metadata": {"name": 3}}', {}, 400),
    ("POST", CM, b'{"metadata": {"name": "a"}, "data": {"k": 1}}', {}, 400),
    ("POST", CM, b'{"metadata": {"name": "../a"}}', {}, 422),
    ("POST", CM, b'{"metadata": {"name": "a\\u0000b"}}', {}, 422),
    ("POST", CM, b'{"metadata": {}}', {}, 422),
    ("POST", CM, b'{"kind": "Pod", "metadata": {"name": "a"}}', {}, 400),
    ("POST", CM, b'{"apiVersion": "v2", "metadata": {"name": "a"}}', {}, 400),
    ("POST", CM, b'{"metadata": {"name": "a", "namespace": "other"}}', {}, 400),
    ("POST", CM, b'{"metadata": {"name": "a", "labels": {"-": "x"}}}', {}, 422),
    ("POST", CM, b'{"metadata": {"name": "a"}, "data": {"a": "\\ud800"}}', {}, 400),
    ("POST", CM, b"[" * 5000 + b"]" * 5000, {}, 400),
    ("POST", CM, b'{"a":' * 900 + b"1" + b"}" * 900, {}, 400),
    ("POST", CM, b"x: &a [1]\ny: *a\n: 3", {"Content-Type": "application/yaml"}, 400),
    ("POST", CM, b"k8s\x00\xff\xff\xff\xff", {"Content-Type": "application/vnd.kubernetes.protobuf"}, 400),
    ("POST", CM, b"{}", {"Content-Type": "text/csv"}, 415),
    ("POST", f"{CM}?dryRun=Some", b'{"metadata": {"name": "a"}}', {}, 400),
    ("POST", f"{CM}?fieldValidation=Maybe", b'{"metadata": {"name": "a"}}', {}, 400),
    ("POST", "/api/v1/namespaces/none/configmaps", b'{"metadata": {"name": "a"}}', {}, 404),
    ("PUT", f"{CM}/none", b'{"metadata": {"name": "other"}}', {}, 400),
    ("PUT", f"{CM}/none", b'{"metadata": {"name": "none"}}', {}, 404),
    ("PATCH", f"{NS}/serviceaccounts/default", b"{}", {"Content-Type": "application/json"}, 415),
    ("PATCH", f"{NS}/serviceaccounts/default", b"[]", {"Content-Type": "application/merge-patch+json"}, 400),
    ("PATCH", f"{NS}/serviceaccounts/default", b'{"metadata": null}', {"Content-Type": "application/merge-patch+json"}, 422),
    ("PATCH", f"{NS}/serviceaccounts/default", b"{}", {"Content-Type": "application/json-patch+json"}, 400),
    ("PATCH", f"{NS}/serviceaccounts/default", b'[{"op": "remove", "path": "/no"}]',
     {"Content-Type": "application/json-patch+json"}, 422),
    ("PATCH", f"{NS}/serviceaccounts/default", b"a: b", {"Content-Type": "application/apply-patch+yaml"}, 422),
    ("PATCH", f"{NS}/serviceaccounts/default?fieldManager=m", b"a: b", {"Content-Type": "application/apply-patch+yaml"}, 400),
    ("DELETE", f"{CM}/none", None, {}, 404),
    ("DELETE", f"{CM}/none", b"[]", {}, 400),
    ("DELETE", f"{CM}/none", b'{"gracePeriodSeconds": "x"}', {}, 400),
    ("DELETE", f"{CM}/none", b'{"propagationPolicy": "Sideways"}', {}, 400),
    ("DELETE", "/api/v1/namespaces/default", None, {}, 403),
    ("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", b'{"spec": {}}', {}, 400),
    ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", b'{"spec": {"resourceAttributes": {"verb": "get"}}}', {}, 400),
    ("POST", f"{NS}/serviceaccounts/default/token", b'{"spec": {"expirationSeconds": 5}}', {}, 422),
    ("POST", f"{NS}/pods/none/eviction", b'{"metadata": {"name": "none"}}', {}, 404),
    ("POST", f"{NS}/pods/none/binding", b'{"target": {}}', {}, 422),
    ("GET", f"{NS}/pods/none/exec?command=x&stdout=1", None, {}, 404),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "headers", "code"), BAD, ids=range(len(BAD)))
def test_bad_input_is_a_4xx_with_a_status(
    api: Any, method: str, path: str, body: bytes | None, headers: dict[str, str], code: int
) -> None:
    answer = api.request(method, path, body, headers=headers)
    assert answer.code == code, answer.body
    status = answer.json()
    assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", code)
    assert status["message"]
    assert "Traceback" not in api.log()


def test_a_body_over_the_limit_is_413(api: Any) -> None:
    answer = api.request("POST", CM, b'{"metadata": {"name": "big"}, "data": {"a": "' + b"x" * 3_200_000 + b'"}}')
    assert answer.code == 413
    assert answer.json()["reason"] == "RequestEntityTooLarge"


def test_updates_conflict_and_no_change_changes_nothing(api: Any) -> None:
    name = unique()
    made = api.request("POST", CM, {"metadata": {"name": name}, "data": {"a": "1"}}).json()
    assert made["metadata"]["uid"]
    same = api.request("PUT", f"{CM}/{name}", made).json()
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    changed = api.request("PUT", f"{CM}/{name}", {**made, "data": {"a": "2"}})
    assert changed.code == 200
    stale = api.request("PUT", f"{CM}/{name}", {**made, "data": {"a": "3"}})
    assert stale.code == 409
    assert stale.json()["message"] == (
        f'Operation cannot be fulfilled on configmaps "{name}": the object has been modified; please apply your changes to '
        "the latest version and try again"
    )
    unpinned = {"metadata": {"name": name}, "data": {"a": "4"}}
    assert api.request("PUT", f"{CM}/{name}", unpinned).json()["data"] == {"a": "4"}
    wrong = api.request("DELETE", f"{CM}/{name}", {"preconditions": {"uid": "other"}})
    assert wrong.code == 409
    assert "Precondition failed: UID in precondition: other" in wrong.json()["message"]
    assert api.request("DELETE", f"{CM}/{name}?dryRun=All").code == 200
    assert api.request("GET", f"{CM}/{name}").code == 200
    done = api.request("DELETE", f"{CM}/{name}").json()
    assert (done["status"], done["details"]["uid"]) == ("Success", made["metadata"]["uid"])


def test_finalizers_hold_and_pods_go_gracefully(api: Any) -> None:
    name = unique()
    api.request("POST", CM, {"metadata": {"name": name, "finalizers": ["example.com/hold"]}})
    held = api.request("DELETE", f"{CM}/{name}").json()
    assert held["metadata"]["deletionTimestamp"]
    added = {**held, "metadata": {**held["metadata"], "finalizers": ["example.com/hold", "example.com/more"]}}
    assert api.request("PUT", f"{CM}/{name}", added).code == 422
    freed = {**held, "metadata": {**held["metadata"], "finalizers": []}}
    assert api.request("PUT", f"{CM}/{name}", freed).code == 200
    assert api.request("GET", f"{CM}/{name}").code == 404
    name = unique()
    assert api.request("POST", f"{NS}/pods", pod(name, nodeName="n1")).code == 201
    going = api.request("DELETE", f"{NS}/pods/{name}").json()
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30
    shorter = api.request("DELETE", f"{NS}/pods/{name}", {"gracePeriodSeconds": 5}).json()
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    assert api.request("DELETE", f"{NS}/pods/{name}", {"gracePeriodSeconds": 0}).json()["kind"] == "Pod"
    assert api.request("GET", f"{NS}/pods/{name}").code == 404


def test_status_is_written_by_its_own_path_only(api: Any) -> None:
    name = unique()
    api.request("POST", f"{NS}/pods", {**pod(name), "status": {"phase": "Running"}})
    made = api.request("GET", f"{NS}/pods/{name}").json()
    assert made["status"]["phase"] == "Pending"
    patch = {"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}, "spec": {"nodeName": "elsewhere"}}
    merge = {"Content-Type": "application/merge-patch+json"}
    done = api.request("PATCH", f"{NS}/pods/{name}/status", patch, headers=merge).json()
    assert done["status"]["phase"] == "Running"
    assert "nodeName" not in done["spec"]
    ignored = api.request("PATCH", f"{NS}/pods/{name}", {"status": {"phase": "Failed"}}, headers=merge).json()
    assert ignored["status"]["phase"] == "Running"
    assert ignored["metadata"]["resourceVersion"] == done["metadata"]["resourceVersion"]


def test_binding_and_eviction(api: Any) -> None:
    name = unique()
    api.request("POST", f"{NS}/pods", pod(name) | {"metadata": {"name": name, "labels": {"app": name}}})
    target = {"target": {"kind": "Node", "name": "n1"}}
    assert api.request("POST", f"{NS}/pods/{name}/binding", target).code == 201
    bound = api.request("GET", f"{NS}/pods/{name}").json()
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    twice = api.request("POST", f"{NS}/pods/{name}/binding", target)
    assert twice.code == 409
    assert f'pod {name} is already assigned to node "n1"' in twice.json()["message"]
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    budget = {"metadata": {"name": name}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": name}}}}
    assert api.request("POST", budgets, budget).code == 201
    status = {"status": {"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}}
    merge = {"Content-Type": "application/merge-patch+json"}
    assert api.request("PATCH", f"{budgets}/{name}/status", status, headers=merge).code == 200
    running = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    assert api.request("PATCH", f"{NS}/pods/{name}/status", running, headers=merge).code == 200
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    refused = api.request("POST", f"{NS}/pods/{name}/eviction", eviction)
    assert refused.code == 429
    assert refused.json()["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
    status["status"]["disruptionsAllowed"] = 1
    api.request("PATCH", f"{budgets}/{name}/status", status, headers=merge)
    assert api.request("POST", f"{NS}/pods/{name}/eviction", eviction).code == 201
    assert api.request("GET", f"{NS}/pods/{name}").json()["metadata"]["deletionTimestamp"]
    assert api.request("GET", f"{budgets}/{name}").json()["status"]["disruptionsAllowed"] == 0


def test_services_get_addresses_of_their_own(api: Any) -> None:
    path = f"{NS}/services"

    def service(name: str, **spec: Any) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}

    made = [api.request("POST", path, service(unique(), type="NodePort")).json()["spec"] for _ in range(5)]
    assert len({s["clusterIP"] for s in made}) == 5
    assert len({s["ports"][0]["nodePort"] for s in made}) == 5
    taken = api.request("POST", path, service(unique(), clusterIP=made[0]["clusterIP"]))
    assert taken.code == 422
    assert "provided IP is already allocated" in taken.json()["message"]
    outside = api.request("POST", path, service(unique(), clusterIP="192.0.2.1"))
    assert "the provided network does not match the current range" in outside.json()["message"]
    port = made[0]["ports"][0]["nodePort"]
    same = api.request("POST", path, service(unique(), type="NodePort", ports=[{"port": 80, "nodePort": port}]))
    assert "provided port is already allocated" in same.json()["message"]
    beyond = api.request("POST", path, service(unique(), type="NodePort", ports=[{"port": 80, "nodePort": 80}]))
    assert "The range of valid ports is 30000-32767" in beyond.json()["message"]
    assert api.request("POST", path, service(unique(), clusterIP="None")).json()["spec"]["clusterIPs"] == ["None"]
    name = unique()
    free = api.request("POST", path, service(name, clusterIP="10.96.77.7")).json()
    assert free["spec"]["clusterIP"] == "10.96.77.7"
    api.request("DELETE", f"{path}/{name}")
    assert api.request("POST", path, service(unique(), clusterIP="10.96.77.7")).code == 201
    external = api.request("POST", path, service(unique(), type="ExternalName", externalName="a.example")).json()
    assert "clusterIP" not in external["spec"]


def test_pages_are_of_one_moment(api: Any) -> None:
    group = unique()
    names = [f"{group}-{i}" for i in range(7)]
    for name in names:
        api.request("POST", CM, {"metadata": {"name": name, "labels": {"g": group}}})
    first = api.request("GET", f"{CM}?labelSelector=g%3D{group}&limit=3").json()
    assert [o["metadata"]["name"] for o in first["items"]] == names[:3]
    api.request("DELETE", f"{CM}/{names[4]}")
    api.request("POST", CM, {"metadata": {"name": f"{group}-35", "labels": {"g": group}}})
    token = first["metadata"]["continue"]
    second = api.request("GET", f"{CM}?labelSelector=g%3D{group}&limit=3&continue={token}").json()
    assert [o["metadata"]["name"] for o in second["items"]] == names[3:6]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    token = second["metadata"]["continue"]
    third = api.request("GET", f"{CM}?labelSelector=g%3D{group}&limit=3&continue={token}").json()
    assert [o["metadata"]["name"] for o in third["items"]] == names[6:]
    assert "continue" not in third["metadata"]
    now = api.request("GET", f"{CM}?labelSelector=g%3D{group}").json()
    assert [o["metadata"]["name"] for o in now["items"]] == [*names[:4], f"{group}-35", *names[5:]]
    past = f"{CM}?labelSelector=g%3D{group}&resourceVersion={first['metadata']['resourceVersion']}&resourceVersionMatch=Exact"
    assert [o["metadata"]["name"] for o in api.request("GET", past).json()["items"]] == names


def test_tables_and_metadata_only(api: Any) -> None:
    table = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    namespaces = api.request("GET", "/api/v1/namespaces", headers=table).json()
    assert (namespaces["kind"], namespaces["columnDefinitions"][0]["name"]) == ("Table", "Name")
    assert namespaces["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    partial = {"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}
    listed = api.request("GET", "/api/v1/namespaces", headers=partial).json()
    assert listed["kind"] == "PartialObjectMetadataList"
    assert set(listed["items"][0]) == {"kind", "apiVersion", "metadata"}


class Events:
    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    async def take(self, count: int) -> list[dict[str, Any]]:
        out = []
        for _ in range(count):
            line = await self._answer.content.readline()
            assert line, f"the watch ended after {out}"
            out.append(json.loads(line))
        return out

    async def told(self, count: int) -> list[tuple[str, str]]:
        return [(e["type"], e["object"]["metadata"]["name"]) for e in await self.take(count)]


@asynccontextmanager
async def watching(api: Any, path: str, **headers: str) -> AsyncIterator[Events]:
    connector = aiohttp.TCPConnector(ssl=api.context())
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(sock_read=30)) as session:
        async with session.get(f"https://127.0.0.1:{api.port}{path}", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            yield Events(answer)


async def test_a_watch_sees_every_change_of_its_selection(api: Any) -> None:
    group = unique()
    start = api.request("GET", CM).json()["metadata"]["resourceVersion"]

    def body(name: str, label: str, **data: str) -> dict[str, Any]:
        return {"metadata": {"name": f"{group}-{name}", "labels": {"g": label}}, "data": data}

    merge = {"Content-Type": "application/merge-patch+json"}
    async with watching(api, f"{CM}?watch=1&labelSelector=g%3D{group}&resourceVersion={start}") as live:
        api.request("POST", CM, body("a", group))
        api.request("POST", CM, body("b", "other"))
        api.request("PATCH", f"{CM}/{group}-a", {"data": {"k": "v"}}, headers=merge)
        api.request("PATCH", f"{CM}/{group}-b", {"metadata": {"labels": {"g": group}}}, headers=merge)
        api.request("PATCH", f"{CM}/{group}-a", {"metadata": {"labels": {"g": "left"}}}, headers=merge)
        api.request("DELETE", f"{CM}/{group}-b")
        expected = [("ADDED", f"{group}-a"), ("MODIFIED", f"{group}-a"), ("ADDED", f"{group}-b"),
                    ("DELETED", f"{group}-a"), ("DELETED", f"{group}-b")]  # fmt: skip
        assert await live.told(5) == expected
    async with watching(api, f"{CM}?watch=1&labelSelector=g%3D{group}&resourceVersion={start}") as late:
        events = await late.take(5)
        assert [(e["type"], e["object"]["metadata"]["name"]) for e in events] == expected
        revisions = [int(e["object"]["metadata"]["resourceVersion"]) for e in events]
        assert revisions == sorted(set(revisions))


async def test_watch_from_zero_begins_with_what_is_there(api: Any) -> None:
    name = unique()
    api.request("POST", CM, {"metadata": {"name": name}})
    one = f"{CM}?watch=1&fieldSelector=metadata.name%3D{name}"
    for suffix in ("", "&resourceVersion=0"):
        async with watching(api, one + suffix) as events:
            assert await events.told(1) == [("ADDED", name)]
    initial = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with watching(api, one + initial) as events:
        added, bookmark = await events.take(2)
        assert (added["type"], bookmark["type"]) == ("ADDED", "BOOKMARK")
        assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    table = "application/json;as=Table;v=v1;g=meta.k8s.io"
    async with watching(api, one, Accept=table) as events:
        (row,) = await events.take(1)
        assert row["object"]["kind"] == "Table"
        assert row["object"]["rows"][0]["cells"][0] == name


async def test_a_watch_ends_in_time_with_a_bookmark(api: Any) -> None:
    now = api.request("GET", CM).json()["metadata"]["resourceVersion"]
    async with watching(api, f"{CM}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={now}") as events:
        (bookmark,) = await events.take(1)
        assert bookmark["type"] == "BOOKMARK"
        assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(now)
        with pytest.raises(AssertionError, match="the watch ended"):
            await events.take(1)


def test_a_revision_of_the_future_makes_clients_list_again(api: Any) -> None:
    answer = api.request("GET", f"{CM}?watch=1&resourceVersion=1000000000")
    assert answer.code == 504
    assert "Too large resource version" in answer.json()["message"]


async def test_pods_are_watched_by_node(api: Any) -> None:
    node, name = unique("n"), unique()
    start = api.request("GET", f"{NS}/pods").json()["metadata"]["resourceVersion"]
    path = f"/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3D{node}&resourceVersion={start}"
    async with watching(api, path) as events:
        api.request("POST", f"{NS}/pods", pod(unique()))
        api.request("POST", f"{NS}/pods", pod(name))
        api.request("POST", f"{NS}/pods/{name}/binding", {"target": {"name": node}})
        api.request("DELETE", f"{NS}/pods/{name}", {"gracePeriodSeconds": 0})
        assert await events.told(2) == [("ADDED", name), ("DELETED", name)]


def test_service_account_tokens_and_rbac(api: Any) -> None:
    name = unique()
    api.request("POST", f"{NS}/serviceaccounts", {"metadata": {"name": name}})
    token = api.request("POST", f"{NS}/serviceaccounts/{name}/token", {"spec": {"expirationSeconds": 600}}).json()["status"]["token"]
    denied = api.request("GET", f"{NS}/pods", token=token)
    assert denied.code == 403
    assert denied.json()["message"] == (
        f'pods is forbidden: User "system:serviceaccount:default:{name}" cannot list resource "pods" in API group "" in the '
        'namespace "default"'
    )
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    api.request("POST", f"{group}/roles", {"metadata": {"name": name}, "rules": rules})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    }
    assert api.request("POST", f"{group}/rolebindings", binding).code == 201
    assert api.request("GET", f"{NS}/pods", token=token).code == 200
    assert api.request("GET", "/api/v1/pods", token=token).code == 403
    assert api.request("GET", f"{NS}/pods/x/log", token=token).code == 403
    review = api.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": token}}).json()["status"]
    assert (review["authenticated"], review["user"]["username"]) == (True, f"system:serviceaccount:default:{name}")
    bound_pod = unique()
    api.request("POST", f"{NS}/pods", pod(bound_pod, serviceAccountName=name))
    ref = {"kind": "Pod", "apiVersion": "v1", "name": bound_pod}
    bound = api.request("POST", f"{NS}/serviceaccounts/{name}/token", {"spec": {"boundObjectRef": ref}}).json()["status"]["token"]
    assert api.request("GET", f"{NS}/pods", token=bound).code == 200
    api.request("DELETE", f"{NS}/pods/{bound_pod}")
    assert api.request("GET", f"{NS}/pods", token=bound).code == 401
    api.request("DELETE", f"{NS}/serviceaccounts/{name}")
    assert api.request("GET", f"{NS}/pods", token=token).code == 401
    assert api.request("GET", f"{NS}/pods", token=token[:-4] + "AAAA").code == 401
    assert api.request("GET", f"{NS}/pods", anonymous=True).code == 401
    assert api.request("GET", "/healthz", anonymous=True).body == b"ok"
    assert api.request("GET", "/version", anonymous=True).json()["gitVersion"].startswith("v1.33")


def test_acknowledged_writes_survive_kill_9(apiserver_factory: Callable[..., Any]) -> None:
    api = apiserver_factory()
    made = [api.request("POST", CM, {"metadata": {"name": f"c{i}"}}).json() for i in range(30)]
    service = api.request("POST", f"{NS}/services", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}).json()
    token = api.request("POST", f"{NS}/serviceaccounts/default/token", {}).json()["status"]["token"]
    api.stop(signal.SIGKILL)
    api.start()
    names = {o["metadata"]["name"]: o["metadata"]["resourceVersion"] for o in api.request("GET", CM).json()["items"]}
    assert all(names[o["metadata"]["name"]] == o["metadata"]["resourceVersion"] for o in made)
    taken = {"metadata": {"name": "t"}, "spec": {"clusterIP": service["spec"]["clusterIP"], "ports": [{"port": 1}]}}
    assert api.request("POST", f"{NS}/services", taken).code == 422
    assert api.request("GET", f"{NS}/pods", token=token).code == 403
    assert api.stop() == 0


def test_a_taken_port_is_one_clear_line(api: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nsk8s.apiserver.main", "--data-dir", str(tmp_path), "--bind-address", "127.0.0.1",
               "--secure-port", str(api.port)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"error: port {api.port} on 127.0.0.1 is already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_certificate_of_another_authority_gets_nowhere(api: Any) -> None:
    from nsk8s.client import certs

    stranger = certs.issue(certs.new_ca("other"), "kubernetes-admin", ["system:masters"])
    context = api.context(certificate=False)
    path = api.directory / "stranger.pem"
    path.write_text(stranger.cert_pem + stranger.key_pem)
    context.load_cert_chain(path)
    import urllib.request

    with pytest.raises((ssl.SSLError, OSError)):
        urllib.request.urlopen(f"https://127.0.0.1:{api.port}/api/v1/namespaces", context=context, timeout=5).read()


def test_a_quota_holds_against_many_at_once(api: Any) -> None:
    namespace = unique()
    assert api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}}).code == 201
    quota = {"metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "7"}}}
    assert api.request("POST", f"/api/v1/namespaces/{namespace}/resourcequotas", quota).code == 201
    where = f"/api/v1/namespaces/{namespace}/configmaps"
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda i: api.request("POST", where, {"metadata": {"name": f"c{i}"}}), range(30)))
    assert sorted({a.code for a in answers}) == [201, 403]
    assert len(api.request("GET", where).json()["items"]) == 7
    refused = next(a for a in answers if a.code == 403).json()["message"]
    assert refused.endswith("is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=7, limited: configmaps=7")


def test_what_nothing_acts_on_is_said_and_what_something_does_is_not(api: Any) -> None:
    def warned(path: str, obj: dict[str, Any]) -> str:
        answer = api.request("POST", path, {**obj, "metadata": {"name": unique()}})
        assert answer.code == 201, answer.body
        return str(answer.headers.get("Warning", ""))

    networking = "/apis/networking.k8s.io/v1"
    ingress = {"spec": {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}}}
    policy = {"spec": {"podSelector": {}}}
    assert "NetworkPolicy has no effect" in warned(f"{networking}/namespaces/default/networkpolicies", policy)
    assert "no ingress controller runs" in warned(f"{networking}/namespaces/default/ingresses", ingress)
    assert warned(f"{networking}/ingressclasses", {"spec": {"controller": "example.com/mine"}}) == ""
    assert warned(f"{networking}/namespaces/default/ingresses", ingress) == ""
    assert warned(CM, {}) == ""


def test_what_is_no_http_is_answered_400_and_leaves_no_traceback(api: Any) -> None:
    for raw in (b"GET http://[bad/ HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nBad Header\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", api.port), 5) as plain, api.context().wrap_socket(
            plain, server_hostname="127.0.0.1"
        ) as secure:
            secure.sendall(raw)
            assert b" 400 " in secure.recv(1000).split(b"\r\n")[0], raw
    assert api.request("GET", "/readyz").body == b"ok"
    assert "Error handling request" not in api.log()


def test_an_ingress_that_names_no_class_is_of_the_default_one(api: Any) -> None:
    classes = "/apis/networking.k8s.io/v1/ingressclasses"
    path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
    backend = {"defaultBackend": {"service": {"name": "x", "port": {"number": 80}}}}

    def made(**parts: Any) -> str | None:
        body = {"metadata": {"name": unique(), "annotations": parts.pop("annotations", {})}, "spec": {**backend, **parts}}
        found: str | None = api.request("POST", path, body).json()["spec"].get("ingressClassName")
        return found

    assert made() is None
    name = unique("class")
    default = {"name": name, "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}
    api.request("POST", classes, {"metadata": {"name": unique("class")}, "spec": {"controller": "example.com/other"}})
    api.request("POST", classes, {"metadata": default, "spec": {"controller": "example.com/x"}})
    deadline = time.monotonic() + 30
    while made() != name:
        assert time.monotonic() < deadline
    assert made(ingressClassName="own") == "own"
    assert made(annotations={"kubernetes.io/ingress.class": "old"}) is None
    api.request("DELETE", f"{classes}/{name}")
