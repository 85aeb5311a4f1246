"""A node of its own for the container runtime: network, mount and UTS namespace, /run, /sys, CNI, a control group."""

from __future__ import annotations

import array
import base64
import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from nsk8s.kernel import syscalls as sc
from nsk8s.kernel.cgroup import Cgroups

ROOT = Path(__file__).resolve().parents[3]
CONFLIST = {
    "cniVersion": "1.0.0",
    "name": "cbr0",
    "plugins": [
        {
            "type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "hairpinMode": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]]},
        }
    ],
}  # fmt: skip


class RuntimeFailure(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class Client:
    """One connection to the runtime."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(path)
        self.buffer = b""
        self.next_id = 0
        self.answers: dict[int, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.fds: list[int] = []

    def send(self, method: str, params: dict[str, Any] | None = None, fds: tuple[int, ...] = ()) -> int:
        self.next_id += 1
        raw = json.dumps({"id": self.next_id, "method": method, "params": params or {}}).encode() + b"\n"
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([raw], ancillary)
        return self.next_id

    def read(self) -> None:
        data, ancillary, _, _ = self.sock.recvmsg(1 << 20, socket.CMSG_SPACE(16))
        for _, kind, body in ancillary:
            if kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(body)
                self.fds.extend(received)
        if not data:
            raise ConnectionError("the runtime closed the connection")
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "event" in message:
                self.events.append(message["event"])
            else:
                self.answers[message["id"]] = message

    def wait(self, request_id: int) -> dict[str, Any]:
        while request_id not in self.answers:
            self.read()
        answer = self.answers.pop(request_id)
        if "error" in answer:
            raise RuntimeFailure(answer["error"]["code"], answer["error"]["message"])
        result: dict[str, Any] = answer["result"]
        return result

    def call(self, method: str, params: dict[str, Any] | None = None, fds: tuple[int, ...] = ()) -> dict[str, Any]:
        return self.wait(self.send(method, params, fds))

    def wait_event(self, kind: str, container_id: str) -> dict[str, Any]:
        """The next event of that kind for that container; needs GetContainerEvents on this connection."""
        while True:
            for event in self.events:
                if event["containerEventType"] == f"CONTAINER_{kind}_EVENT" and event["containerId"] == container_id:
                    self.events.remove(event)
                    return event
            self.read()

    def close(self) -> None:
        self.sock.close()


class RuntimeNode:
    def __init__(self, base: Path, conflist: dict[str, Any] | None = CONFLIST, root_on_overlay: bool = False) -> None:
        self.base = base
        self.cgroup = f"/nsk8s-test-{os.getpid()}-{time.time_ns() % 10**9}"
        self.cgroups = Cgroups()
        self.logs = base / "logs"
        self.logs.mkdir(parents=True)
        (base / "containers").mkdir()
        self.counter = 0
        ours, theirs = socket.socketpair()
        self.holder = os.fork()
        if self.holder == 0:
            try:
                ours.close()
                self._hold(theirs, conflist, root_on_overlay)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(1)
        theirs.close()
        self.control = ours.makefile("rw")
        assert self.control.readline() == "ready\n"
        self.runtime = 0
        self.start_runtime()

    # ── inside ──

    def _hold(self, control: socket.socket, conflist: dict[str, Any] | None, root_on_overlay: bool) -> None:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)
        sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWNET | sc.CLONE_NEWUTS)
        sc.mount(None, "/", None, sc.MS_REC | sc.MS_PRIVATE)
        sc.sethostname("node1")
        for path in ("/run", "/var/lib/cni", "/etc/cni", "/var/lib/containers"):
            if os.path.isdir(path):
                sc.mount("tmpfs", path, "tmpfs")
        if root_on_overlay:
            for name in ("lower", "upper", "work"):
                (self.base / name).mkdir()
            options = f"lowerdir={self.base}/lower,upperdir={self.base}/upper,workdir={self.base}/work"
            sc.mount("overlay", str(self.base / "containers"), "overlay", 0, options)
        keep = str(self.base / "cgroup-keep")
        os.mkdir(keep)
        sc.mount("/sys/fs/cgroup", keep, None, sc.MS_BIND | sc.MS_REC)
        sc.mount("sysfs", "/sys", "sysfs")
        sc.mount(keep, "/sys/fs/cgroup", None, sc.MS_BIND | sc.MS_REC)
        os.makedirs("/run/cni/net.d")
        if conflist is not None:
            Path("/run/cni/net.d/10-nsk8s.conflist").write_text(json.dumps(conflist))
        stream = control.makefile("rw")
        stream.write("ready\n")
        stream.flush()

        def reap(*_: object) -> None:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass

        signal.signal(signal.SIGCHLD, reap)
        for line in stream:
            words = line.split()
            if words[0] == "run":
                log = os.open(self.base / "runtime.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                pid = os.fork()
                if pid == 0:
                    os.dup2(log, 1)
                    os.dup2(log, 2)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.closerange(3, 1000)
                    os.chdir("/")
                    env = {**os.environ, "PYTHONPATH": str(ROOT)}
                    os.execve(sys.executable, [sys.executable, "-m", "nsk8s.runtime.main", *words[1:]], env)
                os.close(log)
                stream.write(f"{pid}\n")
                stream.flush()

    # ── outside ──

    def start_runtime(self) -> None:
        flags = [
            "--root-dir", str(self.base / "containers"), "--cgroup-parent", self.cgroup, "--cni-conf-dir", "/run/cni/net.d",
            "--cni-cache-dir", "/run/cni/cache",
        ]  # fmt: skip
        self.control.write(" ".join(["run", *flags]) + "\n")
        self.control.flush()
        self.runtime = int(self.control.readline())
        self.connect().close()

    def path(self, path: str) -> Path:
        """A path of the node's mount namespace."""
        return Path(f"/proc/{self.holder}/root{path}")

    def connect(self) -> Client:
        deadline = time.monotonic() + 20
        while True:
            try:
                return Client(str(self.path("/run/nsk8s/runtime.sock")))
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def kill_runtime(self) -> None:
        fd = os.pidfd_open(self.runtime)
        os.kill(self.runtime, signal.SIGKILL)
        import select

        select.select([fd], [], [], 10)
        os.close(fd)

    def restart_runtime(self) -> None:
        self.kill_runtime()
        self.start_runtime()

    def run_in_node(self, *argv: str) -> str:
        import subprocess

        enter = ["nsenter", "-t", str(self.holder), "-n", "-m", "-u", "--"]
        return subprocess.run([*enter, *argv], check=True, capture_output=True, text=True, timeout=30).stdout

    def mounts(self) -> list[str]:
        return [line.split()[4] for line in Path(f"/proc/{self.holder}/mountinfo").read_text().splitlines()]

    def pod_config(self, name: str = "", **extra: Any) -> dict[str, Any]:
        self.counter += 1
        name = name or f"pod{self.counter}"
        uid = f"uid-{name}-{self.counter}"
        return {
            "metadata": {"name": name, "uid": uid, "namespace": "default", "attempt": 0},
            "hostname": name,
            "logDirectory": str(self.logs / uid),
            "dnsConfig": {"servers": ["10.96.0.10"], "searches": ["default.svc.cluster.local"], "options": ["ndots:5"]},
            **extra,
        }

    def dispose(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.runtime, signal.SIGKILL)
        gone = self.cgroups.kill_and_wait(self.cgroup)
        os.kill(self.holder, signal.SIGKILL)
        os.waitpid(self.holder, 0)
        assert gone
        self.cgroups.remove(self.cgroup)


class Pod:
    """A sandbox and its containers, driven as the kubelet would."""

    def __init__(self, node: RuntimeNode, client: Client, **config: Any) -> None:
        self.node = node
        self.client = client
        self.config = node.pod_config(**config)
        self.id: str = client.call("RunPodSandbox", {"config": self.config})["podSandboxId"]
        self.count = 0

    def status(self) -> dict[str, Any]:
        return self.client.call("PodSandboxStatus", {"podSandboxId": self.id})["status"]

    def create(self, *command: str, image: str = "debian", **extra: Any) -> str:
        self.count += 1
        name = f"c{self.count}"
        config = {
            "metadata": {"name": name, "attempt": 0}, "image": {"image": image}, "command": list(command),
            "logPath": f"{name}/0.log", **extra,
        }  # fmt: skip
        return self.client.call("CreateContainer", {"podSandboxId": self.id, "config": config})["containerId"]

    def start(self, *command: str, image: str = "debian", **extra: Any) -> str:
        container = self.create(*command, image=image, **extra)
        self.client.call("StartContainer", {"containerId": container})
        return container

    def container(self, container: str) -> dict[str, Any]:
        return self.client.call("ContainerStatus", {"containerId": container})["status"]

    def wait_exit(self, container: str) -> dict[str, Any]:
        """The status once it has ended (Attach answers then)."""
        try:
            self.client.call("Attach", {"containerId": container, "tty": False})
        except RuntimeFailure as e:
            if e.code != "FailedPrecondition":
                raise
        return self.container(container)

    def run(self, script: str, image: str = "debian", **extra: Any) -> tuple[int, str]:
        """(exit code, log lines without their heads) of a shell script."""
        container = self.start("/bin/sh", "-c", script, image=image, **extra)
        status = self.wait_exit(container)
        return status["exitCode"], self.log(container)

    def log(self, container: str) -> str:
        raw = Path(self.container(container)["logPath"]).read_bytes().decode()
        return "".join(line.split(" ", 3)[3] + "\n" for line in raw.split("\n")[:-1])

    def exec(self, container: str, *cmd: str, timeout: float = 10) -> tuple[int, str, str]:
        r = self.client.call("ExecSync", {"containerId": container, "cmd": list(cmd), "timeout": timeout})
        return r["exitCode"], base64.b64decode(r["stdout"]).decode(), base64.b64decode(r["stderr"]).decode()

    def remove(self) -> None:
        self.client.call("StopPodSandbox", {"podSandboxId": self.id})
        self.client.call("RemovePodSandbox", {"podSandboxId": self.id})
