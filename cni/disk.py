"""host-local's reservations on disk, in the layout of the real plugin: either may follow the other.

`<data dir>/<network>/<ip>` holds `CONTAINERID\\r\\nIFNAME`; `last_reserved_ip.<set>` the address handed out last; `lock` is
flock()ed around every change.  Touches: those files.  Upstream: plugins/ipam/host-local/backend/disk.
"""

from __future__ import annotations

import fcntl
import os

from cni.address import IP, parse_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

DEFAULT_DATA_DIR = "/var/lib/cni/networks"


class Store:
    """The reservations of one network. `with store:` holds the lock; every method wants it held."""

    def __init__(self, network: str, data_dir: str = "", *, create: bool = True) -> None:
        """Raises OSError; with create=False FileNotFoundError when nothing was ever reserved."""
        self.dir = os.path.join(data_dir or DEFAULT_DATA_DIR, network)
        if create:
            os.makedirs(self.dir, mode=0o755, exist_ok=True)
        self._lock = os.open(os.path.join(self.dir, "lock"), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Store:
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._lock)

    def reserve(self, ip: IP, owner: str, set_index: int) -> bool:
        """Take `ip` for `owner`; False when it is taken.

        The file appears whole (link of a finished one), so that a kill cannot leave a reservation nobody owns.
        """
        temporary = os.path.join(self.dir, f".{os.getpid()}")
        _write(temporary, owner)
        try:
            os.link(temporary, os.path.join(self.dir, str(ip)))
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        _write(os.path.join(self.dir, f"last_reserved_ip.{set_index}"), str(ip))
        return True

    def release(self, ip: IP) -> None:
        _unlink(os.path.join(self.dir, str(ip)))

    def last_reserved(self, set_index: int) -> IP | None:
        """The address handed out last from this set; None when there is none or the file is garbage."""
        try:
            return parse_ip(_read(os.path.join(self.dir, f"last_reserved_ip.{set_index}")))
        except (OSError, ValueError):
            return None

    def reservations(self) -> dict[str, str]:
        """{address: owner}. An empty file is a reservation whose writer was killed: it is removed, for the lock is ours."""
        found: dict[str, str] = {}
        for name in os.listdir(self.dir):
            if name == "lock" or name.startswith(("last_reserved_ip.", ".")):
                continue
            try:
                ip = str(parse_ip(name))
                owner = _read(os.path.join(self.dir, name))
            except (OSError, ValueError):
                continue
            if owner:
                found[ip] = owner
            else:
                _unlink(os.path.join(self.dir, name))
        return found

    def release_matching(self, gone: Callable[[str], bool]) -> int:
        """Remove every reservation whose owner `gone` is true for; how many there were.

        Temporary and empty files are what a killed writer left (a living one would hold the lock): they go as well.
        """
        count = 0
        for name in os.listdir(self.dir):
            if name == "lock" or name.startswith("last_reserved_ip."):
                continue
            path = os.path.join(self.dir, name)
            try:
                owner = _read(path)
            except OSError:
                continue
            if name.startswith(".") or not owner:
                _unlink(path)
            elif gone(owner):
                _unlink(path)
                count += 1
        return count


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096).decode("utf-8", "replace").strip()
    finally:
        os.close(fd)


def _write(path: str, text: str) -> None:
    """In place: a file that is emptied first is written out to the disk when it is closed (ext4's auto_da_alloc): 0.2 to 4 ms."""
    data = text.encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, data, 0)
        if os.fstat(fd).st_size > len(data):
            os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
