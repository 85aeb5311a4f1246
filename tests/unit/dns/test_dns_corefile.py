"""Corefiles: kubeadm's, stub domains, what the kubernetes plugin is told, and mistakes by their lines."""

from __future__ import annotations

import pytest

from nsk8s.dns import corefile
from nsk8s.dns.corefile import CorefileError, parse
from nsk8s.dns.settings import LOG_COMMON, NO_PAGE, Block, Cached, Hosts, Kubernetes, LogRule, Settings

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
    kubernetes = Kubernetes(pods="insecure", ttl_s=30, fallthrough=("in-addr.arpa", "ip6.arpa"))
    plugins = ("errors", "health", "ready", "kubernetes", "prometheus", "forward", "cache", "loop", "reload", "loadbalance")
    block = Block(kubernetes=True, forward=(("", (("/etc/resolv.conf", 0),)),), cache=Cached(30, 30), plugins=plugins)
    assert parse(KUBEADM) == Settings(
        kubernetes, (block,), health_port=8080, ready_port=8181, metrics_port=9153, lameduck_s=5.0, reload=True,
    )  # fmt: skip


def test_a_new_clusters_is_closed_unless_it_is_told() -> None:
    closed = parse(corefile.corefile("cluster.example"))
    assert (closed.kubernetes.domain, closed.kubernetes.ttl_s, closed.kubernetes.pods) == ("cluster.example", 5, "insecure")
    assert (closed.blocks[0].forward, closed.lameduck_s, closed.reload) == ((), 1.0, True)
    assert parse(corefile.corefile("c.local", ("192.0.2.1", "[fd00::1]:5353"))).blocks[0].forward == (
        ("", (("192.0.2.1", 53), ("fd00::1", 5353))),
    )


def test_stub_domains_and_options() -> None:
    found = parse("""
        # a company's own
        corp.example:5353 Internal.Example.:5353 {
            errors # all of them
            cache 30
            forward . 10.0.0.1 10.0.0.2:5300
        }
        dns://.:5353 {
            kubernetes cluster.local {
                pods verified
                namespaces default "kube-system"
                labels tier in (web, db),app=shop
                namespace_labels shown
                endpoint_pod_names
                noendpoints
                ignore empty_service
                fallthrough
            }
            forward example.org 10.0.0.3
            forward . 10.0.0.4
            ready :8282
            bufsize
            any
        }""")
    stub, own = found.blocks
    assert (stub.zones, stub.forward) == (
        ("corp.example", "internal.example"), (("", (("10.0.0.1", 53), ("10.0.0.2", 5300))),),
    )  # fmt: skip
    assert own.forward == (("example.org", (("10.0.0.3", 53),)), ("", (("10.0.0.4", 53),)))
    assert (own.bufsize, own.refuses_any, stub.bufsize, stub.refuses_any) == (1232, True, 0, False)
    assert found.kubernetes == Kubernetes(
        zones=("cluster.local",), pods="verified", namespaces=frozenset({"default", "kube-system"}),
        labels="tier in (web, db),app=shop", namespace_labels="shown", endpoint_pod_names=True, noendpoints=True,
        ignore_empty=True, fallthrough=("",),
    )  # fmt: skip
    assert (found.port, found.ready_port, found.health_port) == (5353, 8282, NO_PAGE)


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("cache", Cached(3600, 1800)),
        ("cache 30 example.org", Cached(30, 30)),
        ("cache example.org", Cached(3600, 1800)),
        ("cache {\n success 1000 60\n denial 500 5 1\n prefetch 10\n }", Cached(60, 5)),
    ],
)
def test_cache(words: str, kept: Cached) -> None:
    assert parse(f". {{\n kubernetes c.local\n {words}\n}}").blocks[0].cache == kept


def test_zones_are_the_server_blocks_where_the_plugin_names_none() -> None:
    """Ranges stand for their reverse zones; one that does not end at a label's edge for several. Pods are off unless asked for."""
    found = parse("cluster.local 10.96.0.0/12 fd00:96::/32 {\n  kubernetes\n}")
    reverse = tuple(f"{n}.10.in-addr.arpa" for n in range(96, 112))
    assert found.kubernetes == Kubernetes(zones=("cluster.local", *reverse, "6.9.0.0.0.0.d.f.ip6.arpa"), pods="disabled")
    assert found.blocks[0].zones == found.kubernetes.zones


def test_hosts_and_log() -> None:
    block = parse("""
        . {
            kubernetes cluster.local
            hosts {
                203.0.113.10 www.example.com example.com # ours
                fd00::10     www.example.com
                ttl 60
                no_reverse
                reload 1m30s
                fallthrough
            }
            log . "{remote} \\"{name}\\" {combined}"
            log example.com cluster.local {
                class denial error
            }
        }""").blocks[0]
    assert block.hosts == Hosts(
        "/etc/hosts", ("",), ("203.0.113.10 www.example.com example.com", "fd00::10 www.example.com"), 60, False, ("",), 90.0,
    )  # fmt: skip
    some = frozenset({"denial", "error"})
    assert block.log == (
        LogRule("", '{remote} "{name}" ' + LOG_COMMON + ' "{>opcode}"'),
        LogRule("example.com", LOG_COMMON, some), LogRule("cluster.local", LOG_COMMON, some),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Corefile: no server block"),
        (". {\n  errors\n}", "0 server blocks have the plugin kubernetes"),
        (
            ". {\n  kubernetes c.local\n  autopath @kubernetes\n}",
            "Corefile:3 - Error during parsing: plugin 'autopath' is not supported",
        ),
        (". {\n  kubernetes c.local {\n    pods checked\n  }\n}", "Corefile:3 .* wrong value for pods: checked"),
        (". {\n  kubernetes c.local {\n    multicluster x\n  }\n}", "Corefile:3 .* 'multicluster x' is not supported"),
        (". {\n  kubernetes c.local {\n    labels a in b\n  }\n}", "Corefile:3 .* unable to parse label selector: 'a in b'"),
        (". {\n  kubernetes c.local\n  kubernetes d.local\n}", "Corefile:3 .* only be used once per Server Block"),
        (". {\n  kubernetes c.local\n}\n. {\n  errors\n}", "Corefile:4 .* cannot serve dns://.:53 - it is already defined"),
        (". {\n  kubernetes c.local\n  rewrite name regex ( b\n}", "Corefile:3 .* invalid regex matching pattern"),
        (". {\n  kubernetes c.local\n  rewrite name regex (a)b {2}\n}", "Corefile:3 .* uses more subexpressions"),
        (". {\n  kubernetes c.local\n  rewrite edns0 local set 0xffee a\n}", "Corefile:3 .* is not supported"),
        (". {\n  kubernetes c.local\n  rewrite name a\n}", "Corefile:3 .* too few arguments"),
        (". {\n  kubernetes c.local\n  rewrite ttl a 5-3\n}", "Corefile:3 .* invalid ttl '5-3'"),
        (". {\n  kubernetes c.local\n  rewrite name suffix a b answer name (c) d auto\n}", "Corefile:3 .* cannot be combined"),
        (". {\n  kubernetes c.local\n  log {\n    class odd\n  }\n}", "Corefile:3 .* invalid Class: odd"),
        (". {\n  kubernetes c.local\n  hosts {\n    www.example.com 10.0.0.1\n  }\n}", "Corefile:4 .* hosts: 'www.example.com"),
        (". {\n  kubernetes c.local\n  bufsize 9\n}", "Corefile:3 .* '9' is not a number from 512 to 4096"),
        (". {\n  kubernetes c.local {\n    ttl 9999\n  }\n}", "Corefile:3 .* '9999' is not a number from 0 to 3600"),
        (". {\n  kubernetes\n}", "Corefile:2 .* one zone that is no reverse zone, not none"),
        (". {\n  kubernetes c.local\n  forward . dns.example\n}", "Corefile:3 .* forward to dns.example: not an IP address"),
        (". {\n  kubernetes c.local\n", "Corefile:1 .* this block has no end"),
        (".\n", "Corefile:1 .* '{' is missing"),
        ("}", "Corefile:1 .* Unexpected '}'"),
        ("tls://. {\n  kubernetes c.local\n}", "only dns:// is supported"),
        (". {\n  kubernetes c.local\n}\nx:99 {\n  forward . 10.0.0.1\n}", "Corefile:4 .* every server block must have port 53"),
        (". {\n  kubernetes c.local\n}\nx {\n  hosts\n  hosts\n}", "Corefile:6 .* only be used once"),
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
