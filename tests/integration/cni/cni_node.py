"""A node and its pods as anonymous network namespaces: each lives as long as its descriptor is open."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fresh_netns import new_netns

import cni
from cni import invoke, libcni
from nsk8s.kernel import syscalls
from nsk8s.kernel.rtnl import Rtnl, entered

MAINS = {"exec": invoke.run_exec, "fork": invoke.run_fork, "here": invoke.run_here}


class Pod:
    def __init__(self) -> None:
        self.fd = new_netns()
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"

    def links(self) -> list[str]:
        with Rtnl(self.fd) as rt:
            return sorted(link.name for link in rt.links() if link.name not in ("lo",) and not link.name.startswith("ifb"))


class Node:
    """Runs plugins inside its own network namespace, with its files below `dir`."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.fd = new_netns()
        self.pods: list[Pod] = []
        self.path = "/usr/sbin:/usr/bin:/sbin:/bin"
        with Rtnl(self.fd) as rt:
            rt.link_set(1, up=True)

    def close(self) -> None:
        for fd in [self.fd, *(pod.fd for pod in self.pods)]:
            os.close(fd)

    def pod(self) -> Pod:
        pod = Pod()
        self.pods.append(pod)
        return pod

    @property
    def data_dir(self) -> Path:
        return self.dir / "ipam"

    def conf(self, **changes: Any) -> dict[str, Any]:
        """A bridge configuration; `ipam` changes are merged into the section, None removes a key."""
        ipam = {"type": "host-local", "dataDir": str(self.data_dir), "subnet": "10.244.1.0/24", **changes.pop("ipam", {})}
        base = {
            "cniVersion": "1.0.0", "name": "net1", "type": "bridge", "bridge": "cni0", "isDefaultGateway": True,
            "hairpinMode": True, "ipam": {k: v for k, v in ipam.items() if v is not None},
        }  # fmt: skip
        return {k: v for k, v in {**base, **changes}.items() if v is not None}

    def env(self, command: str, container_id: str, netns: str, ifname: str = "eth0", **more: str) -> dict[str, str]:
        return {
            "PATH": self.path, "XTABLES_LOCKFILE": str(self.dir / "xtables.lock"), "CNI_COMMAND": command,
            "CNI_CONTAINERID": container_id, "CNI_NETNS": netns, "CNI_IFNAME": ifname, "CNI_PATH": cni.BIN_DIR,
            "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere",  # this machine's own firewalld is not to hear of it
            **more,
        }  # fmt: skip

    def inside(self, operation: Callable[[], Any]) -> Any:
        """What `operation` returns (JSON) when a child runs it in the node's namespace."""
        return self.begin(operation).finish()

    def begin(self, operation: Callable[[], Any]) -> libcni.Pending:
        def work() -> Any:
            syscalls.setns(self.fd, syscalls.CLONE_NEWNET)
            return operation()

        return libcni.start(work)

    def raw(self, conf: Any, env: dict[str, str], how: str = "here", plugin: str = "bridge") -> tuple[int, bytes]:
        """(exit code, stdout) of one plugin call."""
        stdin = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
        path = os.path.join(cni.BIN_DIR, plugin)

        def call() -> list[Any]:
            code, stdout = MAINS[how](path, env, stdin)
            return [code, stdout.decode()]

        code, text = self.inside(call)
        return code, text.encode()

    def call(
        self, command: str, conf: dict[str, Any], container_id: str, netns: str, ifname: str = "eth0", how: str = "here",
        **more: str,
    ) -> dict[str, Any]:  # fmt: skip
        """The plugin's result; raises the CniError it printed."""
        plugin = str(conf["type"])
        code, stdout = self.raw(conf, self.env(command, container_id, netns, ifname, **more), how, plugin)
        text = invoke.outcome(code, stdout)
        return json.loads(text) if text else {}

    def add(self, conf: dict[str, Any], container_id: str, pod: Pod, ifname: str = "eth0", **more: Any) -> dict[str, Any]:
        return self.call("ADD", conf, container_id, pod.path, ifname, **more)

    def delete(self, conf: dict[str, Any], container_id: str, netns: str, ifname: str = "eth0", **more: Any) -> None:
        assert self.call("DEL", conf, container_id, netns, ifname, **more) == {}

    def reservations(self, network: str = "net1") -> dict[str, str]:
        folder = self.data_dir / network
        if not folder.exists():
            return {}
        return {
            f.name: f.read_bytes().decode() for f in folder.iterdir() if f.name != "lock" and not f.name.startswith("last_")
        }

    def ports(self) -> list[str]:
        with Rtnl(self.fd) as rt:
            return sorted(link.name for link in rt.links(kind="veth"))

    def nat_rules(self, tool: str = "iptables") -> list[str]:
        """The nat table's rules and chains that are not the built-in ones."""

        def save() -> str:
            return subprocess.run(
                [tool, "-t", "nat", "-S"], capture_output=True, text=True, check=True,
                env={"PATH": self.path, "XTABLES_LOCKFILE": str(self.dir / "xtables.lock")},
            ).stdout  # fmt: skip

        return [line for line in self.inside(save).splitlines() if not line.startswith("-P")]

    def in_pod(self, pod: Pod) -> entered:
        return entered(pod.fd)
