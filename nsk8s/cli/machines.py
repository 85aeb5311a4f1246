"""enter, capture: inside the machines and pods of a cluster."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from nsk8s.cli.common import cluster_option, invoking_user, loaded, with_client
from nsk8s.cli.targets import checked_name
from nsk8s.cluster.state import ClusterState, Paths
from nsk8s.errors import Nsk8sError
from nsk8s.kernel import machine, probe
from nsk8s.kernel import syscalls as sc
from nsk8s.kernel.cgroup import Cgroups
from nsk8s.net.topology import CLIENT, ROUTER, SWITCH, infrastructure_names, switch_name


@dataclass(frozen=True)
class Target:
    """Where a command runs: paths of namespaces, "" for the root one; for a pod, its node's mount namespace is entered first."""

    label: str
    netns: str
    mnt: str = ""
    interface: str = ""
    """Where to listen unless told otherwise; "" for all interfaces."""
    pod_netns: str = ""
    """The pod's network namespace as seen inside the node's mount namespace."""


def find(cluster: str, text: str) -> Target:
    """`node/NAME`, `NAME`, `router`, `client`, `switch[/NODE]`, `pod/NAME`, `pod/NS/NAME`. Raises Nsk8sError."""
    paths, state = loaded(cluster)
    kind, _, rest = text.partition("/")
    if kind == "pod" and rest:
        namespace, _, name = rest.rpartition("/")
        checked_name(name)
        checked_name(namespace or "default")
        return _pod(cluster, paths, state, namespace or "default", name)
    name = rest if kind == "node" and rest else text
    # Without racks these are known without reading cluster.yaml's model, which takes a tenth of a second.
    infrastructure = [SWITCH, ROUTER, CLIENT] if not state.config.get("racks") else infrastructure_names(state.cluster_config())
    if kind in infrastructure and kind not in (ROUTER, CLIENT) and rest:
        if rest != ROUTER and kind == SWITCH:
            kind = _switch_of(state, state.node(rest).rack)
        return Target(text, str(machine.netns_path(f"{cluster}-{kind}")), interface=rest[:15])
    if name in infrastructure:
        return Target(name, str(machine.netns_path(f"{cluster}-{name}")))
    if any(n.name == name for n in state.nodes):
        node = state.node(name)
        if node.stopped:
            raise Nsk8sError(f"node {name} is switched off", f"nsk8s node start {name}")
        return Target(name, str(machine.netns_path(f"{cluster}-{name}")), str(paths.pin(name)))
    nodes = ", ".join(f"node/{n.name}" for n in state.nodes)
    others = ", ".join(sorted(infrastructure, key=lambda name: name.startswith(SWITCH)))
    raise Nsk8sError(f"there is no machine {text!r}", f"there are {nodes}, {others}, and pod/[NAMESPACE/]NAME")


def _switch_of(state: ClusterState, rack: str) -> str:
    if not state.config.get("racks"):
        return SWITCH
    config = state.cluster_config()
    return switch_name(config, config.rack(rack))


def _pod(cluster: str, paths: Paths, state: ClusterState, namespace: str, name: str) -> Target:
    from nsk8s.api.meta import Object
    from nsk8s.client.resources import PODS
    from nsk8s.client.rest import Client

    async def get(client: Client) -> Object:
        return await client.get(PODS, name, namespace)

    pod = with_client(cluster, get)
    node = pod["spec"].get("nodeName")
    if not node:
        raise Nsk8sError(f"pod {namespace}/{name} is not on a node yet", f"nsk8s describe pod {name} -n {namespace}")
    outer = find(cluster, f"node/{node}")
    if pod["spec"].get("hostNetwork"):
        return Target(f"{namespace}/{name}", outer.netns, outer.mnt)
    found = pod_netns(outer, pod["metadata"]["uid"])
    if not found:
        raise Nsk8sError(f"pod {namespace}/{name} has no running sandbox", f"nsk8s describe pod {name} -n {namespace}")
    return Target(f"{namespace}/{name}", outer.netns, outer.mnt, pod_netns=found)


def pod_netns(node: Target, uid: str) -> str:
    """The path (inside the node) of the network namespace of a pod's ready sandbox, asked of the runtime; "" for none."""
    import json
    import socket

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            machine.enter(node.netns, node.mnt)
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(5)
                s.connect("/run/nsk8s/runtime.sock")
                s.sendall(b'{"id": 1, "method": "ListPodSandbox", "params": {}}\n')
                with s.makefile("rb") as f:
                    items: list[dict[str, Any]] = json.loads(f.readline())["result"]["items"]
            for item in items:
                if item["metadata"]["uid"] == uid and item["state"] == "SANDBOX_READY":
                    os.write(write, f"/run/netns/cni-{item['id']}".encode())
        except OSError:
            pass
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        answer = f.read().decode()
    os.waitpid(pid, 0)
    return answer


def go(target: Target, cgroup: str) -> None:
    """Move this process into the target, and into the cluster's control group so that `down` ends it too."""
    groups = Cgroups()
    groups.create(cgroup)
    groups.join(cgroup)
    machine.enter(target.netns, target.mnt or None)
    if target.pod_netns:
        fd = os.open(target.pod_netns, os.O_RDONLY | os.O_CLOEXEC)
        sc.setns(fd, sc.CLONE_NEWNET)
        os.close(fd)
    if not target.mnt or target.pod_netns:
        # As `ip netns exec` does: /sys shows this namespace's interfaces.
        sc.unshare(sc.CLONE_NEWNS)
        sc.mount(None, "/", None, sc.MS_SLAVE | sc.MS_REC)
        cgroups = "/sys/fs/cgroup"
        try:
            keep = os.open(cgroups, os.O_PATH | os.O_CLOEXEC)
            sc.mount("nsk8s", "/sys", "sysfs", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC)
            sc.mount(f"/proc/self/fd/{keep}", cgroups, None, sc.MS_BIND | sc.MS_REC)
            os.close(keep)
        except OSError:
            pass  # a convenience only


def run_in(target: Target, cgroup: str, argv: list[str]) -> NoReturn:
    """Exec `argv` there. Raises Nsk8sError when the program is missing."""
    go(target, cgroup)
    env = {**os.environ, "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":" + probe.SBIN, "NSK8S_MACHINE": target.label}
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python's own SIG_IGN would survive the exec
    try:
        os.execvpe(argv[0], argv, env)
    except FileNotFoundError:
        click.echo(f"error: there is no program {argv[0]} on this machine", err=True)
        sys.exit(127)
    except PermissionError:
        click.echo(f"error: {argv[0]} cannot be executed", err=True)
        sys.exit(126)


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: sudo nsk8s enter client -- curl -s http://192.168.56.11:30080",
)
@click.argument("target", metavar="TARGET")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND…]")
@cluster_option
def enter(target: str, argv: tuple[str, ...], cluster: str) -> None:
    """Run a command (or a shell) on a machine or in a pod's network.

    TARGET: node/NAME (or just NAME), pod/[NAMESPACE/]NAME, router, client, switch. On a node the command sees that node's own
    network, /etc, /var and /run; for a pod it is the pod's network with the node's files (`nsk8s exec` goes inside a container).
    The exit code is the command's.
    """
    where = find(cluster, target)
    command = list(argv) or [os.environ.get("SHELL") or "/bin/sh"]
    if not argv:
        os.environ["PS1"] = f"({cluster} {where.label}) \\w \\$ "
        if command[0].endswith("bash"):
            command.append("--norc")
    run_in(where, f"{Paths(cluster).cgroup}/enter", command)


@click.command(epilog="Example: sudo nsk8s capture client node1 pod/web-1 -w lab.pcap --filter 'tcp port 80'")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@click.option("-w", "--write", "path", metavar="FILE", help="Write a pcap; with several targets FILE becomes FILE-TARGET.pcap.")
@click.option("-i", "--interface", default="", help="The interface to listen on (default: all, or the switch's port).")
@click.option("--filter", "expression", default="", help="A tcpdump filter expression.")
@click.option("-c", "--count", type=click.IntRange(1), help="Stop each capture after so many packets.")
@click.option("--duration", type=click.FloatRange(0.1), help="Stop after so many seconds.")
@cluster_option
def capture(
    targets: tuple[str, ...], path: str | None, interface: str, expression: str, count: int | None, duration: float | None,
    cluster: str,
) -> None:  # fmt: skip
    """Capture packets on machines and pods at once (tcpdump in each), until Ctrl-C.

    TARGET: node/NAME (or just NAME), pod/[NAMESPACE/]NAME, router, client, switch, switch/NODE (the port that the node is plugged
    into). Without -w the packets are printed, each line with its target's name; files are read with `tcpdump -r` or Wireshark.
    """
    if probe.which("tcpdump") is None:
        raise Nsk8sError("tcpdump is missing", "apt-get install tcpdump")
    places = [find(cluster, t) for t in targets]
    base = Path(path) if path else None
    children: list[int] = []
    files: list[Path] = []
    for place in places:
        argv = ["tcpdump", "-n", "-i", interface or place.interface or "any", "--immediate-mode"]
        argv += ["-U", "-w", "-"] if base is not None else ["-l"]
        argv += ["-c", str(count)] if count else []
        out = None
        if base is not None:
            files.append(base if len(places) == 1 else base.with_name(f"{base.stem}-{place.label.replace('/', '-')}.pcap"))
            out = _open(files[-1])
            click.echo(f"{place.label} → {files[-1]}", err=True)
        children.append(_spawn(place, f"{Paths(cluster).cgroup}/enter", argv + expression.split(), out))
    code = _wait_for(children, duration)
    for file in files:
        if code and file.stat().st_size == 0:
            file.unlink()
    sys.exit(code)


def _open(path: Path) -> int:
    """A new file of the user behind sudo. Opened here, since a node's own /run and /var are others. Raises Nsk8sError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        user = invoking_user()
        if user is not None:
            os.fchown(fd, user[0], user[1])
    except OSError as e:
        raise Nsk8sError(f"cannot write {path}: {e.strerror}") from e
    return fd


def _spawn(place: Target, cgroup: str, argv: list[str], out: int | None) -> int:
    """Fork a tcpdump that writes packets to `out`, or prints them. Each line it prints gets the target's name in front."""
    said, stderr = os.pipe()
    read, stdout = os.pipe() if out is None else (-1, out)
    pid = os.fork()
    if pid == 0:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        run_in(place, cgroup, argv)
    os.close(stdout)
    os.close(stderr)
    _print_lines(place.label, said, sys.stderr)
    if out is None:
        _print_lines(place.label, read, sys.stdout)
    return pid


def _print_lines(label: str, read: int, stream: TextIO) -> None:
    """Fork a process that prints whole lines: several tcpdumps write pieces of theirs at the same time."""
    if os.fork() == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with os.fdopen(read, "r", errors="replace") as lines:
            for line in filter(str.strip, lines):  # tcpdump ends with an empty one
                stream.write(f"{label}: {line}")
                stream.flush()
        os._exit(0)
    os.close(read)


def _wait_for(children: list[int], duration: float | None) -> int:
    """Wait for every tcpdump; Ctrl-C and the end of `duration` stop them. The worst exit code."""

    def stop(signum: int, frame: object) -> None:
        for pid in children:
            try:
                os.kill(pid, signal.SIGINT)
            except ProcessLookupError:
                continue

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, stop)
    if duration:
        signal.setitimer(signal.ITIMER_REAL, duration)
    worst = 0
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return worst
        if pid in children:
            worst = max(worst, abs(os.waitstatus_to_exitcode(status)))
            children.remove(pid)
            if worst:
                stop(0, None)  # one that cannot listen: the others have no reason to go on
