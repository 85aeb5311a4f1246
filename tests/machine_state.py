"""What a machine's network, mounts, cgroups, processes and nsk8s files are, read without changing any of it.

The root namespace's legacy iptables tables are never listed: listing loads them. Their names are read from /proc instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

State = dict[str, dict[str, str]]
"""Part of the machine → thing in it → what it is like."""

GRACE_S = float(os.environ.get("NSK8S_TEST_GRACE_S") or 30)
"""The kernel cleans namespaces up asynchronously."""

VOLATILE_SYSCTLS = ("nf_conntrack_count", "tcp_fastopen_key", "stable_secret")
OURS = (Path("/var/lib/nsk8s"), Path("/run/nsk8s"))
NOT_OURS = ("/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "~/.kube/config")
"""Files of the machine that a container or a kubeconfig export might hit."""
FOLDERS_NOT_OURS = ("/etc/cni/net.d", "/var/lib/cni", "/var/lib/kubelet", "/var/lib/kube-proxy", "/etc/kubernetes", "/var/log/pods")
"""What every node has for itself and the machine must not get."""


def snapshot() -> State:
    return {
        "link": _links(),
        "address": _addresses(),
        "route": _routes(),
        "rule": _rules(),
        "sysctl": _sysctls(),
        "nft ruleset": _nft(),
        "legacy iptables table": _legacy_tables(),
        "named network namespace": dict.fromkeys(_listdir("/run/netns"), ""),
        "mount": _mounts(),
        "cgroup": _cgroups(),
        "file": _files(),
        "process in a control group of ours": _grouped(),
    }


def wait_for_nothing_left(before: State, process_mark: str, grace_s: float = GRACE_S) -> list[str]:
    """What is different now, one line each, after giving the kernel time to finish; empty if nothing is."""
    deadline = time.monotonic() + grace_s
    while True:
        problems = differences(before, snapshot()) + [f"process {p} still runs" for p in processes(process_mark)]
        if not problems or time.monotonic() > deadline:
            return problems
        time.sleep(0.2)


def differences(before: State, after: State) -> list[str]:
    problems = []
    for part, old in before.items():
        new = after[part]
        for thing in sorted(old.keys() | new.keys()):
            if thing not in new:
                if part not in ("sysctl", "titled process"):  # an interface's or a module's own; another cluster's
                    problems.append(f"{part} {thing} is gone")
            elif thing not in old:
                if part == "cgroup" and os.path.dirname(thing) in new.keys() - old.keys():
                    continue  # its parent is named already
                if part != "sysctl" or (thing.startswith("bridge/bridge-nf-call-") and new[thing] != "0"):
                    problems.append(f"{part} {thing} is new{': ' + new[thing] if new[thing] else ''}")
            elif old[thing] != new[thing]:
                problems.append(f"{part} {thing} was {old[thing]!r} and is {new[thing]!r}")
    return problems


TITLES = (
    "nsk8s-supervisor", "nsk8s-zygote", "pause", "pause-nursery", "runtime", "kubelet", "kube-proxy", "node-network",
    "kube-apiserver", "kube-scheduler", "kube-controller-manager", "apiserver-forwarder",
)  # fmt: skip


def _titled() -> dict[str, str]:
    """Processes that go by a component's name: their title lies where their environment was, so no mark is found there."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if title.split(" ")[0] in TITLES and fields[0] not in "ZX":
                found[f"{pid} (started at {fields[19]})"] = title[:100]
    return found


def processes(mark: str) -> list[str]:
    """Processes with `mark` in their environment (that of their exec), other than this one and its parents."""
    wanted = mark.encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if wanted in environment and int(pid) != os.getpid():
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found.append(f"{pid} ({command.strip()[:100]})")
        except (OSError, IndexError):
            continue
    return found


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _json(*command: str) -> list[dict[str, Any]]:
    output = subprocess.run(["ip", "-j", *command], capture_output=True, text=True, check=True).stdout
    return json.loads(output or "[]")


def _links() -> dict[str, str]:
    return {
        link["ifname"]: f"{link.get('linkinfo', {}).get('info_kind', '-')} mtu {link['mtu']} master {link.get('master', '-')}"
        for link in _json("-d", "link")
        if link
    }


def _addresses() -> dict[str, str]:
    """Those that no lease or router advertisement may change meanwhile."""
    return {
        f"{link['ifname']} {address['local']}/{address['prefixlen']}": address.get("scope", "")
        for link in _json("address")
        if link
        for address in link["addr_info"]
        if "local" in address and not address.get("dynamic") and not address.get("temporary")
    }


def _routes() -> dict[str, str]:
    routes = {}
    for family in ("-4", "-6"):
        for route in _json(family, "-N", "route", "show", "table", "all"):
            if route.get("protocol") in ("9", "ra") or "cache" in route.get("flags", []):
                continue
            words = [str(route.get(k, "-")) for k in ("type", "dst", "gateway", "dev", "table", "metric", "protocol")]
            routes[" ".join([family, *words])] = ""
    return routes


def _rules() -> dict[str, str]:
    return {json.dumps(rule, sort_keys=True): family for family in ("-4", "-6") for rule in _json(family, "rule")}


def _sysctls() -> dict[str, str]:
    values = {}
    root = Path("/proc/sys/net")
    for folder, _, names in os.walk(root):
        for name in names:
            if name.startswith(VOLATILE_SYSCTLS):
                continue
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                values[str(path.relative_to(root))] = path.read_text(errors="replace").strip()
    return values


def _nft() -> dict[str, str]:
    if shutil.which("nft") is None or os.geteuid() != 0:
        return {}
    done = subprocess.run(["nft", "--stateless", "list", "ruleset"], capture_output=True, text=True)
    return {"": done.stdout} if done.returncode == 0 and done.stdout.strip() else {}


def _legacy_tables() -> dict[str, str]:
    tables = {}
    for family in ("ip_tables_names", "ip6_tables_names"):
        with contextlib.suppress(OSError):
            tables |= {f"{family}: {t}": "" for t in Path("/proc/net", family).read_text().split()}
    return tables


def _mounts() -> dict[str, str]:
    mounts = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        mounts[fields.split()[4]] = " ".join(rest.split()[:2])
    mounts.pop("/run/netns", None)  # the machine's first `ip netns add` makes it a mount for good; `down` undoes our own, by test
    return mounts


def _cgroups() -> dict[str, str]:
    return {
        str(Path(folder, name)): ""
        for folder, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if "nsk8s" in Path(folder, name).as_posix()
    }


def _files() -> dict[str, str]:
    """One level deep: a cluster that runs meanwhile keeps writing below its own folder."""
    found = {}
    for root in OURS:
        with contextlib.suppress(FileNotFoundError):  # the last cluster's end takes it away
            found |= {str(path): "" for path in (root, *root.iterdir())}
    for name in NOT_OURS:
        path = Path(name).expanduser()
        with contextlib.suppress(OSError):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    for folder in map(Path, FOLDERS_NOT_OURS):
        if folder.is_dir():
            found |= {str(path): "" for path in (folder, *folder.iterdir())}
    return found


def _grouped() -> dict[str, str]:
    """Processes of nodes and pods: a container's has none of the tests' environment."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            groups = {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX" and any("/nsk8s/" in f"{group}/" for group in groups):
                found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found
