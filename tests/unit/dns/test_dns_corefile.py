"""Corefiles: kubeadm's, stub domains, what the kubernetes plugin is told, and mistakes by their lines."""

from __future__ import annotations

import pytest

from nsk8s.dns import corefile
from nsk8s.dns.corefile import NO_PAGE, CorefileError, Settings, parse

KUBEADM = """\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
"""


def test_kubeadms() -> None:
    assert parse(KUBEADM) == Settings(
        domain="cluster.local", ttl_s=30, forward=(("", (("/etc/resolv.conf", 0),)),), fallthrough=("in-addr.arpa", "ip6.arpa"),
        health_port=8080, ready_port=8181, metrics_port=9153, lameduck_s=5.0, reload=True,
    )  # fmt: skip


def test_a_new_clusters_is_closed_unless_it_is_told() -> None:
    closed = parse(corefile.corefile("cluster.example"))
    assert (closed.domain, closed.forward, closed.ttl_s, closed.lameduck_s, closed.reload) == ("cluster.example", (), 5, 1.0, True)
    assert parse(corefile.corefile("c.local", ("192.0.2.1", "[fd00::1]:5353"))).forward == (
        ("", (("192.0.2.1", 53), ("fd00::1", 5353))),
    )


def test_stub_domains_and_options() -> None:
    found = parse("""
        # a company's own
        corp.example:5353 internal.example:5353 {
            errors # all of them
            cache 30
            forward . 10.0.0.1 10.0.0.2:5300
        }
        dns://.:5353 {
            kubernetes cluster.local {
                pods disabled
                namespaces default "kube-system"
                ignore empty_service
                fallthrough
            }
            forward example.org 10.0.0.3
            ready :8282
        }""")
    stubs = (("10.0.0.1", 53), ("10.0.0.2", 5300))
    assert found.forward == (("example.org", (("10.0.0.3", 53),)), ("corp.example", stubs), ("internal.example", stubs))
    assert (found.reverse, found.pods, found.namespaces, found.ignore_empty, found.fallthrough) == (
        False, False, {"default", "kube-system"}, True, ("",),
    )  # fmt: skip
    assert (found.port, found.ready_port, found.health_port) == (5353, 8282, NO_PAGE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Corefile: no server block"),
        (". {\n  errors\n}", "0 server blocks have the plugin kubernetes"),
        (". {\n  kubernetes c.local\n  rewrite name a b\n}", "Corefile:3 - Error during parsing: plugin 'rewrite' is not supported"),
        (". {\n  kubernetes c.local {\n    pods verified\n  }\n}", "Corefile:3 .* kubernetes: 'pods verified' is not supported"),
        (". {\n  kubernetes c.local {\n    ttl 9999\n  }\n}", "Corefile:3 .* '9999' is not a number from 0 to 3600"),
        (". {\n  kubernetes\n}", "Corefile:2 .* one zone that is no reverse zone, not 0"),
        (". {\n  kubernetes c.local\n  forward . dns.example\n}", "Corefile:3 .* forward to dns.example: not an IP address"),
        (". {\n  kubernetes c.local\n", "Corefile:1 .* this block has no end"),
        (".\n", "Corefile:1 .* '{' is missing"),
        ("}", "Corefile:1 .* Unexpected '}'"),
        ("tls://. {\n  kubernetes c.local\n}", "only dns:// is supported"),
        (". {\n  kubernetes c.local\n}\nx:99 {\n  forward . 10.0.0.1\n}", "Corefile:4 .* every server block must have port 53"),
        (". {\n  kubernetes c.local\n}\nx {\n  hosts\n}", "Corefile:5 .* plugin 'hosts' needs the plugin kubernetes"),
        (". {\n  kubernetes c.local\n  health {\n    lameduck soon\n  }\n}", "Corefile:4 .* 'soon' is not a duration"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, said: str) -> None:
    with pytest.raises(CorefileError, match=said):
        parse(text)


def test_name_servers_of_resolv_conf() -> None:
    assert corefile.resolv_conf_servers("# x\nsearch a\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\noptions ndots:5\n") == (
        ("10.0.0.1", 53), ("fe80::1", 53),
    )  # fmt: skip
