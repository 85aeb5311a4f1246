"""What happens over a pod's life: exec, attach, signals, limits, restarts of the runtime, death of the sandbox process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import struct
import termios
import time
from pathlib import Path

import pytest
from runtime_node import Pod, RuntimeFailure, RuntimeNode


def read_until(fd: int, wanted: bytes, timeout_s: float = 30) -> bytes:
    data = b""
    while wanted not in data:
        assert select.select([fd], [], [], timeout_s)[0], data
        piece = os.read(fd, 4096)
        assert piece, data
        data += piece
    return data


# ── start ──


def test_command_not_found(pod):
    container = pod.create("/no/such/program")
    with pytest.raises(RuntimeFailure, match=r'exec: "/no/such/program": stat /no/such/program: no such file or directory'):
        pod.client.call("StartContainer", {"containerId": container})
    status = pod.container(container)
    assert (status["state"], status["exitCode"], status["reason"]) == ("CONTAINER_EXITED", 128, "StartError")
    container = pod.create("nosuch")
    with pytest.raises(RuntimeFailure, match=r'exec: "nosuch": executable file not found in \$PATH'):
        pod.client.call("StartContainer", {"containerId": container})


def test_environment_user_and_directory(pod):
    container = pod.start(
        "/bin/sh", "-c", 'echo "$A $HOME $HOSTNAME $PWD"; id -u; id -g; id -G; umask',
        envs=[{"key": "A", "value": "b c"}], workingDir="/work/dir",
        linux={"securityContext": {"runAsUser": {"value": 1234}, "runAsGroup": {"value": 55}, "supplementalGroups": [66]}},
    )  # fmt: skip
    pod.wait_exit(container)
    assert pod.log(container).splitlines() == [f"b c / {pod.config['hostname']} /work/dir", "1234", "55", "55 66", "0022"]


def test_mounts(pod, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("content\n")
    code, out = pod.run(
        "cat /data/file; echo x > /data/in/new; echo x > /ro/file || echo refused; cat /etc/single; mount | grep -c ' /data .*nodev'",
        mounts=[
            {"containerPath": "/data", "hostPath": str(tmp_path)},
            {"containerPath": "/ro", "hostPath": str(tmp_path), "readonly": True},
            {"containerPath": "/etc/single", "hostPath": str(tmp_path / "file"), "readonly": True},
        ],
    )
    assert [line for line in out.splitlines() if "cannot" not in line] == ["content", "refused", "content", "1"]
    assert code == 0
    assert (tmp_path / "in/new").read_text() == "x\n"


def test_mount_through_a_link_stays_inside(pod, tmp_path):
    """A link in a volume must not lead a later mount out of the container."""
    (tmp_path / "link").symlink_to("/etc")
    code, out = pod.run(
        "cat /etc/inner/file; ls /v/link/inner",
        mounts=[
            {"containerPath": "/v", "hostPath": str(tmp_path)},
            {"containerPath": "/v/link/inner", "hostPath": str(make(tmp_path / "other"))},
        ],
    )
    assert (code, out) == (0, "hello\nfile\n")
    assert not os.path.exists("/etc/inner")


def make(folder: Path) -> Path:
    folder.mkdir()
    (folder / "file").write_text("hello\n")
    return folder


def test_containers_of_a_pod_share_network_ipc_and_shm_but_not_files_or_processes(pod):
    server = pod.start(
        "python3", "-c",
        "import socket,time; s=socket.create_server(('127.0.0.1',7000)); open('/dev/shm/x','w').write('shared'); open('/tmp/x','w'); time.sleep(100)",
    )  # fmt: skip
    code, out = pod.run(
        "i=0; until [ -s /dev/shm/x ] || [ $i = 100 ]; do sleep 0.05; i=$((i+1)); done; cat /dev/shm/x; echo; test -e /tmp/x || echo own files; "
        "python3 -c \"import socket; socket.create_connection(('127.0.0.1',7000)); print('connected')\"; ls -d /proc/[0-9]* | wc -l; hostname"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[:3] == ["shared", "own files", "connected"]
    assert int(lines[3]) <= 3
    assert lines[4] == pod.config["hostname"]
    assert pod.container(server)["state"] == "CONTAINER_RUNNING"


def test_shared_process_namespace(node, client):
    pod = Pod(node, client, linux={"securityContext": {"namespaceOptions": {"pid": "POD"}}})
    try:
        pod.start("sleep", "1000")
        code, out = pod.run("ls /proc/1/exe >/dev/null 2>&1; for p in /proc/[0-9]*; do cat $p/comm; done | sort -u")
        assert {"pause", "sleep", "sh"} <= set(out.split())
        assert code == 0
    finally:
        pod.remove()


def test_host_network(node, client):
    pod = Pod(node, client, linux={"securityContext": {"namespaceOptions": {"network": "NODE"}}})
    try:
        assert pod.status()["network"]["ip"] == ""
        _, out = pod.run("readlink /proc/self/ns/net; hostname")
        assert out.splitlines() == [os.readlink(f"/proc/{node.holder}/ns/net"), "node1"]
    finally:
        pod.remove()


def test_sysctls(node, client):
    pod = Pod(node, client, linux={"sysctls": {"net.ipv4.ip_local_port_range": "1024 2048", "kernel.shm_rmid_forced": "1"}})
    try:
        _, out = pod.run("cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced")
        assert out.split() == ["1024", "2048", "1"]
    finally:
        pod.remove()
    with pytest.raises(RuntimeFailure, match=r'sysctl "kernel.hostname" is not in a separate kernel namespace'):
        Pod(node, client, linux={"sysctls": {"kernel.hostname": "x"}})
    with pytest.raises(RuntimeFailure, match="no such file"):
        Pod(node, client, linux={"sysctls": {"net.nosuch": "x"}})
    assert client.call("ListPodSandbox")["items"] == []


# ── streams ──


def test_exec_sync(pod):
    container = pod.start("sleep", "1000", linux={"securityContext": {"runAsUser": {"value": 7}}}, envs=[{"key": "K", "value": "v"}])
    assert pod.exec(container, "sh", "-c", "echo $K; id -u; echo bad >&2; exit 9") == (9, "v\n7\n", "bad\n")
    assert pod.exec(container, "sh", "-c", "kill -9 $$")[0] == 137
    with pytest.raises(RuntimeFailure, match=r'exec: "nosuch": executable file not found in \$PATH'):
        pod.exec(container, "nosuch")
    started = time.monotonic()
    with pytest.raises(RuntimeFailure) as e:
        pod.exec(container, "sleep", "50", timeout=0.2)
    assert e.value.code == "DeadlineExceeded"
    assert time.monotonic() - started < 25, "half of what it would have taken"
    assert pod.exec(container, "sh", "-c", "ls -d /proc/[0-9]* | wc -l; cat /proc/self/cgroup >/dev/null")[1].split()[0] in "2345"
    big = pod.exec(container, "sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x")[1]
    assert len(big) == 300000
    pod.client.call("StopContainer", {"containerId": container, "timeout": 0})
    with pytest.raises(RuntimeFailure, match="container is in CONTAINER_EXITED state"):
        pod.exec(container, "true")


def test_exec_with_pipes(node, pod):
    container = pod.start("sleep", "1000")
    stream = node.connect()
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    request = stream.send(
        "Exec", {"containerId": container, "cmd": ["sh", "-c", "cat; exit 4"], "stdin": True, "stdout": True}, (in_read, out_write)
    )
    os.close(in_read)
    os.close(out_write)
    os.write(in_write, b"through\n")
    assert read_until(out_read, b"through\n") == b"through\n"
    os.close(in_write)
    assert stream.wait(request) == {"exitCode": 4}
    assert os.read(out_read, 10) == b""
    os.close(out_read)
    stream.close()


def master_from(console: socket.socket) -> int:
    """The terminal's master that comes over a socket; -1 if none does."""
    console.settimeout(30)
    data, fds, _, _ = socket.recv_fds(console, 1, 4)
    assert len(fds) == len(data)
    return fds[0] if fds else -1


def test_exec_with_terminal(node, pod):
    container = pod.start("sleep", "1000")
    stream = node.connect()
    console, theirs = socket.socketpair()
    cmd = ["bash", "--norc", "-i"]
    request = stream.send("Exec", {"containerId": container, "cmd": cmd, "tty": True, "stdin": True, "stdout": True}, (theirs.fileno(),))
    theirs.close()
    master = master_from(console)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    console.close()  # only now it starts
    os.write(master, b"stty size; tty; ls -l $(tty); echo done-$((1+1))\n")
    said = read_until(master, b"done-2")
    assert b"33 77" in said
    assert b"/dev/pts/0\r\ncrw--w---- 1 root tty 136, 0" in said
    assert b"job control" not in said
    assert b"cannot set terminal" not in said
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    os.write(master, b"trap 'echo interrupted' INT; stty size; echo again-$((1+1))\n")
    assert b"40 100" in read_until(master, b"again-2")
    os.write(master, b"sleep 100\n")
    deadline = time.monotonic() + 20
    while "sleep" not in pod.exec(container, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'slee[p] 100 ' ; true")[1]:
        assert time.monotonic() < deadline
    os.write(master, b"\x03")
    os.write(master, b"exit 6\n")
    assert stream.wait(request) == {"exitCode": 6}
    os.close(master)
    stream.close()


def test_descriptors_must_match(node, pod):
    container = pod.start("sleep", "100")
    with pytest.raises(RuntimeFailure, match="1 file descriptors were announced and 0 came"):
        pod.client.call("Exec", {"containerId": container, "cmd": ["true"], "stdout": True})


def attach(stream, container):
    """The request, and our ends of the container's stdin and stdout."""
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    request = stream.send("Attach", {"containerId": container, "stdin": True, "stdout": True}, (in_read, out_write))
    os.close(in_read)
    os.close(out_write)
    return request, in_write, out_read


def test_attach_with_stdin_once(node, pod):
    container = pod.start("sh", "-c", "while read l; do echo got $l; done; echo end", stdin=True, stdinOnce=True)
    stream = node.connect()
    request, in_write, out_read = attach(stream, container)
    os.write(in_write, b"one\n")
    assert read_until(out_read, b"got one\n") == b"got one\n"
    os.close(in_write)
    assert read_until(out_read, b"end\n") == b"end\n"
    assert stream.wait(request) == {"exitCode": 0}
    assert pod.log(container) == "got one\nend\n"
    os.close(out_read)
    stream.close()


def test_what_a_container_wrote_before_its_end_is_not_lost_on_a_slow_attached_client(node):
    pod = Pod(node, node.connect())
    container = pod.start("sh", "-c", "read l; head -c 200000 /dev/zero", stdin=True, stdinOnce=True)
    stream = node.connect()
    request, in_write, out_read = attach(stream, container)
    os.write(in_write, b"go\n")
    os.close(in_write)
    assert stream.wait(request) == {"exitCode": 0}
    pod.remove()  # the sandbox process too
    with open(out_read, "rb") as out:
        assert len(out.read()) == 200_000
    stream.close()
    pod.client.close()


def test_attach_to_what_has_ended_unheard_is_refused(node, client, pod):
    """The client then shows the log instead. Here the request is met before the news, as its connection is the older one."""
    container = pod.start("sleep", "1000")
    ended = node.path(f"/run/nsk8s/runtime/containers/{container}/status.json")
    pid = pod.container(container)["pid"]
    os.kill(node.runtime, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while "finishedAt" not in ended.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        out_read, out_write = os.pipe()
        request = client.send("Attach", {"containerId": container, "stdout": True}, (out_write,))
        os.close(out_write)
    finally:
        os.kill(node.runtime, signal.SIGCONT)
    with pytest.raises(RuntimeFailure, match="container is in CONTAINER_EXITED state"):
        client.wait(request)
    os.close(out_read)


def test_attach_to_what_has_ended_a_moment_ago_is_refused(client, pod):
    """The sandbox process meets the request before the end of the container."""
    container = pod.start("sleep", "1000")
    pause = pod.status()["pid"]
    pid = pod.container(container)["pid"]
    pidfd = os.pidfd_open(pid)
    os.kill(pause, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], 20)[0]
        out_read, out_write = os.pipe()
        request = client.send("Attach", {"containerId": container, "stdout": True}, (out_write,))
        os.close(out_write)
        pod.container(container)  # by then the request has been passed on
    finally:
        os.kill(pause, signal.SIGCONT)
    with pytest.raises(RuntimeFailure, match="container is in CONTAINER_EXITED state"):
        client.wait(request)
    os.close(pidfd)
    os.close(out_read)


def test_terminal_container_and_attach(node, pod):
    container = pod.start("sh", "-c", "test -t 0 && test -t 1 && echo terminal; read l; echo got $l; stty size", tty=True, stdin=True)
    stream = node.connect()
    ours, theirs = socket.socketpair()
    request = stream.send("Attach", {"containerId": container, "tty": True, "stdin": True, "stdout": True}, (theirs.fileno(),))
    theirs.close()
    master = master_from(ours)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 90, 0, 0))
    os.close(master)
    ours.sendall(b"hello\n")
    seen = read_until(ours.fileno(), b"20 90")
    assert seen.count(b"hello") == 2  # one echo by the container's terminal, one answer
    assert stream.wait(request) == {"exitCode": 0}
    assert ours.recv(10) == b""
    ours.close()
    stream.close()
    assert "terminal\r\n" in pod.log(container)


def test_a_containers_terminal_is_in_its_own_dev(pod):
    pod.start("sleep", "1000", tty=True)  # whose terminal is in its own
    script = "tty; test /dev/console -ef /dev/pts/0 && echo console; ls /dev/pts; stat -c %U /dev/pts/0; cat /dev/null > /dev/console && echo mine"
    container = pod.start("sh", "-c", script, tty=True, linux={"securityContext": {"runAsUser": {"value": 33}}})
    attached, theirs = socket.socketpair()
    with contextlib.suppress(RuntimeFailure):  # it may have ended already
        pod.client.call("Attach", {"containerId": container, "tty": True, "stdout": True}, (theirs.fileno(),))
    attached.close()
    theirs.close()
    assert pod.log(container).split() == ["/dev/pts/0", "console", "0", "ptmx", "www-data", "mine"]
    broken = pod.create("nosuch", tty=True)
    with pytest.raises(RuntimeFailure):
        pod.client.call("StartContainer", {"containerId": broken})


def test_a_terminal_container_outlives_the_runtime(node):
    pod = Pod(node, node.connect())
    container = pod.start("sh", "-c", "read l; echo got $l", tty=True, stdin=True)
    node.restart_runtime()
    pod.client = stream = node.connect()
    ours, theirs = socket.socketpair()
    stream.send("Attach", {"containerId": container, "tty": True, "stdin": True, "stdout": True}, (theirs.fileno(),))
    theirs.close()
    os.close(master_from(ours))
    ours.sendall(b"it\n")
    assert b"got it" in read_until(ours.fileno(), b"got it")
    ours.close()
    pod.remove()
    stream.close()


def test_a_users_exec_has_a_terminal_that_is_the_users(node, pod):
    container = pod.start("sleep", "1000", linux={"securityContext": {"runAsUser": {"value": 33}}})
    stream = node.connect()
    ours, theirs = socket.socketpair()
    cmd = ["sh", "-c", "stat -c '%n %U %G' $(tty); echo written > $(tty); mesg n; id -un"]
    request = stream.send("Exec", {"containerId": container, "cmd": cmd, "tty": True, "stdout": True}, (theirs.fileno(),))
    theirs.close()
    master = master_from(ours)
    ours.close()
    assert read_until(master, b"www-data\r\n") == b"/dev/pts/0 www-data tty\r\nwritten\r\nwww-data\r\n"
    assert stream.wait(request) == {"exitCode": 0}
    os.close(master)
    stream.close()


@pytest.mark.parametrize(("put", "said"), [
    ("umount /dev/pts", "no such file or directory"),
    ("umount /dev/pts; mkfifo /dev/pts/ptmx", "inappropriate ioctl for device"),
    ("umount /dev/pts; ln -s /dev/null /dev/pts/ptmx", "too many levels of symbolic links"),
    ("ln -sf /etc/passwd /dev/ptmx", ""),
])  # fmt: skip
def test_nothing_that_a_container_puts_in_a_terminals_place_reaches_the_kubelet(node, pod, put, said):
    container = pod.start("sleep", "1000", linux={"securityContext": {"privileged": True}})
    assert pod.exec(container, "sh", "-c", put)[0] == 0
    stream = node.connect()
    ours, theirs = socket.socketpair()
    params = {"containerId": container, "cmd": ["tty"], "tty": True, "stdout": True}
    request = stream.send("Exec", params, (theirs.fileno(),))
    theirs.close()
    master = master_from(ours)
    ours.close()
    if said:
        with pytest.raises(RuntimeFailure, match=said):
            stream.wait(request)
        assert master == -1
    else:
        assert read_until(master, b"\n") == b"/dev/pts/0\r\n"
        assert stream.wait(request) == {"exitCode": 0}
        os.close(master)
    stream.close()


def test_long_lines_and_an_unfinished_one(pod):
    container = pod.start("sh", "-c", "head -c 40000 /dev/zero | tr '\\0' y; echo; printf unfinished")
    pod.wait_exit(container)
    lines = Path(pod.container(container)["logPath"]).read_text().splitlines()
    assert [(line.split(" ")[2], len(line.split(" ")[3])) for line in lines] == [("P", 16384), ("P", 16384), ("F", 7232), ("F", 10)]


def test_log_rotation(pod):
    container = pod.start("sh", "-c", "echo first; read x; echo second", stdin=True)
    path = Path(pod.container(container)["logPath"])
    deadline = time.monotonic() + 20
    while not path.exists() or "first" not in path.read_text():
        assert time.monotonic() < deadline
    path.rename(path.with_suffix(".old"))
    pod.client.call("ReopenContainerLog", {"containerId": container})
    assert path.read_text() == ""
    read, write = os.pipe()
    pod.client.send("Attach", {"containerId": container, "stdin": True}, (read,))
    os.write(write, b"\n")
    pod.wait_exit(container)
    os.close(write)
    assert path.read_text().endswith("stdout F second\n")
    assert path.with_suffix(".old").read_text().endswith("stdout F first\n")


def test_port_forward(pod):
    pod.start("python3", "-c", "import socket; s=socket.create_server(('127.0.0.1',7001)); c,_=s.accept(); c.send(b'hi')")
    deadline = time.monotonic() + 20
    while True:
        try:
            pod.client.call("PortForward", {"podSandboxId": pod.id, "port": 7001})
            break
        except RuntimeFailure as e:
            if "connection refused" not in e.message or time.monotonic() > deadline:
                raise
    sock = socket.socket(fileno=pod.client.fds.pop())
    sock.settimeout(20)
    assert sock.recv(10) == b"hi"
    sock.close()


# ── end ──


def test_stop_is_graceful_then_not(pod):
    polite = pod.start("sh", "-c", "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    stubborn = pod.start("sleep", "1000")  # process 1 without a handler ignores SIGTERM, as in any container
    deadline = time.monotonic() + 20
    while "ready" not in pod.log(polite):
        assert time.monotonic() < deadline
    pod.client.call("StopContainer", {"containerId": polite, "timeout": 10})
    status = pod.container(polite)
    assert (status["exitCode"], status["reason"]) == (5, "Error")
    assert pod.log(polite) == "ready\nbye\n"
    started = time.monotonic()
    pod.client.call("StopContainer", {"containerId": stubborn, "timeout": 0.3})
    assert time.monotonic() - started > 0.25
    assert pod.container(stubborn)["exitCode"] == 137
    pod.client.call("RemoveContainer", {"containerId": stubborn})
    with pytest.raises(RuntimeFailure, match="not found"):
        pod.container(stubborn)


def test_children_die_with_the_first_process(node, pod):
    container = pod.start("sh", "-c", "sleep 1000 & sleep 1000 & echo $!; exit 0")
    assert pod.wait_exit(container)["exitCode"] == 0
    group = f"{node.cgroup}/pod{pod.config['metadata']['uid']}/{container}"
    deadline = time.monotonic() + 20
    while node.cgroups.all_processes(group):
        assert time.monotonic() < deadline


def test_out_of_memory(pod):
    container = pod.start(
        "python3", "-c", "x = bytearray(200 << 20)", linux={"resources": {"memoryLimitInBytes": 32 << 20}}
    )
    status = pod.wait_exit(container)
    assert (status["exitCode"], status["reason"]) == (137, "OOMKilled")


def test_limits_of_the_whole_pod(node, client):
    pod = Pod(node, client, linux={"resources": {"memoryLimitInBytes": 48 << 20, "cpuPeriod": 100000, "cpuQuota": 50000, "cpuShares": 512}})
    try:
        home, name = node.cgroups._home("memory"), "memory.limit_in_bytes" if "memory" in node.cgroups.v1 else "memory.max"
        group = Path(f"{home}{node.cgroup}/pod{pod.config['metadata']['uid']}")
        assert int((group / name).read_text()) == (48 + 4) << 20, "and room for the sandbox process"
        bystander = pod.start("sleep", "1000", linux={"resources": {"oomScoreAdj": -997}})
        container = pod.start(
            "sh", "-c", "sleep 1000 & exec python3 -c 'x = bytearray(200 << 20)'", linux={"resources": {"oomScoreAdj": -997}}
        )
        assert pod.wait_exit(container)["reason"] == "OOMKilled"
        assert pod.container(bystander)["state"] == "CONTAINER_RUNNING", "what a container does costs its pod nothing else"
        assert client.call("PodSandboxStatus", {"podSandboxId": pod.id})["status"]["state"] == "SANDBOX_READY"
        if node.cgroups.v2 is not None:
            together = [(group / below / "memory.oom.group").read_text().strip() for below in ("", pod.id, container)]
            assert together == ["0", "0", "1"]
    finally:
        pod.remove()


def test_process_limit(pod):
    code, out = pod.run(
        "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; echo survived",
        linux={"resources": {"pidsLimit": 5}},
    )
    assert "survived" not in out or "fork" in out
    assert code != 0 or "fork" in out


def test_cpu_limit_and_stats(node, pod):
    container = pod.start(
        "sh", "-c", "while :; do :; done", linux={"resources": {"cpuQuota": 10000, "cpuPeriod": 100000, "cpuShares": 102}}
    )

    def used() -> int:
        stats = pod.client.call("ContainerStats", {"containerId": container})["stats"]
        assert stats["memory"]["workingSetBytes"]["value"] > 0
        return stats["cpu"]["usageCoreNanoSeconds"]["value"]

    started, first = time.monotonic(), used()
    while (now := used()) - first < 0.1e9:
        select.select([], [], [], 0.05)
    assert (now - first) / 1e9 / (time.monotonic() - started) < 0.25
    whole = pod.client.call("PodSandboxStats", {"podSandboxId": pod.id})["stats"]
    assert whole["linux"]["containers"][0]["attributes"]["id"] == container
    pod.client.call("StopContainer", {"containerId": container, "timeout": 0})


# ── what survives what ──


def test_runtime_restart_loses_nothing(node):
    client = node.connect()
    pod = Pod(node, client)
    writer = pod.start("sh", "-c", "for i in $(seq 1 200); do echo line $i; sleep 0.005; done; exit 7")
    sleeper = pod.start("sleep", "1000")
    pid, address = pod.container(sleeper)["pid"], pod.status()["network"]["ip"]
    for _ in range(3):
        node.restart_runtime()
    client = pod.client = node.connect()
    assert pod.status()["network"]["ip"] == address
    assert pod.status()["state"] == "SANDBOX_READY"
    assert pod.container(sleeper)["pid"] == pid
    status = pod.wait_exit(writer)
    assert status["exitCode"] == 7
    assert pod.log(writer) == "".join(f"line {i}\n" for i in range(1, 201))
    # and one that ends while there is no runtime
    brief = pod.start("sh", "-c", "trap 'echo late; exit 8' USR1; echo ready; while :; do sleep 0.05; done")
    deadline = time.monotonic() + 20
    while "ready" not in pod.log(brief):
        assert time.monotonic() < deadline
    pid = pod.container(brief)["pid"]
    ended = os.pidfd_open(pid)
    node.kill_runtime()
    os.kill(pid, signal.SIGUSR1)
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)
    node.start_runtime()
    client = pod.client = node.connect()
    status = pod.wait_exit(brief)  # the sandbox process may not have reaped it yet
    assert (status["state"], status["exitCode"], status["reason"]) == ("CONTAINER_EXITED", 8, "Error")
    assert pod.log(brief) == "ready\nlate\n"
    assert pod.exec(sleeper, "echo", "ok") == (0, "ok\n", "")
    pod.remove()
    client.close()


def test_pause_killed(node, client):
    events = node.connect()
    events.send("GetContainerEvents")
    pod = Pod(node, client)
    container = pod.start("sleep", "1000")
    status = pod.status()
    assert Path(f"/proc/{status['pid']}/comm").read_text() == "pause\n"
    assert Path(f"/proc/{status['pid']}/cmdline").read_bytes().startswith(b"pause default/" + pod.config["metadata"]["name"].encode())
    os.kill(status["pid"], signal.SIGKILL)
    events.wait_event("STOPPED", container)
    events.wait_event("STOPPED", pod.id)
    assert pod.status()["state"] == "SANDBOX_NOTREADY"
    dead = pod.container(container)
    assert (dead["state"], dead["exitCode"]) == ("CONTAINER_EXITED", 137)
    reserved = set(os.listdir(node.path("/var/lib/cni/networks/cbr0")))
    assert status["network"]["ip"] in reserved
    client.call("StopPodSandbox", {"podSandboxId": pod.id})
    client.call("StopPodSandbox", {"podSandboxId": pod.id})
    assert status["network"]["ip"] not in os.listdir(node.path("/var/lib/cni/networks/cbr0"))
    again = Pod(node, client)
    assert again.status()["network"]["ip"] != status["network"]["ip"]
    again.remove()
    pod.remove()
    assert node.cgroups.children(node.cgroup) == []
    events.close()


def test_pause_killed_while_there_is_no_runtime(node):
    client = node.connect()
    pod = Pod(node, client)
    container = pod.start("sleep", "1000")
    pause = pod.status()["pid"]
    ended = os.pidfd_open(pause)
    node.kill_runtime()
    os.kill(pause, signal.SIGKILL)
    assert select.select([ended], [], [], 30)[0]
    os.close(ended)
    node.start_runtime()
    client = pod.client = node.connect()
    assert pod.status()["state"] == "SANDBOX_NOTREADY"
    assert pod.container(container)["exitCode"] == 137
    pod.remove()
    client.close()


def test_failed_network_leaves_nothing(tmp_path):
    conflist = {
        "cniVersion": "1.0.0", "name": "small",
        "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": True, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.9.0/30"}]]}}],
    }  # fmt: skip
    node = RuntimeNode(tmp_path, conflist)
    try:
        client = node.connect()
        pod = Pod(node, client)
        before = node.mounts()
        with pytest.raises(RuntimeFailure, match=r'failed to setup network for sandbox "[0-9a-f]{64}": plugin type="bridge" failed \(add\): '):
            Pod(node, client)
        deadline = time.monotonic() + 20
        while len(client.call("ListPodSandbox")["items"]) > 1 or node.mounts() != before:
            assert time.monotonic() < deadline
        while len(node.cgroups.children(node.cgroup)) > 1:
            assert time.monotonic() < deadline
        pod.remove()
        client.close()
    finally:
        node.dispose()


def test_no_network_yet(tmp_path):
    node = RuntimeNode(tmp_path, None)
    try:
        client = node.connect()
        network = client.call("Status")["status"]["conditions"][1]
        assert network == {
            "type": "NetworkReady", "status": False, "reason": "NetworkPluginNotReady",
            "message": "Network plugin returns error: cni plugin not initialized",
        }  # fmt: skip
        with pytest.raises(RuntimeFailure, match=r"failed to setup network for sandbox .*: cni plugin not initialized"):
            Pod(node, client)
        host = Pod(node, client, linux={"securityContext": {"namespaceOptions": {"network": "NODE"}}})
        host.remove()
        client.close()
    finally:
        node.dispose()


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 3, 5, 8, 12])
def test_runtime_killed_in_the_middle(node, delay_ms):
    """kill -9 at any moment: afterwards there are whole sandboxes and nothing else."""
    client = node.connect()
    for _ in range(4):
        client.send("RunPodSandbox", {"config": node.pod_config()})
    select.select([], [], [], delay_ms / 1000)
    node.restart_runtime()
    client = node.connect()
    deadline = time.monotonic() + 30
    while True:
        items = client.call("ListPodSandbox")["items"]
        groups = [g for pod in node.cgroups.children(node.cgroup) for g in node.cgroups.children(pod)]
        if len(items) == len(groups) and all(i["state"] == "SANDBOX_READY" for i in items):
            break
        assert time.monotonic() < deadline, (items, groups)
    for item in items:
        client.call("StopPodSandbox", {"podSandboxId": item["id"]})
        client.call("RemovePodSandbox", {"podSandboxId": item["id"]})
    deadline = time.monotonic() + 20
    while node.cgroups.children(node.cgroup):
        assert time.monotonic() < deadline
    assert [m for m in node.mounts() if "cni-" in m or (m.endswith("/shm") and "sandboxes" in m)] == []
    assert os.listdir(node.path("/run/nsk8s/runtime/sandboxes")) == []
    networks = node.path("/var/lib/cni/networks/cbr0")
    assert [n for n in os.listdir(networks) if n[0].isdigit()] == []
    client.close()


def test_bad_requests(node):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(node.path("/run/nsk8s/runtime.sock")))
    file = sock.makefile("rw")
    for line in ("not json", "[]", "{}", '{"id": 1, "method": 5}', '{"id":2,"method":"Nope"}', '{"id":3,"method":"RunPodSandbox"}',
                 '{"id":4,"method":"RunPodSandbox","params":{"config":{"metadata":{"name":"a","uid":"../x","namespace":"d"}}}}',
                 '{"id":5,"method":"StopContainer","params":{"containerId":7}}', '{"id":6,"method":"CreateContainer","params":[]}'):
        file.write(line + "\n")
        file.flush()
        assert "code" in json.loads(file.readline())["error"], line
    sock.close()
    client = node.connect()
    assert client.call("Version")["runtimeApiVersion"] == "v1"
    client.close()


def rollup(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def children(pid: int, comm: str) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # a helper that has just ended
            if Path(f"/proc/{child}/comm").read_text() == comm + "\n":
                found.append(int(child))
    return found


def test_sandbox_processes_are_small(node, client):
    pods = [Pod(node, client) for _ in range(10)]
    for pod in pods:
        pod.start("sleep", "100")
    sizes = [rollup(pod.status()["pid"])["Private_Dirty"] for pod in pods]
    assert sum(sizes) / len(sizes) < 2700, f"kB of each sandbox process's own: {sizes}"
    for pod in pods:
        pod.remove()


def test_the_process_that_forks_sandboxes_is_replaced_and_dies_with_the_runtime(node):
    client = node.connect()
    own = os.readlink(f"/proc/{node.runtime}/ns/net")
    before = Pod(node, client)
    container = before.start("sleep", "100")
    (nursery,) = children(node.runtime, "pause-nursery")
    fd = os.pidfd_open(nursery)
    os.kill(nursery, signal.SIGKILL)
    assert select.select([fd], [], [], 10)[0]
    os.close(fd)
    after = Pod(node, client)
    assert after.exec(after.start("sleep", "100"), "true")[0] == 0
    assert before.exec(container, "true")[0] == 0, "sandboxes outlive it"
    assert os.readlink(f"/proc/{node.runtime}/ns/net") == own, "the runtime is back where it was"
    assert os.readlink(f"/proc/{after.status()['pid']}/ns/net") not in (own, os.readlink(f"/proc/{before.status()['pid']}/ns/net"))
    (nursery,) = children(node.runtime, "pause-nursery")
    fd = os.pidfd_open(nursery)
    node.restart_runtime()
    assert select.select([fd], [], [], 10)[0]
    os.close(fd)
    client = node.connect()
    before.client = after.client = client
    assert before.exec(container, "true")[0] == 0
    before.remove()
    after.remove()
    client.close()


@pytest.mark.parametrize("sysctls", [{"net.ipv4.tcp_syncookies": "\ud800"}, {"net.x\0y": "1"}, {"net.ipv4.tcp_fin_timeout": "never"}])
def test_what_the_kernel_cannot_be_told_fails_that_pod_only(node, client, sysctls):
    own = os.readlink(f"/proc/{node.runtime}/ns/net")
    for _ in range(5):  # more than are in flight at once
        with pytest.raises(RuntimeFailure, match="failed to create sandbox"):
            client.call("RunPodSandbox", {"config": node.pod_config(linux={"sysctls": sysctls})})
    assert os.readlink(f"/proc/{node.runtime}/ns/net") == own
    after = Pod(node, client)
    assert after.run("echo fine") == (0, "fine\n")
    after.remove()
    assert client.call("ListPodSandbox")["items"] == []
