"""From Ingresses to nginx.conf, without a cluster and without nginx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nsk8s.client import certs
from nsk8s.ingress import manifest, model, nginx
from nsk8s.ingress.model import Location, Problem, Server, Site, View
from nsk8s.ingress.server import certificate_problem
from nsk8s.runtime import images

EXAMPLE = Path(__file__).parents[3] / "examples" / "ingress.yaml"


def backend(name: str = "web", port: int | str = 80) -> dict[str, Any]:
    return {"service": {"name": name, "port": {"number": port} if isinstance(port, int) else {"name": port}}}


def rule(host: str, *paths: tuple[str, str] | tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    found = [{"path": p[0], "pathType": p[1], "backend": p[2] if len(p) > 2 else backend()} for p in paths]
    return {"host": host, "http": {"paths": found}} if host else {"http": {"paths": found}}


def ingress(*rules: dict[str, Any], name: str = "a", when: str = "2026-01-01T00:00:00Z", notes: Any = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": when, "annotations": notes or {}},
        "spec": {"rules": list(rules), **spec},
    }


SERVICES = {
    "default/web": {"spec": {"ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}},
    "default/api": {"spec": {"ports": [{"name": "grpc", "port": 9000}]}},
    "default/outside": {"spec": {"type": "ExternalName", "externalName": "example.com."}},
    "default/named": {"spec": {"type": "ExternalName", "externalName": "example.com", "ports": [
        {"name": "http", "port": 80, "targetPort": 8080}]}},
    "default/odd": {"spec": {"type": "ExternalName", "externalName": "a;}"}},
}
SLICES = {
    "default/web": [
        {"addressType": "IPv4", "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53}], "endpoints": [
            {"addresses": ["10.244.2.2"], "conditions": {"ready": True}}, {"addresses": ["10.244.1.2"]},
            {"addresses": ["10.244.1.3"], "conditions": {"ready": False, "serving": True, "terminating": True}}]},
        {"addressType": "FQDN", "ports": [{"name": "http", "port": 8080}], "endpoints": [{"addresses": ["x.example.com"]}]},
    ],
}  # fmt: skip
VIEW = View(SERVICES.get, lambda k: SLICES.get(k, []), {"default/gone": ("SecretNotFound", "gone")}.get)


def build(*ingresses: dict[str, Any]) -> Site:
    return model.build(ingresses, VIEW)


def locations(site: Site, host: str) -> list[tuple[str, bool, str]]:
    server = next(s for s in site.servers if s.host == host)
    return [(e.path, e.exact, e.upstream) for e in server.locations]


UP = "default.web.80"


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("/", "Prefix", [("/", False)]),
        ("/a", "Exact", [("/a", True)]),
        ("/a/", "Exact", [("/a/", True)]),
        ("/a", "Prefix", [("/a", True), ("/a/", False)]),
        ("/a/", "Prefix", [("/a", True), ("/a/", False)]),
        ("/a/b", "Prefix", [("/a/b", True), ("/a/b/", False)]),
        ("/a", "ImplementationSpecific", [("/a", False)]),
        ("", "ImplementationSpecific", [("/", False)]),
        ("/caf%C3%A9", "Exact", [("/café", True)]),
    ],
)
def test_path_types(path: str, kind: str, expected: list[tuple[str, bool]]) -> None:
    assert locations(build(ingress(rule("h", (path, kind)))), "h") == [(p, e, UP) for p, e in expected]


def test_exact_goes_before_prefix_whichever_comes_first() -> None:
    exact, prefix = ("/a", "Exact", backend("api", 9000)), ("/a", "Prefix", backend())
    for pair in ((exact, prefix), (prefix, exact)):
        site = build(ingress(rule("h", *pair)))
        assert locations(site, "h") == [("/a", True, "default.api.9000"), ("/a/", False, UP)]
        assert site.problems == ()


def test_the_oldest_ingress_has_a_path_and_the_other_is_told() -> None:
    old = ingress(rule("h", ("/a", "Prefix")), name="old", when="2025-01-01T00:00:00Z")
    new = ingress(rule("h", ("/a", "Prefix", backend("api", "grpc")), ("/b", "Exact")), name="new")
    site = build(new, old)
    assert locations(site, "h") == [("/a", True, UP), ("/a/", False, UP), ("/b", True, UP)]
    assert site.problems == (
        Problem("default/new", "PathConflict", "default/old has h/a/ already, and is older: this rule has no effect"),
    )


def test_default_backends() -> None:
    plain = ingress(name="plain", defaultBackend=backend())
    mixed = ingress(rule("h", ("/a", "Exact", backend("api", 9000))), name="mixed", defaultBackend=backend("api", 9000))
    assert build(plain).servers == (Server("", (Location("/", False, UP),)),)
    site = build(mixed, plain)
    assert locations(site, "h") == [("/", False, "default.api.9000"), ("/a", True, "default.api.9000")]
    assert locations(site, "") == [("/", False, "default.api.9000")], "of the same age: the first by name"
    rootless = ingress({"host": "only"}, defaultBackend=backend())
    assert locations(build(rootless), "only") == [("/", False, UP)]
    rooted = ingress(rule("h", ("/", "Prefix", backend("api", 9000))), defaultBackend=backend())
    assert locations(build(rooted), "h") == [("/", False, "default.api.9000")]


def test_ready_endpoints_by_the_services_port_name() -> None:
    site = build(ingress(rule("h", ("/", "Prefix", backend("web", "http")), ("/n", "Exact", backend("api", "grpc")))))
    assert site.upstreams == {"default.api.grpc": (), "default.web.http": ("10.244.1.2:8080", "10.244.2.2:8080")}


@pytest.mark.parametrize(
    ("wanted", "reason", "message"),
    [
        (backend("nope"), "ServiceNotFound", "the Service default/nope does not exist"),
        (backend("web", 81), "ServicePortNotFound", "the Service default/web has no TCP port 81"),
        (backend("web", "dns"), "ServicePortNotFound", "the Service default/web has no TCP port dns"),
        (backend("outside", "web"), "ServicePortNotFound", "the Service default/outside leads to no host and port web"),
        (backend("odd"), "ServicePortNotFound", "the Service default/odd leads to no host and port 80"),
        ({"resource": {"kind": "Bucket", "name": "x"}}, "UnsupportedBackend", "only backends that are Services are supported"),
    ],
)
def test_a_backend_that_cannot_be_had_answers_503_and_is_told(wanted: dict[str, Any], reason: str, message: str) -> None:
    site = build(ingress(rule("h", ("/", "Prefix", wanted), ("/ok", "Exact"))))
    assert site.problems == (Problem("default/a", reason, message),)
    assert locations(site, "h") == [("/", False, ""), ("/ok", True, UP)]
    text = nginx.render(site, {nginx.FALLBACK: "/f.pem"})
    assert 'location "/" {\n            return 503;' in text


def test_tls() -> None:
    hosts = [rule(h, ("/", "Prefix")) for h in ("a.x", "b.x", "c.y", "w.z")]
    site = build(ingress(*hosts, tls=[
        {"hosts": ["a.x"], "secretName": "one"}, {"hosts": ["b.x"], "secretName": "gone"}, {"hosts": ["*.z"], "secretName": "wild"},
    ]))  # fmt: skip
    found = {s.host: (s.certificate, s.locations[0].redirect) for s in site.servers if s.host}
    assert found["a.x"] == ("default/one", True)
    assert found["b.x"] == ("", True)
    assert found["c.y"] == ("", False)
    assert found["w.z"] == ("default/wild", True), "a wildcard's TLS is its hosts' TLS"
    assert site.problems == (Problem("default/a", "SecretNotFound", "gone"),)
    every = build(ingress(*hosts, tls=[{"secretName": "one"}], notes={model.SSL_REDIRECT: "false"}))
    assert {(s.certificate, s.locations[0].redirect) for s in every.servers if s.host} == {("default/one", False)}
    assert every.certificates == ("default/one",)


def test_what_is_not_supported_is_told() -> None:
    site = build(ingress(rule("h", ("/", "Prefix"), ("/a\nb", "Exact")), notes={"nginx.ingress.kubernetes.io/limit-rps": "5"}))
    assert {(p.reason, p.message) for p in site.problems} == {
        ("UnsupportedAnnotation", "the annotation nginx.ingress.kubernetes.io/limit-rps is not supported and has no effect"),
        ("BadPath", "the path '/a\\nb' holds control characters"),
    }


@pytest.mark.parametrize(
    ("spec", "notes", "default", "expected"),
    [
        ({"ingressClassName": "nginx"}, {}, False, True),
        ({"ingressClassName": "traefik"}, {}, True, False),
        ({}, {}, True, True),
        ({}, {}, False, False),
        ({}, {"kubernetes.io/ingress.class": "nginx"}, False, True),
        ({}, {"kubernetes.io/ingress.class": "other"}, True, False),
        ({"ingressClassName": "other"}, {"kubernetes.io/ingress.class": "nginx"}, True, False),
    ],
)
def test_classes(spec: dict[str, Any], notes: dict[str, str], default: bool, expected: bool) -> None:
    classes = [
        {"metadata": {"name": "nginx", "annotations": {model.DEFAULT_CLASS_ANNOTATION: "true"} if default else {}},
         "spec": {"controller": model.CONTROLLER}},
        {"metadata": {"name": "traefik"}, "spec": {"controller": "traefik.io/ingress-controller"}},
    ]  # fmt: skip
    assert model.ours(ingress(notes=notes, **spec), classes) is expected


def test_the_configuration_as_text() -> None:
    site = build(ingress(
        rule("shop.x", ("/", "Prefix"), ("/api", "Prefix", backend("api", 9000)), ('/we"ird\\', "Exact")), rule("*.w.x", ("/", "Prefix")),
        tls=[{"hosts": ["shop.x"], "secretName": "one"}],
    ))  # fmt: skip
    text = nginx.render(site, {nginx.FALLBACK: "/f.pem", "default/one": "/one.pem"}, http=8080, https=8443)
    _, _, rest = text.partition("location / { return 404; }\n    }\n")
    assert rest == r"""
    upstream "default.web.80" {
        server 10.244.1.2:8080 max_fails=0;
        server 10.244.2.2:8080 max_fails=0;
        keepalive 32;
    }

    server {
        listen 8080 default_server;
        listen 8443 ssl default_server;
        server_name _;
        ssl_certificate "/f.pem";
        ssl_certificate_key "/f.pem";
        location / {
            default_type text/plain;
            return 404 "default backend - 404\n";
        }
    }

    server {
        listen 8080;
        listen 8443 ssl;
        server_name "~^[^.]+\\.w\\.x$";
        ssl_certificate "/f.pem";
        ssl_certificate_key "/f.pem";
        location "/" {
            proxy_pass http://default.web.80;
        }
    }

    server {
        listen 8080;
        listen 8443 ssl;
        server_name "shop.x";
        ssl_certificate "/one.pem";
        ssl_certificate_key "/one.pem";
        location "/" {
            if ($scheme = http) { return 308 https://$host$request_uri; }
            proxy_pass http://default.web.80;
        }
        location = "/api" {
            if ($scheme = http) { return 308 https://$host$request_uri; }
            return 503;
        }
        location "/api/" {
            if ($scheme = http) { return 308 https://$host$request_uri; }
            return 503;
        }
        location = "/we\"ird\\" {
            if ($scheme = http) { return 308 https://$host$request_uri; }
            proxy_pass http://default.web.80;
        }
    }
}
"""


def test_rewrites_and_expressions() -> None:
    rewritten = ingress(
        rule("h", ("/some(/|$)(.*)", "ImplementationSpecific"), ("/exact", "Exact")), name="r", notes={model.REWRITE_TARGET: "/$2"}
    )
    plain = ingress(rule("h", ("/some/v1.0", "Prefix")), name="p", when="2025-01-01T00:00:00Z")
    text = nginx.render(build(rewritten, plain), {nginx.FALLBACK: "/f.pem"})
    wanted = r"""
        location ~* "^/some(/|$)(.*)" {
            rewrite "(?i)/some(/|$)(.*)" "/$2" break;
            proxy_pass http://default.web.80;
        }
        location ~* "^/some/v1\\.0/" {
            proxy_pass http://default.web.80;
        }
        location = "/some/v1.0" {
            proxy_pass http://default.web.80;
        }
        location = "/exact" {
            rewrite "(?i)/exact" "/$2" break;
            proxy_pass http://default.web.80;
        }
"""
    assert wanted.strip() in text


def test_certificates_are_looked_at_before_nginx_does() -> None:
    one, other = (certs.issue(certs.new_ca("x"), "a", hosts=["a.x"]) for _ in range(2))
    assert certificate_problem(one.cert_pem, one.key_pem) == ""
    assert certificate_problem(one.cert_pem, other.key_pem) == "KEY_VALUES_MISMATCH"
    assert certificate_problem("rubbish", one.key_pem)
    assert certificate_problem("", "")


def test_without_nginx_the_image_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.os, "access", lambda path, mode: False)
    with pytest.raises(images.ImageError, match="needs /usr/sbin/nginx on this machine: apt-get install nginx-light"):
        images.resolve(manifest.IMAGE)


def test_the_example_begins_with_the_manifest() -> None:
    documents = list(yaml.safe_load_all(EXAMPLE.read_text()))
    objects = manifest.objects()
    assert documents[: len(objects)] == objects
    assert [d["kind"] for d in documents[len(objects) :]] == ["Deployment", "Service"] * 2 + ["Ingress"]


def test_external_names_are_asked_of_the_clusters_dns_at_every_request() -> None:
    site = build(ingress(rule("h", ("/", "Prefix", backend("outside", 81)), ("/n", "Exact", backend("named", "http")))))
    assert site.problems == ()
    assert site.externals == {"default.named.http": "example.com:8080", "default.outside.81": "example.com:81"}
    text = nginx.render(site, {nginx.FALLBACK: "/x.pem"}, resolvers=["10.96.0.10", "fd00::10"])
    assert "    resolver 10.96.0.10 [fd00::10] valid=5s;\n" in text
    assert 'set $external "example.com:81";\n            proxy_pass http://$external;' in text
    assert "resolver" not in nginx.render(build(), {nginx.FALLBACK: "/x.pem"}, resolvers=["10.96.0.10"])


def test_upstreams_of_different_namespaces_have_different_names() -> None:
    services = {"a/b-c": SERVICES["default/web"], "a-b/c": SERVICES["default/web"]}
    found = []
    for namespace, name in (("a", "b-c"), ("a-b", "c")):
        one = ingress(rule(f"{name}.example", ("/", "Prefix", backend(name))))
        one["metadata"]["namespace"] = namespace
        found.append(one)
    site = model.build(found, View(services.get, lambda k: [], lambda _: None))
    assert set(site.upstreams) == {"a.b-c.80", "a-b.c.80"}


def tokens(text: str) -> list[str]:
    """As nginx reads its configuration (ngx_conf_read_token), quotes and braces as tokens of their own."""
    found, word, quote, escaped = [], "", "", False
    for char in text:
        if escaped:
            word += {"t": "\t", "r": "\r", "n": "\n"}.get(char, char if char in "\\\"'" else "\\" + char)
            escaped = False
        elif char == "\\":
            escaped = True
        elif quote:
            if char == quote:
                found, word, quote = [*found, f"<{word}>"], "", ""
            else:
                word += char
        elif char in "\"'" and not word:
            quote = char
        elif char.isspace() or char in ";{}":
            found += [word] if word else []
            found += [char] if char in ";{}" else []
            word = ""
        else:
            word += char
    assert (word, quote, escaped) == ("", "", False)
    return found


HOSTILE = st.text(st.one_of(st.sampled_from("\"'\\;{}$#/ntr ()*."), st.characters(codec="utf-8", exclude_categories=["C"])), max_size=12)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_nothing_in_an_ingress_gets_out_of_its_quotes(host: str, path: str, rewrite: str) -> None:
    def structure(host: str, path: str, rewrite: str) -> list[str]:
        rules = rule(f"*.a{host}", (f"/p{path}", "ImplementationSpecific")), rule(f"x{host}", (f"/e{path}", "Exact"))
        site = build(ingress(*rules, notes={model.REWRITE_TARGET: f"/r{rewrite}"}))
        return [t for t in tokens(nginx.render(site, {nginx.FALLBACK: "/x.pem"})) if not t.startswith("<")]

    assert structure(host, path.replace("%", ""), rewrite) == structure("", "", "")


@pytest.mark.parametrize(("path", "rewrite"), [("/a\nb", ""), ("/a%0ab", ""), ("/a", "/b\n"), ("/a\x7f", "")])
def test_control_characters_are_refused(path: str, rewrite: str) -> None:
    site = build(ingress(rule("h", (path, "ImplementationSpecific")), notes={model.REWRITE_TARGET: rewrite} if rewrite else {}))
    assert [p.reason for p in site.problems] == ["BadPath"]
    assert all(s.host != "h" for s in site.servers)
