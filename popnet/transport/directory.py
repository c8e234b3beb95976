"""The directory: a window of the primary in which every kernel reads who is there: state, generation,
heartbeat.

The primary writes, everybody else maps read-only; sealed like a link's window. Each kernel has two 64-bit
words: state and generation packed in one, so that they are always seen together, and the time of its last
heartbeat. A word is written and read in one move. The meaning of the state numbers belongs to the layer
above; 0 is a kernel that does not exist.
"""

import fcntl
import mmap
import os
from dataclasses import dataclass
from typing import Final

from popnet.core.errors import LinkViolation
from popnet.core.limits import KERNELS_MAX
from popnet.transport.window import SEALS

DIRECTORY_SIZE: Final = mmap.PAGESIZE * -(-KERNELS_MAX * 16 // mmap.PAGESIZE)
"""Bytes of the memfd: two words a kernel, rounded up to pages."""

_GENERATION_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """What the directory says of one kernel."""

    kid: int
    state: int
    generation: int
    beat_ns: int
    """CLOCK_MONOTONIC time of its last heartbeat, in ns; 0 if it never had one."""

    def age_s(self, now_ns: int) -> float:
        """Seconds since its last heartbeat; infinite if it never had one."""
        return (now_ns - self.beat_ns) / 1e9 if self.beat_ns else float("inf")


class Directory:
    """One mapping of the directory: writable in the primary, read-only elsewhere."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self._words = memoryview(mapping).cast("B").cast("Q")

    @classmethod
    def create(cls) -> tuple["Directory", int]:
        """The primary's own, and the descriptor to hand out, which is the caller's to close."""
        fd = os.memfd_create("popnet-directory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, DIRECTORY_SIZE)
            mapping = mmap.mmap(fd, DIRECTORY_SIZE)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        except BaseException:
            os.close(fd)
            raise
        return cls(mapping), fd

    @classmethod
    def attach(cls, fd: int) -> "Directory":
        """The primary's directory behind *fd*, read-only; LinkViolation if it is none."""
        if os.fstat(fd).st_size != DIRECTORY_SIZE or fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
            raise LinkViolation("this is not a sealed directory")
        return cls(mmap.mmap(fd, DIRECTORY_SIZE, prot=mmap.PROT_READ))

    def set(self, kid: int, state: int, generation: int) -> None:
        """Publish that *kid* is in *state* (0-255), and which incarnation of it."""
        self._words[kid * 2] = state << _GENERATION_BITS | generation

    def beat(self, kid: int, now_ns: int) -> None:
        """Publish that *kid* was alive at *now_ns*, CLOCK_MONOTONIC."""
        self._words[kid * 2 + 1] = now_ns

    def get(self, kid: int) -> Entry:
        packed = self._words[kid * 2]
        generation = packed & ((1 << _GENERATION_BITS) - 1)
        return Entry(kid, packed >> _GENERATION_BITS, generation, self._words[kid * 2 + 1])

    def entries(self) -> list[Entry]:
        """Every kernel that exists (state other than 0), by kid."""
        return [entry for entry in map(self.get, range(KERNELS_MAX)) if entry.state]

    def close(self) -> None:
        self._words.release()
        self._mapping.close()
