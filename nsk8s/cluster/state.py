"""What is remembered of a cluster, and where. Touches: /var/lib/nsk8s/<name> (kept), /run/nsk8s/<name> (of this boot).

`cluster.json` says what the cluster is; `record.json` says what was made on this machine since it booted: each namespace's
inode, written before the namespace gets its name.  Only what is recorded is ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nsk8s.errors import Nsk8sError
from nsk8s.kernel import process
from nsk8s.net.topology import CONTROL_PLANE

if TYPE_CHECKING:  # pydantic is dear, and most commands need no more than paths and ports
    from nsk8s.config import ClusterConfig

STATE_ROOT = Path("/var/lib/nsk8s")
RUN_ROOT = Path("/run/nsk8s")


@dataclass
class NodeState:
    """One node as it was placed: its address stays with it."""

    name: str
    ip: str
    labels: dict[str, str] = field(default_factory=dict)
    taints: list[str] = field(default_factory=list)
    stopped: bool = False
    rack: str = ""
    """The name of the rack it stands in; "" is the first."""


@dataclass
class ClusterState:
    """cluster.json."""

    config: dict[str, Any]
    api_port: int
    nodes: list[NodeState]
    stopped: bool = False
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Machine → the settings of its cable (`nsk8s.link`): they are the cable's, and stay while the machine is off."""

    def cluster_config(self) -> ClusterConfig:
        from nsk8s import config

        try:
            return config.parse(self.config, "cluster.json")
        except Nsk8sError as e:
            remedy = f"another version of nsk8s made it: nsk8s down --name {self.config.get('name', 'CLUSTER')}"
            raise Nsk8sError(e.message, remedy) from e

    def expected(self) -> list[str]:
        """The nodes that should become Ready: those that are on, with a cable that is whole."""
        return [n.name for n in self.nodes if not n.stopped and not self.links.get(n.name, {}).get("down")]

    def node(self, name: str) -> NodeState:
        found = next((n for n in self.nodes if n.name == name), None)
        if found is None:
            known = ", ".join(n.name for n in self.nodes)
            raise Nsk8sError(f"there is no node {name!r} in this cluster", f"its nodes are {known}")
        return found


@dataclass
class Record:
    """record.json: what exists on this machine because of this cluster."""

    boot: str
    namespaces: dict[str, dict[str, int]] = field(default_factory=dict)
    """Name in /run/netns → inodes of its `net` and (nodes) `mnt` namespace."""
    made_netns_dir: bool = False


class Paths:
    """Where a cluster's things are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = STATE_ROOT / name
        self.run = RUN_ROOT / name
        self.cluster_file = self.state / "cluster.json"
        self.record_file = self.run / "record.json"
        self.pki = self.state / "pki"
        self.admin_conf = self.state / "admin.conf"
        self.logs = self.state / "logs"
        self.pins = self.run / "machines"
        self.supervisor_socket = self.run / "supervisor.sock"
        self.cgroup = f"/nsk8s/{name}"

    def node_root(self, node: str) -> Path:
        return self.state / "nodes" / node

    def pin(self, machine: str) -> Path:
        return self.pins / machine

    def log(self, machine: str, component: str) -> Path:
        return self.logs / machine / f"{component}.log"


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace `path` whole or not at all. Raises Nsk8sError when the disk is full."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "w") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        temporary.rename(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise Nsk8sError(f"cannot write {path}: {e.strerror}", "free some disk space, then try again") from e


def load_state(paths: Paths) -> ClusterState | None:
    """The cluster's state; None when there is no such cluster. Raises Nsk8sError when the file is damaged."""
    try:
        raw = json.loads(paths.cluster_file.read_text())
        return ClusterState(**{**raw, "nodes": [NodeState(**n) for n in raw["nodes"]]})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as e:
        raise Nsk8sError(f"{paths.cluster_file} is damaged: {e}", f"nsk8s down --name {paths.name} removes the cluster") from e


def save_state(paths: Paths, state: ClusterState) -> None:
    write_atomically(paths.cluster_file, json.dumps(asdict(state), indent=1))


def load_record(paths: Paths) -> Record:
    """What was made since this boot; an empty record when nothing was (or the machine has booted since)."""
    boot = process.boot_id()
    try:
        record = Record(**json.loads(paths.record_file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return Record(boot)
    return record if record.boot == boot else Record(boot)


def save_record(paths: Paths, record: Record) -> None:
    write_atomically(paths.record_file, json.dumps(asdict(record), indent=1))


def clusters() -> list[str]:
    """Names of the clusters this machine knows, running or stopped or half-made."""
    names = {p.name for root in (STATE_ROOT, RUN_ROOT) if root.is_dir() for p in root.iterdir() if p.is_dir()}
    return sorted(names)


def _lock(path: Path, say: Callable[[str], None] | None) -> int:
    """Open and lock a file that its holders remove: never one that was removed while we waited. It holds the holder's pid."""
    while True:
        with contextlib.suppress(FileExistsError):
            RUN_ROOT.mkdir(mode=0o700)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the last cluster's `down` removed the directory
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if say is not None:
                say(f"another nsk8s command for this cluster has to end first (pid {os.pread(fd, 20, 0).decode() or '?'})")
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            os.ftruncate(fd, 0)
            with contextlib.suppress(OSError):  # a full disk: the pid is a courtesy
                os.pwrite(fd, str(os.getpid()).encode(), 0)
            return fd
        os.close(fd)


@contextlib.contextmanager
def locked(name: str, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """One lifecycle command a cluster at a time; a second one waits for the first, and says so."""
    fd = _lock(RUN_ROOT / f".{name}.lock", say)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if not (RUN_ROOT / name).exists():
                (RUN_ROOT / f".{name}.lock").unlink()
                RUN_ROOT.rmdir()
        os.close(fd)


def new_state(config: ClusterConfig, api_port: int) -> ClusterState:
    """A cluster as `config` asks for it; the control plane takes the tenth address, workers follow. Pure.

    Hosts are numbered through all racks, so that a node's number is that of its pods' subnet too.
    """
    from nsk8s.config import FIRST_NODE

    names = [CONTROL_PLANE, *(n.name for n in config.nodes)]
    racks = [config.rack(""), *(config.rack(n.rack) for n in config.nodes)]
    nodes = [NodeState(n, str(r.subnet[FIRST_NODE + i]), rack=r.name) for i, (n, r) in enumerate(zip(names, racks, strict=True))]
    for node, wanted in zip(nodes[1:], config.nodes, strict=True):
        node.labels, node.taints = dict(wanted.labels), list(wanted.taints)
    nodes[0].labels = {"node-role.kubernetes.io/control-plane": ""}
    nodes[0].taints = ["node-role.kubernetes.io/control-plane:NoSchedule"]
    links = {n.name: n.link.model_dump(exclude_defaults=True) for n in config.nodes}
    return ClusterState(
        config.model_dump(mode="json", by_alias=True), api_port, nodes, links={k: v for k, v in links.items() if v}
    )


def free_ip(config: ClusterConfig, nodes: list[NodeState], rack: str = "") -> IPv4Address:
    """The lowest worker address not in use; host numbers are the cluster's, not the rack's. Pure. Raises Nsk8sError when
    the subnet is full."""
    from nsk8s.config import FIRST_NODE

    subnet = config.rack(rack).subnet
    used = {int(IPv4Address(n.ip)) - int(config.rack(n.rack).subnet.network_address) for n in nodes}
    number = next(i for i in range(FIRST_NODE, FIRST_NODE + len(nodes) + 1) if i not in used)
    if number >= subnet.num_addresses - 1:
        raise Nsk8sError(f"no free address in {'subnets.nodes' if not rack else f'rack {rack}'} ({subnet})")
    return subnet[number]
