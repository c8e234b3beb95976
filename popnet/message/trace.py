"""Tracing: wrappers around the links of an endpoint that note when each record was enqueued, published,
taken and handled.

Theory of operation. Off, there is nothing: links and outboxes are the plain ones, and no line of the way of a
message asks whether it is traced. With the first sink, every peer's link becomes a TracedLink and its
outboxes TracedOutboxes, also those of peers that come later; with the last one gone, the plain ones are put
back. What waits in an outbox stays in it, since a TracedOutbox only wraps.

    post ─► outbox (if the ring is full) ─► send, send_many ═ring═► receive_many ─► handler
         enqueue                        publish      sent           wake, taken     begin, handle

- *enqueue*: `send` is called, or the record is put into the outbox, whichever is first.
- *kicked*: the ring's count of kicks grew in the call that sent it.
- *wake*: the first look at any ring of this endpoint since one was armed. An endpoint arms all its rings
  before it sleeps, so this is the begin of the turn, or of the turns without sleep, that got the record.
- *handle*: the peer's loop comes back for the next record. `receive_many` gives a list that notices.

Numbers come from the link's own counters, which both ends keep since it began; so nothing on the wire
changes, and the two ends may begin to trace at any time.

Forbidden: tracing the records of `trace` streams: each would make another. They are known by the id of their
stream, learnt from the streams that are there at the start, and from each OPEN that passes. A sink must not
block and must not raise.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

from popnet.message.codec import HEADER, Payload, whole
from popnet.message.kinds import STREAM_KINDS, Kind, Ring
from popnet.message.outbox import Outbox
from popnet.message.port import LinkPort
from popnet.message.tracehalf import Received, Sent

SERVICE: Final = "trace"
"""The service whose streams are never traced."""

NAMES: Final = {int(ring): ring.name.lower() for ring in Ring}
"""The rings as links' counters call them."""

Sink = Callable[[Sent | Received], None]


class TraceablePeer(Protocol):
    """What tracing needs of a peer."""

    kid: int
    generation: int

    def wrap(self, link: Callable[[LinkPort], LinkPort], box: Callable[[Outbox], Outbox]) -> None:
        """Put *link*(its link) and *box*(each outbox) where they were."""

    def stream_keys(self, service: str) -> list[int]:
        """The keys of its streams to *service*, either way."""


class Tracer:
    """The tracing of one endpoint.

    Attributes:
        awake_since_ns: when it first looked at a ring since it last armed one; 0: it may sleep.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.clock = clock
        self.awake_since_ns = 0
        self._sinks: list[Sink] = []

    def start(self, sink: Sink, peers: Iterable[TraceablePeer]) -> None:
        """Let *sink* have every half from now on."""
        self._sinks.append(sink)
        if len(self._sinks) == 1:
            self.awake_since_ns = self.clock()  # whoever calls this is awake
            for peer in peers:
                self._wrap(peer)

    def stop(self, sink: Sink, peers: Iterable[TraceablePeer]) -> None:
        """The last one that stops leaves everything as it was before the first. Idempotent."""
        if sink not in self._sinks:
            return
        self._sinks.remove(sink)
        if not self._sinks:
            for peer in peers:
                peer.wrap(_plain_link, _plain_box)

    def add(self, peer: TraceablePeer) -> None:
        """There is a new peer."""
        if self._sinks:
            self._wrap(peer)

    def put(self, half: Sent | Received) -> None:
        for sink in tuple(self._sinks):
            sink(half)

    def _wrap(self, peer: TraceablePeer) -> None:
        enqueued: dict[int, int] = {}
        own_keys = set(peer.stream_keys(SERVICE))
        peer.wrap(
            lambda link: TracedLink(link, self, peer.kid, peer.generation, enqueued, own_keys),
            lambda box: TracedOutbox(box, self.clock, enqueued),
        )


def _plain_link(link: LinkPort) -> LinkPort:
    return link.plain if isinstance(link, TracedLink) else link


def _plain_box(box: Outbox) -> Outbox:
    return box.plain if isinstance(box, TracedOutbox) else box


class TracedOutbox(Outbox):
    """An outbox that notes when each record came.

    Args:
        enqueued: gets the time by the identity of the payload, which lives as long as it waits.
    """

    def __init__(self, plain: Outbox, clock: Callable[[], int], enqueued: dict[int, int]) -> None:
        self.plain = plain
        self._clock = clock
        self._enqueued = enqueued

    def __bool__(self) -> bool:
        return bool(self.plain)

    def put(self, tag: int, payload: bytes) -> None:
        self._enqueued.setdefault(id(payload), self._clock())
        self.plain.put(tag, payload)

    def has_place(self, size: int) -> bool:
        return self.plain.has_place(size)

    def put_message(self, records: Iterator[tuple[int, Payload]], size: int) -> None:
        self.plain.put_message(self._noted(records, self._clock()), size)

    def staged(self) -> Sequence[tuple[int, Payload]]:
        return self.plain.staged()

    def sent(self, count: int) -> None:
        self.plain.sent(count)

    def _noted(self, records: Iterator[tuple[int, Payload]], now: int) -> Iterator[tuple[int, Payload]]:
        for record in records:
            self._enqueued.setdefault(id(record[1]), now)
            yield record


class TracedLink:
    """A link that tells *tracer* of every record; else it does what *plain* does.

    Args:
        enqueued: when the records that wait were put, by the identity of their payloads.
        own_keys: of `trace` streams on this link; grows with each that is opened.
    """

    def __init__(
        self,
        plain: LinkPort,
        tracer: Tracer,
        peer: int,
        peer_generation: int,
        enqueued: dict[int, int],
        own_keys: set[int],
    ) -> None:
        self.plain = plain
        self._tracer = tracer
        self._peer = (peer, peer_generation)
        self._enqueued = enqueued
        self._own_keys = own_keys
        counts = plain.counters()
        self._kicks = {ring: counts[f"{name}_kicks"] for ring, name in NAMES.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def send(self, ring: int, data: Payload, /, tag: int = 0) -> bool:
        before = self._tracer.clock()
        went = self.plain.send(ring, data, tag)
        if went:
            self._tell_sent(ring, ((tag, data),), before, self._tracer.clock(), before)
        else:
            self._enqueued[id(data)] = before  # it goes into the outbox now
        return went

    def send_many(self, ring: int, items: Sequence[tuple[int, Payload]], /) -> int:
        before = self._tracer.clock()
        went = self.plain.send_many(ring, items)
        if went:
            self._tell_sent(ring, items[:went], before, self._tracer.clock(), 0)
        return went

    def receive_many(self, ring: int, budget: int, /) -> list[tuple[int, bytes]]:
        tracer = self._tracer
        if not tracer.awake_since_ns:
            tracer.awake_since_ns = tracer.clock()
        records = self.plain.receive_many(ring, budget)
        if not records:
            return records
        taken = tracer.clock()
        first = self.plain.counters()[f"{NAMES[ring]}_received"] - len(records)
        return _Taken(records, lambda: self._handling(ring, records, first, tracer.awake_since_ns, taken))

    def arm(self, ring: int, /) -> bool:
        self._tracer.awake_since_ns = 0
        return self.plain.arm(ring)

    def arm_room(self, ring: int, size: int, /) -> bool:
        return self.plain.arm_room(ring, size)

    def counters(self) -> dict[str, int]:
        return self.plain.counters()

    def _tell_sent(
        self, ring: int, items: Sequence[tuple[int, Payload]], before: int, after: int, enqueued: int
    ) -> None:
        counts = self.plain.counters()
        kicks = counts[f"{NAMES[ring]}_kicks"]
        kicked, self._kicks[ring] = kicks != self._kicks[ring], kicks
        first = counts[f"{NAMES[ring]}_sent"] - len(items)
        for number, (tag, data) in enumerate(items, first):
            since, payload = self._enqueued.pop(id(data), enqueued), whole(data)
            if not self._is_own(tag, payload, own_bit=0):
                about = (ring, *self._peer, number, tag, len(payload), payload)
                self._tracer.put(Sent(*about, since, before, after, kicked))

    def _handling(
        self, ring: int, records: list[tuple[int, bytes]], first: int, wake: int, taken: int
    ) -> Iterator[tuple[int, bytes]]:
        """Each record, told of when its handler has come back, also if that was by an exception."""
        clock = self._tracer.clock
        for number, record in enumerate(records, first):
            begin = clock()
            try:
                yield record
            finally:
                end = clock()
                tag, payload = record
                if not self._is_own(tag, payload, own_bit=1):
                    about = (ring, *self._peer, number, tag, len(payload), payload)
                    self._tracer.put(Received(*about, wake, taken, begin, end))

    def _is_own(self, tag: int, payload: bytes, own_bit: int) -> bool:
        """Whether this is a record of a `trace` stream; its key is the id that this end would send."""
        kind = tag & 0xFFFF
        if kind not in STREAM_KINDS or len(payload) < HEADER.size:
            return False
        key = int(HEADER.unpack_from(payload)[0]) ^ own_bit
        if kind == Kind.OPEN and _service_of(payload) == SERVICE:
            self._own_keys.add(key)
        return key in self._own_keys


class _Taken(list[tuple[int, bytes]]):
    """Records, and who looks on while they are gone through, once."""

    def __init__(
        self, records: list[tuple[int, bytes]], handling: Callable[[], Iterator[tuple[int, bytes]]]
    ) -> None:
        super().__init__(records)
        self._handling = handling

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return self._handling()


def _service_of(payload: bytes) -> object:
    try:
        value = json.loads(payload[HEADER.size :])
    except (ValueError, RecursionError):
        return None
    return value.get("service") if isinstance(value, dict) else None
