"""How the built-in images end when they are told to: as upstream's do, and `nsk8s/echo` without losing a request."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import time

import pytest
from runtime_node import Client, Pod

from nsk8s.kernel import syscalls as sc
from nsk8s.runtime import images_echo

pytestmark = pytest.mark.root


def in_netns(pid: int, work):
    """`work()` as a process of that network namespace; its JSON result."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            sc.setns(fd, sc.CLONE_NEWNET)
            os.write(write, json.dumps(work()).encode())
        except BaseException as e:
            os.write(write, json.dumps(repr(e)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as f:
        text = f.read()
    os.waitpid(child, 0)
    return json.loads(text)


def wait_listening(node, ip: str) -> None:
    node.run_in_node("curl", "-s", "--retry", "50", "--retry-delay", "0", "--retry-connrefused", f"http://{ip}:8080/healthz")


GRACE_S, AT_ONCE_S = 20, 10
"""What ends by itself does so long before the grace is over, however busy the machine is."""


def stop_time(pod: Pod, container: str, timeout: int = GRACE_S) -> float:
    started = time.monotonic()
    pod.client.call("StopContainer", {"containerId": container, "timeout": timeout})
    return time.monotonic() - started


def test_an_idle_echo_ends_at_once(node, pod):
    echo = pod.start(image="nsk8s/echo")
    wait_listening(node, pod.status()["network"]["ip"])
    assert 0.4 < stop_time(pod, echo) < AT_ONCE_S
    assert pod.container(echo)["exitCode"] == 0


def test_an_echo_that_has_hardly_started_hears_its_signal(pod):
    """Process 1 of a pid namespace loses signals it has no handler for: Python takes tens of milliseconds to get there."""
    for _ in range(5):
        echo = pod.start(image="nsk8s/echo")
        assert stop_time(pod, echo) < AT_ONCE_S
        assert pod.container(echo)["exitCode"] == 0


def test_a_dns_pod_that_has_hardly_started_hears_its_signal(pod):
    dns = pod.start(image="nsk8s/dns", args=["--kubeconfig", "/nosuch"])
    assert stop_time(pod, dns) < GRACE_S, "at the latest when its imports are done"


def test_an_echo_serves_late_connections_and_what_is_under_way(node, pod):
    """kube-proxies send connections until they have heard of the end: none of them may be refused."""
    for _ in range(20):
        echo = pod.start(image="nsk8s/echo")
        ip, pid = pod.status()["network"]["ip"], pod.container(echo)["pid"]
        wait_listening(node, ip)
        seen = in_netns(pid, lambda ip=ip, pid=pid: connections(ip, pid))
        assert isinstance(seen, dict), seen
        ended = pod.wait_exit(echo)
        if seen["gap"] < images_echo.QUIET_S / 2:
            break
        # Somebody was held up for so long that it was a silence.
    assert "error" not in seen, seen
    assert "Connection: keep-alive" in seen["before"]
    assert len(seen["late"]) == 30
    for answer in [*seen["late"], seen["after"], seen["begun"]]:
        assert answer.startswith("HTTP/1.1 200"), answer
        assert "Connection: close" in answer
    assert seen["stuck"] == "", "a request that never comes holds nobody up"
    assert ended["exitCode"] == 0


def connections(ip: str, pid: int) -> dict[str, object]:
    """What connections of several kinds are told around a SIGTERM, and the longest time that nothing was sent after it."""
    said: dict[str, object] = {}
    at: list[float] = []

    def traffic() -> None:
        def ask(sock: socket.socket) -> str:
            data = b""
            while b"\r\n\r\n" not in data or not data.endswith(b"\n"):
                more = sock.recv(65536)
                if not more:
                    break
                data += more
            return data.decode()

        kept = socket.create_connection((ip, 8080), 20)
        kept.sendall(b"GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n")
        said["before"] = ask(kept)
        begun = socket.create_connection((ip, 8080), 20)
        begun.sendall(b"GET /hostname HTTP/1.1\r\nHo")
        stuck = socket.create_connection((ip, 8080), 20)
        stuck.sendall(b"GET /never")
        at.append(time.monotonic())
        os.kill(pid, signal.SIGTERM)
        said["late"] = late = []
        for _ in range(30):  # longer than an idle one lasts, and without a gap
            with socket.create_connection((ip, 8080), 20) as sock:
                sock.sendall(b"GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n")
                late.append(ask(sock))
            at.append(time.monotonic())
            time.sleep(0.02)
        kept.sendall(b"GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n")
        said["after"] = ask(kept)
        begun.sendall(b"st: x\r\n\r\n")
        said["begun"] = ask(begun)
        at.append(time.monotonic())
        said["stuck"] = ask(stuck)

    try:
        traffic()
    except OSError as e:
        said["error"] = repr(e)
        at.append(time.monotonic())
    return said | {"gap": max(b - a for a, b in itertools.pairwise(at))}


def test_pause_ends_when_told_as_upstreams_does(pod):
    pause = pod.start(image="registry.k8s.io/pause:3.10")
    assert not select.select([os.pidfd_open(pod.container(pause)["pid"])], [], [], 0.2)[0]
    assert stop_time(pod, pause) < AT_ONCE_S
    assert pod.container(pause)["exitCode"] == 0


@pytest.mark.parametrize(("image", "command"), [("busybox", ("sleep", "infinity")), ("debian", ("sleep", "infinity"))])
def test_process_1_without_a_handler_is_killed_after_the_grace(pod: Pod, client: Client, image: str, command: tuple[str, ...]):
    container = pod.start(*command, image=image)
    assert stop_time(pod, container, timeout=1) > 0.9
    assert pod.container(container)["exitCode"] == 137
