"""userspace mode with real packets, beside the table: what kube-proxy's own sockets do, and what a switch of modes leaves."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy_table import six
from proxy_world import FakeApi, World, endpoint_slice, eventually, service

from nsk8s.kernel import rtnl

pytestmark = pytest.mark.root

A, B = World.PODS["a"], World.PODS["b"]
USERSPACE = ("--proxy-mode", "userspace")
GATEWAY = "10.244.1.1"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World.answering("ab") as world:
        yield world


@pytest.fixture
def api(world: World) -> Iterator[FakeApi]:
    with world.api() as api:
        yield api
        world.stop_proxies()
        world.sh("node", "nft flush ruleset; for f in ip ip6; do for t in $(cat /proc/net/${f}_tables_names 2>/dev/null); do "
                 "${f}tables-legacy -t $t -F; ${f}tables-legacy -t $t -X; done; done")  # fmt: skip


def inside(world: World, where: str) -> socket.socket:
    """A TCP socket of a namespace."""
    made: list[socket.socket] = []

    def make() -> None:
        with rtnl.entered(fd):
            made.append(socket.socket())

    fd = rtnl.open_netns(f"/run/netns/{world.names[where]}")
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    made[0].settimeout(30)
    return made[0]


def saved(world: World) -> str:
    nft = world.sh("node", "iptables-nft-save; ip6tables-nft-save; nft list tables")
    legacy = world.sh("node", "for f in ip ip6; do [ -z \"$(cat /proc/net/${f}_tables_names 2>&1)\" ] || ${f}tables-legacy-save; done")
    return nft + legacy


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_switching_modes_leaves_nothing_of_the_old_one(world: World, api: FakeApi, tmp_path: Path, variant: str) -> None:
    world.sh("node", f"iptables-{variant} -t nat -A PREROUTING -s 192.0.2.1 -j ACCEPT")
    web = service("web", "10.96.0.50", type="NodePort", port_fields={"nodePort": 30050})
    web["spec"]["clusterIPs"].append(six("10.96.0.50"))
    api.put(web, endpoint_slice("web", (A, "node1")))
    modes: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "iptables": (("--iptables", variant), ("KUBE-SERVICES", "KUBE-SEP-")),
        "userspace": ((*USERSPACE, "--iptables", variant), ("KUBE-PORTALS-", "KUBE-NODEPORT-")),
        "nftables": (("--proxy-mode", "nftables"), ("kube-proxy",)),
    }
    for mode in ("iptables", "userspace", *(("nftables", "userspace") if variant == "nft" else ()), "iptables"):
        process = world.proxy(api, tmp_path, *modes[mode][0])

        def only_this(mode: str = mode) -> bool:
            text = saved(world)
            return all((sign in text) == (m == mode) for m, (_, signs) in modes.items() for sign in signs)

        eventually(only_this)
        seen_as = GATEWAY if mode == "userspace" else B
        assert world.ask("b", "10.96.0.50", 80) == f"a {seen_as}"
        assert world.ask("outside", World.NODE, 30050) == f"a {GATEWAY}"
        if mode == "userspace":
            assert world.sh("node", "cat /proc/sys/net/ipv4/conf/all/route_localnet").strip() == "0"
        world.stop(process)
    assert "192.0.2.1" in saved(world), "others' rules stay"
    world.sh("node", f"iptables-{variant} -t nat -D PREROUTING -s 192.0.2.1 -j ACCEPT")


def test_a_connection_is_carried_whole_in_both_directions(world: World, api: FakeApi, tmp_path: Path) -> None:
    """One side's end is passed on while the other goes on; an endpoint that does not answer is passed over."""
    code = (
        "import socket\ns = socket.create_server(('', 8090))\nprint('ready', flush=True)\n"
        "while True:\n c, _ = s.accept()\n data = b''\n while chunk := c.recv(65536): data += chunk\n c.sendall(data[::-1]); c.close()\n"
    )
    server = world.start("a", sys.executable, "-S", "-c", code)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    # The second refuses, the third says nothing at all.
    api.put(service("whole", "10.96.0.51"),
            endpoint_slice("whole", (A, "node1"), (B, "node1"), ("10.244.1.77", "node1"), port=8090))  # fmt: skip
    world.proxy(api, tmp_path, *USERSPACE)
    eventually(lambda: "10.96.0.51" in world.sh("node", "iptables-save -t nat"))
    sent = bytes(range(256)) * 8000
    for _ in range(3):
        with inside(world, "b") as s:
            s.connect(("10.96.0.51", 80))
            got = bytearray()
            reader = threading.Thread(target=lambda s=s, got=got: got.extend(iter_all(s)))  # type: ignore[misc]
            reader.start()
            s.sendall(sent)
            s.shutdown(socket.SHUT_WR)
            reader.join(30)
            assert bytes(got) == sent[::-1]
    # Nobody serves any more: what there is goes on, what comes is closed.
    with inside(world, "b") as kept:
        kept.connect(("10.96.0.51", 80))
        kept.sendall(b"still ")
        eventually(lambda: "ESTAB" in world.sh("a", "ss -Htn sport = 8090"))
        api.put(endpoint_slice("whole", port=8090))
        eventually(lambda: world.ask("b", "10.96.0.51", 80) == "closed")
        kept.sendall(b"here")
        kept.shutdown(socket.SHUT_WR)
        assert iter_all(kept) == b"ereh llits"


def iter_all(s: socket.socket) -> bytes:
    data = b""
    while chunk := s.recv(65536):
        data += chunk
    return data


UDP_IDLE_S = 0.8


class HeldUp(Exception):
    """The client or who answers it was slower than what counts as idle."""


def test_a_udp_client_keeps_its_endpoint_until_it_was_idle(world: World, api: FakeApi, tmp_path: Path) -> None:
    api.put(service("dns", "10.96.0.53", port=53, protocol="UDP"),
            endpoint_slice("dns", (A, "node1"), (B, "node1"), protocol="UDP"))  # fmt: skip
    process = world.proxy(api, tmp_path, *USERSPACE, "--udp-timeout", f"{int(UDP_IDLE_S * 1000)}ms", "--proxy-port-range", "40100-40110")
    eventually(lambda: "10.96.0.53" in world.sh("node", "iptables-save -t nat"))

    def turn(questions: int) -> str:
        """Who answers all of these questions; then its socket in kube-proxy is waited out."""
        who = set(asked(world, questions))
        assert len(who) == 1, who
        eventually(lambda: not world.sh("node", "ss -Hun state established dport = 8080"))
        return who.pop()

    while True:
        try:
            turns = [turn(4), turn(1), turn(1)]
        except HeldUp:
            continue  # it was idle between two questions
        break
    assert set(turns) == {f"a {GATEWAY}", f"b {GATEWAY}"}
    assert turns[0] == turns[2] != turns[1], "idle, so it is the other's turn each time"
    text = world.sh("node", "iptables-save -t nat")
    port = int(text.split("--to-ports ")[1].split()[0])
    assert 40100 <= port <= 40110
    # A new process has another port; a client that goes on from its old port gets there.
    world.stop(process)
    world.proxy(api, tmp_path, *USERSPACE, "--proxy-port-range", "40120-40130")
    eventually(lambda: "--to-ports 4012" in world.sh("node", "iptables-save -t nat") or "--to-ports 40130" in saved(world))
    eventually(lambda: hears(world).endswith(GATEWAY))


def hears(world: World) -> str:
    with contextlib.suppress(HeldUp):
        return asked(world, 1, 1)[0]
    return "held up"


def asked(world: World, questions: int, patience_s: float = 20) -> list[str]:
    """What one socket in pod b, always of the same port, hears from 10.96.0.53. Raises HeldUp."""
    code = (
        "import socket, sys, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('', 4100))\ns.settimeout(float(sys.argv[2]))\n"
        "told = time.monotonic()\nfor _ in range(int(sys.argv[1])):\n s.sendto(b'x', ('10.96.0.53', 53))\n"
        " try: answer = s.recv(100).decode()\n except TimeoutError: answer = 'timeout'\n"
        " print(f'{time.monotonic() - told:.3f} {answer}')\n told = time.monotonic()\n"
    )
    argv = ["ip", "netns", "exec", world.names["b"], sys.executable, "-S", "-c", code, str(questions), str(patience_s)]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout
    heard = [line.partition(" ") for line in out.splitlines()]
    if any(float(gap) > UDP_IDLE_S / 2 and answer != "timeout" for gap, _, answer in heard):
        raise HeldUp
    return [answer for _, _, answer in heard]


def test_damage_is_repaired_and_the_lesson_is_learnt(world: World, api: FakeApi, tmp_path: Path) -> None:
    """Rules that somebody flushed come back; a Service's connections end with kube-proxy, for it carried them."""
    config = tmp_path / "config.yaml"
    config.write_text("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: userspace\n"
                      "iptables: {syncPeriod: 1s, minSyncPeriod: 100ms}\n")  # fmt: skip
    api.put(service("web", "10.96.0.50"), endpoint_slice("web", (A, "node1")))
    process = world.proxy(api, tmp_path, "--config", str(config))
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3) == f"a {GATEWAY}")
    world.sh("node", "iptables -t nat -F")
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3) == f"a {GATEWAY}")
    assert world.sh("node", "curl -s 127.0.0.1:10249/proxyMode") == "userspace"
    metrics = world.sh("node", "curl -s 127.0.0.1:10249/metrics")
    assert "kubeproxy_sync_proxy_rules_duration_seconds_count" in metrics
    assert "no_local_endpoints" not in metrics
    process.kill()
    process.wait()
    assert world.ask("b", "10.96.0.50", 80) == "refused"
    assert world.component("node", "nsk8s.proxy.main", "--cleanup").wait(60) == 0
    assert "KUBE-" not in saved(world)
