"""The built-in images do what their names say."""

from __future__ import annotations

import json
import os
import select
import socket

import pytest
from free_port import free_port
from runtime_node import Pod, RuntimeNode

from nsk8s.runtime import images


def in_pod(pod, *argv: str, image: str = "python", **extra):
    container = pod.start(*argv, image=image, **extra)
    status = pod.wait_exit(container)
    return status["exitCode"], pod.log(container)


def test_echo(node, pod):
    env = [{"key": k, "value": v} for k, v in (("POD_NAME", "p"), ("POD_NAMESPACE", "n"), ("NODE_NAME", "w"), ("PORT", "9000"))]
    echo = pod.start(image="nsk8s/echo:1.0", envs=env)
    ip = pod.status()["network"]["ip"]

    def ask(*args: str) -> str:
        return node.run_in_node("curl", "-s", "--retry", "50", "--retry-delay", "0", "--retry-connrefused", *args)

    body = json.loads(ask(f"http://{ip}:9000/a?b"))
    assert (body["pod"], body["namespace"], body["node"]) == ("p", "n", "w")
    assert body["address"] == f"{ip}:9000"
    assert body["client"].startswith("10.244.1.1:")
    assert (body["method"], body["path"]) == ("GET", "/a?b")
    assert ask(f"http://{ip}:9000/hostname", f"http://{ip}:9000/healthz") == "p\nok\n"
    assert "pod: p\n" in ask("-H", "Accept: text/plain", f"http://{ip}:9000/")
    udp = "import socket,sys; s=socket.socket(socket.AF_INET,2); s.settimeout(20); s.sendto(b'hi',(sys.argv[1],9000)); print(s.recv(9999).decode())"
    answer = json.loads(node.run_in_node("python3", "-c", udp, ip))
    assert (answer["protocol"], answer["data"], answer["address"]) == ("UDP", "hi", f"{ip}:9000")
    pod.client.call("StopContainer", {"containerId": echo, "timeout": 10})
    assert pod.container(echo)["exitCode"] == 0


def test_echo_bad_port(pod):
    code, log = in_pod(pod, image="nsk8s/echo", envs=[{"key": "PORT", "value": "tcp://10.96.0.3:80"}])
    assert code == 1
    assert "PORT must be a number" in log


@pytest.mark.parametrize("name", ["busybox:1.36", "docker.io/library/alpine"])
def test_busybox_applets_stand_in(pod, name):
    code, log = in_pod(pod, "sh", "-c", "wget --help 2>&1 | head -n1; nslookup --help 2>&1 | head -n1; vi --help 2>&1 | head -n1", image=name)
    assert code == 0
    assert "not found" not in log
    assert "BusyBox" in log


def test_package_is_seen_where_our_own_code_runs(pod):
    image = images.resolve("nsk8s/dns")
    code, log = in_pod(pod, image.entrypoint[0], "-c", "import nsk8s.dns, cni, dnslib; print(nsk8s.dns.__file__)", image="nsk8s/dns")
    assert code == 0, log
    assert log.strip().endswith("nsk8s/dns/__init__.py")
    package = os.path.dirname(os.path.dirname(log.strip()))
    code, log = in_pod(pod, "sh", "-c", f"touch {package}/x || echo read-only; ls {os.path.dirname(package)}", image="nsk8s/dns")
    lines = [line for line in log.splitlines() if "cannot" not in line]
    assert lines[0] == "read-only"
    assert "tests" not in lines
    code, log = in_pod(pod, "sh", "-c", f"ls -d {package}", image="debian")
    assert code != 0 or package.startswith("/usr")


def test_image_service(node, client):
    pulled = client.call("PullImage", {"image": {"image": "debian:12"}})["imageRef"]
    assert client.call("ImageStatus", {"image": {"image": "debian:12"}})["image"]["id"] == pulled
    assert client.call("ImageStatus", {"image": {"image": "no/such"}})["image"] is None
    names = {tag for image in client.call("ListImages")["images"] for tag in image["repoTags"]}
    assert {"debian:latest", "nsk8s/echo:latest"} <= names


def test_echo_starts_fast(tmp_path):
    """Exec to end, in processor time: others' work does not count. Alone it is about 20 ms."""
    best = 9.0
    for _ in range(5):
        port = free_port()
        read, write = os.pipe()
        argv = ["/usr/bin/python3", "-IS", images._ECHO_FILE]
        pid = os.posix_spawn(argv[0], argv, {"PORT": str(port)}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
        os.close(write)
        assert select.select([read], [], [], 30)[0]
        os.close(read)
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        os.kill(pid, 15)
        _, status, used = os.wait4(pid, 0)
        assert status == 0
        best = min(best, used.ru_utime + used.ru_stime)
    assert best < 0.15


def test_layers_where_the_disk_is_an_overlay(tmp_path):
    """As on a machine that is itself a container: upper layers then lie on a tmpfs."""
    node = RuntimeNode(tmp_path, root_on_overlay=True)
    try:
        client = node.connect()
        pod = Pod(node, client)
        assert pod.run("echo x > /etc/new && echo x > /usr/new && cat /etc/new /usr/new", image="busybox") == (0, "x\nx\n")
        pod.remove()
        client.close()
        assert os.listdir(node.path(f"{tmp_path}/containers/containers")) == []
    finally:
        node.dispose()
