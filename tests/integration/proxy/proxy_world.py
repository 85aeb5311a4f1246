"""What the proxy tests stand on: a fake API server, and a small world of network namespaces. Touches only namespaces it made."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web
from patience import PATIENCE
from proxy_table import six

from nsk8s.kernel import rtnl

Object = dict[str, Any]
PLURALS = {
    "Service": "services", "EndpointSlice": "endpointslices", "Node": "nodes", "ConfigMap": "configmaps",
    "ServiceCIDR": "servicecidrs",
}  # fmt: skip


class FakeApi:
    """List, watch and status patches of a few kinds, on loopback inside a namespace. Semantics as far as informers need them."""

    def __init__(self, netns: str) -> None:
        self.netns = netns
        self.objects: dict[str, dict[str, Object]] = {p: {} for p in PLURALS.values()}
        self.log: list[tuple[int, str, str, Object]] = []
        self.version = 0
        self.patches: list[Object] = []
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> FakeApi:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def put(self, *objects: Object) -> None:
        """Create or replace, in this order."""
        for obj in objects:
            asyncio.run_coroutine_threadsafe(self._put(obj), self.loop).result(10)

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        asyncio.run_coroutine_threadsafe(self._delete(kind, name, namespace), self.loop).result(10)

    async def _stop(self) -> None:
        await self._runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _start(self) -> None:
        self.changed = asyncio.Condition()
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        fd = rtnl.open_netns(f"/run/netns/{self.netns}")
        try:
            with rtnl.entered(fd):
                sock = socket.socket()
        finally:
            os.close(fd)
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        self.port = sock.getsockname()[1]
        await web.SockSite(self._runner, sock).start()

    async def _put(self, obj: Object) -> None:
        async with self.changed:
            plural = PLURALS[obj["kind"]]
            meta = obj["metadata"]
            key = f"{meta.get('namespace', '')}/{meta['name']}"
            self.version += 1
            stored = copy.deepcopy(obj)
            stored["metadata"]["resourceVersion"] = str(self.version)
            kind = "MODIFIED" if key in self.objects[plural] else "ADDED"
            self.objects[plural][key] = stored
            self.log.append((self.version, plural, kind, stored))
            self.changed.notify_all()

    async def _delete(self, kind: str, name: str, namespace: str = "") -> None:
        async with self.changed:
            plural = PLURALS[kind]
            self.version += 1
            gone = copy.deepcopy(self.objects[plural].pop(f"{namespace}/{name}"))
            gone["metadata"]["resourceVersion"] = str(self.version)
            self.log.append((self.version, plural, "DELETED", gone))
            self.changed.notify_all()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        parts = parts[2:] if parts[0] == "namespaces" else parts
        plural = parts[0]
        if plural not in self.objects:
            return web.json_response({"kind": "Status", "code": 404, "reason": "NotFound", "message": "unknown"}, status=404)
        if request.method == "PATCH":
            body = json.loads(await request.text())
            self.patches.append(body)
            node = copy.deepcopy(self.objects[plural][f"/{parts[1]}"])
            held = {c["type"]: c for c in node.setdefault("status", {}).get("conditions", [])}
            held.update({c["type"]: c for c in body["status"]["conditions"]})
            node["status"]["conditions"] = list(held.values())
            await self._put(node)
            return web.json_response(node)
        if request.query.get("watch"):
            return await self._watch(request, plural)
        items = [o for o in self.objects[plural].values() if self._selected(request, o)]
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": str(self.version)}, "items": items})

    def _selected(self, request: web.Request, obj: Object) -> bool:
        wanted = request.query.get("fieldSelector", "")
        if wanted and wanted != f"metadata.name={obj['metadata']['name']}":
            return False
        labels = obj["metadata"].get("labels") or {}
        return all(t.lstrip("!") not in labels for t in request.query.get("labelSelector", "").split(",") if t)

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        seen = int(request.query.get("resourceVersion") or 0)
        while True:
            async with self.changed:
                while self.version <= seen:
                    await self.changed.wait()
                fresh = [e for e in self.log if e[0] > seen and e[1] == plural]
                seen = self.version
            for _, _, kind, obj in fresh:
                if self._selected(request, obj):
                    await response.write(json.dumps({"type": kind, "object": obj}).encode() + b"\n")


def eventually(check: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """The first true value of `check()`; fails after `timeout_s` with its last value. That it comes is meant, not how soon."""
    deadline = time.monotonic() + PATIENCE * timeout_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still {value!r} after {timeout_s} s: {inspect.getsource(check).strip()}")
        time.sleep(0.01)


def run(*argv: str, check: bool = True, **kwargs: Any) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **kwargs)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


class World:
    """node (10.244.1.0/24 behind cni0, pods a and b), node2 (pod r at 10.244.2.2), outside; all on one wire 192.168.77.0/24.

    node 192.168.77.11, node2 192.168.77.12, outside 192.168.77.1 (the default gateway of both).
    """

    NODE, NODE2, OUTSIDE = "192.168.77.11", "192.168.77.12", "192.168.77.1"
    PODS = {"a": "10.244.1.2", "b": "10.244.1.3", "r": "10.244.2.2"}

    def __init__(self) -> None:
        self.tag = "px" + uuid.uuid4().hex[:6]
        self.names = {n: f"{self.tag}-{n}" for n in ("wire", "node", "node2", "outside", "a", "b", "r")}
        self.processes: list[subprocess.Popen[str]] = []

    @classmethod
    @contextlib.contextmanager
    def answering(cls, pods: str) -> Iterator[World]:
        """A world in which each of `pods` (a letter each) answers with its name on port 8080."""
        with cls() as world:
            for pod in pods:
                world.answerer(pod, pod, 8080)
            yield world

    @contextlib.contextmanager
    def api(self) -> Iterator[FakeApi]:
        """An API server on node that knows node, as node1."""
        with FakeApi(self.names["node"]) as api:
            api.put(node("node1", self.NODE, "10.244.1.0/24"))
            yield api

    def sh(self, where: str, command: str, check: bool = True) -> str:
        """A shell command inside a namespace."""
        return run("ip", "netns", "exec", self.names[where], "sh", "-ec", command, check=check, env=self.env)

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "XTABLES_LOCKFILE": f"/tmp/{self.tag}.lock"}

    def __enter__(self) -> World:
        for name in self.names.values():
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            # Hundreds of refusals a second are what a test asks for: the kernel would tell six.
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        self.sh("wire", "ip link add lan0 type bridge; ip link set lan0 up; sysctl -qw net.bridge.bridge-nf-call-iptables=0")
        for machine, address in (("node", self.NODE), ("node2", self.NODE2), ("outside", self.OUTSIDE)):
            self._veth("wire", f"p-{machine}", machine, "eth0")
            self.sh("wire", f"ip link set p-{machine} master lan0")
            self.sh(machine, f"ip addr add {address}/24 dev eth0; sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0")
        for machine, subnet, pods in (("node", "10.244.1", "ab"), ("node2", "10.244.2", "r")):
            self.sh(machine, f"ip link add cni0 type bridge; ip link set cni0 up; ip addr add {subnet}.1/24 dev cni0; "
                    f"ip route add default via {self.OUTSIDE}; sysctl -qw net.bridge.bridge-nf-call-iptables=1")  # fmt: skip
            for pod in pods:
                self._veth(machine, f"v-{pod}", pod, "eth0")
                self.sh(machine, f"ip link set v-{pod} master cni0; bridge link set dev v-{pod} hairpin on")
                self.sh(pod, f"ip addr add {self.PODS[pod]}/24 dev eth0; ip route add default via {subnet}.1")
        self._ipv6()
        self.sh("outside", f"ip route add 10.96.0.0/16 via {self.NODE}; ip route add 198.51.100.0/24 via {self.NODE}; "
                f"sysctl -qw net.ipv4.ip_forward=0; ip addr add 203.0.113.10/32 dev lo")  # fmt: skip
        self.sh("node", f"ip route add 10.244.2.0/24 via {self.NODE2}")
        self.sh("node2", f"ip route add 10.244.1.0/24 via {self.NODE}")
        return self

    def _ipv6(self) -> None:
        """The same with the addresses' IPv6 twins (tests/proxy_table.py)."""
        for machine, address in (("node", self.NODE), ("node2", self.NODE2), ("outside", self.OUTSIDE)):
            self.sh(machine, f"ip addr add {six(address)}/64 dev eth0 nodad")
        for machine, subnet, pods in (("node", "10.244.1", "ab"), ("node2", "10.244.2", "r")):
            self.sh(machine, f"sysctl -qw net.ipv6.conf.all.forwarding=1; ip addr add {six(subnet + '.1')}/64 dev cni0 nodad; "
                    f"ip -6 route add default via {six(self.OUTSIDE)}; sysctl -qw net.bridge.bridge-nf-call-ip6tables=1")  # fmt: skip
            for pod in pods:
                self.sh(pod, f"ip addr add {six(self.PODS[pod])}/64 dev eth0 nodad; ip -6 route add default via {six(subnet + '.1')}")
        self.sh("outside", f"ip -6 route add fd00:10:96::/96 via {six(self.NODE)}; ip -6 route add 2001:db8:51::/64 via "
                f"{six(self.NODE)}; ip addr add {six('203.0.113.10')}/128 dev lo nodad")  # fmt: skip
        self.sh("node", f"ip -6 route add fd00:10:244:2::/64 via {six(self.NODE2)}")
        self.sh("node2", f"ip -6 route add fd00:10:244:1::/64 via {six(self.NODE)}")

    def _veth(self, a: str, a_name: str, b: str, b_name: str) -> None:
        run("ip", "-n", self.names[a], "link", "add", a_name, "type", "veth", "peer", "name", b_name, "netns", self.names[b])
        run("ip", "-n", self.names[a], "link", "set", a_name, "up")
        run("ip", "-n", self.names[b], "link", "set", b_name, "up")

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for name in self.names.values():
            run("ip", "netns", "del", name)
        Path(f"/tmp/{self.tag}.lock").unlink(missing_ok=True)

    def start(
        self, where: str, *argv: str, env: dict[str, str] | None = None, stdin: int | None = None
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[where], *argv], text=True, stdout=subprocess.PIPE, stdin=stdin,
            env={**self.env, **(env or {})},
        )  # fmt: skip
        self.processes.append(process)
        return process

    def in_node(self, function: Callable[[], Any], where: str = "node") -> Any:
        """Call a function in a thread inside the node's network namespace, or another's."""
        result: list[Any] = []

        def inside() -> None:
            fd = rtnl.open_netns(f"/run/netns/{self.names[where]}")
            try:
                with rtnl.entered(fd):
                    result.append(function())
            finally:
                os.close(fd)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join(30)
        return result[0]

    def proxy(
        self, api: FakeApi, directory: Path, *flags: str, env: dict[str, str] | None = None, clusters: str = "10.244.0.0/16"
    ) -> subprocess.Popen[str]:
        """kube-proxy on the node, named node1."""
        return self.component(
            "node", "nsk8s.proxy.main", "--kubeconfig", self.kubeconfig(api, directory), "--hostname-override", "node1",
            "--cluster-cidr", clusters, *flags, env=env,
        )  # fmt: skip

    def stop(self, process: subprocess.Popen[str]) -> int:
        process.terminate()
        code = process.wait(30)
        self.processes.remove(process)
        return code

    def stop_proxies(self) -> None:
        for process in [p for p in self.processes if "nsk8s.proxy.main" in str(p.args)]:
            self.stop(process)

    @contextlib.contextmanager
    def paused(self, process: subprocess.Popen[str]) -> Iterator[None]:
        """What happens meanwhile it learns of afterwards: no check of its own falls in between."""
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def component(self, where: str, module: str, *argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        code = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
        return self.start(where, sys.executable, "-c", code, *argv, env=env)

    def prober(self, where: str) -> Prober:
        return Prober(self.start(where, sys.executable, "-S", "-u", PROBER, stdin=subprocess.PIPE))

    def answerer(self, where: str, name: str, *ports: int) -> None:
        """TCP and UDP servers on these ports, both families, that answer "name client-ip"."""
        process = self.start(where, sys.executable, "-S", "-u", ANSWERER, name, *map(str, ports))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def echo(self, where: str, port: int, name: str, *, udp: bool = False) -> subprocess.Popen[str]:
        """A server that answers "name client-ip"."""
        process = self.start(where, sys.executable, "-u", "-c", ECHO, str(port), name, "udp" if udp else "tcp")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def ask(self, where: str, address: str, port: int, *, udp: bool = False, source_port: int = 0, timeout_s: float = 20.0) -> str:
        """What a server answers ("name client-ip"), or `timeout`, `refused`, `unreachable …`.

        A second or so would do; but whoever answers may be held up. Give a time where silence is what is expected.
        """
        return run(
            "ip", "netns", "exec", self.names[where], sys.executable, "-S", "-c", ASK,
            address, str(port), "udp" if udp else "tcp", str(source_port), str(timeout_s),
        ).strip()  # fmt: skip

    def kubeconfig(self, api: FakeApi, directory: Path) -> str:
        path = directory / "kubeconfig"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
            "users": [{"name": "u", "user": {}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        return str(path)


PROBER, ANSWERER = (str(Path(__file__).with_name(f"proxy_{name}.py")) for name in ("prober", "answerer"))


class Prober:
    """A process inside a namespace that opens many connections at once, or watches what arrives."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def begin(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the prober ended"
        return json.loads(line)


ECHO = """
import socket, sys
port, name, kind = int(sys.argv[1]), sys.argv[2], sys.argv[3]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", port))
if kind == "tcp":
    s.listen(512)
print("ready", flush=True)
while True:
    if kind == "udp":
        data, peer = s.recvfrom(100)
        s.sendto(f"{name} {peer[0]}".encode(), peer)
    else:
        c, peer = s.accept()
        try:
            c.sendall(f"{name} {peer[0]}".encode())
        except OSError:
            pass
        c.close()
"""

ASK = """
import errno, socket, sys
address, port, kind, source, timeout = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
s.settimeout(timeout)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if source:
    s.bind(("", source))
try:
    s.connect((address, port))
    if kind == "udp":
        s.send(b"x")
    print(s.recv(100).decode() or "closed")
except TimeoutError:
    print("timeout")
except ConnectionRefusedError:
    print("refused")
except OSError as e:
    print("unreachable", errno.errorcode.get(e.errno, e))
"""


def service(name: str, ip: str, *, namespace: str = "default", port: int = 80, protocol: str = "TCP", **spec: Any) -> Object:
    ports = [{"name": "", "port": port, "protocol": protocol, "targetPort": 8080, **spec.pop("port_fields", {})}]
    status = spec.pop("status", {})
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports, **spec}, "status": status,
    }  # fmt: skip


def endpoint_slice(
    name: str, *endpoints: tuple[str, str] | Object, namespace: str = "default", port: int = 8080, protocol: str = "TCP"
) -> Object:
    """A slice "NAME-1"; an endpoint is (ip, node) or a whole dict."""
    made = [
        e if isinstance(e, dict) else {"addresses": [e[0]], "nodeName": e[1], "conditions": {"ready": True}} for e in endpoints
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": f"{name}-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "", "port": port, "protocol": protocol}], "endpoints": made,
    }  # fmt: skip


def node(name: str, ip: str, cidr: str = "", **labels: str) -> Object:
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]} if cidr else {},
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    }  # fmt: skip
