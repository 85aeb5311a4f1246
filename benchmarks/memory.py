"""PSS that a node and a pod add, the app left out. Processes are told by when they began, never by name."""

from __future__ import annotations

import time

from benchmarks.common import Row, api, cluster, deployment, median, processes, pss_kb, ready, say, spread, until
from nsk8s.client.resources import DEPLOYMENTS, PODS
from nsk8s.client.rest import Client

ROUNDS = 5
FEW_NODES, MANY_NODES = 2, 6
PODS_WANTED = 40
SETTLE_S = 3.0
"""Memory is read after start-up's garbage is gone."""

APP = "sleep"


async def sleepers(client: Client) -> None:
    container = {"name": "app", "image": "busybox", "command": [APP, "infinity"]}
    await client.create(DEPLOYMENTS, deployment("bench", PODS_WANTED, container))
    await until(client, PODS, lambda pods: len(pods) == PODS_WANTED and all(map(ready, pods)), "default")


def measure(rounds: int = ROUNDS) -> list[Row]:
    per_node, per_pod = [], []
    for _ in range(rounds):
        sizes = {}
        for count in (FEW_NODES, MANY_NODES):
            before = processes()
            with cluster(nodes=count):
                time.sleep(SETTLE_S)
                sizes[count] = pss_kb(processes() - before)
                if count == FEW_NODES:
                    continue
                api(sleepers)
                time.sleep(SETTLE_S)
                per_pod.append((pss_kb(processes() - before, (APP, "busybox")) - sizes[count]) / PODS_WANTED / 1024)
        per_node.append((sizes[MANY_NODES] - sizes[FEW_NODES]) / (MANY_NODES - FEW_NODES) / 1024)
    say(f"memory: node {spread(per_node)} MB; pod {spread(per_pod)} MB")
    return [
        Row("PSS a node adds", median(per_node), 0, "MB", "≤ 20 MB", "≤ 10 MB", ratio_is_value=True),
        Row("PSS a pod adds (without the app)", median(per_pod), 0, "MB", "≤ 4 MB", "≤ 2 MB", ratio_is_value=True),
    ]
