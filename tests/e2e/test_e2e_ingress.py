"""Ingress from the outside client: a real nginx in a pod, behind a load balancer's address."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_cluster import NAME, apply, becomes, documents, get, netns, nsk8s, pods, until

from nsk8s.client import certs
from nsk8s.ingress import manifest

pytestmark = [
    pytest.mark.root, pytest.mark.timeout(180),
    pytest.mark.skipif(not Path("/usr/sbin/nginx").exists(), reason="no nginx: apt-get install nginx-light"),
]  # fmt: skip
CA = certs.new_ca("the test's own CA")
SLOW = "import http.server, time\nclass H(http.server.BaseHTTPRequestHandler):\n def do_GET(self):\n  self.send_response(200); self.end_headers()\n  for i in range(30):\n   self.wfile.write(b'x' * 1000); self.wfile.flush(); time.sleep(0.1)\nhttp.server.ThreadingHTTPServer(('', 8080), H).serve_forever()"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    wanted = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    wanted.write_text(f"name: {NAME}\nnodes: 2\ningress: true\n")
    nsk8s("down", "-q", ok=False)
    try:
        nsk8s("up", "-q", "-f", str(wanted))
        apply(*documents("ingress.yaml")[len(manifest.objects()) :])
        until("ready pods", lambda: len(pods("app=front")) == len(pods("app=cart")) == 2)
        service = until("an address", lambda: get("service", manifest.NAME, "-n", manifest.NAMESPACE)["status"]["loadBalancer"])
        ip = service["ingress"][0]["ip"]
        expect(ip, {("shop.example.com", "/"): "front", ("shop.example.com", "/cart"): "cart"})
        yield ip
    finally:
        nsk8s("down", "-q", ok=False)


def fetch(ip: str, host: str, path: str = "/", *options: str, scheme: str = "http") -> tuple[int, dict[str, str], str]:
    """Status (0: no answer), headers and body of a request from the outside client."""
    port = 443 if scheme == "https" else 80
    done = netns(
        "client", "curl", "-s", "-i", "-m", "10", "--resolve", f"{host}:{port}:{ip}", *options, f"{scheme}://{host}{path}"
    )
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.split("\n")
    found = re.match(r"HTTP/\S+ (\d+)", first)
    return int(found[1]) if found else 0, {k.lower(): v for k, _, v in (e.partition(": ") for e in lines)}, body


def answer(ip: str, host: str, path: str = "/", *options: str, scheme: str = "http") -> tuple[int, dict[str, Any]]:
    """Status, and what the echo server said (empty when it was not that one)."""
    code, _, body = fetch(ip, host, path, *options, scheme=scheme)
    return code, json.loads(body) if body.startswith("{") else {}


def app(reply: tuple[int, dict[str, Any]]) -> str:
    return str(reply[1].get("pod", reply[0])).split("-")[0]


def expect(ip: str, wanted: dict[tuple[str, str], str]) -> None:
    """Which app answers, or which status. Waits: workers with the old configuration take connections until a reload is through."""
    becomes("who answers", lambda: {(host, path): app(answer(ip, host, path)) for host, path in wanted}, wanted)


STEADY = 10
"""So often in a row: by then no worker of nginx is left that has the configuration of before."""


def rule(host: str, *paths: tuple[str, str, str, int | str]) -> dict[str, Any]:
    found = [
        {"path": p, "pathType": k, "backend": {"service": {"name": s, "port": {"number" if isinstance(n, int) else "name": n}}}}
        for p, k, s, n in paths
    ]
    return {"host": host, "http": {"paths": found}} if host else {"http": {"paths": found}}


def ingress(name: str, *rules: dict[str, Any], **spec: Any) -> dict[str, Any]:
    body = {**({"rules": list(rules)} if rules else {}), **spec}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name}, "spec": body}


def secret(name: str, *hosts: str, broken: bool = False) -> dict[str, Any]:
    pair = certs.issue(CA, hosts[0], hosts=hosts)
    data = {"tls.crt": pair.cert_pem, "tls.key": certs.new_key() if broken else pair.key_pem}
    encoded = {k: base64.b64encode(v.encode()).decode() for k, v in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/tls", "data": encoded}


def events(name: str) -> set[tuple[str, str]]:
    return {(e["reason"], e["message"]) for e in get("events")["items"] if e["involvedObject"]["name"] == name}


def test_hosts_and_paths_lead_to_services_and_the_clients_address_is_known(address: str) -> None:
    paths = {"/": "front", "/cart": "cart", "/cart/1": "cart", "/cart/": "cart", "/carts": "front", "/x": "front"}
    expect(address, {**{("shop.example.com", path): name for path, name in paths.items()}, ("elsewhere.example.com", "/"): "404"})
    said = until("what a pod was asked", lambda: answer(address, "shop.example.com", "/a?b=c")[1])
    assert said["path"] == "/a?b=c"
    headers = {k.lower(): v for k, v in said["headers"].items()}
    assert headers["x-forwarded-for"] == headers["x-real-ip"] == "203.0.113.10"
    assert (headers["host"], headers["x-forwarded-proto"]) == ("shop.example.com", "http")
    code, _, body = fetch(address, "elsewhere.example.com")
    assert (code, body) == (404, "default backend - 404\n")


def test_status_and_events(address: str) -> None:
    until("the address in its status", lambda: get("ingress/shop")["status"]["loadBalancer"] == {"ingress": [{"ip": address}]})
    until("its Event", lambda: ("Sync", "Scheduled for sync") in events("shop"))
    listed = nsk8s("get", "ingress", "shop").stdout.splitlines()[1].split()
    assert listed[:4] == ["shop", "nginx", "shop.example.com", address]


def test_exact_wildcard_default_backend_and_default_class(address: str) -> None:
    """No class is named: ours is the default. A wildcard is one label, and the host itself goes before it."""
    apply(
        ingress(
            "more",
            rule("*.wild.example.com", ("/", "ImplementationSpecific", "front", "http")),
            rule("own.wild.example.com", ("/only", "Exact", "cart", "http")),
            rule("", ("/everywhere", "Prefix", "cart", 80)),
        ),
        ingress("fallback", defaultBackend={"service": {"name": "front", "port": {"number": 80}}}),
    )
    expect(address, {
        ("a.wild.example.com", "/"): "front",
        ("own.wild.example.com", "/only"): "cart",
        ("own.wild.example.com", "/only/not"): "404",
        ("anything.example.com", "/everywhere/x"): "cart",
        ("anything.example.com", "/else"): "front",  # the default backend
        ("a.b.wild.example.com", "/everywhere"): "cart",  # two labels: not the wildcard's
    })  # fmt: skip
    nsk8s("delete", "ingress", "more", "fallback")
    expect(address, {(h, "/"): "404" for h in ("a.wild.example.com", "own.wild.example.com", "anything.example.com")})


def test_tls_by_sni(address: str, tmp_path: Path) -> None:
    authority = tmp_path / "ca.crt"
    authority.write_text(CA.cert_pem)
    trust = ("--cacert", str(authority))
    apply(
        secret("one", "one.example.com"), secret("two", "two.example.com"),
        ingress(
            "secure", rule("one.example.com", ("/", "Prefix", "front", 80)), rule("two.example.com", ("/", "Prefix", "cart", 80)),
            tls=[{"hosts": ["one.example.com"], "secretName": "one"}, {"hosts": ["two.example.com"], "secretName": "two"}],
        ),
    )  # fmt: skip

    def shown(host: str) -> list[str]:
        return [app(answer(address, host, "/", *trust, scheme="https")) for _ in range(STEADY)]

    becomes("the certificate", lambda: shown("one.example.com"), ["front"] * STEADY)
    becomes("its own for each host", lambda: shown("two.example.com"), ["cart"] * STEADY)
    code, headers, _ = fetch(address, "one.example.com", "/a?b")
    assert (code, headers["location"]) == (308, "https://one.example.com/a?b")
    assert answer(address, "shop.example.com", "/", *trust, scheme="https")[0] == 0, "its certificate is nobody's"
    assert app(answer(address, "shop.example.com", "/", "-k", scheme="https")) == "front"
    # A renewed certificate is taken over, a broken one is not: the last word is an Event, and the other host goes on.
    apply(secret("one", "one.example.com", broken=True))
    why = "the Secret default/one holds no usable pair (KEY_VALUES_MISMATCH): the fallback certificate is shown"
    until("an Event", lambda: ("BadSecret", why) in events("secure"))
    assert app(answer(address, "two.example.com", "/", *trust, scheme="https")) == "cart"
    nsk8s("delete", "secret", "one")
    why = "the Secret default/one does not exist: the fallback certificate is shown"
    until("an Event", lambda: ("SecretNotFound", why) in events("secure"))
    apply(secret("one", "one.example.com"))
    until("the new certificate", lambda: app(answer(address, "one.example.com", "/", *trust, scheme="https")) == "front")
    nsk8s("delete", "ingress", "secure")
    nsk8s("delete", "secret", "one", "two")


def test_what_is_missing_answers_503_and_is_told(address: str) -> None:
    apply(ingress("wrong", rule("wrong.example.com", ("/", "Prefix", "nobody", 80), ("/port", "Prefix", "cart", 81))))
    for said in (("ServiceNotFound", "the Service default/nobody does not exist"),
                 ("ServicePortNotFound", "the Service default/cart has no TCP port 81")):  # fmt: skip
        until(f"an Event {said}", lambda said=said: said in events("wrong"))
    becomes("503", lambda: [answer(address, "wrong.example.com", p)[0] for p in ("/", "/port")], [503, 503])
    apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "nobody"}, "spec": {
            "selector": {"app": "cart"}, "ports": [{"port": 80, "targetPort": 8080}]}},
    )  # fmt: skip
    until("it comes as soon as the Service does", lambda: app(answer(address, "wrong.example.com")) == "cart")
    nsk8s("delete", "ingress", "wrong")
    nsk8s("delete", "service", "nobody")


UPGRADE = """
import socketserver
class H(socketserver.StreamRequestHandler):
    def handle(self):
        head = []
        while (line := self.rfile.readline().strip()):
            head.append(line.lower())
        asked = b'upgrade: websocket' in head and b'connection: upgrade' in head
        if not asked:
            self.wfile.write(b'HTTP/1.1 400 No\\r\\nContent-Length: 0\\r\\n\\r\\n')
            return
        self.wfile.write(b'HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n')
        while (data := self.connection.recv(100)):
            self.connection.sendall(data.upper())
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(('', 8080), H).serve_forever()
"""
UPGRADED = """
import socket, sys
s = socket.create_connection((sys.argv[1], 80), timeout=10)
s.sendall(b'GET /chat HTTP/1.1\\r\\nHost: chat.example.com\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n\\r\\n')
said = b''
while not said.endswith(b'\\r\\n\\r\\n'):
    more = s.recv(1000)
    assert more, said
    said += more
assert said.startswith(b'HTTP/1.1 101 '), said
for word in (b'one', b'two'):
    s.sendall(word)
    print(s.recv(100).decode())
"""


def test_a_connection_can_be_upgraded_and_an_external_name_is_a_backend(address: str) -> None:
    """Bytes go both ways after the 101; the external name is asked of the cluster's DNS, by nginx itself."""
    apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "chat", "labels": {"app": "chat"}}, "spec": {
            "containers": [{"name": "main", "image": "python", "command": ["python3", "-u", "-c", UPGRADE]}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat"}, "spec": {
            "selector": {"app": "chat"}, "ports": [{"port": 80, "targetPort": 8080}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "away"}, "spec": {
            "type": "ExternalName", "externalName": "cart.default.svc.cluster.local"}},
        ingress("chat", rule("chat.example.com", ("/", "Prefix", "chat", 80))),
        ingress("away", rule("away.example.com", ("/", "Prefix", "away", 80))),
    )  # fmt: skip
    until("the chat", lambda: fetch(address, "chat.example.com")[0] == 400)
    # More than once: a worker of nginx that is being replaced may take a connection yet.
    until("bytes both ways", lambda: netns("client", sys.executable, "-c", UPGRADED, address).stdout.split() == ["ONE", "TWO"])
    expect(address, {("away.example.com", "/x"): "cart"})
    nsk8s("delete", "ingress", "chat", "away")
    nsk8s("delete", "service", "chat", "away")
    nsk8s("delete", "pod", "chat", "--grace-period=0", "--force", ok=False)


def test_rewrites_and_what_nginx_refuses(address: str) -> None:
    """An expression that nginx does not take harms nobody else, whose changes still come through."""
    rewrite = ingress("rewrite", rule("re.example.com", ("/api(/|$)(.*)", "ImplementationSpecific", "cart", 80)))
    rewrite["metadata"]["annotations"] = {"nginx.ingress.kubernetes.io/rewrite-target": "/$2"}
    apply(rewrite)
    until("the rewritten path", lambda: answer(address, "re.example.com", "/api/v1/x?y")[1].get("path") == "/v1/x?y")
    expect(address, {("re.example.com", "/apis"): "404", ("re.example.com", "/api"): "cart"})
    refused = ingress("refused", rule("no.example.com", ("/bad(", "ImplementationSpecific", "cart", 80)))
    refused["metadata"]["annotations"] = {"nginx.ingress.kubernetes.io/use-regex": "true"}
    apply(refused)
    until("an Event", lambda: any(r == "ConfigurationRefused" and "/bad(" in m for r, m in events("refused")))
    becomes("the other one's", lambda: answer(address, "re.example.com", "/api/v1")[1].get("path"), "/v1")
    nsk8s("delete", "ingress", "refused")
    apply(ingress("later", rule("later.example.com", ("/", "Prefix", "front", 80))))
    until("a later one", lambda: app(answer(address, "later.example.com")) == "front")
    assert not any(r == "ConfigurationRefused" for r, _ in events("rewrite") | events("shop"))
    nsk8s("delete", "ingress", "rewrite", "later")


def test_another_class_is_left_alone(address: str) -> None:
    apply(ingress("foreign", rule("foreign.example.com", ("/", "Prefix", "front", 80)), ingressClassName="traefik"))
    apply(ingress("marker", rule("marker.example.com", ("/", "Prefix", "front", 80))))
    expect(address, {("marker.example.com", "/"): "front", ("foreign.example.com", "/"): "404"})
    assert get("ingress/foreign")["status"]["loadBalancer"] == {}
    nsk8s("delete", "ingress", "foreign", "marker")


def test_reloads_and_changing_endpoints_cost_no_request(address: str) -> None:
    """A steady stream of new connections and one long download, while Ingresses come and go and pods are replaced."""
    apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "slow", "labels": {"app": "slow"}}, "spec": {
            "containers": [{"name": "main", "image": "python", "command": ["python3", "-u", "-c", SLOW]}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "slow"}, "spec": {
            "selector": {"app": "slow"}, "ports": [{"port": 80, "targetPort": 8080}]}},
        ingress("slow", rule("slow.example.com", ("/", "Prefix", "slow", 80))),
    )  # fmt: skip
    # It knows no HEAD: 501 is its own answer.
    becomes("the slow one", lambda: [fetch(address, "slow.example.com", "/", "-I")[0] for _ in range(STEADY)], [501] * STEADY)
    command = ["ip", "netns", "exec", f"{NAME}-client", "curl", "-s", "-N", "-m", "60", "-H", "Host: slow.example.com", f"http://{address}/"]
    download = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
    stream = subprocess.Popen(
        ["ip", "netns", "exec", f"{NAME}-client", sys.executable, "-c", STREAM, address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert download.stdout is not None
    begun = len(download.stdout.read(1000))
    assert begun > 0, fetch(address, "slow.example.com")
    reloads = log().count("signal 1 (SIGHUP) received")
    for i in range(4):
        apply(ingress("brief", rule(f"brief{i}.example.com", ("/", "Prefix", "cart", 80))))
        until("the new host", lambda i=i: answer(address, f"brief{i}.example.com")[0] == 200)
    nsk8s("scale", "deployment", "front", "--replicas=4")
    until("more pods", lambda: len(pods("app=front")) == 4)
    nsk8s("scale", "deployment", "front", "--replicas=1")
    until("fewer pods", lambda: len(get("pods", "-l", "app=front")["items"]) == 1)
    assert log().count("signal 1 (SIGHUP) received") >= reloads + 4, "nginx was really told"
    rest, _ = download.communicate(timeout=60)
    assert begun + len(rest) == 30_000
    said, _ = stream.communicate(timeout=60)  # which tells it to end
    counts = json.loads(said)
    assert counts.pop("200") >= 100, counts
    assert counts == {}
    nsk8s("delete", "ingress", "slow", "brief")
    nsk8s("delete", "pod", "slow", "--grace-period=0", "--force", ok=False)


STREAM = """
import collections, http.client, json, select, sys, time
counts = collections.Counter()
while counts.total() < 100 or not select.select([sys.stdin], [], [], 0)[0]:
    connection = http.client.HTTPConnection(sys.argv[1], timeout=20)
    try:
        connection.request('GET', '/', headers={'Host': 'shop.example.com'})
        counts[connection.getresponse().status] += 1
    except OSError as e:
        counts[repr(e)] += 1
    finally:
        connection.close()
    time.sleep(0.01)
print(json.dumps(counts))
"""


def log() -> str:
    return nsk8s("logs", "-n", manifest.NAMESPACE, f"deployment/{manifest.NAME}").stdout


def test_a_controller_that_is_replaced_serves_the_same(address: str) -> None:
    pod = get("pods", "-n", manifest.NAMESPACE)["items"][0]["metadata"]["name"]
    nsk8s("delete", "pod", "-n", manifest.NAMESPACE, pod)
    until("another pod", lambda: [
        p for p in get("pods", "-n", manifest.NAMESPACE)["items"]
        if p["metadata"]["name"] != pod and any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))
    ])  # fmt: skip
    until("it answers at the same address", lambda: app(answer(address, "shop.example.com", "/cart")) == "cart")
