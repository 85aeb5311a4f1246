"""Waiting until a cluster can be used: API, nodes Ready, DNS answering on every node.

Touches: the API, sockets in the nodes' namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Coroutine

from nsk8s.api import meta
from nsk8s.api.meta import Object
from nsk8s.client import kubeconfig
from nsk8s.client.resources import BY_KIND, NODES
from nsk8s.client.rest import Client, Unreachable
from nsk8s.cluster import preflight, supervise
from nsk8s.cluster.state import ClusterState, Paths
from nsk8s.config import ClusterConfig
from nsk8s.errors import AlreadyExists, Gone, NotFound, Nsk8sError, StatusError
from nsk8s.kernel import machine
from nsk8s.net.topology import CONTROL_PLANE, netns_name

A, AAAA = 1, 28
RESEND_S = 0.02
"""A DNS query without an answer is asked again so soon while a cluster starts."""
GONE_POLL_S = 0.25


def wait(paths: Paths, state: ClusterState, timeout_s: float, say: Callable[[str], None]) -> None:
    """Return when everything that should be there is Ready. Raises Nsk8sError naming what is not."""
    try:
        _wait(paths, state, timeout_s, say)
    except Nsk8sError as e:
        full = preflight.full_neighbour_table()
        if full is None:
            raise
        raise Nsk8sError(f"{e.message}; {full.found}", full.fix) from e


def _wait(paths: Paths, state: ClusterState, timeout_s: float, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + timeout_s
    config = state.cluster_config()
    cut = [name for name, link in state.links.items() if link.get("down")]
    if CONTROL_PLANE in cut:
        raise Nsk8sError("the control plane's link is down: no other node reaches it", f"nsk8s link up {CONTROL_PLANE}")
    born = _born(paths)
    asyncio.run(_unless_gone(paths, born, _wait_api(paths, state, config, deadline, say)))
    if config.without and {"dns", "kube-proxy", "kubelet", "node-network", "kube-scheduler"} & set(config.without):
        return  # without these nobody can ask the cluster DNS
    if cut:
        return  # it may be the DNS that is cut off
    say("DNS on every node")
    try:
        wait_dns(config, state.expected(), deadline, lambda: _require(paths, born))
    except FileNotFoundError:
        _require(paths, born)
        raise


def _born(paths: Paths) -> int:
    """Something that this start of the cluster has, and no other: its run directory's inode; 0 when there is none."""
    try:
        return os.stat(paths.run).st_ino
    except FileNotFoundError:
        return 0


def _require(paths: Paths, born: int) -> None:
    if _born(paths) != born:
        raise Nsk8sError(f"cluster {paths.name} was taken down by another command meanwhile", "nsk8s up starts it again")


async def _unless_gone(paths: Paths, born: int, work: Coroutine[None, None, None]) -> None:
    """`work`, unless somebody takes the cluster down meanwhile. Raises Nsk8sError then."""
    task = asyncio.ensure_future(work)
    while not (await asyncio.wait([task], timeout=GONE_POLL_S))[0]:
        try:
            _require(paths, born)
        except Nsk8sError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
    task.result()


async def _wait_api(
    paths: Paths, state: ClusterState, config: ClusterConfig, deadline: float, say: Callable[[str], None]
) -> None:
    say("API server")
    async with Client(kubeconfig.load(paths.admin_conf), user_agent="nsk8s-up") as client:
        try:
            await client.wait_ready(max(0.1, deadline - time.monotonic()))
        except Unreachable as e:
            raise Nsk8sError(f"the API server does not answer: {e.message}", _where_to_look(paths, "kube-apiserver")) from e
        await install_addons(client, config)
        if "kubelet" in config.without or "node-network" in config.without:
            return
        say("nodes Ready")
        await wait_nodes(client, paths, set(state.expected()), deadline)


async def install_addons(client: Client, config: ClusterConfig) -> None:
    """Create the cluster DNS and the ingress controller, as far as wanted and not there; what a user changed of them stays."""
    from nsk8s.dns import manifest

    wanted = [] if "dns" in config.without else manifest.objects(
        config.dns_ips[0], config.cluster_domain, cluster_ips=tuple(config.dns_ips)
    )
    if config.ingress:
        from nsk8s.ingress import manifest as ingress

        wanted += ingress.objects()
    for obj in wanted:
        resource = BY_KIND[obj["apiVersion"], obj["kind"]]
        try:
            # Looked for first: a Service whose address is taken, by itself, is Invalid and not AlreadyExists.
            await client.get(resource, meta.name(obj), meta.namespace(obj))
        except NotFound:
            with contextlib.suppress(AlreadyExists):
                await client.create(resource, obj)


async def wait_nodes(client: Client, paths: Paths, wanted: set[str], deadline: float) -> None:
    ready: set[str] = set()
    nodes: dict[str, Object] = {}
    while True:
        listed = await client.list(NODES)
        nodes = {meta.name(n): n for n in listed["items"]}
        ready = {n for n, o in nodes.items() if meta.is_condition_true(o, "Ready")}
        if wanted <= ready:
            return
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        try:
            async with asyncio.timeout(remaining):
                async for event in client.watch(NODES, resource_version=listed["metadata"]["resourceVersion"]):
                    if event.type == "BOOKMARK":
                        continue
                    nodes[meta.name(event.object)] = event.object
                    if event.type != "DELETED" and meta.is_condition_true(event.object, "Ready"):
                        ready.add(meta.name(event.object))
                    if wanted <= ready:
                        return
        except (TimeoutError, Gone, Unreachable, StatusError):
            continue
    missing = sorted(wanted - ready)
    condition = meta.find_condition(nodes[missing[0]], "Ready") if missing[0] in nodes else None
    why = condition.get("message", "") if condition else "it has not registered"
    late = f"not Ready in time: {', '.join(missing)} ({missing[0]}: {why})"
    raise Nsk8sError(late, _where_to_look(paths, "kubelet", missing[0]))


def _where_to_look(paths: Paths, component: str, machine_name: str = "") -> str:
    answer = supervise.call(paths, {"op": "status"})
    for c in (answer or {}).get("components", []):
        if c["name"] == component and (not machine_name or c["machine"] == machine_name):
            state = f"{c['state']}, {c['restarts']} restarts" + (f", {c['lastExit']}" if c["lastExit"] else "")
            return f"{component} is {state}; see {c['log']}"
    return "nsk8s status shows what runs"


def _query(domain: str, kind: int) -> bytes:
    name = b"".join(bytes([len(p)]) + p.encode() for p in f"kubernetes.default.svc.{domain}".split(".")) + b"\0"
    return struct.pack("!HHHHHH", 0x6E73, 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", kind, 1)


def wait_dns(config: ClusterConfig, nodes: list[str], deadline: float, check: Callable[[], None] = lambda: None) -> None:
    """Ask the cluster DNS for `kubernetes.default` from each node until each has an answer with an address. Raises Nsk8sError."""
    target = (config.dns_ips[0], 53)
    query = _query(config.cluster_domain, AAAA if ":" in target[0] else A)  # `kubernetes` has the primary family only
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    poller = select.poll()
    sockets: dict[int, tuple[str, socket.socket]] = {}
    try:
        for name in nodes:
            with machine.inside(machine.netns_path(netns_name(config, name))):
                s = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sockets[s.fileno()] = (name, s)
            poller.register(s, select.POLLIN)
        while sockets:
            for _, s in sockets.values():
                with contextlib.suppress(OSError):  # REJECT while there is no endpoint
                    s.sendto(query, target)
            for fd, _ in poller.poll(RESEND_S * 1000):
                _, s = sockets[fd]
                try:
                    answer = s.recv(2048)
                except OSError:
                    continue
                if len(answer) > 12 and answer[3] & 0x0F == 0 and answer[6:8] != b"\0\0":
                    poller.unregister(fd)
                    sockets.pop(fd)[1].close()
            check()
            if time.monotonic() > deadline:
                names = ", ".join(name for name, _ in sockets.values())
                look = "nsk8s get events -n kube-system" if config.cni.conf else "nsk8s get pods -n kube-system -o wide"
                raise Nsk8sError(f"no DNS answer from {target[0]} on {names}", look)
    finally:
        for _, s in sockets.values():
            s.close()
