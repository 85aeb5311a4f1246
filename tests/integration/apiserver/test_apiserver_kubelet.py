"""Logs, exec and attach through the server to a kubelet on loopback: bytes pass unchanged, failures come in upstream's words."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from nsk8s.client import certs, kubeconfig
from nsk8s.client.rest import Client
from nsk8s.errors import StatusError

NS = "/api/v1/namespaces/default"


@dataclass
class FakeKubelet:
    """Answers as a kubelet does; an exec is an echo of channel 0 on channel 1 that ends with a Status on channel 3."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    peers: list[Any] = field(default_factory=list)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path_qs)
        assert request.transport is not None
        self.peers.append(request.transport.get_extra_info("peercert"))
        if request.match_info["container"] == "waiting":
            return web.Response(status=400, text='container "waiting" in pod "p" is waiting to start: ContainerCreating')
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one\n")
        if request.query.get("follow"):
            await asyncio.sleep(0.3)
        await response.write(b"two\n")
        await response.write_eof()
        return response

    async def exec(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        if request.match_info["container"] == "waiting":
            return web.Response(status=404, text='container not found ("waiting")')
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return web.Response(status=400, text="unable to upgrade: this kubelet streams over WebSocket only")
        ws = web.WebSocketResponse(protocols=["v5.channel.k8s.io", "v4.channel.k8s.io"], max_msg_size=0)
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.BINARY and message.data[:1] == b"\x00":
                await ws.send_bytes(b"\x01" + message.data[1:])
            elif message.type is WSMsgType.BINARY and message.data == b"\xff\x00":
                break
        await ws.send_bytes(b'\x03{"metadata":{},"status":"Success"}')
        await ws.close()
        return ws


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    ca = certs.new_ca("kubernetes")
    certs.write(directory, "ca", ca)
    certs.write(directory, "client", certs.issue(ca, "kube-apiserver-kubelet-client", ["system:masters"]))
    certs.write(directory, "kubelet", certs.issue(ca, "system:node:n", ["system:nodes"], ["127.0.0.1"]))
    return directory


@pytest.fixture(scope="module")
def server(apiserver_factory: Callable[..., Any], pki: Path) -> Any:
    return apiserver_factory(
        f"--client-ca-file={pki}/ca.crt", f"--kubelet-client-certificate={pki}/client.crt",
        f"--kubelet-client-key={pki}/client.key", f"--kubelet-certificate-authority={pki}/ca.crt",
    )  # fmt: skip


@pytest.fixture
async def kubelet(pki: Path) -> AsyncIterator[FakeKubelet]:
    fake = FakeKubelet()
    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", fake.logs)
    app.router.add_route("*", "/exec/{namespace}/{pod}/{container}", fake.exec)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=pki / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pki / "kubelet.crt", pki / "kubelet.key")
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    fake.port = runner.addresses[0][1]
    yield fake
    await runner.cleanup()


def add_pod(server: Any, port: int, *containers: str) -> str:
    """A pod on a node whose kubelet listens on 127.0.0.1:`port`."""
    name = f"p{os.urandom(4).hex()}"
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    made = server.request("POST", "/api/v1/nodes", {"metadata": {"name": name}, "status": status})
    assert made.code == 201, made.body
    spec = {"nodeName": name, "containers": [{"name": c, "image": "busybox"} for c in containers]}
    assert server.request("POST", f"{NS}/pods", {"metadata": {"name": name}, "spec": spec}).code == 201
    return name


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


async def test_logs_pass_through(server: Any, kubelet: FakeKubelet) -> None:
    name = await call(add_pod, server, kubelet.port, "c")
    answer = await call(server.request, "GET", f"{NS}/pods/{name}/log?follow=true&tailLines=5&timestamps=true")
    assert (answer.code, answer.body) == (200, b"one\ntwo\n")
    assert kubelet.requests == [f"/containerLogs/default/{name}/c?tailLines=5&follow=true&timestamps=true"]
    assert ("commonName", "kube-apiserver-kubelet-client") in kubelet.peers[0]["subject"][-1]


async def test_log_errors_are_the_kubelets(server: Any, kubelet: FakeKubelet) -> None:
    name = await call(add_pod, server, kubelet.port, "c", "waiting")
    answer = await call(server.request, "GET", f"{NS}/pods/{name}/log?container=waiting")
    assert answer.code == 400
    assert answer.json()["message"] == 'container "waiting" in pod "p" is waiting to start: ContainerCreating'
    several = await call(server.request, "GET", f"{NS}/pods/{name}/log")
    assert several.code == 400
    assert several.json()["message"] == f"a container name must be specified for pod {name}, choose one of: [c waiting]"
    unknown = await call(server.request, "GET", f"{NS}/pods/{name}/log?container=other")
    assert unknown.json()["message"] == f"container other is not valid for pod {name}"


async def test_a_kubelet_that_is_not_there_gives_the_dial_error(server: Any) -> None:
    name = await call(add_pod, server, 1, "c")
    logs = await call(server.request, "GET", f"{NS}/pods/{name}/log")
    assert logs.code == 500
    assert "reason" not in logs.json(), "kubectl says `Error from server: Get ...`"
    assert logs.json()["message"] == (
        f'Get "https://127.0.0.1:1/containerLogs/default/{name}/c": dial tcp 127.0.0.1:1: connect: connection refused'
    )
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "x" * 24, "Sec-WebSocket-Version": "13"}
    execute = await call(
        lambda: server.request("GET", f"{NS}/pods/{name}/exec?command=ls&stdout=1", headers=upgrade)
    )
    assert execute.json()["message"] == "error dialing backend: dial tcp 127.0.0.1:1: connect: connection refused"
    assert "reason" not in execute.json()
    async with Client(kubeconfig.load(server.kubeconfig)) as client:
        with pytest.raises(StatusError, match=r"^error dialing backend: dial tcp 127\.0\.0\.1:1: connect: connection refused$") as e:
            async with client.websocket(f"{NS}/pods/{name}/exec", [("command", "ls"), ("stdout", "1")], "v5.channel.k8s.io"):
                raise AssertionError("there is no kubelet")
    assert (e.value.code, e.value.reason) == (500, "")


async def test_exec_is_a_byte_tunnel(server: Any, kubelet: FakeKubelet) -> None:
    name = await call(add_pod, server, kubelet.port, "c")
    url = f"https://127.0.0.1:{server.port}{NS}/pods/{name}/exec?command=cat&command=a%20b&stdin=true&stdout=true"
    connector = aiohttp.TCPConnector(ssl=server.context())
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.ws_connect(url, protocols=["v5.channel.k8s.io"], max_msg_size=0) as ws:
            assert ws.protocol == "v5.channel.k8s.io"
            await ws.send_bytes(b"\x00hello")
            assert (await ws.receive(5)).data == b"\x01hello"
            big = os.urandom(3_000_000)
            sending = asyncio.ensure_future(ws.send_bytes(b"\x00" + big))
            assert (await ws.receive(20)).data == b"\x01" + big
            await sending
            await ws.ping()
            await ws.send_bytes(b"\xff\x00")
            assert (await ws.receive(5)).data == b'\x03{"metadata":{},"status":"Success"}'
            assert (await ws.receive(5)).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
    assert kubelet.requests == [f"GET /exec/default/{name}/c?input=1&output=1&command=cat&command=a+b"]


async def test_spdy_is_refused_in_words_and_a_missing_container_in_the_kubelets(server: Any, kubelet: FakeKubelet) -> None:
    name = await call(add_pod, server, kubelet.port, "c", "waiting")
    spdy = {"Upgrade": "SPDY/3.1", "Connection": "Upgrade", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}
    path = f"{NS}/pods/{name}/exec?command=ls&stdout=1&container="
    refused = await call(lambda: server.request("POST", path + "c", headers=spdy))
    assert refused.code == 400
    assert "use kubectl 1.30 or later, or KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true" in refused.json()["message"]
    missing = await call(lambda: server.request("POST", path + "waiting", headers=spdy))
    assert missing.code == 404
    assert missing.json()["message"] == 'container not found ("waiting")'
