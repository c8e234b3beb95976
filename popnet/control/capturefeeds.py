"""Captures at several NICs of one machine as one stream of pcapng, merged by time; for asyncio.

Theory of operation. Each target has a *feed*: a stream of the service `capture` of its kernel, and a task
that passes what comes to the merger. `receive` gives out what the merger has ready, and asks feeds that
others wait for, each at most every ASK_S. While more than WAITING_MAX bytes wait, the tasks do not read on;
the streams fill then, and at last the kernels drop frames of the capture and count them.

A feed ends with its kernel. The capture goes on with the others, and when the kernel is booted again, with a
new feed, which is a new interface of the file: it has a generation and counts of its own. Who else is there
is told by the events of the machine, from their beginning, so no boot is missed. The capture ends when it was
stopped and every feed has sent its rest, or when no feed is left; only then is the end of a kernel an error.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from popnet.control import wire
from popnet.control.capturemerge import Merger
from popnet.control.capturetargets import Target, link, parse_targets
from popnet.control.client import Client
from popnet.control.spoolreader import CHANNEL, SpoolReader
from popnet.control.stream import ClientStream, connect, follow
from popnet.core.errors import IllegalState, NoSuchMachine, PeerDied, PopnetError, StreamClosed
from popnet.core.limits import FRAME_SIZE_MAX

ASK_S: Final = 0.05
"""Seconds between two questions to one feed: the delay that a merged capture may have."""

WAITING_MAX: Final = 32 << 20
"""Bytes that may wait to be merged, or for a slow reader."""


class CaptureFeeds:
    """A capture, from the entry of its context until the exit; one task receives.

    Attributes:
        merger: has the counts, and what other files begin and end with.
        targets: where it captures; known inside the context.
        on_notice: gets one line for each kernel that goes or comes.
    """

    def __init__(
        self,
        client: Client,
        where: str = "",
        filter: str = "",
        snap_length: int = 0,
        *,
        links: list[tuple[str, str]] | None = None,
        divert: str = "",
        super_frames: bool = False,
    ) -> None:
        """Args:
        where: as `parse_targets` reads it; empty if there are *links*.
        links: pairs of kernels.
        divert: "in", "out" or "both": such frames end in the capture; empty: none do.
        super_frames: keep frames as guests hand them over, up to 64 KiB; else what a wire would carry.
        """
        self.merger = Merger()
        self.targets: list[Target] = []
        self.on_notice: Callable[[str], None] = lambda text: None
        self._client = client
        self._where = where
        self._links = links or []
        self._filter = filter
        self._snap_length = snap_length
        self._divert = divert
        self._super_frames = super_frames
        self._rows: dict[str, dict[str, Any]] = {}
        self._generations: dict[str, int] = {}  # the last that was captured at, or is known not to run
        self._streams: dict[int, ClientStream] = {}
        self._asked_s: dict[int, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._stopped = False
        self._well = False  # it was stopped, and a feed lived to see that
        self._error: PopnetError | None = None

    async def __aenter__(self) -> Self:
        """From here on frames are captured. Raises Refused (a bad filter), NoSuchKernel, IllegalState."""
        rows = await asyncio.to_thread(self._client.get, "/v1/kernels")
        self._rows = {row["name"]: row for row in rows}
        self.targets = parse_targets(self._where, self._rows) if self._where else []
        self.targets += [link(*ends, self._rows) for ends in self._links]
        online = [target for target in self.targets if self._rows[target.kernel]["state"] == "online"]
        self._generations = {target.kernel: _seen(self._rows[target.kernel]) for target in self.targets}
        results = await asyncio.gather(
            *map(self._open, online or self.targets[:1]), return_exceptions=True
        )  # with none online, the machine says what is wrong with the first
        try:
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        except BaseException:
            await self._leave()
            raise
        for target in self.targets:
            if target not in online:
                state = self._rows[target.kernel]["state"]
                self.on_notice(f"kernel {target.kernel} is {state}; captured once it is booted")
        if len(self.targets) > 1:
            self._spawn(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def receive(self, timeout_s: float | None = None) -> bytes | None:
        """Whole blocks; None at the end; b"" when *timeout_s* seconds brought nothing.

        Raises PeerDied when the last kernel died, also if that was while it was stopped; or what its feed
        ended with.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            blocks = self.merger.take(time.time_ns())
            if self.merger.size <= WAITING_MAX:
                self._room.set()
            if blocks:
                return blocks
            if not self._streams and not self.merger.size:
                if self._error is not None and not self._well:
                    raise self._error
                return None
            await self._ask()
            waits_s = [ASK_S] if self.merger.size else []
            if deadline_s is not None:
                if time.monotonic() >= deadline_s:
                    return b""
                waits_s.append(deadline_s - time.monotonic())
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(waits_s, default=None)):
                    await self._news.wait()

    async def stop(self) -> None:
        """Ends it; what came before still arrives. Idempotent."""
        self._stopped = True
        for stream in list(self._streams.values()):
            with contextlib.suppress(StreamClosed, PeerDied):  # it has ended before
                await stream.finish()
        self._news.set()

    # Feeds

    async def _open(self, target: Target) -> None:
        row = self._rows[target.kernel]
        params: dict[str, Any] = {
            "filter": self._filter,
            "snap_length": self._snap_length,
            "interface": len(self.merger.feeds),
            "spool": True,
        }
        if self._divert:
            params["divert"] = self._divert
        if self._super_frames:
            params["super_frames"] = True
        if target.peer is not None:
            params["peer"] = self._rows[target.peer]["kid"]
        place = self.merger.add(
            target.interface,
            self._snap_length or FRAME_SIZE_MAX,
            self._filter,
            bytes.fromhex(row["mac"].replace(":", "")),
            f"kernel {row['kid']}, generation {self._generations[target.kernel]}",
        )
        try:
            stream = await connect(self._client.socket, wire.stream_path(target.kernel, "capture", params))
        except BaseException:
            self.merger.end(place)
            raise
        self._streams[place] = stream
        self._spawn(self._feed(place, target, stream))

    async def _feed(self, place: int, target: Target, stream: ClientStream) -> None:
        """Pass on what a kernel sends, until its end."""
        dropped = None
        spool = SpoolReader()
        try:
            while (received := await stream.receive()) is not None:
                channel, data = received
                if channel == CHANNEL:
                    data, answer = spool.take(data)
                    with contextlib.suppress(
                        StreamClosed
                    ):  # stopped meanwhile; what is under way still comes
                        await stream.send(answer, CHANNEL)
                elif channel != wire.DATA:
                    continue
                self.merger.feed(place, data)
                self._news.set()
                if self.merger.size > WAITING_MAX:
                    self._room.clear()
                    await self._room.wait()
            dropped = (stream.result or {}).get("dropped")
            self._well = self._well or self._stopped
        except PopnetError as error:
            self._error = error
            if len(self._streams) > 1 and not self._stopped:
                self.on_notice(f"{target.interface}: {error}; captured again once it is booted")
        finally:
            self.merger.end(place, dropped)
            del self._streams[place]
            self._news.set()
            spool.close()
            await stream.close()

    async def _ask(self) -> None:
        now_s = time.monotonic()
        for place in self.merger.lagging():
            stream = self._streams.get(place)
            if stream is None or now_s - self._asked_s.get(place, 0.0) < ASK_S:
                continue
            self._asked_s[place] = now_s
            with contextlib.suppress(StreamClosed, PeerDied):  # its own task meets the same end
                await stream.send(b"?", wire.CONTROL)

    async def _follow(self) -> None:
        """Capture at kernels that come online."""
        with contextlib.suppress(NoSuchMachine, PeerDied):  # the feeds end as well, and tell why
            async for event in follow(self._client.socket, "/v1/events?since=0&follow=1"):
                kernel, generation = event.get("kernel"), event.get("generation")
                if event.get("state") != "online" or self._stopped:
                    continue
                if not isinstance(kernel, str) or not isinstance(generation, int):
                    continue
                if generation > self._known(kernel):
                    self._generations[kernel] = generation
                    await self._again(kernel, generation)

    def _known(self, kernel: str) -> int:
        """The last generation that was seen of it; one that is none of ours has them all behind it."""
        return self._generations.get(kernel, 1 << 32)

    async def _again(self, kernel: str, generation: int) -> None:
        for target in self.targets:
            if target.kernel != kernel:
                continue
            try:
                await self._open(target)
            except (IllegalState, PeerDied):  # dead already: there will be another event
                continue
            except PopnetError as error:
                self.on_notice(f"{target.interface}: {error}")
            else:
                self.on_notice(f"{target.interface}: captured again (generation {generation})")

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _leave(self) -> None:
        self._stopped = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _seen(row: dict[str, Any]) -> int:
    """The last generation of a kernel that no event needs to tell of."""
    return int(row["generation"]) - (row["state"] in ("loaded", "starting"))
