"""Logs, exec, attach and port-forward of the kubelet's own server, with the real runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from kubelet_node import KubeletNode, pod

pytestmark = pytest.mark.root

SUCCESS = {"metadata": {}, "status": "Success"}


@pytest.fixture(scope="module")
def shell(node: KubeletNode):
    node.network()
    node.apply(
        pod("shell", "python3", "-m", "http.server", "8000", "--bind", "127.0.0.1", image="python"),
        pod("reader", "sh", "-c", "while read line; do echo got $line; done", container={"stdin": True}),
    )
    node.wait_running("shell")
    node.wait_running("reader")
    return node


def stream(node: KubeletNode, path: str, *steps) -> dict:
    script = str(Path(__file__).parent / "ask_exec.py")
    done = node.run(sys.executable, script, str(node.base / "pki"), path, stdin=json.dumps(steps), check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def execute(node: KubeletNode, *command: str, flags: str = "output=1&error=1", steps=(), name: str = "shell") -> dict:
    query = "&".join(f"command={quote(c)}" for c in command)
    return stream(node, f"/exec/default/{name}/main?{query}&{flags}", *steps)


def test_exec_keeps_the_streams_apart_and_tells_the_exit_code(shell: KubeletNode):
    got = execute(shell, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert got["protocol"] == "v5.channel.k8s.io"
    assert (got["1"], got["2"]) == ("out\n", "err\n")
    status = json.loads(got["3"])
    assert status["reason"] == "NonZeroExitCode"
    assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
    assert json.loads(execute(shell, "true")["3"]) == SUCCESS


def test_exec_of_a_long_command(shell: KubeletNode):
    text = "x" * 50_000  # all of it in the URL
    assert execute(shell, "echo", text)["1"] == text + "\n"


def test_exec_passes_input_until_it_is_half_closed(shell: KubeletNode):
    big = "x" * 300_000
    got = execute(shell, "cat", flags="input=1&output=1", steps=[["send", 0, "hello\n"], ["send", 0, big], ["close", 0]])
    assert got["1"] == "hello\n" + big
    assert json.loads(got["3"]) == SUCCESS


def test_exec_on_a_terminal_knows_its_size(shell: KubeletNode):
    got = execute(
        shell, "sh", flags="input=1&output=1&tty=1",
        steps=[["send", 4, '{"Width":101,"Height":33}'], ["send", 0, "stty size; exit 4\n"]],
    )  # fmt: skip
    assert "33 101" in got["1"]
    assert json.loads(got["3"])["details"]["causes"][0]["message"] == "4"


def test_a_terminal_whose_size_nobody_tells_has_an_ordinary_one(shell: KubeletNode):
    got = execute(shell, "stty", flags="output=1&tty=1&command=size", steps=[])
    assert got["1"].split() == ["24", "80"]


def test_exec_of_what_is_not_there(shell: KubeletNode):
    status = json.loads(execute(shell, "/no/such")["3"])
    assert status["status"] == "Failure"
    assert "no such file" in status["message"]
    assert execute(shell, "x", name="nobody") == {"refused": 404}
    assert stream(shell, "/exec/default/shell/main?output=1") == {"refused": 400}


def test_attach_speaks_to_the_running_process(shell: KubeletNode):
    got = stream(
        shell, "/attach/default/reader/main?input=1&output=1", ["send", 0, "one\n"], ["until", 1, "got one\n"], ["leave"]
    )
    assert got["1"] == "got one\n"


def test_port_forward_reaches_what_listens_on_localhost_only(shell: KubeletNode):
    request = "GET / HTTP/1.0\r\n\r\n"
    got = stream(shell, "/portForward/default/shell?port=8000", ["send", 0, request])
    assert got["0"].startswith("\x40\x1fHTTP/1.0 200")
    refused = stream(shell, "/portForward/default/shell?port=8001")
    assert "error forwarding port 8001" in refused["1"]


def test_logs_with_every_option(shell: KubeletNode):
    shell.apply(pod("talker", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2; exec sleep 1000"))
    shell.wait_running("talker")
    shell.wait(lambda: "oops" in shell.log("talker"), "log")
    assert shell.log("talker", tailLines="2") == "line 5\noops\n"
    assert shell.log("talker", limitBytes="8") == "line 1\nl"
    assert shell.log("talker", stream="Stderr") == "oops\n"
    stamped = shell.log("talker", timestamps="true", tailLines="1")
    assert stamped.endswith(" oops\n")
    assert stamped[4] == "-"
    assert shell.log("talker", sinceTime="2100-01-01T00:00:00Z") == ""
    assert shell.log("talker", sinceSeconds="3600").startswith("line 1\n")
    assert shell.get_url("/containerLogs/default/talker/main?tailLines=-1").stdout.startswith("400")
    assert shell.get_url("/containerLogs/default/talker/main?previous=true").stdout == (
        '400 previous terminated container "main" in pod "talker" not found'
    )


def test_a_followed_log_survives_rotation_and_ends_with_the_container(shell: KubeletNode):
    script = "echo first; while ! test -e /tmp/go; do sleep 0.05; done; echo last"
    shell.apply(pod("chatty", "sh", "-c", script, restartPolicy="Never"))
    found = shell.wait_running("chatty")
    shell.wait(lambda: "first" in shell.log("chatty"), "log")
    script = str(Path(__file__).parent / "ask_kubelet.py")
    argv = [*shell.enter, sys.executable, script, str(shell.base / "pki"), "apiserver-kubelet-client",
            "/containerLogs/default/chatty/main?follow=true"]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "200 first\n"
        container = shell.container_of(found)
        log = shell.path(container["logPath"])
        log.rename(log.with_name("0.log.old"))
        shell.call("ReopenContainerLog", containerId=container["id"])
        assert reader.poll() is None
        shell.call("ExecSync", containerId=container["id"], cmd=["touch", "/tmp/go"], timeout=60)
        assert reader.stdout.read() == "last\n"
