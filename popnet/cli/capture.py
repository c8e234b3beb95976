"""`capture`: the frames of a kernel's NIC, as lines to read, or as pcapng into a file or a pipe.

Theory of operation. The service sends pcapng. Only whole blocks are written, so a file is valid at any
moment, also when the disk is full in the middle of one: then the file is cut back to its last whole block.
Ctrl-C, -c, or a reader that goes away closes our half of the stream; the service sends what it had captured
before that, the counts, and ends. A second Ctrl-C does not wait for it.
"""

import asyncio
import os
import signal
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import click

from popnet.cli.attach import STDOUT, first_of
from popnet.cli.blocks import Blocks
from popnet.cli.complete import KERNEL
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.terminal import Output, Signals
from popnet.control import wire
from popnet.control.stream import ClientStream, connect
from popnet.core.errors import PopnetError
from popnet.core.limits import FRAME_SIZE_MAX

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@verb("capture")
@click.argument("kernel", type=KERNEL)
@click.argument("filter_words", nargs=-1, metavar="[FILTER]...")
@click.option("-w", "--write", metavar="FILE", help="Write pcapng to this file; - is stdout.")
@click.option("-c", "--count", type=click.IntRange(1), metavar="N", help="Stop after N frames.")
@click.option(
    "-s",
    "--snap-length",
    type=click.IntRange(0, FRAME_SIZE_MAX),
    default=0,
    metavar="BYTES",
    help="Keep only this much of a frame; 0: all.",
)
@pass_settings
def capture_verb(
    settings: Settings,
    kernel: str,
    filter_words: tuple[str, ...],
    write: str | None,
    count: int | None,
    snap_length: int,
) -> None:
    """Capture the frames of a kernel's NIC.

    FILTER is in tcpdump's language:  popnet capture k1 icmp or port 22

    In Wireshark:  popnet capture k1 -w - | wireshark -k -i -
    """
    if write == "-" and os.isatty(STDOUT):
        raise click.UsageError("pcapng on a terminal helps nobody; -w - wants a pipe or a file")
    params = {"filter": " ".join(filter_words), "snap_length": snap_length}
    path = wire.stream_path(kernel, "capture", params)
    capture = Capture(settings, f"{kernel}/eth0", Blocks(count), _sink(write))
    try:
        status = asyncio.run(capture.run(path))
    finally:
        capture.tell_counts()
    click.get_current_context().exit(status)


class Sink(Protocol):
    """Where whole blocks go."""

    async def write(self, blocks: bytes) -> None:
        """Raises BrokenPipeError when nobody reads any more; PopnetError if there is no room."""

    async def until_closed(self) -> None:
        """Returns once nobody reads any more; never, where that cannot be known."""

    def close(self) -> None: ...


def _sink(write: str | None) -> Sink:
    if write is None:
        return Lines(Output(STDOUT))
    if write == "-":
        return Blob(STDOUT, "stdout")
    try:
        descriptor = os.open(write, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise PopnetError(f"{write}: {error.strerror}") from error
    return Blob(descriptor, write)


class Blob:
    """pcapng as it is, into a descriptor."""

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._output = Output(descriptor)

    async def write(self, blocks: bytes) -> None:
        good = os.lseek(self._descriptor, 0, os.SEEK_CUR) if self._regular else 0
        try:
            await self._output.write(blocks)
        except BrokenPipeError:
            raise
        except OSError as error:
            if self._regular:
                os.ftruncate(self._descriptor, good)
            hint = "what was captured before is in it" if self._regular else ""
            raise PopnetError(f"{self._name}: {error.strerror}", hint) from error

    async def until_closed(self) -> None:
        await self._output.until_closed()

    def close(self) -> None:
        self._output.close()
        if self._descriptor != STDOUT:
            os.close(self._descriptor)


class Lines:
    """A line a frame, for people."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._decoder = Decoder()

    async def write(self, blocks: bytes) -> None:
        lines = self._decoder.feed(blocks)
        if lines:
            await self._output.write(("\n".join(lines) + "\n").encode())

    async def until_closed(self) -> None:
        await self._output.until_closed()

    def close(self) -> None:
        self._output.close()


class Decoder:
    """pcapng in, a line of text for each packet out; with the time of day of this host."""

    def __init__(self) -> None:
        from popnet.control.pcapng_reader import Reader
        from popnet.net.decode import decode_line

        self._reader = Reader()
        self._describe = partial(decode_line, utc_offset_s=time.localtime().tm_gmtoff)

    def feed(self, data: bytes) -> list[str]:
        """Raises LinkViolation for what is no pcapng."""
        return [
            self._describe(packet.time_ns, packet.direction, packet.data, packet.original_length)
            for packet in self._reader.feed(data)
        ]


class Capture:
    """One capture: from the stream through *blocks* into *sink*."""

    def __init__(self, settings: Settings, where: str, blocks: Blocks, sink: Sink) -> None:
        self._where = where
        self._settings = settings
        self._blocks = blocks
        self._sink = sink
        self._started = False
        self._dropped: int | None = None
        self._stop = asyncio.Event()
        self._leave = asyncio.Event()

    async def run(self, path: str) -> int:
        """Capture until told to stop. Returns the exit status."""
        stream = await connect(self._settings.client().socket, path)
        self._started = True
        self._settings.say(f"capturing on {self._where}; Ctrl-C stops")
        actions: dict[int, Callable[[], None]] = dict.fromkeys(_STOPPING, self._signalled)
        try:
            async with stream:
                with Signals(actions):
                    return await first_of(
                        self._receive(stream), self._left(), self._closed(), beside=(self._finish(stream),)
                    )
        finally:
            self._sink.close()

    def tell_counts(self) -> None:
        """On stderr, as tcpdump does."""
        if self._started:
            dropped = "" if self._dropped is None else f", {self._dropped} dropped by the capture"
            frames = "frame" if self._blocks.packets == 1 else "frames"
            self._settings.say(f"{self._blocks.packets} {frames} captured{dropped}")

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._leave.set()
        self._stop.set()

    async def _receive(self, stream: ClientStream) -> int:
        while (received := await stream.receive()) is not None:
            channel, data = received
            if channel == 0 and not self._blocks.done and (whole := self._blocks.feed(data)):
                await self._sink.write(whole)
            if self._blocks.done:
                self._stop.set()
        result: dict[str, Any] = stream.result or {}
        self._dropped = result.get("dropped")
        return 0

    async def _finish(self, stream: ClientStream) -> None:
        await self._stop.wait()
        try:
            await stream.finish()
        except PopnetError:
            return  # it has ended already, as `_receive` tells

    async def _left(self) -> int:
        await self._leave.wait()
        return 128 + signal.SIGINT

    async def _closed(self) -> int:
        await self._sink.until_closed()
        raise BrokenPipeError
