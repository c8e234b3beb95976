"""`capture`: frames of NICs and links, as lines to read, or as pcapng into files or a pipe.

Theory of operation. `CaptureFeeds` gives whole blocks, merged by time; a sink takes them. Ctrl-C, -c, or a
reader that goes away stops the feeds; the kernels send what they had captured before that, and their counts,
and end. A second Ctrl-C does not wait for it. However it ends, the sink is told, and counts are shown.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final

import click
from click.shell_completion import CompletionItem

from popnet.cli.attach import STDOUT, first_of
from popnet.cli.blocks import Blocks
from popnet.cli.capturesinks import Sink, open_sink
from popnet.cli.complete import KERNEL, kernel_rows
from popnet.cli.rotation import Rotation, parse_rotation
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.terminal import Signals
from popnet.control.capturefeeds import CaptureFeeds
from popnet.control.capturetargets import ANY
from popnet.core.limits import FRAME_SIZE_MAX

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Where(click.ParamType):  # type: ignore[type-arg]
    """A kernel, a link, `any`, or several joined by commas; the machine says which exist."""

    name = "where"

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = [row["name"] for row in kernel_rows(context)]
        links = [f"{first}-{second}" for first in names for second in names if first != second]
        words = [*names, ANY, *(links if "-" in incomplete else [])]
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


@verb("capture")
@click.argument("where", type=Where(), required=False)
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
@click.option(
    "--link",
    "links",
    nargs=2,
    type=KERNEL,
    multiple=True,
    metavar="KERNEL KERNEL",
    help="Only frames between these two, seen from the first; instead of WHERE. May be repeated.",
)
@click.option(
    "--rotate",
    multiple=True,
    metavar="SIZE|TIME",
    help="Begin another file after so much (100M) or so long (60s); may be given for both.",
)
@click.option("--keep", type=click.IntRange(1), metavar="N", help="Of the files, keep the newest N.")
@click.option(
    "--super-frames",
    is_flag=True,
    help="Keep frames of up to 64 KiB as kernels hand them over; without it, as a wire would carry them.",
)
@pass_settings
def capture_verb(
    settings: Settings,
    where: str | None,
    filter_words: tuple[str, ...],
    write: str | None,
    count: int | None,
    snap_length: int,
    links: tuple[tuple[str, str], ...],
    rotate: tuple[str, ...],
    keep: int | None,
    super_frames: bool,
) -> None:
    """Capture the frames of NICs and links.

    WHERE is a kernel (its NIC), two joined by - (only frames between them, seen from the first), `any` (all
    kernels, in one file with an interface for each), or several of these joined by commas.

    FILTER is in tcpdump's language:  popnet capture k1 icmp or port 22

    In Wireshark:  popnet capture k1 -w - | wireshark -k -i -
    or, after `popnet wireshark install`, as an interface like any other.
    """
    if links and where is not None:
        filter_words = (where, *filter_words)
        where = None
    if not links and where is None:
        raise click.UsageError("say where: a kernel, a link such as k1-k2, or any")
    rotation = _rotation(rotate, keep, write)
    if write == "-" and os.isatty(STDOUT):
        raise click.UsageError("pcapng on a terminal helps nobody; -w - wants a pipe or a file")
    feeds = CaptureFeeds(
        settings.client(),
        where or "",
        " ".join(filter_words),
        snap_length,
        links=list(links),
        super_frames=super_frames,
    )
    capture = Capture(settings, feeds, Blocks(count), open_sink(write, rotation))
    try:
        status = asyncio.run(capture.run())
    finally:
        capture.tell_counts()
    click.get_current_context().exit(status)


def _rotation(words: tuple[str, ...], keep: int | None, write: str | None) -> Rotation | None:
    if not words:
        if keep is not None:
            raise click.UsageError("--keep is about the files of --rotate")
        return None
    if write is None or write == "-":
        raise click.UsageError("--rotate needs the name of a file: -w FILE")
    try:
        return parse_rotation(words, keep)
    except ValueError as error:
        raise click.UsageError(f"--rotate: {error}") from None


class Capture:
    """One capture: from the feeds through *blocks* into *sink*."""

    def __init__(self, settings: Settings, feeds: CaptureFeeds, blocks: Blocks, sink: Sink) -> None:
        self._settings = settings
        self._feeds = feeds
        self._blocks = blocks
        self._sink = sink
        self._started = False
        self._stop = asyncio.Event()
        self._leave = asyncio.Event()
        feeds.on_notice = settings.say

    async def run(self) -> int:
        """Capture until told to stop. Returns the exit status."""
        actions: dict[int, Callable[[], None]] = dict.fromkeys(_STOPPING, self._signalled)
        try:
            async with self._feeds as feeds:
                self._started = True
                with Signals(actions):
                    self._settings.say(f"capturing on {self._where()}; Ctrl-C stops")
                    await self._sink.begin(feeds.merger)
                    try:
                        return await first_of(
                            self._receive(), self._left(), self._closed(), beside=(self._finish(),)
                        )
                    finally:
                        await self._sink.finish()
        finally:
            self._sink.close()

    def tell_counts(self) -> None:
        """On stderr, as tcpdump does."""
        if not self._started:
            return
        feeds = self._feeds.merger.feeds
        frames = "frame" if self._blocks.packets == 1 else "frames"
        dropped = sum(feed.dropped for feed in feeds)
        some = [f"{feed.dropped} on {feed.name}" for feed in feeds if feed.dropped]
        where = f" ({', '.join(some)})" if dropped and len(feeds) > 1 else ""
        text = f"{self._blocks.packets} {frames} captured, {dropped} dropped by the capture{where}"
        self._settings.say(text)

    def _where(self) -> str:
        names = [target.interface for target in self._feeds.targets]
        return ", ".join(names) if len(names) <= 8 else f"{len(names)} interfaces"

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._leave.set()
        self._stop.set()

    async def _receive(self) -> int:
        while (packets := await self._feeds.receive()) is not None:
            if not self._blocks.done:
                await self._sink.write(self._blocks.feed(packets))
            if self._blocks.done:
                self._stop.set()
        return 0

    async def _finish(self) -> None:
        await self._stop.wait()
        await self._feeds.stop()

    async def _left(self) -> int:
        await self._leave.wait()
        return 128 + signal.SIGINT

    async def _closed(self) -> int:
        await self._sink.until_closed()
        raise BrokenPipeError
