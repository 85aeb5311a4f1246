"""A pseudo-terminal of the container's own: made in its /dev/pts, so that `tty` finds it there; the master is sent to its reader.

Runs in the container's first process, or in an exec's, when the container's files are all it sees: it must not import anything.
Lean. Touches: terminals, a unix socket. Upstream: runc's --console-socket and libcontainer/console_linux.go.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct

from nsk8s.kernel import mounts

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
"""Opens the slave by its master (Linux 4.13): no path that a container could have replaced is followed."""


def allocate() -> tuple[int, int]:
    """(master, slave) from this mount namespace's /dev/pts. Raises OSError."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    return master, fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)


def take(control: int) -> None:
    """Make a new terminal this process' descriptors 0, 1 and 2, and send its master over the socket `control`. Raises OSError."""
    master, slave = allocate()
    send(control, master)
    os.close(master)
    for target in range(3):
        os.dup2(slave, target)
    os.close(slave)


def send(control: int, master: int) -> None:
    """One byte, and with it the master (none if it is negative). Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))] if master >= 0 else []
    sock = socket.socket(fileno=control)
    try:
        sock.sendmsg([b"\0"], rights)
    finally:
        sock.detach()


def receive(control: int) -> int:
    """The master that was sent; -1 when none was, or nothing yet on a socket that does not block."""
    sock = socket.socket(fileno=control)
    try:
        _, rights, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return -1
    finally:
        sock.detach()
    received = array.array("i")
    for _, _, body in rights:
        received.frombytes(body[:4])
    return received[0] if received else -1


def become_the_containers(uid: int) -> None:
    """Once descriptor 0 is the terminal of the container's first process: it is the user's, and it is /dev/console too."""
    os.fchown(0, uid, -1)
    if not os.path.lexists("/dev/console"):
        os.close(os.open("/dev/console", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    mounts.bind("/proc/self/fd/0", "/dev/console", recursive=False)
