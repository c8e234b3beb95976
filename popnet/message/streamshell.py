"""Streams for asyncio: the thin shell around a StreamMachine. It moves outputs about and decides nothing.

Theory of operation. A StreamHub owns the machine of one link. Its users hold LinkStreams; the hub knows them
only weakly, so a stream that nobody holds any more is aborted, and its other end learns that nobody reads.
Everything runs on the one thread of the event loop; only `__del__` may come from anywhere, and it does no
more than ask the loop for an abort.

A reader waits on `_readable`, writers queue up at a lock (first come, first served) and the first of them
waits on `_writable`. Each waiter ends with its data or credit, or with the error that ended the stream.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, assert_never
from weakref import WeakValueDictionary

from popnet.core import limits
from popnet.core.errors import PopnetError, StreamClosed
from popnet.message.codec import Record
from popnet.message.streammachine import StreamMachine, cost
from popnet.message.streamoutputs import (
    Accepted,
    Arrived,
    Failed,
    Offered,
    Output,
    PeerClosed,
    Transmit,
    Writable,
)

PIECE_SIZE = 64 << 10
"""Bytes a record of a send that is too long to go whole: two of them are the window."""


def pieces(data: bytes) -> Iterator[bytes | memoryview]:
    """*data* as the bodies of one or more records, without a copy."""
    if len(data) <= limits.STREAM_RECORD_MAX:
        yield data
        return
    view = memoryview(data)
    for start in range(0, len(data), PIECE_SIZE):
        yield view[start : start + PIECE_SIZE]


class LinkStream:
    """One end of a stream on a link: see `popnet.message.stream.Stream` for what its methods promise."""

    def __init__(
        self, hub: "StreamHub", key: int, service: str, params: dict[str, Any], offered: bool
    ) -> None:
        self.service = service
        self.params = params
        self.peer = hub.peer
        self.result: dict[str, Any] | None = None
        self._hub = hub
        self._key = key
        self._offered = offered
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._settled = asyncio.Event()
        self._accepted = False
        self._sending = asyncio.Lock()
        self._arriving_over = False
        self._arriving_error: PopnetError | None = None
        self._sending_error: PopnetError | None = None

    def __repr__(self) -> str:
        return f"<stream {self.service!r} with kernel {self.peer}>"

    async def accept(self) -> None:
        self.accept_now()

    def accept_now(self) -> None:
        if self._offered:
            self._offered = False
            self._hub.do(self._hub.machine.accept(self._key))

    async def opened(self) -> None:
        """Wait until the peer has accepted. Raises what it refused with."""
        try:
            await self._settled.wait()
        except asyncio.CancelledError:
            self.abort()
            raise
        if not self._accepted and self._arriving_error is not None:
            raise copy.copy(self._arriving_error)

    async def send(self, data: bytes, channel: int = 0) -> None:
        self.accept_now()
        if not data:
            return
        machine = self._hub.machine
        async with self._sending:
            for piece in pieces(data):
                price = cost(len(piece))
                while self._sending_error is None and machine.room(self._key) < price:
                    self._writable.clear()
                    await self._writable.wait()
                if self._sending_error is not None:
                    raise copy.copy(self._sending_error)
                self._hub.do(machine.send(self._key, channel, piece))

    async def receive(self) -> tuple[int, bytes] | None:
        self.accept_now()
        while not self._arrived:
            if self._arriving_error is not None:
                raise copy.copy(self._arriving_error)
            if self._arriving_over:
                return None
            self._readable.clear()
            await self._readable.wait()
        item = self._arrived.popleft()
        outputs = self._hub.machine.consumed(self._key, len(item[1]))
        if outputs:
            self._hub.do(outputs)
        return item

    async def close(self, result: dict[str, Any] | None = None) -> None:
        async with self._sending:
            if self._sending_error is None:
                self._hub.do(self._hub.machine.close(self._key, result))
                self._offered = False
                self._sending_error = StreamClosed("this end closed the stream")

    def abort(self) -> None:
        if self._offered:
            self.fail(StreamClosed("the service closed the stream"))
            return
        self._hub.do(self._hub.machine.abort(self._key))
        self._end(StreamClosed("this end closed the stream"))

    def fail(self, error: PopnetError) -> None:
        """End the stream with *error*, which the opener gets: from `open`, or from `receive` behind the
        data."""
        machine = self._hub.machine
        if self._offered:
            self._hub.do(machine.refuse(self._key, error))
            self._offered = False
        elif self._sending_error is None:
            self._hub.do(machine.close(self._key, None, error))
        self._hub.do(machine.abort(self._key))
        self._end(StreamClosed("this end closed the stream"))

    def handle(self, event: Accepted | Arrived | Writable | PeerClosed | Failed) -> None:
        """What the machine tells of this stream."""
        match event:
            case Arrived():
                self._arrived.append((event.channel, event.data))
                self._readable.set()
            case Writable():
                self._writable.set()
            case Accepted():
                self._accepted = True
                self._settled.set()
            case PeerClosed():
                self.result = event.result
                self._arriving_over = True
                self._arriving_error = event.error
                self._readable.set()
            case Failed():
                self._end(event.error)
            case _:
                assert_never(event)

    def _end(self, error: PopnetError) -> None:
        if self._sending_error is None:
            self._sending_error = error
        if not self._arriving_over:
            self._arriving_over = True
            self._arriving_error = error
        for waiters in (self._settled, self._readable, self._writable):
            waiters.set()

    def __del__(self) -> None:
        self._hub.abandoned(self._key)


class StreamHub:
    """The streams of one link: feeds the machine, carries out its outputs.

    Args:
        peer: the kid at the other end.
        transmit: sends one record.
        offered: gets each stream that the peer opens, and must hold it; it may `fail` it.
        later: runs a function on the event loop, soon; callable from any thread; may raise RuntimeError when
            there is no loop any more.
    """

    def __init__(
        self,
        peer: int,
        transmit: Callable[[Transmit], None],
        offered: Callable[[LinkStream], None],
        later: Callable[[Callable[[], None]], object],
        machine: StreamMachine | None = None,
    ) -> None:
        self.peer = peer
        self.machine = StreamMachine() if machine is None else machine
        self._transmit = transmit
        self._on_offered = offered
        self._later = later
        self._streams: WeakValueDictionary[int, LinkStream] = WeakValueDictionary()

    def open(self, service: str, params: dict[str, Any]) -> LinkStream:
        """A stream that is being opened; wait for its `opened()`."""
        key, outputs = self.machine.open(service, params)
        stream = self._streams[key] = LinkStream(self, key, service, params, offered=False)
        self.do(outputs)
        return stream

    def keys_of(self, service: str) -> list[int]:
        """The keys of the streams to *service*, opened by either end."""
        return [key for key, stream in self._streams.items() if stream.service == service]

    def handle(self, record: Record) -> None:
        self.do(self.machine.handle(record))

    def lost(self, error: PopnetError) -> None:
        """The peer is gone."""
        self.do(self.machine.lost(error))

    def do(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            match output:
                case Transmit():
                    self._transmit(output)
                case Offered():
                    stream = LinkStream(self, output.key, output.service, output.params, offered=True)
                    self._streams[output.key] = stream
                    self._on_offered(stream)
                case Arrived() | Writable() | Accepted() | PeerClosed() | Failed():
                    known = self._streams.get(output.key)
                    if known is not None:
                        known.handle(output)
                case _:
                    assert_never(output)

    def abandoned(self, key: int) -> None:
        """Nobody holds the stream any more. Comes from a finaliser, hence from anywhere, even inside the
        machine."""
        if key in self.machine:
            try:
                self._later(lambda: self.do(self.machine.abort(key)))
            except (
                RuntimeError
            ):  # no loop runs any more: the process is at its end, and nobody is left to tell
                return
