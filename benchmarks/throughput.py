"""iperf3 from a pod to a pod on another node, against the same path built by hand with `ip` and the same rules, interleaved."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.common import NAME, PROGRAM, Row, api, cluster, median, ready, run, say, spread, until
from nsk8s.api.meta import Object
from nsk8s.client.resources import PODS
from nsk8s.client.rest import Client

ROUNDS = 5
SECONDS = 5
SERVER = ["iperf3", "--server"]

BY_HAND = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/netns
for ns in sw n1 n2 p1 p2; do ip netns add $ns; ip -n $ns link set lo up; done
ip netns exec sw sysctl -qw net.bridge.bridge-nf-call-iptables=0 || true
ip -n sw link add lan0 type bridge
ip -n sw link set lan0 up
for i in 1 2; do
  j=$((3 - i))
  ip -n sw link add port$i type veth peer name eth0 netns n$i
  ip -n sw link set port$i master lan0 up
  ip -n n$i address add 192.168.56.1$i/24 dev eth0
  ip -n n$i link set eth0 up
  ip -n n$i link add cni0 type bridge
  ip -n n$i address add 10.244.$i.1/24 dev cni0
  ip -n n$i link set cni0 up
  ip -n n$i link add veth0 type veth peer name eth0 netns p$i
  ip -n n$i link set veth0 master cni0 up
  ip -n p$i address add 10.244.$i.2/24 dev eth0
  ip -n p$i link set eth0 up
  ip -n p$i route add default via 10.244.$i.1
  ip -n n$i route add 10.244.$j.0/24 via 192.168.56.1$j
  ip netns exec n$i sysctl -qw net.ipv4.ip_forward=1
  ip netns exec n$i sysctl -qw net.bridge.bridge-nf-call-iptables=1 || true
done
"""
"""Two nodes with a bridge and a pod each, on a switch: what nsk8s makes, without nsk8s."""


def pod(name: str, node: str, command: list[str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": "debian", "command": command}],
        },
    }  # fmt: skip


async def start_pods(client: Client) -> str:
    """The address of the server pod on node2; the client is on node1."""
    await client.create(PODS, pod("server", "node2", SERVER))
    await client.create(PODS, pod("client", "node1", ["sleep", "infinity"]))
    await until(client, PODS, lambda pods: len(pods) == 2 and all(map(ready, pods)), "default")
    return str((await client.get(PODS, "server", "default"))["status"]["podIP"])


@contextlib.contextmanager
def by_hand(more: str = "", servers: Sequence[Sequence[str]] = (SERVER,)) -> Iterator[list[str]]:
    """The path built by hand in its own mount namespace, with the cluster's rules, and changed by the script `more`; yields the
    prefix of commands in it."""
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", BY_HAND + more + "\necho made; exec sleep infinity"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    serving: list[subprocess.Popen[bytes]] = []
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "made\n":
            raise RuntimeError("the path could not be built by hand")
        enter = ["nsenter", "--target", str(holder.pid), "--mount", "ip", "netns", "exec"]
        for i in (1, 2):
            rules = run("ip", "netns", "exec", f"{NAME}-node{i}", "iptables-save")
            run(*enter, f"n{i}", "iptables-restore", text_in=rules)
        serving = [subprocess.Popen([*enter, "p2", *server], stdout=subprocess.DEVNULL) for server in servers]
        yield [*enter, "p1"]
    finally:
        for process in (*serving, holder):
            process.kill()
            process.wait()


def gbit(prefix: list[str], address: str, seconds: int = SECONDS) -> float:
    """Gigabits a second that the receiver got."""
    for attempt in range(20):  # the server may still be starting
        out = run(*prefix, "iperf3", "--client", address, "--time", str(seconds), "--omit", "1", "--json", check=False)
        result: dict[str, Any] = json.loads(out) if out.startswith("{") else {"error": out}
        if "error" not in result:
            return float(result["end"]["sum_received"]["bits_per_second"]) / 1e9
        time.sleep(0.1 * (attempt + 1))
    raise RuntimeError(f"iperf3 to {address} does not come through")


def measure(rounds: int = ROUNDS) -> list[Row]:
    ours, theirs = [], []
    with cluster(nodes=2):
        address = api(start_pods)
        ours_prefix = [str(PROGRAM), "exec", "client", "--"]
        with by_hand() as prefix:
            for _ in range(rounds):
                theirs.append(gbit(prefix, "10.244.2.2"))
                ours.append(gbit(ours_prefix, address))
    say(f"iperf3: {spread(ours)} Gbit/s; by hand {spread(theirs)} Gbit/s")
    return [Row("iperf3 pod → pod on another node, against by hand", median(ours), median(theirs), "Gbit/s", "≥ 0.95", "1.0")]

