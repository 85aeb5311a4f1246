"""One Deployment of 50 pods, from apply to all Ready and answering from another node, against Mininet with 50 hosts."""

from __future__ import annotations

import time

from benchmarks import mininet
from benchmarks.common import (
    NAME,
    Row,
    api,
    cluster,
    echo_deployment,
    http_answers,
    in_namespace,
    median,
    nodes,
    ready,
    say,
    spread,
    until,
)
from nsk8s.api.meta import Object
from nsk8s.client.resources import DEPLOYMENTS, PODS
from nsk8s.client.rest import Client

ROUNDS = 5
PODS_WANTED = 50


async def start_pods(client: Client, count: int) -> tuple[float, list[Object]]:
    """Seconds from the POST of a Deployment to the last of its pods Ready, and the pods."""
    started = time.monotonic()
    await client.create(DEPLOYMENTS, echo_deployment(count))
    await until(client, PODS, lambda pods: len(pods) == count and all(map(ready, pods)), "default")
    took = time.monotonic() - started
    return took, (await client.list(PODS, "default"))["items"]


async def stop_pods(client: Client) -> None:
    await client.delete(DEPLOYMENTS, "bench", "default", propagation="Background")
    await until(client, PODS, lambda pods: not pods, "default")


def check_from_other_nodes(pods: list[Object]) -> None:
    """Every pod answers a node that it is not on. Raises RuntimeError."""
    machines = nodes()
    for node in machines:
        elsewhere = [p["status"]["podIP"] for p in pods if p["spec"]["nodeName"] != node][:: max(1, len(machines) - 1)]
        if not in_namespace(f"{NAME}-{node}", lambda: all(map(http_answers, elsewhere))):  # noqa: B023
            raise RuntimeError(f"a pod on another node does not answer {node}")


def measure(rounds: int = ROUNDS) -> list[Row]:
    ours, theirs = [], []
    with cluster():
        for _ in range(rounds):
            theirs.append(mininet.seconds(f"single,{PODS_WANTED}"))
            took, pods = api(lambda client: start_pods(client, PODS_WANTED))
            check_from_other_nodes(pods)
            ours.append(took)
            api(stop_pods)
    say(f"50 pods: {spread(ours)}; mn single,50: {spread(theirs)}")
    what = "50 pods with readinessProbe: apply to all Ready, against mn single,50"
    return [Row(what[:58], median(ours), median(theirs), "s", "≤ 1.5", "≤ 0.5")]
