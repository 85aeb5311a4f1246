"""What the machine is: CPUs, memory, disk, system and kernel. Touches: /proc, /etc, /sys. Upstream: cadvisor's MachineInfo."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from dataclasses import dataclass

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


@dataclass(frozen=True)
class Machine:
    cpus: int
    memory_bytes: int
    disk_bytes: int
    architecture: str
    kernel: str
    os_image: str
    machine_id: str
    system_uuid: str
    boot_id: str
    hostname: str


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.readline().strip()
    except OSError:
        return ""


def os_image(text: str) -> str:
    """PRETTY_NAME of an os-release file. Pure."""
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "PRETTY_NAME":
            return value.strip().strip("\"'")
    return "Linux"


def memory_total(text: str) -> int:
    """MemTotal of /proc/meminfo in bytes. Pure."""
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def read(node_name: str, root_dir: str) -> Machine:
    """machineID is the machine's own mixed with the node's name: nodes of one machine must differ, as upstream's do."""
    try:
        with open("/etc/os-release", encoding="utf-8") as f:
            image = os_image(f.read())
    except OSError:
        image = "Linux"
    with open("/proc/meminfo", encoding="ascii") as f:
        memory = memory_total(f.read())
    base = root_dir if os.path.isdir(root_dir) else "/"
    disk = os.statvfs(base)
    own = _first_line("/etc/machine-id") + node_name
    machine_id = hashlib.sha256(own.encode()).hexdigest()[:32]
    uuid = f"{machine_id[:8]}-{machine_id[8:12]}-{machine_id[12:16]}-{machine_id[16:20]}-{machine_id[20:]}"
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=memory,
        disk_bytes=disk.f_blocks * disk.f_frsize,
        architecture=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        kernel=platform.release(),
        os_image=image,
        machine_id=machine_id,
        system_uuid=uuid,
        boot_id=_first_line("/proc/sys/kernel/random/boot_id"),
        hostname=socket.gethostname(),
    )


def memory_available() -> int:
    """MemAvailable in bytes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            for line in f:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
