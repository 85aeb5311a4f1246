"""Kernel modules: load what is missing, and undo what loading does to the host. Touches: modprobe, root sysctls (see below).

The one exception to "the host is never touched": where br_netfilter is a module, loading it switches bridge filtering on
for the host's own bridges too; so whoever had to load it switches it off there again, where it was off (absent) before.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
from pathlib import Path

from nsk8s.errors import Nsk8sError
from nsk8s.kernel.probe import which

_BRIDGE_SYSCTLS = Path("/proc/sys/net/bridge")
_NEEDED = (
    # (module, a file that says it is there)
    ("br_netfilter", str(_BRIDGE_SYSCTLS / "bridge-nf-call-iptables")),
    ("overlay", ""),
)


def _present(module: str, sign: str) -> bool:
    if sign:
        return os.path.exists(sign)
    return module in Path("/proc/filesystems").read_text().split()


def load_missing() -> list[str]:
    """Load the modules a cluster needs and this kernel lacks; returns their names. Raises Nsk8sError."""
    loaded = []
    for module, sign in _NEEDED:
        if _present(module, sign):
            continue
        modprobe = which("modprobe")
        if modprobe is None:
            raise Nsk8sError(f"the kernel module {module} is missing and there is no modprobe", "apt-get install kmod")
        answer = subprocess.run([modprobe, module], capture_output=True, text=True, check=False)
        if answer.returncode or not _present(module, sign):
            raise Nsk8sError(f"cannot load the kernel module {module}: {answer.stderr.strip()}", "a kernel that has it")
        loaded.append(module)
        if module == "br_netfilter":
            for name in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"):
                with contextlib.suppress(OSError):
                    (_BRIDGE_SYSCTLS / name).write_text("0")
    return loaded


@functools.cache
def load_ifb() -> None:
    """Load ifb, if it is a module that nobody has loaded yet, without the two links it makes in the root namespace by default.

    The kernel would load it by itself as soon as somebody asks for such a link, and make them (drivers/net/ifb.c: numifbs).
    """
    modprobe = which("modprobe")
    if modprobe is not None and not os.path.exists("/sys/module/ifb"):
        subprocess.run([modprobe, "ifb", "numifbs=0"], capture_output=True, check=False)


def load_for_ipvs(scheduler: str) -> list[str]:
    """Load what ipvs mode needs, where it is a module and nobody has loaded it; returns the names. What is missing shows later.

    dummy would make a link in the root namespace: it is told not to, and so must not be left to load by itself.
    """
    modprobe = which("modprobe")
    loaded = []
    wanted = (("ip_vs",), (f"ip_vs_{scheduler}",), ("dummy", "numdummies=0"), ("ip_set",), ("xt_set",), ("xt_ipvs",))
    for module, *options in wanted:
        if modprobe is None or os.path.exists(f"/sys/module/{module}"):
            continue
        done = subprocess.run([modprobe, module, *options], capture_output=True, check=False)
        if not done.returncode and os.path.exists(f"/sys/module/{module}"):
            loaded.append(module)
    return loaded


def has_ip_vs(root: Path = Path("/")) -> bool:
    """Whether this kernel has IP virtual servers: there, built in, or a module that could be loaded. Nothing is loaded."""
    if (root / "proc/net/ip_vs").exists() or (root / "sys/module/ip_vs").exists():
        return True
    modules = root / "lib/modules" / os.uname().release
    for name in ("modules.builtin", "modules.dep"):
        with contextlib.suppress(OSError):
            if "/ip_vs.ko" in (modules / name).read_text():
                return True
    return False
