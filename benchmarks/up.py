"""`nsk8s up` until all nodes are Ready and DNS answers on each, against Mininet with three hosts."""

from __future__ import annotations

import time

from benchmarks import mininet
from benchmarks.common import NAME, Row, api, cluster, dns_answers, in_namespace, median, nodes, ready, say, spread, until
from nsk8s.client.resources import NODES
from nsk8s.client.rest import Client

ROUNDS = 5


async def all_ready(client: Client) -> None:
    await until(client, NODES, lambda items: len(items) == 4 and all(map(ready, items)))


def measure(rounds: int = ROUNDS) -> list[Row]:
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(mininet.seconds("single,3"))
        with cluster() as took:
            started = time.monotonic()
            machines = [f"{NAME}-{n}" for n in ("control-plane", *nodes())]
            while not all(in_namespace(machine, dns_answers) for machine in machines):
                time.sleep(0.005)
            late = time.monotonic() - started
            api(all_ready)
            if late > 0.05:
                say(f"up: DNS answered everywhere only {late:.3f} s after `up` had returned")
            ours.append(took + late)
    say(f"up: {spread(ours)}; mn single,3: {spread(theirs)}")
    return [Row("up: 4 nodes Ready and DNS on each, against mn single,3", median(ours), median(theirs), "s", "≤ 5", "≤ 2")]
