"""A node of its own with everything real: API server, container runtime, kubelet, each a process in its namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import real_kubectl
from patience import PATIENCE

from nsk8s.client import certs
from nsk8s.kernel import syscalls as sc
from nsk8s.kernel.cgroup import Cgroups

ROOT = Path(__file__).resolve().parents[3]
NODE_IP = "192.168.56.11"
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


class KubeletNode:
    """`start()` everything; `kubectl(…)` from inside; `dispose()` leaves nothing."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.cgroup = f"/nsk8s-ktest-{os.getpid()}-{time.time_ns() % 10**9}"
        self.cgroups = Cgroups()
        for name in ("containers", "pki"):
            (base / name).mkdir()
        self._certificates()
        ours, theirs = socket.socketpair()
        self.holder = os.fork()
        if self.holder == 0:
            try:
                ours.close()
                self._hold(theirs)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(1)
        theirs.close()
        self.control = ours.makefile("rw")
        assert self.control.readline() == "ready\n"
        self.pids: dict[str, int] = {}
        self.enter = ["nsenter", "-t", str(self.holder), "-n", "-m", "-u", "--"]

    def _certificates(self) -> None:
        pki = self.base / "pki"
        ca = certs.new_ca("kubernetes")
        certs.write(pki, "ca", ca)
        certs.write(pki, "kubelet", certs.issue(ca, "system:node:node1", ["system:nodes"], ["node1", NODE_IP]))
        certs.write(pki, "apiserver-kubelet-client", certs.issue(ca, "kube-apiserver-kubelet-client", ["system:masters"]))
        certs.write(pki, "stranger", certs.issue(ca, "mallory", ["nobody"]))

    def _hold(self, control: socket.socket) -> None:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        sc.prctl(sc.PR_SET_CHILD_SUBREAPER, 1)
        sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWNET | sc.CLONE_NEWUTS)
        sc.mount(None, "/", None, sc.MS_REC | sc.MS_PRIVATE)
        sc.sethostname("node1")
        for path in ("/run", "/var/lib/cni", "/etc/cni", "/var/lib/containers"):
            if os.path.isdir(path):
                sc.mount("tmpfs", path, "tmpfs")
        for path in ("/var/lib/kubelet", "/var/log/pods"):
            made = self.base / path.rpartition("/")[2]
            made.mkdir(exist_ok=True)
            if not os.path.isdir(path):
                # a folder of the root file system that did not exist: covered below /run, bound by the tmpfs above it
                sc.mount("tmpfs", os.path.dirname(path), "tmpfs")
                os.makedirs(path)
            sc.mount(str(made), path, None, sc.MS_BIND)
        keep = str(self.base / "cgroup-keep")
        os.mkdir(keep)
        sc.mount("/sys/fs/cgroup", keep, None, sc.MS_BIND | sc.MS_REC)
        sc.mount("sysfs", "/sys", "sysfs")
        sc.mount(keep, "/sys/fs/cgroup", None, sc.MS_BIND | sc.MS_REC)
        os.makedirs("/run/cni/net.d")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "addr", "add", f"{NODE_IP}/32", "dev", "lo"], check=True)
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
            name, *argv = json.loads(line)
            log = os.open(self.base / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            pid = os.fork()
            if pid == 0:
                os.dup2(log, 1)
                os.dup2(log, 2)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.closerange(3, 1000)
                os.chdir("/")
                code = f"import sys; from nsk8s.{name}.main import main; sys.exit(main(sys.argv[1:]))"
                os.execve(sys.executable, [sys.executable, "-c", code, *argv], {**os.environ, "PYTHONPATH": str(ROOT)})
            os.close(log)
            stream.write(f"{pid}\n")
            stream.flush()

    def _spawn(self, name: str, *argv: str) -> None:
        self.control.write(json.dumps([name, *argv]) + "\n")
        self.control.flush()
        self.pids[name] = int(self.control.readline())

    def kill(self, name: str, signum: int = signal.SIGKILL) -> None:
        pid = self.pids.pop(name)
        fd = os.pidfd_open(pid)
        os.kill(pid, signum)
        assert select.select([fd], [], [], 20)[0], f"{name} does not end"
        os.close(fd)

    def path(self, path: str) -> Path:
        return Path(f"/proc/{self.holder}/root{path}")

    def network(self) -> None:
        """What node-network does: now pods can have addresses."""
        self.path("/run/cni/net.d/10-nsk8s.conflist").write_text(json.dumps(CONFLIST))

    def start_runtime(self) -> None:
        self._spawn(
            "runtime", "--root-dir", str(self.base / "containers"), "--cgroup-parent", self.cgroup,
            "--cni-conf-dir", "/run/cni/net.d", "--cni-cache-dir", "/run/cni/cache",
        )  # fmt: skip

    def start_api(self) -> None:
        pki = self.base / "pki"
        self._spawn(
            "apiserver", "--data-dir", str(self.base / "data"), "--bind-address", NODE_IP, "--secure-port", "6443",
            "--write-kubeconfig", str(self.base / "kubeconfig"), "--kubelet-certificate-authority", str(pki / "ca.crt"),
            "--kubelet-client-certificate", str(pki / "apiserver-kubelet-client.crt"),
            "--kubelet-client-key", str(pki / "apiserver-kubelet-client.key"),
        )  # fmt: skip

    def start_kubelet(self, *extra: str) -> None:
        pki = self.base / "pki"
        self._spawn(
            "kubelet", "--kubeconfig", str(self.base / "kubeconfig"), "--hostname-override", "node1", "--node-ip", NODE_IP,
            "--cluster-dns", "10.96.0.10", "--client-ca-file", str(pki / "ca.crt"), "--tls-cert-file", str(pki / "kubelet.crt"),
            "--tls-private-key-file", str(pki / "kubelet.key"), *extra,
        )  # fmt: skip

    def start(self) -> None:
        real_kubectl.require()
        self.start_runtime()
        self.start_api()
        self.wait(lambda: (self.base / "kubeconfig").exists(), "kubeconfig")
        self.wait(lambda: self.try_kubectl("get", "--raw", "/readyz"), "API server")
        self.start_kubelet()

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.enter, *argv], input=stdin, check=check, capture_output=True, text=True, timeout=60)

    def kubectl(self, *argv: str, stdin: str = "") -> str:
        done = self.run("kubectl", "--kubeconfig", str(self.base / "kubeconfig"), *argv, stdin=stdin, check=False)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def try_kubectl(self, *argv: str) -> bool:
        return self.run("kubectl", "--kubeconfig", str(self.base / "kubeconfig"), *argv, check=False).returncode == 0

    def apply(self, *objects: dict[str, Any]) -> None:
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("create", "-f", "-", "--validate=false", stdin=body)

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        out = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        return json.loads(out) if out.strip() else None

    def events(self, name: str, namespace: str = "default") -> list[tuple[str, str]]:
        selector = f"involvedObject.name={name}"
        out = json.loads(self.kubectl("get", "events", "-n", namespace, "-o", "json", "--field-selector", selector))
        return [(e["reason"], e["message"]) for e in out["items"]]

    def wait_event(self, name: str, reason: str, message: str = "") -> None:
        """Events are written by the way: what they tell of may be seen before."""
        self.wait(lambda: any(r == reason and message in (m, "") for r, m in self.events(name)), f"event {reason} of {name}: {message}")

    def get_url(self, path: str, cert: str = "apiserver-kubelet-client") -> subprocess.CompletedProcess[str]:
        """One request to the kubelet; stdout is `CODE body`, the return code is not 0 when it cannot be reached."""
        script = str(Path(__file__).parent / "ask_kubelet.py")
        return self.run(sys.executable, script, str(self.base / "pki"), cert, path, check=False)

    def log(self, name: str, container: str = "main", **query: str) -> str:
        text = "&".join(f"{k}={v}" for k, v in query.items())
        out = self.get_url(f"/containerLogs/default/{name}/{container}?{text}").stdout
        return out[4:] if out.startswith("200 ") else ""

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One call to the runtime."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(90)
            s.connect(str(self.path("/run/nsk8s/runtime.sock")))
            s.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
            answer = json.loads(s.makefile().readline())
        assert "error" not in answer, answer
        return answer["result"]

    def containers_of(self, pod: dict[str, Any]) -> list[dict[str, Any]]:
        uid = pod["metadata"]["uid"]
        return [c for c in self.call("ListContainers")["containers"] if c["labels"].get("io.kubernetes.pod.uid") == uid]

    def container_of(self, pod: dict[str, Any]) -> dict[str, Any]:
        return max(self.containers_of(pod), key=lambda c: c["createdAt"])

    def sandbox_of(self, pod: dict[str, Any]) -> dict[str, Any]:
        uid = pod["metadata"]["uid"]
        return max((s for s in self.call("ListPodSandbox")["items"] if s["metadata"]["uid"] == uid), key=lambda s: s["createdAt"])

    def exec_sync(self, name: str, *cmd: str) -> dict[str, Any]:
        container = self.container_of(self.get("pod", name))
        return self.call("ExecSync", containerId=container["id"], cmd=list(cmd), timeout=60)

    def exec_sync_when_back(self, name: str, *cmd: str) -> None:
        def ready() -> bool:
            try:
                return bool(self.exec_sync(name, *cmd)["exitCode"] == 0)
            except OSError:
                return False

        self.wait(ready, "runtime back")

    def mounts(self) -> list[str]:
        return [line.split()[4] for line in Path(f"/proc/{self.holder}/mountinfo").read_text().splitlines()]

    def wait(self, ready: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
        """The first true answer of `ready`, asked again and again."""
        deadline = time.monotonic() + PATIENCE * timeout_s
        while True:
            answer = ready()
            if answer:
                return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {timeout_s} s\n{self.tail()}")
            time.sleep(0.05)

    def wait_pod(self, name: str, test: Callable[[dict[str, Any]], Any], what: str, timeout_s: float = 60) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def ready() -> bool:
            nonlocal found
            found = self.get("pod", name) or {}
            return bool(found) and bool(test(found))

        try:
            self.wait(ready, what, timeout_s)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{json.dumps(found.get('status'), indent=1)}\n{self.events(name)}") from None
        return found

    def wait_running(self, name: str, timeout_s: float = 60) -> dict[str, Any]:
        return self.wait_pod(name, lambda p: p["status"].get("phase") == "Running" and is_ready(p), f"{name} ready", timeout_s)

    def tail(self) -> str:
        out = ""
        for name in ("kubelet", "runtime", "apiserver"):
            log = self.base / f"{name}.log"
            out += f"--- {name}\n" + ("\n".join(log.read_text().splitlines()[-60:]) if log.exists() else "") + "\n"
        return out

    def dispose(self) -> None:
        for name in list(self.pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[name], signal.SIGKILL)
        gone = self.cgroups.kill_and_wait(self.cgroup)
        os.kill(self.holder, signal.SIGKILL)
        os.waitpid(self.holder, 0)
        assert gone
        self.cgroups.remove(self.cgroup)


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or [])


def pod(name: str, *command: str, image: str = "debian", **extra: Any) -> dict[str, Any]:
    """A pod bound to node1; `container=` is merged into its only container, the rest into the spec."""
    container = {"name": "main", "image": image, "command": list(command), **extra.pop("container", {})}
    if not command:
        del container["command"]
    metadata = {"name": name, "namespace": "default", **extra.pop("metadata", {})}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"nodeName": "node1", "containers": [container], "terminationGracePeriodSeconds": 2,
                 "automountServiceAccountToken": False, **extra},
    }  # fmt: skip
