"""20 nodes and 500 pods: does a pod cost what it cost among the first 50?"""

from __future__ import annotations

import time

from benchmarks.common import Row, api, cluster, echo_deployment, median, ready, say, spread, until
from nsk8s.client.resources import DEPLOYMENTS, PODS
from nsk8s.client.rest import Client

ROUNDS = 5
NODES_WANTED = 20
FIRST, ALL = 50, 500


async def grow(client: Client) -> tuple[float, float]:
    """Seconds until the first 50 pods were Ready, and from there until all 500 were."""
    started = time.monotonic()
    await client.create(DEPLOYMENTS, echo_deployment(FIRST))
    await until(client, PODS, lambda pods: len(pods) == FIRST and all(map(ready, pods)), "default")
    first = time.monotonic() - started
    await client.patch(DEPLOYMENTS, "bench", {"spec": {"replicas": ALL}}, "default")
    await until(client, PODS, lambda pods: len(pods) == ALL and all(map(ready, pods)), "default")
    return first, time.monotonic() - started - first


def measure(rounds: int = ROUNDS) -> list[Row]:
    early, late = [], []
    for _ in range(rounds):
        with cluster(nodes=NODES_WANTED):
            first, rest = api(grow)
        early.append(first / FIRST * 1000)
        late.append(rest / (ALL - FIRST) * 1000)
    say(f"scale: a pod of the first 50 {spread(early)} ms; of the next 450 {spread(late)} ms")
    return [Row("20 nodes: a pod of 500, against one of the first 50", median(late), median(early), "ms", "≤ 1.5", "1.0")]
