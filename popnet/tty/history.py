"""The last bytes of a terminal, from power-on: a bounded byte ring; each reader has a cursor of its own.

Theory of operation. `produced` counts every byte ever appended and only grows. The history holds the bytes
from `oldest` to `produced`; byte number `n` lives at `n % size`. A reader is nothing but a position, which it
keeps itself and which only grows as well: it asks for the bytes at its position and moves on by what it got.
Legal positions are 0 to `produced`. A reader whose position fell below `oldest` lost the bytes between: they
were overwritten, and `read` says how many. The history never waits and knows no reader; whoever must not lose
a byte keeps the source from appending (see hub).
"""

import mmap
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """What a read found.

    Attributes:
        data: the bytes, oldest first; empty when the reader is up to date.
        position: where to read next.
        missed: bytes between the position asked for and `data`, overwritten before they were read.
    """

    data: bytes
    position: int
    missed: int = 0


class History:
    """The last *size* bytes of a source. The memory is touched only as far as bytes were ever appended."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a history needs at least one byte, got {size}")
        # Not a bytearray: that writes its zeros, and a machine has many terminals that show little.
        self._ring = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._produced = 0

    @property
    def size(self) -> int:
        return len(self._ring)

    @property
    def produced(self) -> int:
        """Bytes ever appended."""
        return self._produced

    @property
    def oldest(self) -> int:
        """Position of the oldest byte still held."""
        return max(0, self._produced - self.size)

    def append(self, data: bytes) -> None:
        """Add *data*, of any length; it overwrites the oldest bytes."""
        kept = data[-self.size :]
        start = (self._produced + len(data) - len(kept)) % self.size
        first = min(len(kept), self.size - start)
        self._ring[start : start + first] = kept[:first]
        self._ring[: len(kept) - first] = kept[first:]
        self._produced += len(data)

    def read(self, position: int, limit: int) -> Piece:
        """The bytes from *position* on, at most *limit* of them.

        Raises:
            ValueError: *position* is not one that was ever reached.
        """
        if not 0 <= position <= self._produced:
            raise ValueError(f"position {position} is outside 0..{self._produced}")
        start = max(position, self.oldest)
        count = min(limit, self._produced - start)
        index = start % self.size
        first = min(count, self.size - index)
        data = self._ring[index : index + first] + self._ring[: count - first]
        return Piece(data, start + count, start - position)
