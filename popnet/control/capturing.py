"""A capture of a kernel's NIC that goes on beside what its user does: to be read as it grows, or saved.

Theory of operation. A task moves what arrives into an unnamed temporary file, so a capture of any length
takes no memory, and a user who never looks at it holds up nothing. Readers have positions in that file;
`grown` wakes them. Only whole blocks count, so what is read or saved is valid pcapng at any time. States:
new → running (in the context) → ended, when it was stopped or its kernel died; the file stays until the
capture is forgotten.
"""

import asyncio
import contextlib
import os
import tempfile
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from popnet.control import wire
from popnet.control.pcapng_reader import Packet, Reader
from popnet.control.stream import ClientStream, connect
from popnet.core.errors import PeerDied, StreamClosed

_READ_SIZE: Final = 256 << 10


class Capture:
    """Frames of a kernel's NIC, from the entry of its context until the exit.

        async with kernel.capture("icmp or icmp6") as capture:
            await kernel.run(["ping", "-c1", "k2"])
        assert len(capture.packets()) == 2
        capture.save("ping.pcapng")

    Attributes:
        captured, dropped: frames, as the kernel counted them; None until the capture has ended.
        count: packets that have arrived.
        size: bytes of whole blocks that have arrived.
    """

    def __init__(self, address: Path, kernel: str, filter: str = "", snap_length: int = 0) -> None:
        self._address = address
        self._path = wire.stream_path(kernel, "capture", {"filter": filter, "snap_length": snap_length})
        self._stream: ClientStream
        self._moving: asyncio.Task[None] | None = None
        self._file = _unnamed_file()
        weakref.finalize(self, os.close, self._file)
        self._reader = Reader()
        self._grown = asyncio.Event()
        self._ended = False
        self.captured: int | None = None
        self.dropped: int | None = None
        self.count = 0
        self.size = 0

    async def __aenter__(self) -> Self:
        """From here on frames are captured. Raises Refused for a bad filter."""
        self._stream = await connect(self._address, self._path)
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
        with contextlib.suppress(StreamClosed, PeerDied):  # it has ended before, as `_moving` tells
            await self._stream.finish()
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
            while (received := await self._stream.receive()) is not None:
                channel, data = received
                if channel != wire.DATA:
                    continue
                os.write(self._file, data)
                self.count += len(self._reader.feed(data))
                self.size = self._reader.position
                self._grown.set()
            result: dict[str, Any] = self._stream.result or {}
            self.captured, self.dropped = result.get("captured"), result.get("dropped")
        finally:
            self._ended = True
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
            await self._stream.close()


def _unnamed_file() -> int:
    with tempfile.TemporaryFile(prefix="popnet-") as file:
        return os.dup(file.fileno())
