"""`nsk8s component kube-proxy` alone, in a namespace that nsk8s did not make, against a real API server process started there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy_world import World, endpoint_slice, eventually, node, service

pytestmark = pytest.mark.root

A, B = World.PODS["a"], World.PODS["b"]
NSK8S = (sys.executable, "-m", "nsk8s.cli.main", "component")
WRITE = """
import asyncio, json, sys
from nsk8s.client import kubeconfig
from nsk8s.client.resources import BY_KIND
from nsk8s.client.rest import Client

async def main():
    async with Client(kubeconfig.load(sys.argv[1])) as client:
        for verb, obj in json.load(sys.stdin):
            resource, meta = BY_KIND[obj["apiVersion"], obj["kind"]], obj["metadata"]
            where = (meta["namespace"],) if resource.namespaced else ()
            if verb == "create":
                await client.create(resource, obj, *where)
            elif verb == "delete":
                await client.delete(resource, meta["name"], *where)
            else:
                old = await client.get(resource, meta["name"], *where)
                await client.update(resource, {**obj, "metadata": old["metadata"]})

asyncio.run(main())
"""


@pytest.fixture
def world() -> Iterator[World]:
    with World() as world:
        for pod in "ab":
            world.answerer(pod, pod, 8080)
        yield world


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_alone_against_a_real_api_server(world: World, tmp_path: Path, mode: str) -> None:
    admin = tmp_path / "admin.conf"
    world.start(
        "node", *NSK8S, "kube-apiserver", "--data-dir", ":memory:", "--bind-address", "127.0.0.1", "--secure-port", "6443",
        "--cert-dir", str(tmp_path / "pki"), "--write-kubeconfig", str(admin),
    )  # fmt: skip
    eventually(admin.exists, 20)
    eventually(lambda: ":6443" in world.sh("node", "ss -Hltn"), 20)

    def write(*changes: tuple[str, dict]) -> None:
        world.sh("node", f"{sys.executable} -c '{WRITE}' {admin} <<'END'\n{json.dumps(changes)}\nEND")

    write(
        ("create", node("node1", world.NODE, "10.244.1.0/24")),
        ("create", service("web", "10.96.0.50", type="NodePort", port_fields={"nodePort": 30050})),
        ("create", endpoint_slice("web", (A, "node1"))),
    )  # fmt: skip
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
        f"mode: {mode}\nclusterCIDR: 10.244.0.0/16\nclientConnection: {{kubeconfig: {admin}}}\n"
        f"nodePortAddresses: [{world.NODE}/32]\nhostnameOverride: node1\n"
    )
    proxy = world.start("node", *NSK8S, "kube-proxy", "--config", str(config))
    eventually(lambda: world.ask("b", "10.96.0.50", 80, timeout_s=0.3) == f"a {B}", 20)
    assert world.ask("outside", world.NODE, 30050).startswith("a")
    write(("update", endpoint_slice("web", (B, "node1"))))
    eventually(lambda: world.ask("outside", world.NODE, 30050, timeout_s=0.3).startswith("b"))
    write(("delete", service("web", "10.96.0.50")))
    eventually(lambda: world.ask("outside", world.NODE, 30050, timeout_s=0.3) == "refused")
    assert world.stop(proxy) == 0
