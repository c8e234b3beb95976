"""The blocks of a pcapng stream, told apart but not looked into, to count packets and cut between them: pure.

Every block begins with its type and its length in bytes, both 32 bits in the byte order of the section;
kernels write little endian (pcapng, IETF draft-ietf-opsawg-pcapng, section 3.1).
"""

import struct
from typing import Final

from popnet.core.errors import LinkViolation

PACKET: Final = 6
"""Type of an Enhanced Packet Block."""

_HEAD: Final = struct.Struct("<II")
_LENGTH_MIN: Final = 12
_LENGTH_MAX: Final = 1 << 20
"""Far more than the largest frame with its options: a larger block is nonsense, and not to be waited for."""


class Blocks:
    """Takes bytes as they come, and gives out whole blocks, up to a number of packets.

    Attributes:
        packets: how many were given out.
        done: the last one that was wanted was given out; nothing more will be.
    """

    def __init__(self, packets_max: int | None = None) -> None:
        self.packets = 0
        self.done = packets_max == 0
        self._packets_max = packets_max
        self._pending = b""

    def feed(self, data: bytes) -> bytes:
        """The whole blocks that *data* completes, joined. Raises LinkViolation for what is no pcapng."""
        buffer = self._pending + data
        start = 0
        while not self.done and len(buffer) - start >= _HEAD.size:
            kind, length = _HEAD.unpack_from(buffer, start)
            if length % 4 or not _LENGTH_MIN <= length <= _LENGTH_MAX:
                raise LinkViolation(f"the kernel sent no pcapng: a block of {length} bytes")
            if start + length > len(buffer):
                break
            start += length
            if kind == PACKET:
                self.packets += 1
                self.done = self.packets == self._packets_max
        self._pending = buffer[start:]
        return buffer[:start]


def cut(blocks: bytes, room: int) -> int:
    """How many bytes of *blocks*, all of them whole, fit into *room* without cutting one."""
    if len(blocks) <= room:
        return len(blocks)
    at = 0
    while True:
        _, length = _HEAD.unpack_from(blocks, at)
        if at + length > room:
            return at
        at += length
