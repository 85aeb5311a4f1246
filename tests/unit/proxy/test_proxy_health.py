"""/healthz and /livez: whether syncs keep up, told for each family, and what a node on its way out says."""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta

from nsk8s.proxy.health import ProxyHealth, ServiceHealth, healthz, livez
from nsk8s.proxy.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def test_a_proxy_that_starts_is_healthy_however_long_it_takes() -> None:
    clock = Clock()
    health = ProxyHealth(60, clock)
    health.queued("IPv4")
    clock.tick(3600)
    code, kind, body = healthz(health, Metrics())
    assert (code, kind) == (200, "application/json")
    assert json.loads(body) == {
        "lastUpdated": "2026-01-02T04:04:05Z", "currentTime": "2026-01-02T04:04:05Z", "nodeEligible": True, "healthy": True,
    }  # fmt: skip


def test_a_family_that_falls_behind_is_named() -> None:
    clock, metrics = Clock(), Metrics()
    health = ProxyHealth(60, clock)
    for family in ("IPv4", "IPv6"):
        health.queued(family)
        health.updated(family)
    clock.tick(10)
    health.queued("IPv4")
    health.queued("IPv6")
    clock.tick(30)
    health.queued("IPv4")  # the oldest counts
    health.updated("IPv6")
    clock.tick(29)
    assert livez(health, metrics)[0] == 200
    clock.tick(1)
    code, _, body = livez(health, metrics)
    assert code == 503
    assert json.loads(body) == {
        "lastUpdated": "2026-01-02T03:04:45Z", "currentTime": "2026-01-02T03:05:15Z", "healthy": False,
        "status": {
            "IPv4": {"lastUpdated": "2026-01-02T03:04:05Z", "healthy": False},
            "IPv6": {"lastUpdated": "2026-01-02T03:04:45Z", "healthy": True},
        },
    }  # fmt: skip
    health.updated("IPv4")
    assert livez(health, metrics)[0] == 200
    assert [metrics.get("proxy_livez_total", code=c) for c in ("200", "503")] == [2, 1]


def test_what_changes_no_rule_of_a_family_is_no_debt() -> None:
    clock = Clock()
    health = ProxyHealth(60, clock)
    health.updated("IPv6")
    health.queued("IPv6")
    health.nothing_to_do("IPv6")
    clock.tick(3600)
    assert health.healthy


def test_a_node_on_its_way_out_is_alive_and_not_to_be_sent_anything() -> None:
    health, metrics = ProxyHealth(60, Clock()), Metrics()
    health.updated("IPv4")
    health.node_eligible = False
    code, _, body = healthz(health, metrics)
    assert (code, json.loads(body)["nodeEligible"], json.loads(body)["healthy"]) == (503, False, True)
    code, _, body = livez(health, metrics)
    assert (code, "nodeEligible" in json.loads(body)) == (200, False)
    assert metrics.get("proxy_healthz_total", code="503") == 1


async def test_a_port_that_is_taken_is_told_of_and_tried_again() -> None:
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = ServiceHealth(ProxyHealth(60), lambda service, message: told.append(f"{service}: {message}"))
        await server.sync({"ns/s": (port, ("127.0.0.1",))}, {"ns/s": 2})
    assert len(told) == 1
    assert told[0].startswith(f"ns/s: failed to start healthcheck 'ns/s' on port {port}: Address already in use")
    await server.sync({"ns/s": (port, ("127.0.0.1",))}, {"ns/s": 2})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    assert head.splitlines()[0] == "HTTP/1.1 200 OK"
    assert {"X-Load-Balancing-Endpoint-Weight: 2", "X-Content-Type-Options: nosniff"} <= set(head.splitlines())
    assert json.loads(body) == {"service": {"namespace": "ns", "name": "s"}, "localEndpoints": 2, "serviceProxyHealthy": True}
    writer.close()
    await server.close()
    assert len(told) == 1
