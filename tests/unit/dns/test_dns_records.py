"""The Kubernetes DNS specification 1.1, record by record, on a view fed with objects as the API has them."""

from __future__ import annotations

import pytest

from nsk8s.api.meta import Object
from nsk8s.dns import records
from nsk8s.dns.records import NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Answer, Question, Record, labels, resolve
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
    view = View("cluster.local", ["10.244.1.5"])
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


def test_broken_alias_says_which_name_is_missing() -> None:
    answer = ask("broken.default.svc.cluster.local")
    assert answer.rcode == NXDOMAIN
    assert shown(answer.answers) == {"broken.default.svc.cluster.local CNAME gone.default.svc.cluster.local"}
    assert [r.type for r in answer.authority] == ["SOA"]


def test_a_loop_of_aliases_ends() -> None:
    assert ask("loop.default.svc.cluster.local").rcode == SERVFAIL


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
    view = View("cluster.local", ["127.0.0.1"])
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
