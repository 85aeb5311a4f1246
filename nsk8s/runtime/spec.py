"""From CRI's configs and an image to what the container's first process needs to know. Pure, apart from what is passed in.

Upstream: containerd's internal/cri/server/container_create_linux.go.
"""

from __future__ import annotations

from nsk8s.kernel import capabilities
from nsk8s.runtime.errors import InvalidArgument
from nsk8s.runtime.images import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_PIDS = 4096
"""A fork bomb stays in its container. Upstream leaves this to the kubelet's podPidsLimit."""
SANDBOX_MEMORY = 4 << 20
"""What a sandbox process is charged, at its start (it settles at 2 MB)."""

_USERS = {"root": 0, "daemon": 1, "bin": 2, "sys": 3, "sync": 4, "mail": 8, "www-data": 33, "nobody": 65534}
_PRIMARY_GROUPS = {0: 0, 1: 1, 2: 2, 3: 3, 4: 65534, 8: 8, 33: 33, 65534: 65534}
_HOMES = {0: "/root", 1: "/usr/sbin", 2: "/bin", 3: "/dev", 4: "/bin", 8: "/var/mail", 33: "/var/www", 65534: "/nonexistent"}


def security(config: dict[str, Any]) -> dict[str, Any]:
    return (config.get("linux") or {}).get("securityContext") or {}


def namespace_option(sandbox_config: dict[str, Any], kind: str) -> str:
    """POD, CONTAINER or NODE for `network`, `pid` or `ipc`."""
    options = security(sandbox_config).get("namespaceOptions") or {}
    default = "CONTAINER" if kind == "pid" else "POD"
    return str(options.get(kind) or default)


def check_sysctls(sysctls: dict[str, str], host_network: bool, host_ipc: bool) -> list[tuple[str, str]]:
    """[(path below /proc/sys, value)] of names with dots as separators.

    Raises InvalidArgument for one that is not the pod's own to set.
    """
    out = []
    for name, value in sysctls.items():
        path = name.translate(str.maketrans("./", "/."))  # an interface's dot is written as a slash
        parts = path.split("/")
        mine = (parts[0] == "net" and not host_network) or (
            not host_ipc and (path.startswith(("kernel/shm", "kernel/msg", "fs/mqueue/")) or path == "kernel/sem")
        )
        if not mine or ".." in parts or "" in parts:
            raise InvalidArgument(f'sysctl "{name}" is not in a separate kernel namespace')
        out.append((path, str(value)))
    return out


def _user(sec: dict[str, Any], image: Image) -> tuple[int, int]:
    """(uid, gid)."""
    chosen = (sec.get("runAsUser") or {}).get("value")
    if chosen is None:
        text = str(sec.get("runAsUsername") or image.user or "0").partition(":")[0]
        if text.isdigit():
            chosen = int(text)
        elif text in _USERS:
            chosen = _USERS[text]
        else:
            raise InvalidArgument(f"unable to find user {text}: no matching entries in passwd file")
    group = (sec.get("runAsGroup") or {}).get("value")
    uid = int(chosen)
    gid = int(group) if group is not None else _PRIMARY_GROUPS.get(uid, 0)
    if not (0 <= uid < 2**32 - 1 and 0 <= gid < 2**32 - 1):
        raise InvalidArgument(f"uid {uid} or gid {gid} is out of range")
    return uid, gid


def _argv(config: dict[str, Any], image: Image) -> list[str]:
    command, args = list(config.get("command") or []), list(config.get("args") or [])
    if not command:
        command = list(image.entrypoint)
        if not args:
            args = list(image.cmd)
    argv = [str(a) for a in command + args]
    if not argv:
        raise InvalidArgument("no command specified")
    return argv


def _env(config: dict[str, Any], image: Image, hostname: str, uid: int) -> dict[str, str]:
    env = dict(image.env)
    if hostname:
        env["HOSTNAME"] = hostname
    if config.get("tty"):
        env["TERM"] = "xterm"
    for item in config.get("envs") or []:
        key, value = str(item["key"]), str(item.get("value") or "")
        if "\0" in key + value or "=" in key or not key:
            raise InvalidArgument(f"invalid environment variable {key!r}")
        env[key] = value
    env.setdefault("HOME", _HOMES.get(uid, "/"))
    return env


def build(
    sandbox: dict[str, Any],
    config: dict[str, Any],
    image: Image,
    *,
    container_id: str,
    directory: str,
    cgroup: str,
    layers: list[str],
    trees: list[str],
    tmpfs: bool,
    cgroup_mounts: list[tuple[str, str, str]],
) -> dict[str, Any]:
    """The record `spec` of a container. Raises InvalidArgument."""
    sec = security(config)
    privileged = bool(sec.get("privileged"))
    options = sec.get("namespaceOptions") or {}
    target = str(options.get("targetId") or "") if options.get("pid") == "TARGET" else ""
    caps = sec.get("capabilities") or {}
    try:
        bits = capabilities.for_container(
            list(caps.get("addCapabilities") or []), list(caps.get("dropCapabilities") or []), privileged
        )
    except ValueError as e:
        raise InvalidArgument(str(e)) from e
    uid, gid = _user(sec, image)
    nnp = sec.get("noNewPrivs")
    mounts = [dict(m) for m in config.get("mounts") or []]
    for mount in mounts:
        if not str(mount.get("containerPath", "")).startswith("/") or not mount.get("hostPath"):
            raise InvalidArgument(f"a mount needs hostPath and an absolute containerPath: {mount}")
    taken = {m["containerPath"].rstrip("/") for m in mounts}
    for name in ("hosts", "hostname", "resolv.conf"):
        if f"/etc/{name}" not in taken:
            mounts.append({"containerPath": f"/etc/{name}", "hostPath": f"{sandbox['dir']}/{name}"})
    log_dir, log_path = (sandbox["config"].get("logDirectory") or ""), (config.get("logPath") or "")
    resources = dict((config.get("linux") or {}).get("resources") or {})
    return {
        "id": container_id,
        "dir": directory,
        "argv": _argv(config, image),
        "env": _env(config, image, sandbox["hostname"], uid),
        "workingDir": config.get("workingDir") or image.workdir or "/",
        "uid": uid,
        "gid": gid,
        "groups": sorted({gid, *(int(g) for g in sec.get("supplementalGroups") or [])}),
        "capabilities": bits,
        "noNewPrivs": (not privileged) if nnp is None else bool(nnp),
        "privileged": privileged,
        "seccomp": not privileged and (sec.get("seccomp") or {}).get("profileType") != "Unconfined",
        "holdsSignals": image.holds_signals and not config.get("command"),
        "readonly": bool(sec.get("readonlyRootfs")),
        "mounts": mounts,
        "layers": layers,
        "trees": trees,
        "tmpfs": tmpfs,
        "shm": f"{sandbox['dir']}/shm" if namespace_option(sandbox["config"], "ipc") != "NODE" else "",
        "cgroup": cgroup,
        "cgroupMounts": cgroup_mounts,
        "oomScoreAdj": resources.get("oomScoreAdj"),
        "pidMode": "TARGET" if target else namespace_option(sandbox["config"], "pid"),
        "pidTarget": target,
        "tty": bool(config.get("tty")),
        "stdin": bool(config.get("stdin")),
        "stdinOnce": bool(config.get("stdinOnce")),
        "logPath": f"{log_dir}/{log_path}" if log_dir and log_path else "",
    }


def limits(config: dict[str, Any]) -> dict[str, int]:
    """CRI's resources, of a container or of a pod."""
    return {k: v for k, v in ((config.get("linux") or {}).get("resources") or {}).items() if isinstance(v, int)}


def pod_limits(config: dict[str, Any]) -> dict[str, int]:
    """A pod's: room for its sandbox process is added to the sum of its containers' memory, so that they can use all of theirs
    (upstream: a RuntimeClass's overhead.podFixed)."""
    found = limits(config)
    if found.get("memoryLimitInBytes", 0) > 0:
        found["memoryLimitInBytes"] += SANDBOX_MEMORY
    return found


def resolv_conf(dns: dict[str, Any] | None, host: str) -> str:
    """/etc/resolv.conf from the pod's dnsConfig; the node's own text when nothing is asked for."""
    if not dns or not any(dns.get(k) for k in ("servers", "searches", "options")):
        return host
    lines = []
    if dns.get("searches"):
        lines.append("search " + " ".join(dns["searches"]))
    lines += [f"nameserver {server}" for server in dns.get("servers") or []]
    if dns.get("options"):
        lines.append("options " + " ".join(dns["options"]))
    return "\n".join(lines) + "\n"
