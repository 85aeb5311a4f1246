"""The Kubernetes DNS specification 1.1, record by record, on a view fed with objects as the API has them."""

from __future__ import annotations

import pytest

from nsk8s.api.meta import Object
from nsk8s.dns import records
from nsk8s.dns.records import NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Answer, Question, Record, labels, resolve
from nsk8s.dns.settings import Kubernetes
from nsk8s.dns.view import View


def service(name: str, ns: str = "default", **spec: object) -> Object:
    return {"metadata": {"name": name, "namespace": ns}, "spec": {"type": "ClusterIP", **spec}}


def endpoint_slice(
    svc: str, addresses: list[object], ports: list[Object] | None = None, ns: str = "default", **extra: object
) -> Object:
    """`addresses`: text, or (address, hostname, ready)."""
    endpoints = []
    for entry in addresses:
        address, hostname, ready = entry if isinstance(entry, tuple) else (entry, None, True)
        endpoint: Object = {"addresses": [address], "conditions": {} if ready is None else {"ready": ready}}
        if hostname:
            endpoint["hostname"] = hostname
        endpoints.append(endpoint)
    name = extra.pop("name", f"{svc}-abc")
    return {
        "metadata": {"name": name, "namespace": ns, "labels": {"kubernetes.io/service-name": svc}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports, **extra,
    }  # fmt: skip


def port(name: str, number: int, protocol: str = "TCP") -> Object:
    return {"name": name, "port": number, "protocol": protocol}


HTTP = port("http", 80)
DNS_UDP = port("dns", 53, "UDP")
DB_PODS = [("10.244.1.2", "db-0", None), ("10.244.2.2", "db-1", True), "10.244.3.3", ("10.244.3.9", "db-9", False)]


def make_view() -> View:
    view = View(Kubernetes(), ["10.244.1.5"])
    view.synced = True
    for ns in ("default", "kube-system", "empty"):
        view.namespace_changed(None, {"metadata": {"name": ns}})
    for svc in (
        service("kubernetes", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"], ports=[port("https", 443)]),
        service("web", clusterIP="10.96.7.7", ports=[HTTP, port("admin", 81)]),
        service("dual", clusterIP="10.96.0.9", clusterIPs=["10.96.0.9", "fd00:96::9"], ports=[HTTP]),
        service("db", clusterIP="None", ports=[HTTP]),
        service("portless", clusterIP="None"),
        service("nobody", clusterIP="None", ports=[HTTP]),
        service("ext", type="ExternalName", externalName="www.example.com"),
        service("alias", type="ExternalName", externalName="web.default.svc.cluster.local."),
        service("broken", type="ExternalName", externalName="gone.default.svc.cluster.local"),
        service("loop", type="ExternalName", externalName="loop.default.svc.cluster.local"),
        service("number", type="ExternalName", externalName="192.0.2.7"),
        service("kube-dns", "kube-system", clusterIP="10.96.0.10", ports=[DNS_UDP, port("dns-tcp", 53)]),
    ):
        view.service_changed(None, svc)
    for piece in (
        endpoint_slice("db", DB_PODS, [HTTP]),
        endpoint_slice("db", ["fd00:244::1:3"], [HTTP], name="db-v6", addressType="IPv6"),
        endpoint_slice("portless", ["10.244.1.9"]),
        endpoint_slice("web", ["10.244.1.3"], [port("http", 8080)]),
        endpoint_slice("kube-dns", ["10.244.1.5"], [DNS_UDP], ns="kube-system"),
    ):
        view.slice_changed(None, piece)
    return view


def ask(name: str, kind: str = "A", view: View | None = None) -> Answer:
    return resolve(Question(labels(name), kind), view or make_view())


def shown(entries: list[Record]) -> set[str]:
    """Records as `name type data`, names joined."""

    def text(value: object) -> str:
        return ".".join(value) if isinstance(value, tuple) else str(value)

    return {f"{'.'.join(r.name)} {r.type} {' '.join(text(d) for d in r.data)}" for r in entries}


def negative(answer: Answer, rcode: int) -> bool:
    return answer.rcode == rcode and not answer.answers and [r.type for r in answer.authority] == ["SOA"]


ANSWERS = [
    ("kubernetes.default.svc.cluster.local", "A", {"kubernetes.default.svc.cluster.local A 10.96.0.1"}),
    ("dual.default.svc.cluster.local", "A", {"dual.default.svc.cluster.local A 10.96.0.9"}),
    ("dual.default.svc.cluster.local", "AAAA", {"dual.default.svc.cluster.local AAAA fd00:96::9"}),
    ("db.default.svc.cluster.local", "A", {f"db.default.svc.cluster.local A 10.244.{a}" for a in ("1.2", "2.2", "3.3")}),
    ("db.default.svc.cluster.local", "AAAA", {"db.default.svc.cluster.local AAAA fd00:244::1:3"}),
    ("db-0.db.default.svc.cluster.local", "A", {"db-0.db.default.svc.cluster.local A 10.244.1.2"}),
    ("10-244-3-3.db.default.svc.cluster.local", "A", {"10-244-3-3.db.default.svc.cluster.local A 10.244.3.3"}),
    ("fd00-244--1-3.db.default.svc.cluster.local", "AAAA", {"fd00-244--1-3.db.default.svc.cluster.local AAAA fd00:244::1:3"}),
    ("10-244-1-3.web.default.svc.cluster.local", "A", {"10-244-1-3.web.default.svc.cluster.local A 10.244.1.3"}),
    ("portless.default.svc.cluster.local", "A", {"portless.default.svc.cluster.local A 10.244.1.9"}),
    ("1-2-3-4.default.pod.cluster.local", "A", {"1-2-3-4.default.pod.cluster.local A 1.2.3.4"}),
    ("fd00--1.default.pod.cluster.local", "AAAA", {"fd00--1.default.pod.cluster.local AAAA fd00::1"}),
    ("dns-version.cluster.local", "TXT", {"dns-version.cluster.local TXT 1.1.0"}),
    ("ext.default.svc.cluster.local", "A", {"ext.default.svc.cluster.local CNAME www.example.com"}),
    ("ext.default.svc.cluster.local", "CNAME", {"ext.default.svc.cluster.local CNAME www.example.com"}),
    (
        "alias.default.svc.cluster.local", "A",
        {"alias.default.svc.cluster.local CNAME web.default.svc.cluster.local", "web.default.svc.cluster.local A 10.96.7.7"},
    ),
    ("1.0.96.10.in-addr.arpa", "PTR", {"1.0.96.10.in-addr.arpa PTR kubernetes.default.svc.cluster.local"}),
    ("2.1.244.10.in-addr.arpa", "PTR", {"2.1.244.10.in-addr.arpa PTR db-0.db.default.svc.cluster.local"}),
    ("3.3.244.10.in-addr.arpa", "PTR", {"3.3.244.10.in-addr.arpa PTR 10-244-3-3.db.default.svc.cluster.local"}),
    ("cluster.local", "NS", {"cluster.local NS kube-dns.kube-system.svc.cluster.local"}),
    ("ns.dns.cluster.local", "A", {"ns.dns.cluster.local A 10.96.0.10"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "expected"), ANSWERS)
def test_answers(name: str, kind: str, expected: set[str]) -> None:
    answer = ask(name, kind)
    assert answer.rcode == NOERROR
    assert shown(answer.answers) == expected
    assert answer.authoritative
    assert not answer.authority


NODATA = [
    ("kubernetes.default.svc.cluster.local", "AAAA"),
    ("kubernetes.default.svc.cluster.local", "MX"),
    ("kubernetes.default.svc.cluster.local", "TXT"),
    ("kubernetes.default.svc.cluster.local", "TYPE65"),
    ("kubernetes.default.svc.cluster.local", "SOA"),
    ("1-2-3-4.default.pod.cluster.local", "AAAA"),
    ("cluster.local", "A"),
    ("svc.cluster.local", "A"),
    ("pod.cluster.local", "A"),
    ("default.svc.cluster.local", "A"),
    ("empty.svc.cluster.local", "A"),
    ("empty.pod.cluster.local", "A"),
    ("dns-version.cluster.local", "A"),
    ("_tcp.web.default.svc.cluster.local", "A"),
    ("ext.default.svc.cluster.local", "SRV"),
    ("1.0.96.10.in-addr.arpa", "A"),
    ("in-addr.arpa", "PTR"),
    ("portless.default.svc.cluster.local", "SRV"),
]


@pytest.mark.parametrize(("name", "kind"), NODATA)
def test_name_without_such_records_is_nodata(name: str, kind: str) -> None:
    assert negative(ask(name, kind), NOERROR)


MISSING = [
    ("nothing.default.svc.cluster.local", "A"),
    ("web.nowhere.svc.cluster.local", "A"),
    ("nowhere.svc.cluster.local", "A"),
    ("foo.cluster.local", "A"),
    ("default.cluster.local", "A"),
    ("web.default.cluster.local", "A"),
    ("db-9.db.default.svc.cluster.local", "A"),  # not ready
    ("bogus.db.default.svc.cluster.local", "A"),
    ("nobody.default.svc.cluster.local", "A"),  # headless and without endpoints
    ("x.ext.default.svc.cluster.local", "CNAME"),
    ("number.default.svc.cluster.local", "A"),
    ("_https._tcp.web.default.svc.cluster.local", "SRV"),
    ("_http._udp.web.default.svc.cluster.local", "SRV"),
    ("_udp.web.default.svc.cluster.local", "A"),
    ("a.b.c.web.default.svc.cluster.local", "A"),
    ("1-2-3.default.pod.cluster.local", "A"),
    ("1-2-3-456.default.pod.cluster.local", "A"),
    ("x.1-2-3-4.default.pod.cluster.local", "A"),
    ("1-2-3-4.nowhere.pod.cluster.local", "A"),
    ("9.9.9.9.in-addr.arpa", "PTR"),
    ("9.9.9.in-addr.arpa", "PTR"),
    ("300.9.9.9.in-addr.arpa", "PTR"),
    ("9.3.244.10.in-addr.arpa", "PTR"),  # not ready
]


@pytest.mark.parametrize(("name", "kind"), MISSING)
def test_name_that_does_not_exist(name: str, kind: str) -> None:
    assert negative(ask(name, kind), NXDOMAIN)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("example.com", "A"), ("", "NS"), ("local", "A"), ("xcluster.local", "A"), ("com", "TXT"), ("cluster.local", "AXFR")],
)
def test_what_is_not_ours_is_refused(name: str, kind: str) -> None:
    answer = ask(name, kind)
    assert (answer.rcode, answer.answers, answer.authority, answer.authoritative) == (REFUSED, [], [], False)


def test_srv_of_a_cluster_ip_service() -> None:
    answer = ask("_http._tcp.web.default.svc.cluster.local", "SRV")
    assert shown(answer.answers) == {"_http._tcp.web.default.svc.cluster.local SRV 0 100 80 web.default.svc.cluster.local"}
    assert shown(answer.additional) == {"web.default.svc.cluster.local A 10.96.7.7"}


def test_srv_without_a_port_name_lists_every_port() -> None:
    answer = ask("web.default.svc.cluster.local", "SRV")
    assert shown(answer.answers) == {
        "web.default.svc.cluster.local SRV 0 50 80 web.default.svc.cluster.local",
        "web.default.svc.cluster.local SRV 0 50 81 web.default.svc.cluster.local",
    }
    assert len(answer.additional) == 1


def test_srv_of_a_headless_service_names_its_endpoints() -> None:
    answer = ask("_http._tcp.db.default.svc.cluster.local", "SRV")
    base = "db.default.svc.cluster.local"
    assert shown(answer.answers) == {
        f"_http._tcp.{base} SRV 0 25 80 {host}.{base}" for host in ("db-0", "db-1", "10-244-3-3", "fd00-244--1-3")
    }
    assert shown(answer.additional) == {
        f"db-0.{base} A 10.244.1.2", f"db-1.{base} A 10.244.2.2", f"10-244-3-3.{base} A 10.244.3.3",
        f"fd00-244--1-3.{base} AAAA fd00:244::1:3",
    }  # fmt: skip


def test_every_name_an_srv_record_gives_resolves() -> None:
    view = make_view()
    for record in ask("_http._tcp.db.default.svc.cluster.local", "SRV", view).answers:
        target = record.data[3]
        assert isinstance(target, tuple)
        assert any(resolve(Question(target, kind), view).answers for kind in ("A", "AAAA"))


def test_v6_reverse() -> None:
    name = ".".join(reversed("fd000096" + "0" * 23 + "9")) + ".ip6.arpa"
    assert shown(ask(name, "PTR").answers) == {f"{name} PTR dual.default.svc.cluster.local"}


def test_the_spelling_of_the_question_is_kept_and_ignored() -> None:
    answer = ask("KuberNetes.DEFAULT.svc.Cluster.LOCAL")
    assert shown(answer.answers) == {"KuberNetes.DEFAULT.svc.Cluster.LOCAL A 10.96.0.1"}


def test_ttl_is_five_seconds() -> None:
    assert {r.ttl_s for r in ask("db.default.svc.cluster.local").answers} == {5}
    (soa,) = ask("nothing.default.svc.cluster.local").authority
    assert (soa.ttl_s, soa.data[0], soa.data[3:]) == (5, ("ns", "dns", "cluster", "local"), (7200, 1800, 86400, 5))


@pytest.mark.parametrize("name", ["broken", "loop"])
def test_an_alias_that_leads_to_nothing_is_no_data(name: str) -> None:
    """As CoreDNS; asked for the CNAME itself, it is told."""
    assert negative(ask(f"{name}.default.svc.cluster.local"), NOERROR)
    assert [r.type for r in ask(f"{name}.default.svc.cluster.local", "CNAME").answers] == ["CNAME"]


def test_a_circle_of_aliases_is_no_data() -> None:
    view = make_view()
    for name, other in (("tick", "tock"), ("tock", "tick")):
        view.service_changed(None, service(name, type="ExternalName", externalName=f"{other}.default.svc.cluster.local"))
    assert negative(ask("tick.default.svc.cluster.local", view=view), NOERROR)


@pytest.mark.parametrize("kind", ["SRV", "TXT", "MX", "HTTPS", "ANY"])
def test_an_alias_has_nothing_but_addresses(kind: str) -> None:
    assert negative(ask("ext.default.svc.cluster.local", kind), NOERROR)


def test_the_zone_is_spelt_as_the_client_does_wherever_it_comes_back() -> None:
    srv = ask("_HTTP._tcp.Web.default.svc.CLUSTER.Local", "SRV")
    assert shown(srv.answers) == {"_HTTP._tcp.Web.default.svc.CLUSTER.Local SRV 0 100 80 web.default.svc.CLUSTER.Local"}
    assert shown(srv.additional) == {"web.default.svc.CLUSTER.Local A 10.96.7.7"}
    (soa,) = ask("gone.default.svc.cluster.LOCAL").authority
    assert (soa.name, soa.data[0], soa.data[1]) == (
        ("cluster", "LOCAL"), ("ns", "dns", "cluster", "LOCAL"), ("hostmaster", "cluster", "LOCAL"),
    )  # fmt: skip
    assert shown(ask("7.7.96.10.IN-ADDR.arpa", "PTR").answers) == {"7.7.96.10.IN-ADDR.arpa PTR web.default.svc.cluster.local"}


def pod(name: str, ip: str, phase: str = "Running") -> Object:
    return {"metadata": {"name": name, "namespace": "default"}, "status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": phase}}


def test_pods_verified_are_those_there_are() -> None:
    view = View(Kubernetes(pods="verified"))
    view.synced = True
    view.namespace_changed(None, {"metadata": {"name": "default"}})
    view.namespace_changed(None, {"metadata": {"name": "other"}})
    one, end = pod("one", "10.244.1.9"), pod("one", "10.244.1.9", "Succeeded")
    view.pod_changed(None, one)
    view.pod_changed(None, pod("six", "fd00:244::9"))
    assert shown(ask("10-244-1-9.default.pod.cluster.local", view=view).answers) == {
        "10-244-1-9.default.pod.cluster.local A 10.244.1.9"
    }
    assert len(ask("fd00-244--9.default.pod.cluster.local", "AAAA", view).answers) == 1
    assert negative(ask("10-244-1-9.other.pod.cluster.local", view=view), NXDOMAIN), "not in this namespace"
    assert negative(ask("10-244-1-8.default.pod.cluster.local", view=view), NXDOMAIN)
    view.pod_changed(one, end)
    assert negative(ask("10-244-1-9.default.pod.cluster.local", view=view), NXDOMAIN), "its address may be another's by now"


def test_pods_disabled() -> None:
    view = View(Kubernetes(pods="disabled"))
    view.synced = True
    view.namespace_changed(None, {"metadata": {"name": "default"}})
    assert negative(ask("pod.cluster.local", view=view), NOERROR)
    assert negative(ask("default.pod.cluster.local", view=view), NXDOMAIN)
    assert negative(ask("10-244-1-9.default.pod.cluster.local", view=view), NXDOMAIN)


def test_endpoint_pod_names() -> None:
    """A hostname first, then the pod's name if it fits a label, then the address."""
    view = View(Kubernetes(endpoint_pod_names=True))
    view.synced = True
    view.namespace_changed(None, {"metadata": {"name": "default"}})
    view.service_changed(None, service("db", clusterIP="None"))
    piece = endpoint_slice("db", [("10.244.1.2", "db-0", True), "10.244.1.3", "10.244.1.4", "10.244.1.5"], [HTTP])
    for entry, name in zip(piece["endpoints"], ("pod-a", "pod-b", "x" * 64, ""), strict=True):
        entry["targetRef"] = {"kind": "Pod", "name": name}
    view.slice_changed(None, piece)
    assert {r.name[0] for r in ask("db.default.svc.cluster.local", "SRV", view).additional} == {
        "db-0", "pod-b", "10-244-1-4", "10-244-1-5",
    }  # fmt: skip
    assert len(ask("pod-b.db.default.svc.cluster.local", view=view).answers) == 1
    assert shown(ask("3.1.244.10.in-addr.arpa", "PTR", view).answers) == {
        "3.1.244.10.in-addr.arpa PTR pod-b.db.default.svc.cluster.local"
    }


def test_only_the_reverse_zones_it_is_given() -> None:
    view = View(Kubernetes(zones=("cluster.local", "96.10.in-addr.arpa")))
    view.synced = True
    view.service_changed(None, service("web", clusterIP="10.96.7.7", ports=[HTTP]))
    assert len(ask("7.7.96.10.in-addr.arpa", "PTR", view).answers) == 1
    assert ask("8.7.96.10.in-addr.arpa", "PTR", view).authority[0].name == ("96", "10", "in-addr", "arpa")
    assert ask("7.7.97.10.in-addr.arpa", "PTR", view).rcode == REFUSED


def test_the_soa_lives_five_minutes_at_most_and_begins_with_its_serial() -> None:
    view = View(Kubernetes(ttl_s=3600), serial=1_000_000)
    view.synced = True
    view.namespace_changed(None, {"metadata": {"name": "default"}})
    (soa,) = ask("cluster.local", "SOA", view).answers
    assert (soa.ttl_s, soa.data[2], soa.data[6]) == (300, 1_000_001, 3600)


def test_only_an_alias_that_leaves_the_cluster_is_unresolved() -> None:
    assert ask("ext.default.svc.cluster.local").unresolved == ("www", "example", "com")
    assert ask("alias.default.svc.cluster.local").unresolved is None


def test_before_the_first_sync_nothing_is_denied() -> None:
    view = make_view()
    view.synced = False
    assert ask("nothing.default.svc.cluster.local", view=view).rcode == SERVFAIL
    assert ask("example.com", view=view).rcode == REFUSED


def test_records_follow_their_objects() -> None:
    view = make_view()
    name = "db.default.svc.cluster.local"
    old = endpoint_slice("web", ["10.244.1.3"], [port("http", 8080)])
    generation = view.generation
    view.slice_changed(old, {**old, "metadata": {**old["metadata"], "resourceVersion": "9"}})
    assert view.generation == generation, "a change that DNS does not show is none"
    v6 = endpoint_slice("db", ["fd00:244::1:3"], [HTTP], name="db-v6", addressType="IPv6")
    view.slice_changed(v6, None)
    assert view.generation > generation
    assert negative(ask(name, "AAAA", view), NOERROR)
    svc = service("db", clusterIP="None", ports=[HTTP])
    view.service_changed(svc, None)
    assert negative(ask(name, "A", view), NXDOMAIN)
    view.service_changed(None, service("db", clusterIP="10.96.1.1", ports=[HTTP]))
    assert shown(ask(name, "A", view).answers) == {f"{name} A 10.96.1.1"}
    assert shown(ask("1.1.96.10.in-addr.arpa", "PTR", view).answers) == {f"1.1.96.10.in-addr.arpa PTR {name}"}
    view.namespace_changed({"metadata": {"name": "default"}}, None)
    assert negative(ask(name, "A", view), NXDOMAIN)


def test_a_cluster_ip_taken_over_is_not_lost_with_its_old_owner() -> None:
    view = make_view()
    old = service("web", clusterIP="10.96.7.7", ports=[HTTP])
    view.service_changed(None, service("heir", clusterIP="10.96.7.7", ports=[HTTP]))
    view.service_changed(old, None)
    assert shown(ask("7.7.96.10.in-addr.arpa", "PTR", view).answers) == {
        "7.7.96.10.in-addr.arpa PTR heir.default.svc.cluster.local"
    }


def test_outside_a_cluster_the_server_names_itself() -> None:
    view = View(Kubernetes(), ["127.0.0.1"])
    view.synced = True
    answer = ask("cluster.local", "NS", view)
    assert shown(answer.answers) == {"cluster.local NS ns.dns.cluster.local"}
    assert shown(answer.additional) == {"ns.dns.cluster.local A 127.0.0.1"}


def test_search_path_finds_the_service_at_the_right_step() -> None:
    """What a pod's resolver does with `ndots:5`: every step but the last must be NXDOMAIN, or it would stop there."""
    view = make_view()
    search = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local")

    def steps(short: str) -> list[int]:
        rcodes = []
        for suffix in (*search, ""):
            answer = ask(f"{short}.{suffix}", "A", view)
            rcodes.append(answer.rcode)
            if answer.answers:
                break
        return rcodes

    assert steps("web") == [NOERROR]
    assert steps("kube-dns.kube-system") == [NXDOMAIN, NOERROR]
    assert steps("kube-dns.kube-system.svc") == [NXDOMAIN, NXDOMAIN, NOERROR]
    assert steps("web.default.svc.cluster.local") == [NXDOMAIN, NXDOMAIN, NXDOMAIN, NOERROR]
    assert steps("example.com") == [NXDOMAIN, NXDOMAIN, NXDOMAIN, REFUSED]


def test_a_service_called_svc_and_a_namespace_called_pod() -> None:
    view = make_view()
    view.namespace_changed(None, {"metadata": {"name": "pod"}})
    view.service_changed(None, service("svc", "pod", clusterIP="10.96.3.3", ports=[HTTP]))
    assert shown(ask("svc.pod.svc.cluster.local", "A", view).answers) == {"svc.pod.svc.cluster.local A 10.96.3.3"}


@pytest.mark.parametrize(
    "name", ["1.0.96.10.in-addr.arpa", "x.in-addr.arpa", "1.ip6.arpa", "in-addr.arpa", "1.2.3.4.5.in-addr.arpa"]
)
def test_reverse_address(name: str) -> None:
    assert records.reverse_address(labels(name)) == ("10.96.0.1" if name.startswith("1.0.96") else "")
