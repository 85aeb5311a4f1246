"""Offloads of interfaces: what the kernel leaves to a network card, and so to the receiver. Touches: ioctl SIOCETHTOOL. Lean.

Between veths nothing ever computes a checksum or cuts a 64 kB segment, so a capture shows packets that no wire would carry.
Upstream: ethtool -K. Constants: include/uapi/linux/ethtool.h.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct

SIOCETHTOOL = 0x8946
GTXCSUM, GSTRINGS, GSSET_INFO, GFEATURES, SFEATURES = 0x16, 0x1B, 0x37, 0x3A, 0x3B
ETH_SS_FEATURES, NAME_BYTES = 4, 32
_names: list[str] = []


class Ethtool:
    """A socket of the network namespace that the calling thread is in at construction."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Ethtool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, interface: str, request: bytes) -> bytes:
        """The request as the kernel changed it. Raises OSError."""
        buffer = array.array("B", request)
        name = interface.encode()
        if len(name) > 15:
            raise OSError(errno.ENODEV, f"no interface has a name like {interface}")
        fcntl.ioctl(self._socket, SIOCETHTOOL, struct.pack("16sP", name, buffer.buffer_info()[0]))
        return buffer.tobytes()

    def is_offloading(self, interface: str) -> bool:
        """Whether it leaves checksums to others. Raises OSError (ENODEV)."""
        return bool(struct.unpack("=II", self._ask(interface, struct.pack("=II", GTXCSUM, 0)))[1])

    def _feature_names(self, interface: str) -> list[str]:
        if not _names:
            head = struct.pack("=IIQI", GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0)
            count = struct.unpack("=IIQI", self._ask(interface, head))[3]
            strings = self._ask(interface, struct.pack("=III", GSTRINGS, ETH_SS_FEATURES, count) + bytes(count * NAME_BYTES))
            found = (strings[at : at + NAME_BYTES] for at in range(12, 12 + count * NAME_BYTES, NAME_BYTES))
            _names.extend(raw.partition(b"\0")[0].decode("ascii", "replace") for raw in found)
        return _names

    def set_offloading(self, interface: str, on: bool, *, gro: bool = False) -> bool:
        """Switch checksums, segmentation and coalescing, as far as they can be; whether anything changed. Raises OSError.

        `gro`: coalescing is switched on too (veths begin without).
        """
        names = self._feature_names(interface)
        words = (len(names) + 31) // 32
        answer = self._ask(interface, struct.pack("=II", GFEATURES, words) + bytes(16 * words))
        valid, wanted = [0] * words, [0] * words
        changes = False
        for number, name in enumerate(names):
            word, bit = number // 32, 1 << number % 32
            available, _, active, never = struct.unpack_from("=IIII", answer, 8 + 16 * word)
            if not is_offload(name) or not available & bit or never & bit or (on and not gro and is_coalescing(name)):
                continue
            valid[word] |= bit
            wanted[word] |= bit if on and name not in _OFF_BY_DEFAULT else 0
            changes |= bool(active & bit) != bool(wanted[word] & bit)
        if changes:
            blocks = b"".join(struct.pack("=II", v, w) for v, w in zip(valid, wanted, strict=True))
            self._ask(interface, struct.pack("=II", SFEATURES, words) + blocks)
        return changes


_OFF_BY_DEFAULT = {"rx-gro-list", "rx-udp-gro-forwarding", "rx-gro-hw"}


def is_coalescing(name: str) -> bool:
    return name.startswith("rx-gro") or name in _OFF_BY_DEFAULT


def is_offload(name: str) -> bool:
    """Whether the kernel's feature of that name makes packets in a capture other than those of a wire. Pure."""
    return (
        name.startswith(("tx-checksum-", "tx-scatter-gather", "tx-gso-", "rx-gro"))
        or name.endswith("-segmentation")
        or name in ("rx-checksum", "rx-udp-gro-forwarding")
    )
