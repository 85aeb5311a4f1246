"""`nsk8s.dns` as a process on loopback: a fake API on one side, a DNS client on the other."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientError, ClientSession, web
from dnslib import CLASS, EDNS0, QTYPE, RCODE, DNSHeader, DNSQuestion, DNSRecord
from free_port import free_port

from nsk8s.dns import forward

PLURALS = {"namespaces": "Namespace", "services": "Service", "endpointslices": "EndpointSlice", "pods": "Pod"}
TIMEOUT_S = 30.0


class FakeAPI:
    """List and watch of three kinds over plain http; `put` and `delete` are seen by every watch at once."""

    def __init__(self) -> None:
        self.version = 10
        self.objects: dict[str, dict[str, Any]] = {plural: {} for plural in PLURALS}
        self.watches: dict[str, set[asyncio.Queue[dict[str, Any] | None]]] = {plural: set() for plural in PLURALS}
        self.open = asyncio.Event()
        self.open.set()
        self.gone: list[tuple[int, str, dict[str, Any]]] = []
        self._runner: web.AppRunner | None = None
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))  # so that nobody is given the port while this is stopped
        self.port = self._held.getsockname()[1]

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._get)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()

    async def stop(self) -> None:
        for queues in self.watches.values():
            for queue in queues:
                queue.put_nowait(None)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def put(self, plural: str, obj: dict[str, Any]) -> None:
        self.version += 1
        meta = obj["metadata"]
        key = f"{meta.get('namespace', '')}/{meta['name']}"
        kind = "MODIFIED" if key in self.objects[plural] else "ADDED"
        obj = {**obj, "kind": PLURALS[plural], "metadata": {**meta, "resourceVersion": str(self.version)}}
        self.objects[plural][key] = obj
        self._tell(plural, kind, obj)

    def delete(self, plural: str, key: str) -> None:
        self.version += 1
        obj = self.objects[plural].pop(key)
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self.gone.append((self.version, plural, obj))
        self._tell(plural, "DELETED", obj)

    def _tell(self, plural: str, kind: str, obj: dict[str, Any]) -> None:
        for queue in self.watches[plural]:
            queue.put_nowait({"type": kind, "object": obj})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        await self.open.wait()
        plural = request.path.rsplit("/", 1)[-1]
        if plural not in PLURALS:
            raise web.HTTPNotFound
        if request.query.get("watch") != "1":
            items = list(self.objects[plural].values())
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        since = int(request.query.get("resourceVersion") or 0)
        for obj in self.objects[plural].values():
            if int(obj["metadata"]["resourceVersion"]) > since:
                queue.put_nowait({"type": "MODIFIED", "object": obj})
        for version, of, obj in self.gone:
            if of == plural and version > since:
                queue.put_nowait({"type": "DELETED", "object": obj})
        self.watches[plural].add(queue)
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        except ConnectionError:
            pass
        finally:
            self.watches[plural].discard(queue)
        return response


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"type": "ClusterIP", **spec}}


def endpoints(svc: str, addresses: list[str]) -> dict[str, Any]:
    return {
        "metadata": {"name": f"{svc}-x", "namespace": "default", "labels": {"kubernetes.io/service-name": svc}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [a], "conditions": {"ready": True}} for a in addresses],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    }


HTTP = [{"name": "http", "port": 80, "protocol": "TCP"}]
WEB = "web.default.svc.cluster.local"
MANY = "many.default.svc.cluster.local"


class Server:
    """The process and a client for it."""

    def __init__(self, process: asyncio.subprocess.Process, ports: dict[str, int], started: float, address: str) -> None:
        self.address = address
        self.process = process
        self.ports = ports
        self.started = started

    async def raw(self, data: bytes, *, timeout_s: float = TIMEOUT_S) -> bytes:
        """One datagram there, one back. Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.setblocking(False)
            s.connect((self.address, self.ports["dns"]))
            await loop.sock_sendall(s, data)
            async with asyncio.timeout(timeout_s):
                return await loop.sock_recv(s, 65535)

    async def tcp(self, data: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self.address, self.ports["dns"])
        try:
            writer.write(len(data).to_bytes(2, "big") + data)
            async with asyncio.timeout(TIMEOUT_S):
                return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()

    async def dig(self, name: str, kind: str = "A") -> DNSRecord:
        return DNSRecord.parse(await self.raw(bytes(DNSRecord.question(name, kind).pack())))

    async def until(self, name: str, want: set[str]) -> None:
        """Ask until exactly these addresses come back: a record follows its object."""
        deadline = time.monotonic() + TIMEOUT_S
        while (found := {str(rr.rdata) for rr in (await self.dig(name)).rr}) != want:
            assert time.monotonic() < deadline, f"{name} is {found}, not {want}"
            await asyncio.sleep(0.005)

    async def until_ready(self) -> None:
        """/ready says no after READY_PATIENCE_S of waiting."""
        deadline = time.monotonic() + TIMEOUT_S
        while (said := await self.page("ready")) != (200, "OK"):
            assert time.monotonic() < deadline, said

    async def page(self, name: str) -> tuple[int, str]:
        async with ClientSession() as session, session.get(f"http://{self.address}:{self.ports[name]}/{name}") as response:
            return response.status, await response.text()


Start = Callable[..., Awaitable[Server]]


@pytest.fixture
async def api() -> AsyncIterator[FakeAPI]:
    fake = FakeAPI()
    for name in ("default", "kube-system"):
        fake.put("namespaces", {"metadata": {"name": name}})
    fake.put("services", service("web", clusterIP="10.96.0.7", ports=HTTP))
    fake.put("services", service("many", clusterIP="None", ports=HTTP))
    fake.put("services", service("ext", type="ExternalName", externalName="www.example.test"))
    fake.put("endpointslices", endpoints("many", [f"10.244.{i // 250}.{i % 250 + 1}" for i in range(300)]))
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def start(api: FakeAPI, tmp_path: Path) -> AsyncIterator[Start]:
    """`start(*flags)`: a server that is ready (or, with wait=False, only listening)."""
    config = tmp_path / "kubeconfig"
    config.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    servers: list[Server] = []

    async def begin(
        *flags: str, wait: bool = True, address: str = "127.0.0.1", port: int = 0, stdout: int | None = None
    ) -> Server:
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nsk8s.dns", "--kubeconfig", str(config), "--bind-address", address,
            "--port", str(port), "--health-port", "0", "--ready-port", "0", "--metrics-port", "0", *flags,
            stdout=stdout, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[3],
        )  # fmt: skip
        assert process.stderr is not None
        said: list[str] = []
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                line = (await process.stderr.readline()).decode()
                assert line, f"the server ended: {''.join(said)}"
                said.append(line)
                if found := re.search(r"listening on .*, ports (\{.*\})", line):
                    ports = json.loads(found[1].replace("'", '"'))
                    break
        server = Server(process, ports, started, address)
        servers.append(server)
        if wait:
            await server.until_ready()
        return server

    yield begin
    for server in servers:
        if server.process.returncode is None:
            server.process.kill()
        await server.process.wait()


async def test_it_starts_fast(start: Start) -> None:
    """Counted in CPU time, which a busy machine does not stretch much: about 0.25 s. benchmarks/ hold what a clock says."""
    server = await start()
    spent = psutil.Process(server.process.pid).cpu_times()
    assert spent.user + spent.system < 1.0, spent


async def test_udp_and_tcp_give_the_same_answer(start: Start) -> None:
    server = await start()
    query = bytes(DNSRecord.question(WEB).pack())
    over_udp, over_tcp = await server.raw(query), await server.tcp(query)
    assert over_udp == over_tcp
    reply = DNSRecord.parse(over_udp)
    assert [(str(rr.rname), rr.ttl, str(rr.rdata)) for rr in reply.rr] == [(WEB + ".", 5, "10.96.0.7")]
    assert (reply.header.aa, reply.header.ra, reply.header.rd, reply.header.tc) == (1, 0, 1, 0)


async def test_records_follow_their_objects(start: Start, api: FakeAPI) -> None:
    server = await start()
    api.put("services", service("new", clusterIP="10.96.0.99", ports=HTTP))
    await server.until("new.default.svc.cluster.local", {"10.96.0.99"})
    api.put("services", service("few", clusterIP="None", ports=HTTP))
    api.put("endpointslices", endpoints("few", ["10.244.9.1", "10.244.9.2"]))
    await server.until("few.default.svc.cluster.local", {"10.244.9.1", "10.244.9.2"})
    api.put("endpointslices", endpoints("few", ["10.244.9.2"]))
    await server.until("few.default.svc.cluster.local", {"10.244.9.2"})
    api.delete("services", "default/new")
    await server.until("new.default.svc.cluster.local", set())
    assert (await server.dig("new.default.svc.cluster.local")).header.rcode == RCODE.NXDOMAIN


async def test_what_does_not_fit_a_datagram_is_truncated_and_whole_over_tcp(start: Start) -> None:
    server = await start()
    plain = await server.raw(bytes(DNSRecord.question(MANY).pack()))
    assert len(plain) <= 512
    reply = DNSRecord.parse(plain)
    assert reply.header.tc == 1
    assert len(reply.rr) > 20

    query = DNSRecord.question(MANY)
    query.add_ar(EDNS0(udp_len=1232))
    larger = DNSRecord.parse(await server.raw(bytes(query.pack())))
    assert larger.header.tc == 1
    assert len(reply.rr) < len(larger.rr) < 300
    assert [rr.rtype for rr in larger.ar] == [QTYPE.OPT]

    whole = DNSRecord.parse(await server.tcp(bytes(DNSRecord.question(MANY).pack())))
    assert whole.header.tc == 0
    assert len({str(rr.rdata) for rr in whole.rr}) == 300


async def test_edns_gets_edns_back_and_plain_gets_plain(start: Start) -> None:
    server = await start()
    assert (await server.dig(WEB)).ar == []
    query = DNSRecord.question(WEB)
    query.add_ar(EDNS0(udp_len=4096, version=1))
    reply = DNSRecord.parse(await server.raw(bytes(query.pack())))
    assert reply.ar[0].edns_rcode == 1  # BADVERS = 16: the upper bits
    assert reply.header.rcode == 0
    assert reply.rr == []


async def test_headless_answers_are_shuffled(start: Start) -> None:
    server = await start()
    query = bytes(DNSRecord.question(MANY).pack())
    first = {str(DNSRecord.parse(await server.tcp(query)).rr[0].rdata) for _ in range(12)}
    assert len(first) > 1


async def test_the_spelling_of_the_question_comes_back(start: Start) -> None:
    server = await start()
    raw = await server.raw(bytes(DNSRecord.question("wEb.DefAult.svc.CLUSTER.local").pack()))
    assert b"\x03wEb\x07DefAult" in raw
    assert [str(rr.rname) for rr in DNSRecord.parse(raw).rr] == ["wEb.DefAult.svc.CLUSTER.local."]


async def test_nothing_outside_is_asked_or_answered(start: Start) -> None:
    server = await start()
    reply = await server.dig("example.com")
    assert (reply.header.rcode, reply.header.ra, [str(rr.rname) for rr in reply.auth]) == (RCODE.NXDOMAIN, 0, ["."])
    for above in (".", "local", "arpa"):
        assert (await server.dig(above, "NS")).header.rcode == RCODE.NOERROR, "or the cluster's zone could not exist, either"
    chain = await server.dig("ext.default.svc.cluster.local")
    assert [str(rr.rdata) for rr in chain.rr] == ["www.example.test."]


async def test_ready_only_after_the_first_sync_and_servfail_until_then(start: Start, api: FakeAPI) -> None:
    api.open.clear()
    server = await start(wait=False)
    assert (await server.page("ready"))[0] == 503
    assert (await server.page("health"))[0] == 200
    assert (await server.dig(WEB)).header.rcode == RCODE.SERVFAIL
    api.open.set()
    await server.until_ready()
    assert (await server.dig(WEB)).header.rcode == RCODE.NOERROR


async def test_it_outlives_the_api_server(start: Start, api: FakeAPI) -> None:
    server = await start()
    await api.stop()
    assert [str(rr.rdata) for rr in (await server.dig(WEB)).rr] == ["10.96.0.7"]
    assert (await server.page("ready"))[0] == 200
    api.put("services", service("web", clusterIP="10.96.0.8", ports=HTTP))
    await api.start()
    await server.until(WEB, {"10.96.0.8"})


def header(**bits: int) -> bytes:
    return bytes(DNSRecord(DNSHeader(id=7, **bits), q=DNSQuestion(WEB)).pack())


async def test_bad_messages(start: Start) -> None:
    server = await start()
    good = bytes(DNSRecord.question(WEB).pack())

    async def rcode(data: bytes) -> int:
        return (await server.raw(data))[3] & 0xF

    assert await rcode(header(opcode=5)) == RCODE.NOTIMP
    assert await rcode(good[:20]) == RCODE.FORMERR
    two = DNSRecord.question(WEB)
    two.add_question(DNSQuestion(WEB))
    assert await rcode(bytes(two.pack())) == RCODE.FORMERR
    assert await rcode(good[:4] + b"\0\0" + good[6:12]) == RCODE.FORMERR
    loop = good[:12] + b"\xc0\x0c" + b"\0\1\0\1"
    assert await rcode(loop) == RCODE.FORMERR
    chaos = bytes(DNSRecord(q=DNSQuestion("version.bind", QTYPE.TXT, CLASS.CH)).pack())
    assert await rcode(chaos) == RCODE.REFUSED
    for silent in (b"", b"x", good[:11], header(qr=1)):
        with pytest.raises(TimeoutError):
            await server.raw(silent, timeout_s=0.05)
    assert await rcode(good) == RCODE.NOERROR


async def test_garbage_does_not_kill_it(start: Start) -> None:
    server = await start()
    good = bytearray(DNSRecord.question(WEB).pack())
    for seed in range(300):
        data = bytearray(good)
        for step in range(1 + seed % 4):
            data[(seed * 7 + step * 13) % len(data)] = (seed * 31 + step * 101) % 256
        try:
            await server.raw(bytes(data[: len(data) - seed % 9]), timeout_s=0.02)
        except TimeoutError:
            continue
    assert (await server.dig(WEB)).header.rcode == RCODE.NOERROR


async def test_several_queries_on_one_connection(start: Start) -> None:
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ports["dns"])
    queries = [bytes(DNSRecord.question(name).pack()) for name in (WEB, "example.com", WEB)]
    writer.write(b"".join(len(q).to_bytes(2, "big") + q for q in queries))
    codes = []
    async with asyncio.timeout(TIMEOUT_S):
        for _ in queries:
            raw = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            codes.append(raw[3] & 0xF)
    writer.close()
    assert codes == [RCODE.NOERROR, RCODE.NXDOMAIN, RCODE.NOERROR]


async def test_metrics(start: Start) -> None:
    server = await start()
    question = bytes(DNSRecord.question(WEB).pack())
    assert (await server.raw(question)) == (await server.raw(question))
    await server.dig("nothing.default.svc.cluster.local")
    status, text = await server.page("metrics")
    assert status == 200
    where = 'server="dns://:0",zone=".",view=""'
    assert f'coredns_dns_requests_total{{{where},proto="udp",family="1",type="A"}} 3' in text, "one of them out of the cache"
    assert f'coredns_dns_responses_total{{{where},rcode="NXDOMAIN",plugin="kubernetes"}} 1' in text
    assert f"coredns_dns_request_duration_seconds_count{{{where}}} 3" in text
    assert f'coredns_dns_response_size_bytes_bucket{{{where},proto="udp",le="100"}} 2' in text


async def test_a_server_that_never_answers_is_told_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(forward, "TIMEOUT_S", 0.01)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        assert await forward.Forwarder([("127.0.0.1", port)]).ask(bytes(DNSRecord.question("x.example").pack()), tcp=False) is None
    assert caplog.messages == [f"127.0.0.1 port {port}: TimeoutError"]


async def test_forward(start: Start) -> None:
    """With --forward names outside go to that server, ids and all, and an ExternalName is followed there."""

    class Upstream(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            query = DNSRecord.parse(data)
            reply = query.replyZone(f"{query.q.qname} 60 A 192.0.2.80")
            self.transport.sendto(reply.pack(), addr)  # type: ignore[attr-defined]

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
    try:
        server = await start("--forward", f"127.0.0.1:{transport.get_extra_info('sockname')[1]}")
        query = DNSRecord.question("example.com")
        reply = DNSRecord.parse(await server.raw(bytes(query.pack())))
        assert (reply.header.id, [str(rr.rdata) for rr in reply.rr]) == (query.header.id, ["192.0.2.80"])
        chain = await server.dig("ext.default.svc.cluster.local")
        assert [str(rr.rdata) for rr in chain.rr] == ["www.example.test.", "192.0.2.80"]
        assert (await server.dig(WEB)).header.aa == 1
    finally:
        transport.close()


COREFILE = """\
corp.test:{port} {{
    forward . 127.0.0.1:{upstream}
    cache 30
}}
.:{port} {{
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods {pods}
        ttl 7
        fallthrough in-addr.arpa
    }}
    forward in-addr.arpa 127.0.0.1:{upstream}
    reload
}}
"""


async def test_a_corefile_says_what_is_answered_and_is_read_again(start: Start, tmp_path: Path) -> None:
    heard: list[str] = []

    class Upstream(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            query = DNSRecord.parse(data)
            heard.append(str(query.q.qname))
            kind = "PTR host.test." if query.q.qtype == QTYPE.PTR else "A 192.0.2.80"
            self.transport.sendto(query.replyZone(f"{query.q.qname} 60 {kind}").pack(), addr)  # type: ignore[attr-defined]

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Upstream, local_addr=("127.0.0.1", 0))
    upstream = transport.get_extra_info("sockname")[1]
    port = free_port()
    conf = tmp_path / "Corefile"
    conf.write_text(COREFILE.format(port=port, upstream=upstream, pods="disabled"))
    pod = "10-1-2-3.default.pod.cluster.local"
    try:
        server = await start("-conf", str(conf), wait=False)

        async def answers(name: str, kind: str = "A") -> list[str]:
            return [str(rr.rdata) for rr in (await server.dig(name, kind)).rr]

        await server.until(WEB, {"10.96.0.7"})
        assert [rr.ttl for rr in (await server.dig(WEB)).rr] == [7]
        assert (await server.dig(pod)).header.rcode == RCODE.NXDOMAIN
        assert await answers("www.corp.test") == ["192.0.2.80"], "a stub domain"
        assert await answers("WWW.corp.test") == ["192.0.2.80"]
        assert heard == ["www.corp.test."], "and a cache: it was asked once"
        assert (await server.dig("example.com")).header.rcode == RCODE.NXDOMAIN, "and nothing else leaves"
        assert await answers("7.0.96.10.in-addr.arpa", "PTR") == [WEB + "."]
        assert await answers("9.9.9.10.in-addr.arpa", "PTR") == ["host.test."], "fallthrough"
        conf.write_text("nonsense")
        assert server.process.stderr is not None
        async with asyncio.timeout(TIMEOUT_S):
            while b"the configuration stays as it was" not in await server.process.stderr.readline():
                continue
        assert await answers(WEB) == ["10.96.0.7"]
        conf.write_text(COREFILE.format(port=port, upstream=upstream, pods="insecure"))
        question = bytes(DNSRecord.question(pod).pack())
        async with asyncio.timeout(TIMEOUT_S):
            while [str(rr.rdata) for rr in DNSRecord.parse(await server.raw(question)).rr] != ["10.1.2.3"]:
                assert await answers(WEB) == ["10.96.0.7"], "nobody waits meanwhile"
        assert await answers("www.corp.test") == ["192.0.2.80"]
    finally:
        transport.close()


RESOLV_CONF = """\
search default.svc.cluster.local svc.cluster.local cluster.local
nameserver {address}
options ndots:5
"""


async def test_one_that_forwards_to_itself_ends_with_coredns_words(start: Start, tmp_path: Path) -> None:
    port = free_port()
    conf = tmp_path / "Corefile"
    conf.write_text(f".:{port} {{\n  kubernetes cluster.local\n  forward . 127.0.0.1:{port}\n  loop\n}}\n")
    server = await start("-conf", str(conf), wait=False)
    assert server.process.stderr is not None
    async with asyncio.timeout(TIMEOUT_S):
        said = (await server.process.stderr.read()).decode()
        assert await server.process.wait() == 1
    assert re.search(r'error: Loop \(127\.0\.0\.1:\d+\) detected for zone "\."\. Query: "HINFO \d+\.\d+\."', said), said


PLUGINS = """\
.:{port} {{
    kubernetes cluster.local {{
        pods verified
        fallthrough
    }}
    hosts {hosts} {{
        203.0.113.10 www.example.test
        fallthrough
    }}
    rewrite name shop.test web.default.svc.cluster.local
    rewrite continue name suffix .old.test .new.test
    rewrite name back.new.test ext.default.svc.cluster.local
    any
    bufsize 1232
    log
    reload
}}
"""


async def test_hosts_rewrite_any_log_and_pods_that_are_there(start: Start, api: FakeAPI, tmp_path: Path) -> None:
    port = free_port()
    conf = tmp_path / "Corefile"
    conf.write_text(PLUGINS.format(port=port, hosts=tmp_path / "no-such-file"))
    server = await start("-conf", str(conf), wait=False, stdout=asyncio.subprocess.PIPE)
    await server.until(WEB, {"10.96.0.7"})

    async def answers(name: str, kind: str = "A") -> list[str]:
        reply = await server.dig(name, kind)
        assert str(reply.q.qname) == f"{name}."
        return [f"{rr.rname} {rr.rdata}" for rr in reply.rr]

    assert await answers("www.example.test") == ["www.example.test. 203.0.113.10"]
    assert await answers("ext.default.svc.cluster.local") == [
        "ext.default.svc.cluster.local. www.example.test.", "www.example.test. 203.0.113.10",
    ], "an ExternalName is followed wherever it leads"  # fmt: skip
    assert await answers("Shop.Test") == ["shop.test. 10.96.0.7"]
    assert await answers("back.old.test") == ["back.new.test. www.example.test.", "www.example.test. 203.0.113.10"]
    assert (await server.dig("shop.test", "ANY")).rr[0].rtype == 13, "HINFO"
    pod = "10-244-3-9.default.pod.cluster.local"
    assert (await server.dig(pod)).header.rcode == RCODE.NXDOMAIN
    api.put("pods", {"metadata": {"name": "p", "namespace": "default"}, "status": {"podIP": "10.244.3.9", "phase": "Running"}})
    await server.until(pod, {"10.244.3.9"})
    query = DNSRecord(DNSHeader(), q=DNSQuestion(MANY))
    query.add_ar(EDNS0(udp_len=4096, flags="do"))
    raw = await server.raw(bytes(query.pack()))
    reply = DNSRecord.parse(raw)
    assert (len(raw) <= 1232, reply.header.tc, reply.ar[0].edns_do) == (True, 1, 1)
    assert server.process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        while not re.match(
            rb'\[INFO\] 127\.0\.0\.1:\d+ - \d+ "A IN Shop\.Test\. udp 27 false 512" NOERROR qr,aa,rd \d+ 0\.\d+s\n',
            await server.process.stdout.readline(),
        ):
            continue


@pytest.mark.root
async def test_a_pods_resolver_finds_names_as_in_a_cluster(start: Start, tmp_path: Path) -> None:
    """glibc and busybox with a pod's resolv.conf, put over this machine's in a mount namespace that ends with the command."""
    server = await start(address="127.77.0.53", port=53)
    (tmp_path / "resolv.conf").write_text(RESOLV_CONF.format(address=server.address))
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    mounts = " && ".join(f"mount --bind {tmp_path}/{name} /etc/{name}" for name in ("resolv.conf", "nsswitch.conf"))

    async def resolve(command: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            "unshare", "--mount", "--propagation", "private", "sh", "-c", f"{mounts} && exec {command}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    for name in ("web", "web.default", "web.default.svc", WEB, WEB + "."):
        code, output = await resolve(f"getent ahostsv4 {name}")
        assert code == 0, (name, output)
        assert output.startswith("10.96.0.7 "), (name, output)
    assert (await resolve("getent hosts 10.96.0.7"))[1].split() == ["10.96.0.7", WEB]
    assert (await resolve("getent ahosts many"))[1].count("STREAM") == 300, "truncated over UDP, whole over TCP"
    assert (await resolve("getent ahostsv4 nothing"))[0] == 2
    assert (await resolve("getent ahostsv4 example.com"))[0] == 2
    code, output = await resolve(f"busybox nslookup {WEB}")
    assert code == 0, output
    assert "10.96.0.7" in output


async def test_sigterm_ends_it_cleanly_after_the_lameduck_time(start: Start) -> None:
    for lameduck in (0.3, 3, 30):
        server = await start("--lameduck", str(lameduck))
        told = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        try:
            while (await server.page("ready"))[0] != 503:
                pass
            assert (await server.dig(WEB)).header.rcode == RCODE.NOERROR
            break
        except (OSError, ClientError):  # TimeoutError is one of the former
            assert time.monotonic() - told > lameduck, "it did not wait"  # else this machine was held up for longer
    async with asyncio.timeout(TIMEOUT_S):
        assert await server.process.wait() == 0


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--kubeconfig", "/nonexistent"], 1, "cannot read kubeconfig /nonexistent"),
        ([], 1, "not in a pod"),
        (["--forward", "example.com"], 2, "is not IP"),
        (["--port", "99999"], 2, "is not a port"),
    ],
)
async def test_bad_flags_end_in_one_line(flags: list[str], code: int, words: str) -> None:
    free = ["--bind-address", "127.0.0.1", *(f"--{p}=0" for p in ("health-port", "ready-port", "metrics-port"))]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KUBERNETES_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nsk8s.dns", *free, *([] if "--port" in flags else ["--port", "0"]), *flags,
        stderr=asyncio.subprocess.PIPE, env=environment, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    _, text = await process.communicate()
    assert process.returncode == code
    assert words in text.decode()
    assert "Traceback" not in text.decode()
