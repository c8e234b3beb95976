"""Where a capture goes: lines for people, pcapng into a descriptor or a file, or into a ring of files.

Only whole blocks are written, so a file is valid at any moment, also when the disk is full in the middle of
one: then the file is cut back to its last whole block. However a capture ends, `finish` puts the counts of
its interfaces behind it, as far as there is room.
"""

import contextlib
import os
import stat
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from popnet.cli.attach import STDOUT
from popnet.cli.blocks import cut
from popnet.cli.rotation import Rotation, file_name
from popnet.cli.terminal import Output
from popnet.control.capturemerge import Merger, Section
from popnet.control.pcapng_reader import Reader
from popnet.core.errors import PopnetError

ENDS_MAX: Final = 16 << 10
"""Bytes kept free in a file of a ring for the counts at its end: those of 200 interfaces."""


class Sink(Protocol):
    """Where packets go; `begin` comes first, and says what capture they are of."""

    async def begin(self, merger: Merger) -> None: ...

    async def write(self, packets: bytes) -> None:
        """Raises BrokenPipeError when nobody reads any more; PopnetError if there is no room."""

    async def finish(self) -> None:
        """The end, after whatever happened."""

    async def until_closed(self) -> None:
        """Returns once nobody reads any more; never, where that cannot be known."""

    def close(self) -> None: ...


def open_sink(write: str | None, rotation: Rotation | None) -> Sink:
    """Raises PopnetError if the file cannot be written."""
    if write is None:
        return Lines(Output(STDOUT))
    if rotation is not None:
        return Ring(write, rotation)
    return Whole(Blob(STDOUT, "stdout") if write == "-" else created(write))


def open_pipe(path: str) -> Sink:
    """A named pipe, or a file that is there: to be written, not made. Raises PopnetError."""
    try:
        return Whole(Blob(os.open(path, os.O_WRONLY | os.O_CLOEXEC), path))
    except OSError as error:
        raise PopnetError(f"{path}: {error.strerror}") from error


def created(path: str) -> "Blob":
    """A new file, or an old one emptied. Raises PopnetError."""
    try:
        return Blob(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666), path)
    except OSError as error:
        raise PopnetError(f"{path}: {error.strerror}") from error


class Blob:
    """Whole blocks as they are, into a descriptor, which is closed at the end unless it is stdout.

    Attributes:
        size: bytes that were written.
        broken: a write failed or was interrupted, so nothing may follow.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._output = Output(descriptor)
        self.size = 0
        self.broken = False

    async def write(self, blocks: bytes) -> None:
        """Raises BrokenPipeError when nobody reads any more; PopnetError if there is no room."""
        good = os.lseek(self._descriptor, 0, os.SEEK_CUR) if self._regular else 0
        self.broken = True
        try:
            await self._output.write(blocks)
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._regular:
                written = os.lseek(self._descriptor, 0, os.SEEK_CUR) - good
                os.ftruncate(self._descriptor, os.lseek(self._descriptor, good + cut(blocks, written), 0))
                self.broken = False
            hint = "what was captured before is in it" if self._regular else ""
            raise PopnetError(f"{self._name}: {error.strerror}", hint) from error
        self.broken = False
        self.size += len(blocks)

    async def until_closed(self) -> None:
        """Returns once nobody reads any more; never, where that cannot be known."""
        await self._output.until_closed()

    def close(self) -> None:
        self._output.close()
        if self._descriptor != STDOUT:
            os.close(self._descriptor)


class Whole:
    """A capture as one file of pcapng."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._section: Section

    @property
    def size(self) -> int:
        return self._blob.size

    async def begin(self, merger: Merger) -> None:
        self._section = Section(merger)
        await self.write(b"")

    async def write(self, packets: bytes) -> None:
        await self._blob.write(self._section.news() + packets)

    async def finish(self) -> None:
        if not self._blob.broken:
            with contextlib.suppress(PopnetError):  # no room for them, as was told of packets
                await self._blob.write(self._section.statistics(time.time_ns()))

    async def until_closed(self) -> None:
        await self._blob.until_closed()

    def close(self) -> None:
        self._blob.close()


class Ring:
    """pcapng into one file after the other; of those that it began, the oldest go."""

    def __init__(self, path: str, rotation: Rotation) -> None:
        self._path = path
        self._rotation = rotation
        self._merger: Merger
        self._number = 0
        self._names: deque[str] = deque()
        self._opened_ns = 0
        self._file: Whole

    async def begin(self, merger: Merger) -> None:
        self._merger = merger
        await self._next()

    async def write(self, packets: bytes) -> None:
        while packets:
            room = self._rotation.room(self._file.size + ENDS_MAX, time.monotonic_ns() - self._opened_ns)
            fits = len(packets) if room is None else cut(packets, room)
            if fits == 0:
                await self._file.finish()
                self._file.close()
                await self._next()
                fits = cut(packets, (self._rotation.size or len(packets)) - ENDS_MAX)
            await self._file.write(packets[:fits])
            packets = packets[fits:]

    async def _next(self) -> None:
        self._number += 1
        name = file_name(self._path, self._number, time.time())
        self._file = Whole(created(name))
        self._opened_ns = time.monotonic_ns()
        self._names.append(name)
        if self._rotation.keep is not None and len(self._names) > self._rotation.keep:
            oldest = self._names.popleft()
            try:
                Path(oldest).unlink(missing_ok=True)
            except OSError as error:
                raise PopnetError(f"{oldest}: {error.strerror}", "it was to be removed") from error
        await self._file.begin(self._merger)

    async def finish(self) -> None:
        await self._file.finish()

    async def until_closed(self) -> None:
        await self._file.until_closed()

    def close(self) -> None:
        self._file.close()


class Lines:
    """A line a frame, for people."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._decoder = Decoder()
        self._section: Section

    async def begin(self, merger: Merger) -> None:
        self._section = Section(merger)
        self._decoder.many = len(merger.feeds) > 1

    async def write(self, packets: bytes) -> None:
        lines = self._decoder.feed(self._section.news() + packets)
        if lines:
            await self._output.write(("\n".join(lines) + "\n").encode())

    async def finish(self) -> None:
        """Counts are told on stderr."""

    async def until_closed(self) -> None:
        await self._output.until_closed()

    def close(self) -> None:
        self._output.close()


class Decoder:
    """pcapng in, a line of text for each packet out; with the time of day of this host.

    Attributes:
        many: there are several interfaces, so each line names its own.
    """

    def __init__(self) -> None:
        from popnet.net.decode import decode_line

        self.many = False
        self._reader = Reader()
        self._describe = partial(decode_line, utc_offset_s=time.localtime().tm_gmtoff)
        self._width = 0

    def feed(self, data: bytes) -> list[str]:
        """Raises LinkViolation for what is no pcapng."""
        lines = []
        for packet in self._reader.feed(data):
            line = self._describe(packet.time_ns, packet.direction, packet.data, packet.original_length)
            if self.many:
                name = packet.interface.removesuffix("/eth0")
                self._width = max(self._width, len(name))
                at, rest = line.split(" ", 1)
                line = f"{at} {name:{self._width}} {rest}"
            lines.append(line)
        return lines
