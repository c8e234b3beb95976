"""A capture of NICs or links that goes on beside what its user does: to be read as it grows, or saved.

Theory of operation. A task moves what arrives into an unnamed temporary file, so a capture of any length
takes no memory, and a user who never looks at it holds up nothing. Readers have positions in that file;
`grown` wakes them. Only whole blocks count, so what is read or saved is valid pcapng at any time. States:
new → running (in the context) → ended, when it was stopped or its kernel died; the file stays until the
capture is forgotten.
"""

import asyncio
import os
import tempfile
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Final, Self

from popnet.control.capturefeeds import CaptureFeeds
from popnet.control.capturemerge import Section
from popnet.control.pcapng_reader import Packet, Reader

_READ_SIZE: Final = 256 << 10


class Capture:
    """Frames of NICs or links, from the entry of its context until the exit.

        async with kernel.capture("icmp or icmp6") as capture:
            await kernel.run(["ping", "-c1", "k2"])
        assert len(capture.packets()) == 2
        capture.save("ping.pcapng")

    Attributes:
        captured, dropped: frames, as the kernels counted them; None until the capture has ended.
        count: packets that have arrived.
        size: bytes of whole blocks that have arrived.
    """

    def __init__(self, feeds: CaptureFeeds) -> None:
        self._feeds = feeds
        self._moving: asyncio.Task[None] | None = None
        self._file = _unnamed_file()
        weakref.finalize(self, os.close, self._file)
        self._grown = asyncio.Event()
        self._ended = False
        self.captured: int | None = None
        self.dropped: int | None = None
        self.count = 0
        self.size = 0

    async def __aenter__(self) -> Self:
        """From here on frames are captured. Raises Refused for a bad filter."""
        await self._feeds.__aenter__()
        self._section = Section(self._feeds.merger)
        self._write(b"")
        self._moving = asyncio.create_task(self._move())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.stop()
        finally:
            await self._leave()

    async def stop(self) -> None:
        """Ends the capture; what came before still arrives. Raises what it failed with. Idempotent."""
        assert self._moving is not None, "the capture was never entered"
        await self._feeds.stop()
        await asyncio.shield(self._moving)

    async def wait_for(self, count: int) -> None:
        """Until *count* packets have arrived, or the capture has ended."""
        while self.count < count and not self._ended:
            await self._wait()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """pcapng from the beginning, in pieces, until the capture ends. Raises what it failed with."""
        assert self._moving is not None, "the capture was never entered"
        position = 0
        while True:
            for piece in self._pieces(position):
                position += len(piece)
                yield piece
            if self._ended and position == self.size:
                await asyncio.shield(self._moving)
                return
            await self._wait()

    def packets(self) -> list[Packet]:
        """The packets that have arrived."""
        reader = Reader()
        return [packet for piece in self._pieces(0) for packet in reader.feed(piece)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what has arrived to a file, for Wireshark and its like."""
        with open(path, "wb") as target:
            target.writelines(self._pieces(0))

    def _pieces(self, position: int) -> Iterator[bytes]:
        while position < self.size:
            piece = os.pread(self._file, min(_READ_SIZE, self.size - position), position)
            position += len(piece)
            yield piece

    async def _move(self) -> None:
        try:
            while (packets := await self._feeds.receive()) is not None:
                self._write(packets)
        finally:
            self._write(b"", self._section.statistics(time.time_ns()))
            feeds = self._feeds.merger.feeds
            self.captured = sum(feed.captured for feed in feeds)
            self.dropped = sum(feed.dropped for feed in feeds)
            self._ended = True
            self._grown.set()

    def _write(self, packets: bytes, more: bytes = b"") -> None:
        blocks = self._section.news() + packets + more
        os.write(self._file, blocks)
        self.count = self._feeds.merger.taken
        self.size += len(blocks)
        self._grown.set()

    async def _wait(self) -> None:
        if self._ended:
            return
        self._grown.clear()
        await self._grown.wait()

    async def _leave(self) -> None:
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)
        await self._feeds.__aexit__(None, None, None)


def _unnamed_file() -> int:
    with tempfile.TemporaryFile(prefix="popnet-") as file:
        return os.dup(file.fileno())
