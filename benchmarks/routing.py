"""Every routing mode against the same way built by hand with `ip`: throughput, flood ping, and TCP request and answer.

For each mode a cluster of two nodes that begins with it, and beside it the hand-built path with the cluster's own rules; the two
take turns. BIRD writes plain routes, so mode bgp is held against those.
"""

from __future__ import annotations

import re
import time

from benchmarks.common import PROGRAM, Row, api, cluster, median, ready, run, say, spread, until
from benchmarks.throughput import SERVER, by_hand, gbit, pod
from nsk8s.client.resources import PODS
from nsk8s.client.rest import Client

ROUNDS = 5
SECONDS = 2
PINGS = 50_000
ANSWERS = 50_000
PORT = 7011

TUNNEL = """
for i in 1 2; do
  ip -n n$i link add flannel.1 address 02:00:00:00:01:0$i type vxlan id 1 dev eth0 local 192.168.56.1$i dstport 8472 nolearning
  ip -n n$i address add 10.244.$i.0/32 dev flannel.1
  ip -n n$i link set flannel.1 mtu 1450 up
  ip -n p$i link set eth0 mtu 1450
  ip -n n$i link set veth0 mtu 1450
done
for i in 1 2; do
  j=$((3 - i))
  ip -n n$i neigh add 10.244.$j.0 lladdr 02:00:00:00:01:0$j dev flannel.1 nud permanent
  bridge -n n$i fdb add 02:00:00:00:01:0$j dev flannel.1 dst 192.168.56.1$j self permanent
  ip -n n$i route replace 10.244.$j.0/24 via 10.244.$j.0 dev flannel.1 onlink
done
"""
ROUTER = """
ip netns add r
ip -n sw link add portr type veth peer name eth0 netns r
ip -n sw link set portr master lan0 up
ip -n r address add 192.168.56.1/24 dev eth0
ip -n r link set eth0 up
ip netns exec r sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0
for i in 1 2; do
  j=$((3 - i))
  ip -n r route add 10.244.$i.0/24 via 192.168.56.1$i
  ip -n n$i route del 10.244.$j.0/24
  ip -n n$i route add default via 192.168.56.1
done
"""
MODES = {"routes": "", "vxlan": TUNNEL, "router": ROUTER, "bgp": ""}

ECHO = f"""
import socket
with socket.create_server(("", {PORT})) as server:
    while True:
        connection = server.accept()[0]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(64):
            connection.sendall(data)
"""
ASK = f"""
import socket, sys, time
s = socket.create_connection((sys.argv[1], {PORT}), 5)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for count in ({ANSWERS} // 10, {ANSWERS}):
    start = time.perf_counter()
    for _ in range(count):
        s.send(b"x")
        s.recv(1)
print((time.perf_counter() - start) / {ANSWERS} * 1e6)
"""
PYTHON = ["/usr/bin/python3", "-c"]


async def start_pods(client: Client) -> str:
    """The address of the pod on node2 that swallows streams and answers questions; the client is on node1."""
    server = pod("server", "node2", SERVER)
    server["spec"]["containers"].append({"name": "echo", "image": "debian", "command": [*PYTHON, ECHO]})
    await client.create(PODS, server)
    await client.create(PODS, pod("client", "node1", ["sleep", "infinity"]))
    await until(client, PODS, lambda pods: len(pods) == 2 and all(map(ready, pods)), "default")
    return str((await client.get(PODS, "server", "default"))["status"]["podIP"])


def ping_us(prefix: list[str], address: str) -> float:
    """Mean time of a flood's pings, each sent when the last was answered. (ping's own mean has whole µs only.)"""
    out = run(*prefix, "ping", "-f", "-q", "-c", str(PINGS), address)
    found = re.search(r" 0% packet loss, time (\d+)ms", out)
    if found is None:
        raise RuntimeError(f"flood ping lost packets: {out}")
    return float(found[1]) * 1000 / PINGS


def answer_us(prefix: list[str], address: str) -> float:
    """Mean time of a byte there and back on one TCP connection."""
    for attempt in range(20):  # the server may still be starting
        out = run(*prefix, *PYTHON, ASK, address, check=False)
        if out:
            return float(out)
        time.sleep(0.1 * (attempt + 1))
    raise RuntimeError(f"nothing answers at {address}:{PORT}")


MEASURES = (
    ("iperf3", lambda prefix, address: gbit(prefix, address, SECONDS), "Gbit/s", "≥ 0.95"),
    ("flood ping", ping_us, "µs", "≤ 1.05"),
    ("TCP question and answer", answer_us, "µs", "≤ 1.05"),
)


def measure(rounds: int = ROUNDS) -> list[Row]:
    rows = []
    for mode, more in MODES.items():
        ours: dict[str, list[float]] = {name: [] for name, *_ in MEASURES}
        theirs: dict[str, list[float]] = {name: [] for name, *_ in MEASURES}
        with cluster(nodes=2, network={"mode": mode}):
            address = api(start_pods)
            prefix = [str(PROGRAM), "exec", "client", "--"]
            with by_hand(more, [SERVER, [*PYTHON, ECHO]]) as hand:
                for _ in range(rounds):
                    for name, one, *_ in MEASURES:
                        theirs[name].append(one(hand, "10.244.2.2"))
                        ours[name].append(one(prefix, address))
        for name, _, unit, reach in MEASURES:
            say(f"{mode}, {name}: {spread(ours[name])} {unit}; by hand {spread(theirs[name])} {unit}")
            rows.append(Row(f"{mode}: {name}, against by hand", median(ours[name]), median(theirs[name]), unit, reach, "1.0"))
    return rows
