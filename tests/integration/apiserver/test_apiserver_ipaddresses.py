"""IPAddress objects and ServiceCIDRs: every ClusterIP has its object, nothing else has, and ranges come and go."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nsk8s.api.meta import rfc3339
from nsk8s.store.sqlite import SQLiteStore

SERVICES = "/api/v1/namespaces/default/services"
GROUP = "/apis/networking.k8s.io/v1"
IPS, CIDRS = f"{GROUP}/ipaddresses", f"{GROUP}/servicecidrs"
MERGE = {"Content-Type": "application/merge-patch+json"}
LABELS = {"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}


def unique() -> str:
    return f"s{os.urandom(4).hex()}"


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}, **spec}}


def make(api: Any, name: str = "", **spec: Any) -> list[str]:
    """The addresses of a new Service."""
    answer = api.request("POST", SERVICES, service(name or unique(), **spec))
    assert answer.code == 201, answer.body
    found: list[str] = answer.json()["spec"]["clusterIPs"]
    return found


def held(api: Any) -> dict[str, str]:
    """address → what has it."""
    found = {}
    for one in api.request("GET", IPS).json()["items"]:
        ref = one["spec"]["parentRef"]
        found[one["metadata"]["name"]] = f"{ref['resource']}/{ref.get('namespace', '')}/{ref['name']}"
    return found


def eventually(check: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (value := check()):
        assert time.monotonic() < deadline, "still not"
        time.sleep(0.02)
    return value


def events(api: Any, name: str) -> list[tuple[str, str]]:
    items = api.request("GET", "/api/v1/namespaces/default/events").json()["items"]
    return [(e["reason"], e["message"]) for e in items if e["involvedObject"]["name"] == name]


@pytest.fixture(scope="module")
def api(apiserver_factory: Callable[..., Any]) -> Any:
    return apiserver_factory("--service-cluster-ip-range", "10.96.0.0/24,fd00:10:96::/112")


def test_an_object_comes_and_goes_with_its_service(api: Any) -> None:
    name = unique()
    four, six = make(api, name, ipFamilyPolicy="RequireDualStack")
    (kept,) = [o for o in api.request("GET", IPS).json()["items"] if o["metadata"]["name"] == four]
    assert (kept["metadata"]["labels"], kept["spec"]) == (
        LABELS, {"parentRef": {"resource": "services", "namespace": "default", "name": name}}
    )  # fmt: skip
    assert api.request("GET", f"{IPS}/{six}").json()["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"] == "IPv6"
    assert held(api)["10.96.0.1"] == "services/default/kubernetes"
    assert api.request("PATCH", f"{SERVICES}/{name}", {"spec": {"ipFamilyPolicy": "SingleStack"}}, headers=MERGE).code == 200
    assert (four in held(api), six in held(api)) == (True, False)
    gone = {"spec": {"type": "ExternalName", "externalName": "a.example", "clusterIP": None, "clusterIPs": None}}
    assert api.request("PATCH", f"{SERVICES}/{name}", gone, headers=MERGE).code == 200
    assert four not in held(api)
    back = {"spec": {"type": "ClusterIP", "externalName": None, "clusterIP": four}}
    assert api.request("PATCH", f"{SERVICES}/{name}", back, headers=MERGE).code == 200
    assert held(api)[four] == f"services/default/{name}"
    assert api.request("DELETE", f"{SERVICES}/{name}").code == 200
    assert four not in held(api)


def test_one_with_a_finalizer_keeps_its_address_to_the_end(api: Any) -> None:
    name = unique()
    body = service(name)
    body["metadata"]["finalizers"] = ["example.com/x"]
    (ip,) = api.request("POST", SERVICES, body).json()["spec"]["clusterIPs"]
    api.request("DELETE", f"{SERVICES}/{name}")
    assert ip in held(api)
    api.request("PATCH", f"{SERVICES}/{name}", {"metadata": {"finalizers": None}}, headers=MERGE)
    assert ip not in held(api)


def test_its_name_is_the_canonical_spelling(api: Any) -> None:
    name = unique()
    assert make(api, name, clusterIP="FD00:10:96:0::CD") == ["FD00:10:96:0::CD"]
    assert held(api)["fd00:10:96::cd"] == f"services/default/{name}"
    assert api.request("DELETE", f"{SERVICES}/{name}").code == 200
    assert "fd00:10:96::cd" not in held(api)


def test_what_is_not_written_leaves_nothing(api: Any) -> None:
    before = held(api)
    assert api.request("POST", f"{SERVICES}?dryRun=All", service(unique())).code == 201
    name = unique()
    make(api, name)
    after = held(api)
    assert api.request("POST", SERVICES, service(name)).code == 409
    assert api.request("POST", SERVICES, service(unique(), clusterIP="10.96.0.77", type="NodePort",
                                                 ports=[{"port": 80, "nodePort": 1}])).code == 422  # fmt: skip
    eventually(lambda: held(api) == after)
    assert after.keys() - before.keys() != set()
    make(api, clusterIP="10.96.0.77")


def test_an_address_of_somebody_else_is_not_given(api: Any) -> None:
    taken = {"metadata": {"name": "10.96.0.99"}, "spec": {"parentRef": {"group": "x.io", "resource": "things", "name": "t"}}}
    assert api.request("POST", IPS, taken).code == 201
    refused = api.request("POST", SERVICES, service(unique(), clusterIP="10.96.0.99"))
    assert (refused.code, "provided IP is already allocated" in refused.json()["message"]) == (422, True)
    assert api.request("POST", IPS, taken).code == 409
    assert api.request("DELETE", f"{IPS}/10.96.0.99").code == 200
    assert make(api, clusterIP="10.96.0.99") == ["10.96.0.99"]


@pytest.mark.parametrize(
    ("name", "spec", "why"),
    [
        ("10.96.0.300", {}, "must be a valid IP address"),
        ("fd00:0::1", {}, 'must be in canonical form (\\"fd00::1\\")'),
        ("10.0.0.9", {}, "spec.parentRef: Required value"),
        ("10.0.0.9", {"parentRef": {"resource": "services"}}, "spec.parentRef.name: Required value"),
        ("10.0.0.9", {"parentRef": {"name": "x"}}, "spec.parentRef.resource: Required value"),
        ("10.0.0.9", {"parentRef": {"resource": "a/b", "name": "x"}}, "spec.parentRef.resource: Invalid value"),
        ("10.0.0.9", {"parentRef": {"group": "A_", "resource": "a", "name": "x"}}, "spec.parentRef.group: Invalid value"),
    ],
)
def test_ipaddresses_that_cannot_be(api: Any, name: str, spec: dict[str, Any], why: str) -> None:
    answer = api.request("POST", IPS, {"metadata": {"name": name}, "spec": spec})
    assert (answer.code, why in answer.body.decode()) == (422, True), answer.body


def test_tampering_is_mended_and_told(api: Any) -> None:
    name = unique()
    (ip,) = make(api, name)
    old = api.request("GET", f"{IPS}/{ip}").json()["metadata"]["uid"]
    assert api.request("DELETE", f"{IPS}/{ip}").code == 200
    eventually(lambda: held(api).get(ip) == f"services/default/{name}")
    assert api.request("GET", f"{IPS}/{ip}").json()["metadata"]["uid"] != old
    eventually(lambda: ("ClusterIPNotAllocated", f"Cluster IP [IPv4]: {ip} is not allocated; repairing") in events(api, name))
    wrong = {"metadata": {"labels": {"ipaddress.kubernetes.io/managed-by": "me"}}}
    assert api.request("PATCH", f"{IPS}/{ip}", wrong, headers=MERGE).code == 200
    eventually(lambda: api.request("GET", f"{IPS}/{ip}").json()["metadata"].get("labels") == LABELS)
    moved = api.request("PATCH", f"{IPS}/{ip}", {"spec": {"parentRef": {"name": "other"}}}, headers=MERGE)
    assert (moved.code, "field is immutable" in moved.json()["message"]) == (422, True)


def test_a_crash_between_the_two_writes_is_mended(apiserver_factory: Callable[..., Any]) -> None:
    """What a server that died left behind: an object without its Service goes after a minute, not before; a Service without its
    object gets it."""
    api = apiserver_factory("--service-cluster-ip-range", "10.96.0.0/24")
    (ip,) = make(api, "web")
    api.stop(signal.SIGKILL)

    def left(age_s: int) -> bytes:
        made = rfc3339(datetime.now(UTC) - timedelta(seconds=age_s))
        ref = {"resource": "services", "namespace": "default", "name": "never"}
        metadata = {"labels": LABELS, "uid": unique(), "creationTimestamp": made}
        return json.dumps({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": metadata, "spec": {"parentRef": ref}}).encode()

    async def crash() -> None:
        store = SQLiteStore(api.directory / "data" / "state.db")
        store.start()
        prefix = "/registry/ipaddresses.networking.k8s.io/"
        kept = await store.get(prefix + ip)
        assert kept is not None
        await store.delete(prefix + ip, kept.mod_revision)
        for address, age_s in (("10.96.0.200", 90), ("10.96.0.201", 0)):
            value = left(age_s).replace(b'"metadata": {', b'"metadata": {"name": "%s", ' % address.encode())
            await store.create(prefix + address, value)
        await store.close()

    asyncio.run(crash())
    api.start()
    assert held(api) == {
        "10.96.0.1": "services/default/kubernetes", ip: "services/default/web", "10.96.0.201": "services/default/never"
    }  # fmt: skip
    assert ("ClusterIPNotAllocated", f"Cluster IP [IPv4]: {ip} is not allocated; repairing") in events(api, "web")
    text = "IPAddress: 10.96.0.200 for Service default/never appears to have leaked: cleaning up"
    assert ("IPAddressNotAllocated", text) in events(api, "10.96.0.200")


def test_many_at_once_have_one_object_each(apiserver_factory: Callable[..., Any]) -> None:
    api = apiserver_factory("--service-cluster-ip-range", "10.96.0.0/26,fd00:10:96::/112")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: api.request("POST", SERVICES, service(f"n{i}", ipFamilyPolicy="RequireDualStack")), range(70)))
    good = [a.json() for a in answers if a.code == 201]
    assert len(good) == 61, "62 addresses, of which kubernetes has one"
    wanted = {ip: f"services/default/{s['metadata']['name']}" for s in good for ip in s["spec"]["clusterIPs"]}
    wanted["10.96.0.1"] = "services/default/kubernetes"
    eventually(lambda: held(api) == wanted)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda s: api.request("DELETE", f"{SERVICES}/{s['metadata']['name']}"), good))
    assert held(api) == {"10.96.0.1": "services/default/kubernetes"}


def test_the_lower_band_is_for_who_chooses(apiserver_factory: Callable[..., Any]) -> None:
    """Of a /24 the first 16 addresses, of 20 node ports the first 16, come last."""
    api = apiserver_factory("--service-cluster-ip-range", "10.96.0.0/24", "--service-node-port-range", "30000-30019")
    made = [api.request("POST", SERVICES, service(unique(), type="NodePort")).json()["spec"] for _ in range(4)]
    assert {p["ports"][0]["nodePort"] for p in made} == set(range(30016, 30020))
    assert api.request("POST", SERVICES, service(unique(), type="NodePort")).json()["spec"]["ports"][0]["nodePort"] < 30016
    last = [int(ip.rpartition(".")[2]) for _ in range(60) for ip in make(api)]
    assert min(last) >= 17
    assert make(api, clusterIP="10.96.0.2") == ["10.96.0.2"]


def test_ranges_come_and_go(apiserver_factory: Callable[..., Any]) -> None:
    api = apiserver_factory("--service-cluster-ip-range", "10.96.0.0/28")
    (first,) = api.request("GET", CIDRS).json()["items"]
    assert (first["metadata"]["name"], first["spec"]) == ("kubernetes", {"cidrs": ["10.96.0.0/28"]})
    assert [(c["type"], c["status"], c["message"]) for c in first["status"]["conditions"]] == [
        ("Ready", "True", "Kubernetes default Service CIDR is ready")
    ]
    for _ in range(13):
        make(api)
    full = api.request("POST", SERVICES, service(unique()))
    assert (full.code, "range is full" in full.json()["message"]) == (500, True)
    outside = api.request("POST", SERVICES, service(unique(), clusterIP="10.97.0.5"))
    assert "the provided network does not match the current range" in outside.json()["message"]
    more = {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/28"]}}
    assert api.request("POST", CIDRS, more).code == 201
    assert make(api)[0].startswith("10.97.0.")
    not_ready = {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "X", "message": "",
                                            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}  # fmt: skip
    assert api.request("PATCH", f"{CIDRS}/more/status", not_ready, headers=MERGE).code == 200
    assert api.request("POST", SERVICES, service(unique())).code == 500
    not_ready["status"]["conditions"][0]["status"] = "True"
    assert api.request("PATCH", f"{CIDRS}/more/status", not_ready, headers=MERGE).code == 200
    api.request("PATCH", f"{CIDRS}/more", {"metadata": {"finalizers": ["networking.k8s.io/service-cidr-finalizer"]}}, headers=MERGE)
    make(api, "stays")
    api.request("DELETE", f"{CIDRS}/more")
    assert api.request("POST", SERVICES, service(unique())).code == 500, "nothing more from a range that goes"
    assert api.request("PATCH", f"{SERVICES}/stays", {"spec": {"sessionAffinity": "ClientIP"}}, headers=MERGE).code == 200


@pytest.mark.parametrize(
    ("cidrs", "why"),
    [
        ([], "at least one CIDR required"),
        (["10.0.0.0/24", "fd00::/112", "fd01::/112"], "may only hold up to 2 values"),
        (["10.0.0.0/24", "10.1.0.0/24"], "may specify no more than one IP for each IP family"),
        (["10.0.0.1/24"], 'must be in canonical form ("10.0.0.0/24")'),
        (["fd00::/48"], "the prefix must be /64 or longer"),
        (["x"], "must be a valid CIDR value"),
    ],
)
def test_servicecidrs_that_cannot_be(api: Any, cidrs: list[str], why: str) -> None:
    answer = api.request("POST", CIDRS, {"metadata": {"name": "wrong"}, "spec": {"cidrs": cidrs}})
    assert (answer.code, why in answer.json()["message"]) == (422, True), answer.body
    change = api.request("PATCH", f"{CIDRS}/kubernetes", {"spec": {"cidrs": cidrs}}, headers=MERGE)
    assert change.code == 422


def test_another_range_than_before_changes_nothing_and_is_told(apiserver_factory: Callable[..., Any]) -> None:
    api = apiserver_factory("--service-cluster-ip-range", "10.98.0.0/24")
    api.stop()
    api.extra[:] = ["--service-cluster-ip-range", "10.99.0.0/24"]
    api.start()
    (only,) = api.request("GET", CIDRS).json()["items"]
    assert only["spec"] == {"cidrs": ["10.98.0.0/24"]}
    assert make(api)[0].startswith("10.98.0.")
    reason = "KubernetesDefaultServiceCIDRInconsistent"
    text = "The default ServiceCIDR [10.98.0.0/24] does not match the controller flag configurations [10.99.0.0/24]"
    assert (reason, text) in events(api, "kubernetes")
    api.stop()
    api.extra[:] = ["--service-cluster-ip-range", "10.98.0.0/24,fd00:10:98::/112"]
    api.start()
    (only,) = api.request("GET", CIDRS).json()["items"]
    assert only["spec"] == {"cidrs": ["10.98.0.0/24", "fd00:10:98::/112"]}, "it may gain a family"
    assert make(api, ipFamilies=["IPv6"])[0].startswith("fd00:10:98::")
