"""What a stream is, for its users; and `pair`, two ends of one in memory.

A stream is a conversation between two kernels: it has a service, parameters, numbered channels each way, and
a last word (`result`). Each half closes on its own, as in TCP: an end that has closed may go on receiving
until the other has closed too. Streams of one link share it fairly, and a reader that is slow stalls nobody
but its own stream.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from popnet.message.codec import Record
from popnet.message.streamoutputs import Transmit
from popnet.message.streamshell import LinkStream, StreamHub


class Stream(Protocol):
    """One end of a conversation. For one event loop; several tasks may send, one should receive.

    A stream that nobody refers to any more is aborted.
    """

    service: str
    params: dict[str, Any]
    peer: int
    """The kid at the other end."""
    result: dict[str, Any] | None
    """What the peer closed with; None before, or when it closed with nothing."""

    async def accept(self) -> None:
        """Tell the opener that it has its stream. The first send, receive or close does so too."""

    async def send(self, data: bytes, channel: int = 0) -> None:
        """Send *data*, of any size, in order; waits while the peer is slow to read. Nothing is sent if *data*
        is empty.

        Up to limits.STREAM_RECORD_MAX bytes are received whole, by one receive; more may come in several
        pieces. *channel* is 0-255. Raises StreamClosed, PeerDied.
        """

    async def receive(self) -> tuple[int, bytes] | None:
        """The next (channel, data); None once the peer has closed and all its data is received.

        What arrived is always received first, even if the peer died; then: PeerDied, StreamClosed (aborted),
        or the error that the service ended with. Cancelling it loses nothing.
        """

    async def close(self, result: dict[str, Any] | None = None) -> None:
        """Send no more. What was sent, and is being sent, is delivered first. Idempotent; no error if the
        peer is gone.

        Whoever does not want to receive either calls `abort` behind it, or lets go of the stream.
        """

    def abort(self) -> None:
        """Neither send nor receive any more. Behind `close` nothing is lost; else what is under way may
        be."""


def pair(service: str = "test", params: dict[str, Any] | None = None) -> tuple[Stream, Stream]:
    """An open stream in memory: (opener, accepter). The same machine as on a link, talking to itself, credit
    and all."""
    loopback = _Loopback()
    opener = loopback.hub.open(service, params or {})
    loopback.deliver()
    accepter = loopback.offered.pop()
    accepter.accept_now()
    loopback.deliver()
    loopback.live = True
    return opener, accepter


class _Loopback:
    """A link from a machine to itself: what it transmits comes back in the next turn of the event loop."""

    def __init__(self) -> None:
        self._under_way: deque[Record] = deque()
        self._scheduled = False
        self.live = False
        self.offered: list[LinkStream] = []
        self.hub = StreamHub(0, self._transmit, self.offered.append, self._later)

    def _transmit(self, record: Transmit) -> None:
        self._under_way.append(Record(record.kind, record.flags, record.id, 0, bytes(record.body)))
        if self.live and not self._scheduled:
            self._scheduled = True
            self._later(self.deliver)

    def deliver(self) -> None:
        self._scheduled = False
        for _ in range(len(self._under_way)):
            self.hub.handle(self._under_way.popleft())

    @staticmethod
    def _later(function: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(function)
