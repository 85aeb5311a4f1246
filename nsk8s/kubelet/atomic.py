"""Publishing a set of files at once: the `..data` symlink dance. Upstream: volume/util/atomic_writer. Touches: files.

`DIR/key → ..data/key`, `DIR/..data → ..2026_11_21_10_00_00.123456789`: readers see the old set or the new one, never a mixture.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

DATA = "..data"


class File(NamedTuple):
    content: bytes
    mode: int


def write(directory: str, files: Mapping[str, File], gid: int | None = None) -> bool:
    """Make `directory` hold just `files` (relative paths); False when it did already. Raises OSError."""
    os.makedirs(directory, exist_ok=True)
    data = os.path.join(directory, DATA)
    old = os.readlink(data) if os.path.islink(data) else ""
    if old and _same(os.path.join(directory, old), files):
        _link(directory, files)
        return False
    stamp = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.") + f"{os.urandom(4).hex()}"
    fresh = os.path.join(directory, stamp)
    os.mkdir(fresh, 0o755)
    for path, file in files.items():
        target = os.path.join(fresh, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as f:
            f.write(file.content)
        os.chmod(target, file.mode | (0o440 if gid is not None else 0))
        if gid is not None:
            os.chown(target, -1, gid)
    temporary = os.path.join(directory, "..data_tmp")
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(stamp, temporary)
    os.rename(temporary, data)
    _link(directory, files)
    for entry in os.listdir(directory):
        if not entry.startswith("..") and entry not in {p.split("/", 1)[0] for p in files}:
            os.unlink(os.path.join(directory, entry))
    if old:
        shutil.rmtree(os.path.join(directory, old), ignore_errors=True)
    return True


def _link(directory: str, files: Mapping[str, File]) -> None:
    for top in {p.split("/", 1)[0] for p in files}:
        link = os.path.join(directory, top)
        if not os.path.islink(link):
            os.symlink(os.path.join(DATA, top), link)


def _same(directory: str, files: Mapping[str, File]) -> bool:
    found: set[str] = set()
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, directory)
            file = files.get(relative)
            if file is None:
                return False
            try:
                with open(path, "rb") as f:
                    if f.read() != file.content:
                        return False
            except OSError:
                return False
            found.add(relative)
    return found == set(files)
