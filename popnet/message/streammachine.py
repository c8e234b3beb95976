"""The streams of one link: a pure machine that takes calls and records and returns what to transmit and what
to tell.

Theory of operation. Both ends of a link run one StreamMachine each. A stream has an opener and an accepter,
and two halves, one each way, that close on their own:

    opener                              accepter
    open      -> OPEN                   Offered
                 ACCEPT | REFUSE  <-    accept | refuse
    send      -> DATA DATA DATA         Arrived Arrived Arrived
                 CREDIT           <-    consumed          rides high; all else normal, in order
    close     -> CLOSE                  PeerClosed; it may go on sending
                 DATA CLOSE       <-    send, close       and the stream is over

*Names.* Bit 0 of the id on the wire says that the sender of the record opened the stream; so both ends number
what they open 1, 2, 3... without asking, and a machine may even talk to itself (a kernel to itself, `pair`).
A *key* is the id as this end would send it. Numbers only grow: a record for one that was used is late (it
crossed our ABORT) and dropped; a record for one that never was is nonsense.

*Credit.* Each half starts with `window` bytes; a record costs its length, at least one cache line, so that
small records are bounded too. The reader's `consumed` gives credit back when a quarter of the window has come
together. So what a peer can make us store is at most `window` a stream, and the streams a peer may open are
bounded.

*Forbidden moves* and why: data before ACCEPT (nobody has a place for it yet); data behind CLOSE; more than
the credit; credit above the window; a second ACCEPT; a stream out of turn. No user of a stream can cause one,
only a mad machine at the other end: `handle` raises LinkViolation, and the link is over, with all streams.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from popnet.core import limits
from popnet.core.errors import LinkViolation, Overloaded, PopnetError, Refused, StreamClosed, Unavailable
from popnet.message import codec
from popnet.message.form import NAME_MAX
from popnet.message.kinds import CHANNEL_MAX, Kind
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

NUMBER_MAX: Final = (1 << 31) - 1


class State(Enum):
    """Where a stream is. OPENING -> OPEN | gone;  OFFERED -> OPEN | gone;  OPEN -> gone. What is gone is
    forgotten."""

    OPENING = "opening"
    """We sent OPEN. Legal: ACCEPT, REFUSE, ABORT; our abort. Not: data."""
    OFFERED = "offered"
    """The peer sent OPEN. Legal: our accept or refuse; its ABORT. Not: data."""
    OPEN = "open"
    """Data, each way until its half is closed."""


@dataclass(slots=True)
class _Stream:
    state: State
    may_send: int
    may_arrive: int
    owed: int = 0
    we_closed: bool = False
    peer_closed: bool = False


def cost(size: int) -> int:
    """Credit that a record of *size* bytes costs."""
    return max(size, limits.RECORD_ALIGN)


class StreamMachine:
    """All streams of one link, as one end sees them. Methods return what the shell must do, in order.

    Calls that name a key whose stream is gone do nothing: the shell learns of the end from Failed or
    PeerClosed, and its users may be slower than that.
    """

    def __init__(self, window: int = limits.STREAM_WINDOW, streams_max: int = limits.STREAMS_MAX) -> None:
        self._window = window
        self._streams_max = streams_max
        self._streams: dict[int, _Stream] = {}
        self._offered_count = 0
        self._opened_last = 0
        self._offered_last = 0
        self.counters: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, key: int) -> bool:
        return key in self._streams

    # What this end does

    def open(self, service: str, params: dict[str, Any]) -> tuple[int, list[Output]]:
        """Open a stream: its key, and what to do. Raises Refused when the name or *params* are too long."""
        if len(service) > NAME_MAX:
            raise Refused(f"the name of a service has {len(service)} letters; at most {NAME_MAX}")
        body = codec.json_bytes({"service": service, "params": params})
        if self._opened_last == NUMBER_MAX:
            raise Unavailable("this link has used up its stream numbers", "boot the kernel again")
        self._opened_last += 1
        key = self._opened_last << 1 | 1
        self._streams[key] = _Stream(State.OPENING, self._window, self._window)
        self.counters["streams_opened"] += 1
        return key, [Transmit(Kind.OPEN, 0, key, body)]

    def accept(self, key: int) -> list[Output]:
        stream = self._streams.get(key)
        if stream is None or stream.state is not State.OFFERED:
            return []
        stream.state = State.OPEN
        return [Transmit(Kind.ACCEPT, 0, key, b"")]

    def refuse(self, key: int, error: PopnetError) -> list[Output]:
        """Say no to an offered stream."""
        body = codec.json_bytes(codec.error_object(error))
        if key not in self._streams:
            return []
        assert self._streams[key].state is State.OFFERED
        self._forget(key)
        self.counters["streams_refused"] += 1
        return [Transmit(Kind.REFUSE, 0, key, body)]

    def room(self, key: int) -> int:
        """Credit that is left: a record may be sent if its `cost` is at most this."""
        stream = self._streams.get(key)
        return 0 if stream is None else stream.may_send

    def send(self, key: int, channel: int, data: bytes | memoryview) -> list[Output]:
        """One record of data; the caller has looked at `room`."""
        stream = self._streams.get(key)
        if stream is None:
            return []
        price = cost(len(data))
        assert stream.state is State.OPEN and not stream.we_closed, "sent on a stream that is not open"
        assert price <= stream.may_send, "sent without credit"
        assert 0 <= channel <= CHANNEL_MAX, f"channel {channel}"
        stream.may_send -= price
        return [Transmit(Kind.DATA, channel, key, data)]

    def consumed(self, key: int, size: int) -> list[Output]:
        """The reader took a record of *size* bytes."""
        stream = self._streams.get(key)
        if stream is None or stream.peer_closed:
            return []
        stream.owed += cost(size)
        if stream.owed < self._window // 4:
            return []
        granted, stream.owed = stream.owed, 0
        stream.may_arrive += granted
        return [Transmit(Kind.CREDIT, 0, key, codec.U32.pack(granted))]

    def close(
        self, key: int, result: dict[str, Any] | None, error: PopnetError | None = None
    ) -> list[Output]:
        """Send no more; the peer learns *result*, or *error*, behind the data. An offered stream is accepted
        first."""
        last_word = {"result": result} if error is None else {"error": codec.error_object(error)}
        body = codec.json_bytes(last_word)
        stream = self._streams.get(key)
        if stream is None or stream.we_closed:
            return []
        outputs = self.accept(key)
        assert stream.state is State.OPEN, "closed while opening: abort it"
        stream.we_closed = True
        if stream.peer_closed:
            self._forget(key)
        return [*outputs, Transmit(Kind.CLOSE, 0, key, body)]

    def abort(self, key: int) -> list[Output]:
        """Neither send nor read any more. What was sent before may be lost, unless `close` went before."""
        if key not in self._streams:
            return []
        self._forget(key)
        return [Transmit(Kind.ABORT, 0, key, b"")]

    # What the peer does

    def handle(self, record: codec.Record) -> Sequence[Output]:
        """A record of a stream kind from the peer. Raises LinkViolation; this object is of no use then."""
        key = record.id ^ 1
        stream = self._streams.get(key)
        if record.kind == Kind.OPEN:
            return self._handle_open(key, record.body)
        if stream is None:
            return self._handle_stray(key, record)
        return self._handle_known(key, stream, record)

    def _handle_known(self, key: int, stream: _Stream, record: codec.Record) -> Sequence[Output]:
        opened = stream.state is State.OPEN
        match record.kind:
            case Kind.DATA if opened and not stream.peer_closed:
                price = cost(len(record.body))
                if price > stream.may_arrive:
                    raise LinkViolation(f"sent {price} bytes with {stream.may_arrive} of credit")
                if record.flags > CHANNEL_MAX:
                    raise LinkViolation(f"sent on channel {record.flags}")
                stream.may_arrive -= price
                return (Arrived(key, record.flags, record.body),)
            case Kind.CREDIT if opened:
                stream.may_send += codec.u32_of(record.body)
                if stream.may_send > self._window:
                    raise LinkViolation("gave more credit than there is")
                return (Writable(key),)
            case Kind.CLOSE if opened and not stream.peer_closed:
                last_word = codec.json_object(record.body)
                failure = codec.optional_object(last_word, "error")
                error = None if failure is None else codec.error_of(failure)
                closed = PeerClosed(key, codec.optional_object(last_word, "result"), error)
                stream.peer_closed = True
                if stream.we_closed:
                    self._forget(key)
                return (closed,)
            case Kind.ABORT if not record.body:
                self._forget(key)
                return (Failed(key, StreamClosed("the other end closed the stream")),)
            case Kind.ACCEPT if stream.state is State.OPENING and not record.body:
                stream.state = State.OPEN
                return (Accepted(key),)
            case Kind.REFUSE if stream.state is State.OPENING:
                refusal = codec.error_of(codec.json_object(record.body))
                self._forget(key)
                return (Failed(key, refusal),)
        raise LinkViolation(f"kind {record.kind} on a stream that is {stream.state.value}")

    def _handle_open(self, key: int, body: bytes) -> Sequence[Output]:
        number = key >> 1
        if key & 1 or number <= self._offered_last:
            raise LinkViolation(f"opened stream {number} out of turn")
        self._offered_last = number
        request = codec.json_object(body)
        service, params = request.get("service"), codec.optional_object(request, "params") or {}
        if not isinstance(service, str) or len(service) > NAME_MAX:
            raise LinkViolation("a stream needs the name of a service")
        if self._offered_count >= self._streams_max:
            return self._say_no(key, Overloaded(f"more than {self._streams_max} streams on one link"))
        self._streams[key] = _Stream(State.OFFERED, self._window, self._window)
        self._offered_count += 1
        self.counters["streams_offered"] += 1
        return (Offered(key, service, params),)

    def _handle_stray(self, key: int, record: codec.Record) -> Sequence[Output]:
        """A record for a stream that is not there: late, or nonsense."""
        last = self._opened_last if key & 1 else self._offered_last
        if 0 < key >> 1 <= last:
            self.counters["late_records"] += 1
            return ()
        raise LinkViolation(f"kind {record.kind} on stream {key >> 1}, which never was")

    def _say_no(self, key: int, error: PopnetError) -> Sequence[Output]:
        self.counters["streams_refused"] += 1
        return (Transmit(Kind.REFUSE, 0, key, codec.json_bytes(codec.error_object(error))),)

    def lost(self, error: PopnetError) -> list[Output]:
        """The peer is gone: every stream ends with *error*."""
        keys = list(self._streams)
        self._streams.clear()
        self._offered_count = 0
        return [Failed(key, error) for key in keys]

    def _forget(self, key: int) -> None:
        del self._streams[key]
        self._offered_count -= not key & 1
