"""Control groups: one path, every hierarchy. Lean. Touches: /proc/self/mountinfo, the cgroup file systems.

A group is named by a path such as `/nsk8s/c/node1/pod1234/app`, relative to where a hierarchy is mounted. On a v2 machine
there is one hierarchy; on a v1 machine one per controller; on a hybrid one an additional v2 tree, which is used for the
controllers it has, if any. Upstream: runc's libcontainer/cgroups.

Moving a whole process takes a lock that costs 5 to 8 ms when nobody has taken it lately (it waits for an RCU grace period);
moving the calling thread does not. So a fork, which is one thread, joins v1 groups by `tasks` (measured: 0.06 ms).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time

V1_WANTED = ("memory", "cpu", "cpuacct", "pids")
V2_CONTROLLERS = ("cpu", "memory", "pids")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def _unescape(field: str) -> str:
    """mountinfo writes blanks as octal escapes."""
    return field.encode("latin-1").decode("unicode_escape") if "\\" in field else field


def parse_mountinfo(text: str) -> tuple[dict[str, str], str | None]:
    """({v1 controller: mount point}, v2 mount point or None) of a /proc/self/mountinfo. Pure.

    The last mount of a hierarchy counts: it is the one that is not covered by another.
    """
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if len(before) < 5 or len(after) < 3:
            continue
        where = _unescape(before[4])
        if after[0] == "cgroup2":
            v2 = where
        elif after[0] == "cgroup":
            for option in after[2].split(","):
                v1[option] = where
    return v1, v2


def shares_to_weight(shares: int) -> int:
    """cgroup v1's cpu.shares (2…262144) as v2's cpu.weight (1…10000); the conversion runc and the kubelet use."""
    return 0 if shares == 0 else 1 + ((min(max(shares, 2), 262144) - 2) * 9999) // 262142


def limit_files(resources: dict[str, int], v2: bool) -> list[tuple[str, str, str]]:
    """What to write for CRI's LinuxContainerResources: (controller, file, text), in order. Pure."""
    out: list[tuple[str, str, str]] = []
    shares, quota = resources.get("cpuShares") or 0, resources.get("cpuQuota") or 0
    period = resources.get("cpuPeriod") or 100_000
    memory, pids = resources.get("memoryLimitInBytes") or 0, resources.get("pidsLimit") or 0
    if v2:
        if shares > 0:
            out.append(("cpu", "cpu.weight", str(shares_to_weight(shares))))
        if quota:
            out.append(("cpu", "cpu.max", f"{quota if quota > 0 else 'max'} {period}"))
        if memory:
            out.append(("memory", "memory.max", str(memory) if memory > 0 else "max"))
            out.append(("memory", "memory.swap.max", "0" if memory > 0 else "max"))
    else:
        if shares > 0:
            out.append(("cpu", "cpu.shares", str(shares)))
        if quota:
            out.append(("cpu", "cpu.cfs_period_us", str(period)))
            out.append(("cpu", "cpu.cfs_quota_us", str(quota)))
        if memory:
            out.append(("memory", "memory.limit_in_bytes", str(memory)))
            out.append(("memory", "memory.memsw.limit_in_bytes", str(memory)))
    if pids:
        out.append(("pids", "pids.max", str(pids) if pids > 0 else "max"))
    return out


_OPTIONAL_FILES = {"memory.swap.max", "memory.memsw.limit_in_bytes"}


def _read(path: str) -> str:
    with open(path, encoding="ascii") as f:
        return f.read()


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def _flat(text: str) -> dict[str, int]:
    """A `key value` file such as memory.stat."""
    out: dict[str, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            out[key] = int(value)
    return out


class Cgroups:
    """The machine's hierarchies as one tree. Every method takes a group's path ("/a/b")."""

    def __init__(self, mountinfo: str | None = None) -> None:
        v1, self.v2 = parse_mountinfo(_read("/proc/self/mountinfo") if mountinfo is None else mountinfo)
        controllers: list[str] = []
        if self.v2 is not None:
            try:
                controllers = _read(self.v2 + "/cgroup.controllers").split()
            except OSError:
                self.v2 = None
        self.v2_controllers = [c for c in V2_CONTROLLERS if c in controllers and c not in v1]
        self.v1 = {c: v1[c] for c in V1_WANTED if c in v1}
        self.tracking = [v1["name=systemd"]] if "name=systemd" in v1 else []
        """Hierarchies without controllers, by which systemd knows what belongs to a login session."""
        if self.v1 and "freezer" in v1:
            self.v1["freezer"] = v1["freezer"]
            if not self.v2_controllers and self.v2 is not None:
                self.tracking.append(self.v2)
                self.v2 = None  # an empty tree would only be good for cgroup.kill, and joining it is dear
        self.roots = list(dict.fromkeys(self.v1.values()))
        if self.v2 is not None:
            self.roots.append(self.v2)

    @property
    def version(self) -> str:
        """`v1`, `v2` or `hybrid` (controllers in both); `none` without any."""
        if self.v1:
            return "hybrid" if self.v2 else "v1"
        return "v2" if self.v2 else "none"

    def _home(self, controller: str) -> str | None:
        """The mount point of the hierarchy that has a controller."""
        if controller in self.v1:
            return self.v1[controller]
        return self.v2 if controller in self.v2_controllers else None

    def has(self, controller: str) -> bool:
        return self._home(controller) is not None

    def create(self, path: str) -> None:
        """Make a group and its parents in every hierarchy; on v2 hand the controllers down to it. Idempotent."""
        for root in self.roots:
            try:
                os.mkdir(root + path)
            except FileExistsError:
                continue
            except FileNotFoundError:
                parent = path.rpartition("/")[0]
                if not parent:
                    raise
                self.create(parent)
                os.mkdir(root + path)
            if root == self.v2 and self.v2_controllers:
                self._delegate(path.rpartition("/")[0])

    def _delegate(self, path: str) -> None:
        """Enable our controllers for the children of `path`, from the root down. One that the machine withholds is none of ours
        from then on: in a container of its own (a cgroup namespace), the root has processes and hands nothing down."""
        assert self.v2 is not None
        where = self.v2
        for part in ["", *[p for p in path.split("/") if p]]:
            where = f"{where}/{part}" if part else where
            have = _read(where + "/cgroup.subtree_control").split()
            for controller in self.v2_controllers:
                if controller not in have:
                    try:
                        _write(where + "/cgroup.subtree_control", "+" + controller)
                    except OSError as e:
                        if e.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTSUP, errno.EINVAL, errno.EACCES):
                            raise
            have = _read(where + "/cgroup.subtree_control").split()
            self.v2_controllers = [c for c in self.v2_controllers if c in have]

    def leave_session(self, path: str) -> None:
        """Move the calling process, and with it its future children, out of the login session or service that it was started
        from, so that the end of that one is not the end of these. On v2 `join` does it already; where systemd's hierarchy may
        not be written (in a container) there is no such session."""
        for root in self.tracking:
            try:
                os.makedirs(root + path, exist_ok=True)
                _write(f"{root}{path}/cgroup.procs", "0")
            except OSError:
                continue

    def join(self, path: str) -> None:
        """Move the calling process, which has one thread, into a group."""
        for root in self.roots:
            _write(f"{root}{path}/cgroup.procs" if root == self.v2 else f"{root}{path}/tasks", "0")

    def die_together(self, path: str) -> None:
        """Out of memory, all processes of this group end, not the largest only (v2; upstream: singleProcessOOMKill false). For a
        container, never for a pod: its other containers, and the process that holds its namespaces, live on."""
        if "memory" in self.v2_controllers:
            with contextlib.suppress(OSError):  # before Linux 4.19
                _write(f"{self.v2}{path}/memory.oom.group", "1")

    def limit(self, path: str, resources: dict[str, int]) -> None:
        """Apply CRI's resources. A limit whose controller the machine lacks raises OSError (ENOTSUP) naming it; a share, which
        only says who comes first, is let go."""
        for v2, controllers in ((False, list(self.v1)), (True, self.v2_controllers)):
            for controller, name, text in limit_files(resources, v2):
                if controller not in controllers:
                    continue
                home = self._home(controller)
                try:
                    _write(f"{home}{path}/{name}", text)
                except OSError as e:
                    if name not in _OPTIONAL_FILES:
                        raise OSError(e.errno, f"cannot set {name} to {text}: {e.strerror}") from e
        for controller, name, _ in limit_files({k: v for k, v in resources.items() if k != "cpuShares"}, True):
            if self._home(controller) is None:
                raise OSError(errno.ENOTSUP, f"this machine has no {controller} control group, so {name} cannot be set")

    def processes(self, path: str) -> set[int]:
        """The pids in a group itself; empty when it does not exist."""
        pids: set[int] = set()
        for root in self.roots:
            try:
                pids.update(int(p) for p in _read(f"{root}{path}/cgroup.procs").split())
            except OSError:
                continue
        return pids

    def children(self, path: str) -> list[str]:
        """Paths of the groups directly below, over all hierarchies."""
        names: dict[str, None] = {}
        for root in (*self.roots, *self.tracking):
            try:
                with os.scandir(root + path) as entries:
                    names.update((e.name, None) for e in entries if e.is_dir(follow_symlinks=False))
            except OSError:
                continue
        return [f"{path}/{name}" for name in names]

    def all_processes(self, path: str) -> set[int]:
        """The pids in a group and all below."""
        pids = self.processes(path)
        for child in self.children(path):
            pids |= self.all_processes(child)
        return pids

    def kill(self, path: str) -> None:
        """SIGKILL everything in a group and below. Returns without waiting. On v1 what forks faster than this reads may need
        `kill_and_wait`."""
        if self.v2 is not None:
            try:
                _write(f"{self.v2}{path}/cgroup.kill", "1")
            except OSError:
                pass  # before Linux 5.14, or the group is gone
            else:
                return
        self._signal_all(path)

    def _signal_all(self, path: str) -> None:
        for pid in self.all_processes(path):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _freeze(self, path: str) -> None:
        try:
            if "freezer" in self.v1:
                _write(f"{self.v1['freezer']}{path}/freezer.state", "FROZEN")
            elif self.v2 is not None:
                _write(f"{self.v2}{path}/cgroup.freeze", "1")
        except OSError:
            return

    def _thaw(self, path: str) -> None:
        """Also the groups below: whoever froze one may have been killed before it could let go."""
        for child in self.children(path):
            self._thaw(child)
        try:
            if "freezer" in self.v1:
                _write(f"{self.v1['freezer']}{path}/freezer.state", "THAWED")
            elif self.v2 is not None:
                _write(f"{self.v2}{path}/cgroup.freeze", "0")
        except OSError:
            return

    def kill_and_wait(self, path: str, timeout_s: float = 10.0) -> bool:
        """Kill until a group is empty; False when time is up (processes stuck in the kernel). What forks faster than it can be
        signalled is frozen first."""
        deadline = time.monotonic() + timeout_s
        pause_s, rounds = 0.001, 0
        while self.all_processes(path):
            if rounds < 5:
                self.kill(path)
            else:
                self._freeze(path)
                self._signal_all(path)
                self._thaw(path)
            if time.monotonic() > deadline:
                return False
            time.sleep(pause_s)
            pause_s, rounds = min(pause_s * 2, 0.05), rounds + 1
        return True

    def remove(self, path: str, timeout_s: float = 5.0) -> None:
        """Remove an empty group and those below, everywhere. A zombie's group is busy for a moment: retried.

        Raises OSError (EBUSY) when processes remain.
        """
        for child in self.children(path):
            self.remove(child, timeout_s)
        deadline = time.monotonic() + timeout_s
        for root in (*self.roots, *self.tracking):
            while True:
                try:
                    os.rmdir(root + path)
                except FileNotFoundError:
                    pass
                except OSError as e:
                    if e.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)
                    continue
                break

    def remove_if_empty(self, path: str) -> None:
        """Remove a group unless something is in it or below."""
        for root in (*self.roots, *self.tracking):
            try:
                os.rmdir(root + path)
            except OSError:
                continue

    def exists(self, path: str) -> bool:
        return any(os.path.isdir(root + path) for root in (*self.roots, *self.tracking))

    def oom_kills(self, path: str) -> int:
        """How many processes of a group the out-of-memory killer has ended."""
        home = self._home("memory")
        if home is None:
            return 0
        name = "memory.events" if home == self.v2 else "memory.oom_control"
        try:
            return _flat(_read(f"{home}{path}/{name}")).get("oom_kill", 0)
        except OSError:
            return 0

    def stats(self, path: str) -> dict[str, int]:
        """cpuNs, memoryUsage, workingSet, rss, pids (bytes, nanoseconds); what the machine cannot tell is left out."""
        out: dict[str, int] = {}
        cpu, memory = self._home("cpuacct") or self._home("cpu"), self._home("memory")
        try:
            if "cpuacct" in self.v1:
                out["cpuNs"] = int(_read(f"{cpu}{path}/cpuacct.usage"))
            elif cpu is not None:
                out["cpuNs"] = _flat(_read(f"{cpu}{path}/cpu.stat")).get("usage_usec", 0) * 1000
        except OSError:
            pass
        try:
            if memory is not None:
                new = memory == self.v2
                usage = int(_read(f"{memory}{path}/" + ("memory.current" if new else "memory.usage_in_bytes")))
                detail = _flat(_read(f"{memory}{path}/memory.stat"))
                inactive = detail.get("inactive_file" if new else "total_inactive_file", 0)
                out["memoryUsage"] = usage
                out["workingSet"] = max(usage - inactive, 0)
                out["rss"] = detail.get("anon" if new else "total_rss", 0)
        except OSError:
            pass
        out["pids"] = len(self.processes(path))
        return out

    def mounts_for_container(self) -> Iterable[tuple[str, str, str]]:
        """What a container should see below /sys/fs/cgroup: (sub-folder or "", fs type, options)."""
        if not self.v1:
            if self.v2 is not None:
                yield "", "cgroup2", "nsdelegate"
            return
        seen: dict[str, list[str]] = {}
        for controller, where in self.v1.items():
            seen.setdefault(where, []).append(controller)
        for controllers in seen.values():
            yield ",".join(controllers), "cgroup", ",".join(controllers)
        if self.v2 is not None:
            yield "unified", "cgroup2", ""
