"""What has been asked for is everywhere: a pod that is ready in the API is not yet in every proxy's rules, nor every node in all routes."""

from __future__ import annotations

from collections.abc import Sequence

from e2e_cluster import netns, pods, until


def answered(machine: str, *urls: str) -> bool:
    """Whether every one of the URLs answers a machine now."""
    return netns(machine, "curl", "-sf", "-m", "5", "--fail-early", *urls, timeout=60).returncode == 0


def answered_everywhere(machines: Sequence[str], *urls: str) -> None:
    """Return once all URLs answer all these machines: routes, rules and listeners are there."""
    for machine in machines:
        until(f"{', '.join(urls)} answer {machine}", lambda machine=machine: answered(machine, *urls))


def pods_are_reached(machines: Sequence[str], selector: str = "app=hello", port: int = 8080) -> None:
    """Return once each machine reaches each of the pods, of nsk8s/echo, at its own address."""
    answered_everywhere(machines, *(f"http://{p['status']['podIP']}:{port}/healthz" for p in pods(selector)))
