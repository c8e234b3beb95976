"""Both ends of a link in one process."""

import mmap
import os
from types import TracebackType

from popnet.transport._native import RING_OFFSETS, RING_SIZES, WINDOW_SIZE, WORD_OFFSETS, Link
from popnet.transport.doorbell import create_doorbell
from popnet.transport.window import attach_window, create_window

HIGH, NORMAL, FRAMES = range(3)
RING_NAMES = ("high", "normal", "frames")


class End:
    """A kernel's end: its window, the memfd of that, its doorbell (one for all rings) and its link."""

    def __init__(self, kid: int, peer_kid: int) -> None:
        self.kid = kid
        self.window, self.fd = create_window(kid, 1, peer_kid)
        self.bell = create_doorbell()
        self.view = mmap.mmap(self.fd, WINDOW_SIZE, prot=mmap.PROT_READ)

    def join(self, peer: "End") -> None:
        self.link = Link(self.window, attach_window(peer.fd), peer.bell, peer.bell)

    def poke_word(self, name: str, value: int) -> None:
        self.window.poke(WORD_OFFSETS[name], (value % 2**64).to_bytes(8, "little"))

    def ring_bytes(self, ring: int) -> bytes:
        """The data area of *ring*, as the peer sees it."""
        return self.view[RING_OFFSETS[ring] : RING_OFFSETS[ring] + RING_SIZES[ring]]

    def rung(self) -> int:
        """How often the bell was kicked since the last call."""
        try:
            return os.eventfd_read(self.bell)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.view.close()
        os.close(self.fd)
        os.close(self.bell)


class Pair:
    """Two joined ends, `a` of kernel 1 and `b` of kernel 2. All positions of all rings start at *start*."""

    def __init__(self, start: int = 0) -> None:
        self.a, self.b = End(1, 2), End(2, 1)
        for end in (self.a, self.b):
            for ring in RING_NAMES if start else ():
                end.poke_word(f"produced_{ring}", start)
                end.poke_word(f"consumed_{ring}", start)
        self.a.join(self.b)
        self.b.join(self.a)

    def __enter__(self) -> "Pair":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.a.close()
        self.b.close()
