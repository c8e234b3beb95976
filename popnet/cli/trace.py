"""`trace`: each message between kernels, with the times of its enqueue, kick, wake and handle.

Theory of operation. Every kernel that is online serves one stream; a task a stream feeds the halves that come
to the one joiner, and another task gives out, ten times a second, what the joiner has ready. The first Ctrl-C
(or the last message of -c) closes our half of every stream; the kernels then send what they have and end, and
when all have, the rest is given out. A kernel that dies is named, and the trace goes on without it.
"""

import asyncio
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from popnet.cli.attach import first_of
from popnet.cli.complete import KERNEL
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.terminal import Signals
from popnet.cli.tracefiles import FILES
from popnet.cli.traceoutputs import Lines, View, Written
from popnet.control import wire
from popnet.control.stream import ClientStream, connect
from popnet.core.errors import IllegalState, NoSuchKernel, PeerDied, PopnetError
from popnet.core.limits import MESSAGE_SIZE_MAX
from popnet.message.kinds import KIND_MAX, USER_FIRST, Kind
from popnet.message.tracehalf import unpack
from popnet.message.tracejoin import Joiner, Traced

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PERIOD_S: Final = 0.1
_HEADER_SIZE: Final = 8
"""Bytes of a payload that lines need: its id."""


def _kinds(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[int]:
    return [_kind(value) for value in values]


def _kind(text: str) -> int:
    """The number of a kind, from its name or its number. Raises BadParameter."""
    name = text.upper().replace("-", "_")
    if name in Kind.__members__:
        return int(Kind[name])
    number = _number(text)
    known = {int(kind) for kind in Kind}
    if number in known or USER_FIRST <= number <= KIND_MAX:
        return number
    names = ", ".join(kind.name for kind in Kind)
    raise click.BadParameter(f"no kind {text!r}; there are {names}, and numbers of users from {USER_FIRST}")


def _number(text: str) -> int:
    """`4` or `0x8000`; -1 for what is no number."""
    try:
        return int(text, 0)
    except ValueError:
        return -1


@verb("trace", lists=True)
@click.argument("kernels", nargs=-1, type=KERNEL)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="KIND",
    callback=_kinds,
    help="Only messages of this kind, by its name or number; may be repeated.",
)
@click.option("-w", "--write", metavar="FILE", help="Write it to this .pcapng or .json (Perfetto) file.")
@click.option("-c", "--count", type=click.IntRange(1), metavar="N", help="Stop after N messages.")
@click.option(
    "-s",
    "--snap-length",
    type=click.IntRange(0, MESSAGE_SIZE_MAX),
    default=0,
    metavar="BYTES",
    help="Keep only this much of a message in a .pcapng file; 0: all.",
)
@pass_settings
def trace_verb(
    settings: Settings,
    kernels: tuple[str, ...],
    kinds: list[int],
    write: str | None,
    count: int | None,
    snap_length: int,
) -> None:
    """Trace the messages between kernels.

    All messages, or those from or to the kernels that are named. Times are in microseconds after a message
    was enqueued: when its sender rang the receiver's doorbell (- if that was not needed), when the receiver
    turned to it (* if it was awake), and when its handler was done.
    """
    if write is not None and settings.output != "table":
        raise click.UsageError("-o is for lines, and -w writes none")
    suffix = Path(write).suffix if write is not None else ""
    if write is not None and suffix not in FILES:
        raise click.UsageError(f"{write}: the name of a file must end in {' or '.join(FILES)}")
    names, online, kids = _chosen(settings, kernels)
    kept = _HEADER_SIZE + snap_length if suffix == ".pcapng" and snap_length else 0
    params = {
        "kids": kids,
        "kinds": kinds,
        "snap_length": kept if suffix == ".pcapng" else _HEADER_SIZE,
    }
    view = Lines(settings) if write is None else Written(write, FILES[suffix])
    trace = _Trace(settings, names, online, params, view, count)
    try:
        status = asyncio.run(trace.run())
    finally:
        view.close()
        trace.tell_counts()
    click.get_current_context().exit(status)


def _chosen(settings: Settings, names: Sequence[str]) -> tuple[dict[int, str], list[int], list[int]]:
    """All kernels by kid, which of them are online, and the kids of *names*. Raises NoSuchKernel,
    IllegalState."""
    rows = settings.client().get("/v1/kernels")
    by_name = {row["name"]: row for row in rows}
    for name in names:
        if name not in by_name:
            raise NoSuchKernel(f"no kernel {name!r} in this machine", f"it has {', '.join(by_name)}")
        if by_name[name]["state"] != "online":
            raise IllegalState(f"kernel {name} is {by_name[name]['state']}", f"`popnet boot {name}` boots it")
    online = [row["kid"] for row in rows if row["state"] == "online"]
    return {row["kid"]: row["name"] for row in rows}, online, [by_name[name]["kid"] for name in names]


class _Trace:
    """One trace: from the streams of the kernels in *online* into *view*. *names* are those of all."""

    def __init__(
        self,
        settings: Settings,
        names: Mapping[int, str],
        online: Sequence[int],
        params: dict[str, Any],
        view: View,
        count: int | None,
    ) -> None:
        self._settings = settings
        self._names = names
        self._online = online
        self._params = params
        self._view = view
        self._count = count
        self._joiner = Joiner()
        self._started = False
        self._shown = 0
        self._lost: dict[int, int] = {}
        self._died: dict[int, PopnetError] = {}
        self._stop = asyncio.Event()
        self._leave = asyncio.Event()
        self._showing = asyncio.Lock()  # the last messages come from another task than those before

    async def run(self) -> int:
        """Trace until told to stop. Returns the exit status."""
        streams = await self._connected()
        self._started = True
        actions: dict[int, Callable[[], None]] = dict.fromkeys(_STOPPING, self._signalled)
        try:
            with Signals(actions):
                await self._view.begin(self._names, time.time_ns() - time.monotonic_ns())
                names = ", ".join(self._names[kid] for kid in streams)
                self._settings.say(f"tracing the messages of {names}; Ctrl-C stops")
                return await first_of(
                    self._receive_all(streams),
                    self._left(),
                    self._closed(),
                    beside=(self._show(), self._finish(streams)),
                )
        finally:
            await asyncio.gather(*(stream.close() for stream in streams.values()))

    def tell_counts(self) -> None:
        """On stderr."""
        if self._started:
            messages = "message" if self._shown == 1 else "messages"
            lost = sum(self._lost.values())
            losses = f"; the kernels lost {lost} halves of some" if lost else ""
            self._settings.say(f"{self._shown} {messages} traced{losses}")

    async def _connected(self) -> dict[int, ClientStream]:
        """A stream to each kernel; one that died since it was listed is left out."""
        address = self._settings.client().socket
        paths = [
            wire.stream_path(name, "trace", self._params)
            for name in map(self._names.__getitem__, self._online)
        ]
        results = await asyncio.gather(*(connect(address, path) for path in paths), return_exceptions=True)
        streams = {
            kid: result
            for kid, result in zip(self._online, results, strict=True)
            if isinstance(result, ClientStream)
        }
        for result in results:
            if isinstance(result, BaseException) and not (
                streams and isinstance(result, PeerDied | IllegalState)
            ):
                await asyncio.gather(*(stream.close() for stream in streams.values()))
                raise result
        return streams

    async def _receive_all(self, streams: Mapping[int, ClientStream]) -> int:
        await asyncio.gather(*(self._receive(kid, stream) for kid, stream in streams.items()))
        await self._given(self._joiner.rest())
        await self._view.end()
        if len(self._died) == len(streams):
            raise next(iter(self._died.values()))
        return 0

    async def _receive(self, kid: int, stream: ClientStream) -> None:
        generation = 0
        try:
            while (received := await stream.receive()) is not None:
                channel, data = received
                if channel == wire.DATA:
                    for half in unpack(data):
                        self._joiner.add(kid, generation, half)
                elif channel == wire.CONTROL:
                    note = json.loads(data)
                    generation = note.get("generation", generation)
                    self._lost[kid] = note.get("lost", 0)
        except PeerDied as error:
            self._died[kid] = error
            self._settings.say(f"kernel {self._names[kid]} is not traced any more: {error}")

    async def _show(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S)
            await self._given(self._joiner.take(time.monotonic_ns()))

    async def _given(self, messages: Sequence[Traced]) -> None:
        async with self._showing:
            if self._count is not None:
                messages = messages[: self._count - self._shown]
            self._shown += len(messages)
            if self._shown == self._count:
                self._stop.set()
            await self._view.show(messages)

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._leave.set()
        self._stop.set()

    async def _finish(self, streams: Mapping[int, ClientStream]) -> None:
        await self._stop.wait()
        for stream in streams.values():
            try:
                await stream.finish()
            except PopnetError:
                continue  # it has ended already, as `_receive` tells

    async def _left(self) -> int:
        await self._leave.wait()
        return 128 + signal.SIGINT

    async def _closed(self) -> int:
        await self._view.until_closed()
        raise BrokenPipeError
