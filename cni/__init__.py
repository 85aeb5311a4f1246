"""CNI plugins and the library that runs them. Upstream: containernetworking/plugins and containernetworking/cni.

Lean throughout: a node's runtime imports these modules and forks them, and each plugin is also an executable of its own in
`BIN_DIR`, run by /usr/bin/python3 without site-packages.
"""

from __future__ import annotations

import os

BIN_DIR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin")
"""The folder of the executables: put it on CNI_PATH."""
SEARCH_PATH = f"{BIN_DIR}:/opt/cni/bin:/usr/lib/cni"
"""Where a node looks for plugins, as CNI_PATH: ours, where installers put others, and Debian's."""


def bin_dir() -> str:
    """BIN_DIR, with every plugin executable (an installer that drops the mode bits is repaired)."""
    for name in os.listdir(BIN_DIR):
        path = os.path.join(BIN_DIR, name)
        if os.path.isfile(path) and not os.access(path, os.X_OK):
            os.chmod(path, 0o755)
    return BIN_DIR


def installed_text(name: str) -> str:
    """What `install` writes for a plugin."""
    with open(os.path.join(BIN_DIR, name), encoding="utf-8") as f:
        return f.read().replace("ROOT = None", f"ROOT = {os.path.dirname(os.path.dirname(BIN_DIR))!r}")


def install(directory: str) -> None:
    """Put the plugins into `directory` (such as /opt/cni/bin), where each finds this package by its absolute path."""
    os.makedirs(directory, exist_ok=True)
    for name in os.listdir(BIN_DIR):
        text = installed_text(name)
        target = os.path.join(directory, name)
        temporary = f"{target}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(temporary, 0o755)
        os.rename(temporary, target)
