"""Services' addresses and ports: unique under concurrency, kept, given back, of one or two families."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

PATH = "/api/v1/namespaces/default/services"
MERGE = {"Content-Type": "application/merge-patch+json"}


def unique() -> str:
    return f"s{os.urandom(4).hex()}"


def service(name: str = "", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name or unique()}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}, **spec}}


@pytest.fixture(scope="module")
def dual(apiserver_factory: Callable[..., Any]) -> Any:
    return apiserver_factory(
        "--service-cluster-ip-range", "10.96.0.0/24,fd00:10:96::/112", "--service-node-port-range", "30000-30019"
    )


def made(api: Any, obj: dict[str, Any]) -> dict[str, Any]:
    answer = api.request("POST", PATH, obj)
    assert answer.code == 201, answer.body
    spec: dict[str, Any] = answer.json()["spec"]
    return spec


def patched(api: Any, name: str, **spec: Any) -> dict[str, Any]:
    answer = api.request("PATCH", f"{PATH}/{name}", {"spec": spec}, headers=MERGE)
    assert answer.code == 200, answer.body
    changed: dict[str, Any] = answer.json()["spec"]
    return changed


def test_both_families_where_asked_for(dual: Any) -> None:
    name = unique()
    spec = made(dual, service(name))
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"], len(spec["clusterIPs"])) == ("SingleStack", ["IPv4"], 1)
    up = patched(dual, name, ipFamilyPolicy="RequireDualStack")
    assert up["ipFamilies"] == ["IPv4", "IPv6"]
    assert up["clusterIPs"][0] == spec["clusterIP"] == up["clusterIP"]
    second = up["clusterIPs"][1]
    assert second.startswith("fd00:10:96::")
    taken = dual.request("POST", PATH, service(clusterIP=second, clusterIPs=[second]))
    assert "provided IP is already allocated" in taken.json()["message"]
    assert dual.request("PATCH", f"{PATH}/{name}", {"spec": {"clusterIPs": up["clusterIPs"][:1]}}, headers=MERGE).code == 422
    down = patched(dual, name, ipFamilyPolicy="SingleStack")
    assert (down["ipFamilies"], down["clusterIPs"]) == (["IPv4"], [spec["clusterIP"]])
    again = made(dual, service(clusterIP=second, clusterIPs=[second]))
    assert (again["ipFamilies"], again["ipFamilyPolicy"]) == (["IPv6"], "SingleStack")


def test_headless_and_external_names(dual: Any) -> None:
    bare = {"metadata": {"name": unique()}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}
    assert made(dual, bare)["ipFamilies"] == ["IPv4", "IPv6"], "without a selector anything may stand behind it"
    assert made(dual, service(clusterIP="None", ipFamilyPolicy="PreferDualStack"))["ipFamilies"] == ["IPv4", "IPv6"]
    name = unique()
    address = made(dual, service(name, ipFamilyPolicy="PreferDualStack"))["clusterIP"]
    external = patched(dual, name, type="ExternalName", externalName="a.example", clusterIP=None, clusterIPs=None)
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & external.keys()
    assert made(dual, service(clusterIP=address))["clusterIP"] == address, "given back"
    back = patched(dual, name, type="ClusterIP", externalName=None)
    assert (back["ipFamilies"], len(back["clusterIPs"])) == (["IPv4"], 1)


def test_node_ports_go_with_the_type_and_the_service(dual: Any) -> None:
    name = unique()
    port = made(dual, service(name, type="NodePort"))["ports"][0]["nodePort"]
    assert "nodePort" not in patched(dual, name, type="ClusterIP")["ports"][0]
    taken = unique()
    assert made(dual, service(taken, type="NodePort", ports=[{"port": 80, "nodePort": port}]))["ports"][0]["nodePort"] == port
    dual.request("DELETE", f"{PATH}/{taken}")
    both = [{"name": "a", "port": 53, "protocol": "UDP", "nodePort": port}, {"name": "b", "port": 53, "nodePort": port}]
    assert [p["nodePort"] for p in made(dual, service(type="NodePort", ports=both))["ports"]] == [port, port]


def test_a_load_balancers_health_check_port(dual: Any) -> None:
    name = unique()
    spec = made(dual, service(name, type="LoadBalancer", externalTrafficPolicy="Local"))
    port = spec["healthCheckNodePort"]
    assert port in range(30000, 30020)
    assert port != spec["ports"][0]["nodePort"]
    assert patched(dual, name, sessionAffinity="ClientIP")["healthCheckNodePort"] == port
    refused = dual.request("PATCH", f"{PATH}/{name}", {"spec": {"healthCheckNodePort": 30001 + (port == 30001)}}, headers=MERGE)
    assert refused.code == 422
    assert "field is immutable" in refused.json()["message"]
    assert "healthCheckNodePort" not in patched(dual, name, externalTrafficPolicy="Cluster")
    assert made(dual, service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=port))["healthCheckNodePort"] == port
    early = dual.request("POST", PATH, service(healthCheckNodePort=30005))
    assert "may only be set when `type` is 'LoadBalancer'" in early.json()["message"]


def test_every_type_after_every_other(dual: Any) -> None:
    """What a type has no use for goes, unless it is asked for; what it needs comes; the address stays."""
    name = unique()
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 443}]
    first = made(dual, service(name, type="LoadBalancer", externalTrafficPolicy="Local", loadBalancerClass="x.io/lb", ports=ports))
    balanced = {"allocateLoadBalancerNodePorts", "healthCheckNodePort", "loadBalancerClass"}
    assert balanced <= first.keys()
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}}
    assert dual.request("PATCH", f"{PATH}/{name}/status", status, headers=MERGE).code == 200
    node_port = patched(dual, name, type="NodePort")
    assert not balanced & node_port.keys()
    assert (node_port["externalTrafficPolicy"], node_port["ports"]) == ("Local", first["ports"])
    assert dual.request("GET", f"{PATH}/{name}").json()["status"] == {"loadBalancer": {}}
    plain = patched(dual, name, type="ClusterIP")
    assert "externalTrafficPolicy" not in plain
    assert (plain["clusterIP"], [p.get("nodePort") for p in plain["ports"]]) == (first["clusterIP"], [None, None])
    external = patched(dual, name, type="ExternalName", externalName="a.example")
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & external.keys()
    again = patched(dual, name, type="LoadBalancer", externalName=None)
    assert again["allocateLoadBalancerNodePorts"] is True
    assert (again["externalTrafficPolicy"], "healthCheckNodePort" in again) == ("Cluster", False)
    assert all(p["nodePort"] for p in again["ports"])
    assert "healthCheckNodePort" in patched(dual, name, externalTrafficPolicy="Local")
    asked = {"spec": {"type": "ClusterIP", "ports": [{"name": "a", "port": 80, "nodePort": 30001}]}}
    if again["ports"][0]["nodePort"] == 30001:
        asked["spec"]["ports"][0]["nodePort"] = 30002  # type: ignore[index]
    assert "may not be used when `type` is 'ClusterIP'" in refused(dual, "PATCH", f"{PATH}/{name}", asked)
    assert dual.request("DELETE", f"{PATH}/{name}").code == 200


def test_a_node_port_stays_with_the_ports_name(dual: Any) -> None:
    name = unique()
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 443}]
    a, b = (p["nodePort"] for p in made(dual, service(name, type="NodePort", ports=ports))["ports"])

    def put(*ports: dict[str, Any]) -> list[int]:
        answer = dual.request("PUT", f"{PATH}/{name}", service(name, type="NodePort", ports=list(ports)))
        assert answer.code == 200, answer.body
        return [p["nodePort"] for p in answer.json()["spec"]["ports"]]

    assert put({"name": "b", "port": 8443}, {"name": "a", "port": 8080}) == [b, a], "whatever its number and place"
    renamed, kept = put({"name": "c", "port": 8443}, {"name": "a", "port": 8080})
    assert (kept, renamed in (a, b)) == (a, False), "another name is another port"
    assert put({"name": "a", "port": 80, "protocol": "UDP"}) == [a]
    assert dual.request("DELETE", f"{PATH}/{name}").code == 200


def test_a_load_balancers_class_stays(dual: Any) -> None:
    name = unique()
    made(dual, service(name, type="LoadBalancer", loadBalancerClass="x.io/lb"))
    for other in ("x.io/other", None):
        answer = refused(dual, "PATCH", f"{PATH}/{name}", {"spec": {"loadBalancerClass": other}})
        assert "may not change once set" in answer
    assert "name part must consist of" in refused(dual, "POST", PATH, service(type="LoadBalancer", loadBalancerClass="a b"))
    patched(dual, name, type="ClusterIP")
    assert patched(dual, name, type="LoadBalancer", loadBalancerClass="x.io/other")["loadBalancerClass"] == "x.io/other"
    assert dual.request("DELETE", f"{PATH}/{name}").code == 200


def test_many_at_once_never_share_and_none_is_lost(apiserver_factory: Callable[..., Any]) -> None:
    api = apiserver_factory("--service-cluster-ip-range", "10.96.0.0/26", "--service-node-port-range", "30000-30039")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: api.request("POST", PATH, service(type="NodePort")), range(45)))
    good = [a.json() for a in answers if a.code == 201]
    assert len(good) == 40, "as many as there are ports"
    assert all("range is full" in a.json()["message"] for a in answers if a.code != 201)
    assert len({s["spec"]["clusterIP"] for s in good}) == len({s["spec"]["ports"][0]["nodePort"] for s in good}) == 40
    for s in good:
        assert api.request("DELETE", f"{PATH}/{s['metadata']['name']}").code == 200
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: api.request("POST", PATH, service(type="NodePort")), range(40)))
    assert [a.code for a in answers] == [201] * 40, "all were given back, also those of refused creates"
    held = {a.json()["spec"]["clusterIP"] for a in answers}
    api.stop()
    api.start()
    taken = api.request("POST", PATH, service(clusterIP=min(held)))
    assert "already allocated" in taken.json()["message"], "also known after a restart"


def refused(api: Any, method: str, path: str, body: dict[str, Any]) -> str:
    answer = api.request(method, path, body, headers=MERGE if method == "PATCH" else None)
    assert answer.code == 422, answer.body
    message: str = answer.json()["message"]
    return message


def test_an_address_keeps_its_spelling_and_is_one(dual: Any) -> None:
    name, written = unique(), "FD00:10:96:0::AB"
    first = made(dual, service(name, clusterIP=written))
    assert (first["clusterIP"], first["clusterIPs"], first["ipFamilies"]) == (written, [written], ["IPv6"])
    assert patched(dual, name, sessionAffinity="ClientIP")["clusterIPs"] == [written]
    for again in (written, "fd00:10:96::ab", "fd00:10:96::AB"):
        assert "provided IP is already allocated" in refused(dual, "POST", PATH, service(clusterIP=again))
    outside = refused(dual, "POST", PATH, service(clusterIP="fd00:10:97::1"))
    assert "the provided network does not match the current range" in outside
    assert dual.request("DELETE", f"{PATH}/{name}").code == 200
    assert made(dual, service(clusterIP="fd00:10:96::ab"))["clusterIP"] == "fd00:10:96::ab"


def test_what_a_living_service_may_change_of_its_families(dual: Any) -> None:
    name = unique()
    spec = made(dual, service(name, type="NodePort", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6"]))
    assert (spec["ipFamilies"], ":" in spec["clusterIP"]) == (["IPv6", "IPv4"], True)
    port = spec["ports"][0]["nodePort"]
    path = f"{PATH}/{name}"
    other = {"spec": {"clusterIPs": [spec["clusterIP"], "10.96.0.250"]}}
    assert "spec.clusterIPs[1]" in refused(dual, "PATCH", path, other)
    turned = {"spec": {"ipFamilies": ["IPv4", "IPv6"]}}
    assert "expected an IPv4 value as indicated by `ipFamilies[0]`" in refused(dual, "PATCH", path, turned)
    less = {"spec": {"ipFamilies": ["IPv6"]}}
    assert "must be set to 'SingleStack' when releasing the secondary ipFamily" in refused(dual, "PATCH", path, less)
    down = patched(dual, name, ipFamilyPolicy="SingleStack", ipFamilies=["IPv6"], clusterIPs=[spec["clusterIP"]])
    assert (down["ipFamilies"], down["clusterIPs"], down["ports"][0]["nodePort"]) == (["IPv6"], [spec["clusterIP"]], port)
    up = patched(dual, name, ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv6", "IPv4"])
    assert (up["clusterIPs"][0], len(up["clusterIPs"]), up["ports"][0]["nodePort"]) == (spec["clusterIP"], 2, port)
    bare = unique()
    made(dual, service(bare, clusterIP="None"))
    assert patched(dual, bare, ipFamilies=["IPv6"])["ipFamilies"] == ["IPv6"], "no address goes with a headless one"
    single = {"spec": {"ports": [{"port": 80}], "ipFamilies": ["IPv4", "IPv6"]}, "metadata": {"name": unique()}}
    why = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"
    assert why in refused(dual, "POST", PATH, single)


def test_two_families_at_once_or_none_also_when_one_runs_out(apiserver_factory: Callable[..., Any]) -> None:
    """13 addresses in IPv4 (`kubernetes` has one), 15 in IPv6: what was taken of one is given back when the other is full."""
    api = apiserver_factory("--service-cluster-ip-range", "10.96.0.0/28,fd00:10:96::/124")
    singles = [unique() for _ in range(6)]
    for name in singles:
        made(api, service(name))
    with ThreadPoolExecutor(16) as pool:
        news = [pool.submit(api.request, "POST", PATH, service(ipFamilyPolicy="RequireDualStack")) for _ in range(12)]
        wanted = {"spec": {"ipFamilyPolicy": "RequireDualStack"}}
        ups = [pool.submit(api.request, "PATCH", f"{PATH}/{n}", wanted, headers=MERGE) for n in singles]
        answers = [f.result() for f in (*news, *ups)]
    good = [a.json() for a in answers if a.code in (200, 201)]
    assert len(good) == 13, [a.body for a in answers]
    assert all("range is full" in a.json()["message"] for a in answers if a.code not in (200, 201))
    held = [ip for s in good for ip in s["spec"]["clusterIPs"]]
    assert len(set(held)) == 26
    assert all(s["spec"]["ipFamilies"] == ["IPv4", "IPv6"] for s in good)
    six = [api.request("POST", PATH, service(ipFamilies=["IPv6"])) for _ in range(3)]
    assert [a.code for a in six] == [201, 201, 500], "the refused ones hold nothing"
    api.stop()
    api.start()
    assert api.request("POST", PATH, service(ipFamilies=["IPv6"])).code == 500, "all are known after a restart"


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("10.96.0.0/16,10.97.0.0/16",), "must be of different IP families"),
        (("10.96.0.0/16,fd00::/112,fd01::/112",), "more than two ranges"),
        (("fd00:10:96::/112,10.96.0.0/16", "--advertise-address", "192.168.56.10"), "must match public address family"),
    ],
)
def test_ranges_that_cannot_be(flags: tuple[str, ...], why: str, capfd: pytest.CaptureFixture[str]) -> None:
    from nsk8s.apiserver.main import main

    assert main(["--data-dir", ":memory:", "--bind-address", "127.0.0.1", "--service-cluster-ip-range", *flags]) != 0
    assert why in capfd.readouterr().err


def test_a_cluster_that_gains_and_loses_a_family(apiserver_factory: Callable[..., Any]) -> None:
    """No Service changes by itself; the next explicit word changes it, or says what the cluster cannot."""
    api = apiserver_factory("--service-cluster-ip-range", "10.96.0.0/24")
    name, six = unique(), unique()
    four = made(api, service(name, ipFamilyPolicy="PreferDualStack"))
    assert four["ipFamilies"] == ["IPv4"]
    _restart(api, "10.96.0.0/24,fd00:10:96::/112")
    assert patched(api, name, sessionAffinity="ClientIP")["clusterIPs"] == four["clusterIPs"]
    both = patched(api, name, ipFamilyPolicy="RequireDualStack")
    assert both["ipFamilies"] == ["IPv4", "IPv6"]
    patched(api, name, ipFamilyPolicy="PreferDualStack")
    made(api, service(six, ipFamilies=["IPv6"]))
    _restart(api, "10.96.0.0/24")
    assert patched(api, name, sessionAffinity="None")["clusterIPs"] == both["clusterIPs"]
    why = refused(api, "PATCH", f"{PATH}/{name}", {"spec": {"ipFamilyPolicy": "RequireDualStack"}})
    assert "this cluster is not configured for dual-stack services" in why
    assert "not configured on this cluster" in refused(api, "PATCH", f"{PATH}/{six}", {"spec": {"sessionAffinity": "ClientIP"}})
    assert patched(api, name, ipFamilyPolicy="SingleStack")["clusterIPs"] == four["clusterIPs"]
    assert api.request("DELETE", f"{PATH}/{six}").code == 200


def _restart(api: Any, ranges: str) -> None:
    api.stop()
    api.extra = ["--service-cluster-ip-range", ranges]
    api.start()
