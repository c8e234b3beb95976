"""A ring of captured blocks in memory that the kernel and its client share: they need not ride the stream.

Theory of operation. The kernel owns a memfd; a client on the same host opens it through /proc, where only the
same user (or the machine's owner) may, and answers whether it could. Pieces are written one behind the other;
one that does not fit before the end begins at the start. The stream carries where each piece is, and back how
many bytes of the ring the client is done with. Counts only grow: `produced - consumed` is in use.

    piece   size   offset = produced mod size, or 0 after a skip of what was left before the end

The client is the one who asked for the capture; a count that cannot be is its own loss: it is refused.
"""

import asyncio
import fcntl
import json
import mmap
import os
import struct
from typing import Final

from popnet.core.errors import Refused

CHANNEL: Final = 3
"""Of the stream: where things are, and what is done with."""

SIZE: Final = 8 << 20
"""Bytes of the ring: as much as the buffer of the pump, twice."""

PIECE_MAX: Final = 512 << 10
"""Bytes of one piece: one wake-up for many frames, and many pieces in the ring."""

PLACE: Final = struct.Struct("<QII")
"""Of a piece: produced behind it, offset, bytes."""

DONE: Final = struct.Struct("<Q")
"""What is consumed."""

YES, NO = b"y", b"n"


class Spool:
    """The kernel's end.

    Attributes:
        answered: set once the client has said whether it could open the ring, or is gone.
        shared: it could.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("popnet-capture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._file, SIZE)
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # so that readers need not fear
        self._memory = mmap.mmap(self._file, SIZE)
        self._produced = 0
        self._consumed = 0
        self._room = asyncio.Event()
        self.answered = asyncio.Event()
        self.shared = False

    def where(self) -> bytes:
        """The first message: how the client finds the ring."""
        return json.dumps({"pid": os.getpid(), "fd": self._file, "size": SIZE}).encode()

    def take(self, message: bytes) -> None:
        """A message of the client. Raises Refused."""
        if not self.answered.is_set():
            self.shared = message == YES
            self.answered.set()
            return
        if len(message) != DONE.size or not self._consumed <= DONE.unpack(message)[0] <= self._produced:
            raise Refused("capture: the client is done with what it never got")
        (self._consumed,) = DONE.unpack(message)
        self._room.set()

    def stop(self) -> None:
        """The client says nothing any more: what is left rides the stream."""
        self.shared = False
        self.answered.set()
        self._room.set()

    async def put(self, piece: bytes) -> bytes | None:
        """Writes a piece of up to PIECE_MAX bytes, once there is room; returns the message that says where,
        or None: it was stopped, and the piece not written."""
        offset = self._produced % SIZE
        skipped = SIZE - offset if offset + len(piece) > SIZE else 0
        while self.shared and self._produced + skipped + len(piece) - self._consumed > SIZE:
            self._room.clear()
            await self._room.wait()
        if not self.shared:
            return None
        offset = 0 if skipped else offset
        self._memory[offset : offset + len(piece)] = piece
        self._produced += skipped + len(piece)
        return PLACE.pack(self._produced, offset, len(piece))

    def close(self) -> None:
        self._memory.close()
        os.close(self._file)
