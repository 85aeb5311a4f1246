"""Two nodes with nine pods and an outside host, of real namespaces, and all sockets of all of them in one process.

Every pair is asked at once: UDP packets are delivered before `sendto` of the next returns or soon after, a TCP connection that is
let through is there before its SYN would be sent again. Touches only namespaces it made.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from policy_table import OUTSIDE, PODS, PORTS, PROTOCOLS, SUBNETS

from nsk8s.kernel import rtnl
from nsk8s.net.nftset import NftTable
from nsk8s.networkpolicy.agent import replacing

Key = tuple[str, str, str, int]
"""(source, destination, protocol, port)."""
Answer = dict[Key, bool]
"""Whether it arrived."""
MOMENT_S, DUE_S = 0.06, 20.0
"""How long is waited for what should not arrive, and at most for what should."""

LINK = {"node1": ("192.168.56.11", "fd00:56::11"), "node2": ("192.168.56.12", "fd00:56::12"), "outside": ("192.168.56.1", "fd00:56::1")}


def inside(fd: int, function: Callable[[], Any]) -> Any:
    """Call a function in a namespace, on a thread of its own."""
    out: list[Any] = []

    def work() -> None:
        with rtnl.entered(fd):
            out.append(function())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return out[0]


class PolicyNet:
    def __init__(self) -> None:
        self.prefix = f"np{os.getpid() % 100000}"
        self._netns: dict[str, int] = {}
        self._udp: dict[tuple[str, int, int], socket.socket] = {}
        self._senders: dict[tuple[str, int], socket.socket] = {}
        self._listeners: dict[tuple[str, int, int], socket.socket] = {}
        self._round = 0

    def __enter__(self) -> PolicyNet:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for held in (*self._udp.values(), *self._senders.values(), *self._listeners.values()):
            held.close()
        for fd in self._netns.values():
            os.close(fd)
        for name in ("wire", *LINK, *(p.replace("/", "-") for p in PODS)):
            subprocess.run(["ip", "netns", "del", f"{self.prefix}-{name}"], check=False, capture_output=True)

    def ns(self, name: str) -> str:
        return f"{self.prefix}-{name.replace('/', '-')}"

    def namespace(self, name: str) -> int:
        """The descriptor of its network namespace."""
        return self._netns[name]

    def ip(self, where: str, *words: str) -> None:
        subprocess.run(["ip", "-n", self.ns(where), *words], check=True, capture_output=True)

    def _sysctl(self, where: str, *settings: str) -> None:
        subprocess.run(["ip", "netns", "exec", self.ns(where), "sysctl", "-qw", *settings], check=True, capture_output=True)

    def _build(self) -> None:
        for name in ("wire", *LINK, *PODS):
            subprocess.run(["ip", "netns", "add", self.ns(name)], check=True)
            self._sysctl(name, "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
                         "net.ipv6.conf.all.disable_ipv6=0", "net.ipv6.conf.default.disable_ipv6=0")
            self.ip(name, "link", "set", "lo", "up")
            self._netns[name] = rtnl.open_netns(f"/run/netns/{self.ns(name)}")
        self.ip("wire", "link", "add", "br0", "up", "type", "bridge")
        self._sysctl("wire", *(f"net.bridge.bridge-nf-call-{f}tables=0" for f in ("ip", "ip6")))
        for name, addresses in LINK.items():
            self._cable(name, "eth0", "wire", name, "br0")
            for address, bits in zip(addresses, (24, 64), strict=True):
                self.ip(name, "addr", "add", f"{address}/{bits}", "dev", "eth0", "nodad")
        for address, bits in zip(OUTSIDE, (32, 128), strict=True):
            self.ip("outside", "addr", "add", f"{address}/{bits}", "dev", "lo", "nodad")
        for node, subnets in SUBNETS.items():
            self._sysctl(node, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                         "net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1")
            self.ip(node, "link", "add", "cni0", "up", "type", "bridge")
            for subnet in subnets:
                bits = subnet.split("/")[1]
                self.ip(node, "addr", "add", f"{gateway(subnet)}/{bits}", "dev", "cni0", "nodad")
        for name in LINK:
            for node, subnets in SUBNETS.items():
                if node != name:
                    for family in (0, 1):
                        self.ip(name, "route", "add", subnets[family], "via", LINK[node][family])
            if name != "outside":
                for family, bits in ((0, 32), (1, 128)):
                    self.ip(name, "route", "add", f"{OUTSIDE[family]}/{bits}", "via", LINK["outside"][family])
        for key, pod in PODS.items():
            self._cable(key, "eth0", pod.node, key.replace("/", "-"), "cni0")
            for address, subnet in zip(pod.ips, SUBNETS[pod.node], strict=True):
                self.ip(key, "addr", "add", f"{address}/{subnet.split('/')[1]}", "dev", "eth0", "nodad")
                self.ip(key, "route", "add", "default", "via", gateway(subnet))
        for key in (*PODS, "outside"):
            inside(self._netns[key], lambda key=key: self._open(key))
        self._warm_up()

    def _cable(self, a: str, a_name: str, b: str, b_name: str, bridge: str) -> None:
        self.ip(a, "link", "add", a_name, "type", "veth", "peer", "name", b_name, "netns", self.ns(b))
        self.ip(b, "link", "set", b_name, "master", bridge, "up")
        self.ip(a, "link", "set", a_name, "up")

    def _open(self, key: str) -> None:
        for family, address in enumerate(addresses(key)):
            kind = (socket.AF_INET, socket.AF_INET6)[family]
            sender = self._senders[key, family] = socket.socket(kind, socket.SOCK_DGRAM)
            sender.bind((address, 0))
            for port in PORTS:
                receiver = self._udp[key, family, port] = socket.socket(kind, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                receiver.bind((address, port))
                listener = self._listeners[key, family, port] = socket.socket(kind, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address, port))
                listener.listen(64)

    def _warm_up(self) -> None:
        """Until every pair has found one another: what is not there later was dropped by a rule."""
        for family in (0, 1):
            missing: list[Key] = []
            for _ in range(5):  # a neighbour that did not answer in time costs the packets that waited for it
                missing = [k for k, arrived in self.ask(family, lambda key: True).items() if not arrived]
                if not missing:
                    break
            assert not missing

    def load(self, node: str, table: NftTable) -> None:
        self.nft(node, replacing(table))

    def nft(self, node: str, script: str) -> None:
        done = subprocess.run(["ip", "netns", "exec", self.ns(node), "nft", "-f", "-"], input=script, text=True,
                              capture_output=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr

    def clear(self) -> None:
        for node in SUBNETS:
            self.load(node, NftTable("inet", "nsk8s-policy"))

    def ask(self, family: int, is_due: Callable[[Key], bool] = lambda key: False) -> Answer:
        """Everybody to everybody else, every port and protocol. What is due is waited for, the rest gets a moment."""
        self._round += 1
        everybody = [*PODS, "outside"]
        pairs = [(s, d) for s in everybody for d in everybody if s != d]
        answer: Answer = {(s, d, p, n): False for s, d in pairs for p in PROTOCOLS for n in PORTS}
        due = [key for key in answer if is_due(key)]
        opened: dict[int, tuple[socket.socket, Key]] = {}
        for source in everybody:
            inside(self._netns[source], lambda source=source: self._send(source, family, everybody, opened))
        sent = time.monotonic()
        poll = select.poll()
        for fd in opened:
            poll.register(fd, select.POLLOUT)
        while True:
            waited = time.monotonic() - sent  # before looking: whatever held this process up, what has come is seen
            for fd, event in poll.poll(5):
                held, key = opened.pop(fd)
                poll.unregister(fd)
                answer[key] = not event & (select.POLLERR | select.POLLHUP)
                _reset(held)
            self._collect(family, answer)
            if waited > (MOMENT_S if all(answer[key] for key in due) else DUE_S):
                break
        for held, _ in opened.values():
            _reset(held)
        return answer

    def _send(self, source: str, family: int, everybody: list[str], opened: dict[int, Any]) -> None:
        for destination in everybody:
            if destination == source:
                continue
            address = addresses(destination)[family]
            for port in PORTS:
                for _ in range(2):  # the first may only tell the error that an earlier packet brought
                    with contextlib.suppress(OSError):
                        self._senders[source, family].sendto(f"{self._round} {source}".encode(), (address, port))
                        break
                held = socket.socket((socket.AF_INET, socket.AF_INET6)[family], socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                held.bind((addresses(source)[family], 0))
                with contextlib.suppress(BlockingIOError):
                    held.connect((address, port))
                opened[held.fileno()] = held, (source, destination, "tcp", port)

    def _collect(self, family: int, answer: Answer) -> None:
        for (key, of, port), receiver in self._udp.items():
            if of != family:
                continue
            for said in _drain(receiver):
                number, source = said.decode().split()
                if int(number) == self._round:
                    answer[source, key, "udp", port] = True
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._listeners[key, family, port].accept()[0].close()


def _drain(receiver: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield receiver.recv(100)


def _reset(held: socket.socket) -> None:
    """Close without a farewell, so that nothing lingers."""
    with contextlib.suppress(OSError):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    held.close()


def addresses(key: str) -> tuple[str, ...]:
    return OUTSIDE if key == "outside" else PODS[key].ips


def gateway(subnet: str) -> str:
    network = subnet.split("/")[0]
    return network + "1" if ":" in network else network.removesuffix("0") + "1"


