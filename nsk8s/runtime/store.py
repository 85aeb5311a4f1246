"""Records on disk: small JSON files, written whole or not at all. Lean. Touches: files.

    <state>/sandboxes/<id>/sandbox.json     written by the runtime, before it acts
    <state>/sandboxes/<id>/pause.json       who the sandbox process is, written by itself
    <state>/containers/<id>/container.json  written by the runtime
    <state>/containers/<id>/status.json     started and ended, written by the sandbox process
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = dict[str, Any]


def write_json(path: str, value: Record) -> None:
    """Replace `path` in one step. Readers see the old or the new content, also after a crash of the writer."""
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        raw = json.dumps(value, separators=(",", ":")).encode()
        while raw:
            raw = raw[os.write(fd, raw) :]
    except OSError:
        os.close(fd)
        os.unlink(temporary)
        raise
    os.close(fd)
    os.rename(temporary, path)


def read_json(path: str) -> Record | None:
    """The record, or None when it is missing or unreadable."""
    try:
        with open(path, "rb") as f:
            value = json.loads(f.read())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def list_ids(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def new_id() -> str:
    """64 hexadecimal digits, as containerd's."""
    return os.urandom(32).hex()
