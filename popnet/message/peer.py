"""One link of an endpoint, seen from its loop: records out, records in, the calls under way, the streams.

Theory of operation. *Out*: a record goes straight into its ring if nothing waits before it there; else into
the ring's outbox, and the ring is armed for room. A ring that waits (it is in `_waiting`) therefore always
has room armed or a turn coming, and the doorbell or the turn calls `turn`, which goes on. Nobody ever blocks:
streams are held back by credit, messages by the size of the outbox. *In*: `turn` drains the high ring, then
the normal one, up to the budget, of which the normal ring always has a share, so that a flood of the one
cannot starve the other.

A link that raises, or whose peer speaks nonsense, is *dead* from that moment: it is not touched again, and
its host is told, which ends the streams and calls a little later, from the loop, never from inside whoever
happened to send.
"""

import asyncio
import copy
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from itertools import chain
from typing import Protocol

from popnet.core import limits
from popnet.core.errors import LinkViolation, PeerDied, PopnetError
from popnet.message.codec import (
    HEADER,
    Payload,
    Reassembly,
    Record,
    fragments,
    payload_of,
    record_of,
    size_of,
    tag_of,
)
from popnet.message.form import Form, check
from popnet.message.kinds import STREAM_KINDS, Kind, Ring, ring_of
from popnet.message.outbox import BATCH, Outbox
from popnet.message.port import GoneLink, LinkPort
from popnet.message.streamoutputs import Transmit
from popnet.message.streamshell import LinkStream, StreamHub
from popnet.transport._native import LinkClosed, Violation

NORMAL_SHARE = limits.BUDGET // 8
"""Records of the normal ring that a turn handles at least."""

FLUSH_BATCHES = limits.BUDGET // BATCH
"""Batches of waiting records that a turn sends at most, for each ring."""


class Turn(IntEnum):
    """What a turn handled."""

    NONE = 0
    SOME = 1
    FULL = 2
    """A budget: there may be more; call `turn` again before `arm`."""


class Host(Protocol):
    """What a peer needs of its endpoint."""

    generation: int
    counters_total: Counter[str]
    forms: dict[tuple[int, int], Form]

    def wake(self) -> None:
        """See to it that there is a turn soon."""

    def later(self, function: Callable[[], None]) -> object:
        """Run *function* from the loop; from any thread."""

    def offered(self, peer: "Peer", stream: LinkStream) -> None:
        """The peer opened a stream."""

    def dispatch(self, peer: "Peer", ring: Ring, message: Record) -> None:
        """A whole message came. May raise LinkViolation."""

    def lost(self, peer: "Peer", text: str, violation: bool) -> None:
        """The link is dead; once."""


class Peer:
    """The kernel at the other end of one link, in one generation."""

    def __init__(self, host: Host, kid: int, generation: int, link: LinkPort) -> None:
        self.kid = kid
        self.generation = generation
        self.calls: dict[int, asyncio.Future[bytes]] = {}
        self.answer_tasks: dict[int, asyncio.Task[None]] = {}
        self.ports: dict[str, int] = {}
        self.answering = 0
        self.serving = 0
        self.dead = False
        self.polled: frozenset[Ring] = frozenset()
        self.hub = StreamHub(kid, self._transmit, partial(host.offered, self), host.later)
        self._host = host
        self._link = link
        self._boxes = {ring: Outbox() for ring in Ring}
        self._parts = {ring: Reassembly() for ring in Ring}
        self._waiting: set[Ring] = set()
        self._drained: dict[Ring, list[asyncio.Future[None]]] = {ring: [] for ring in Ring}
        self._ended: PopnetError | None = None
        self._count = host.counters_total

    # Tracing

    def wrap(self, link: Callable[[LinkPort], LinkPort], box: Callable[[Outbox], Outbox]) -> None:
        """Put *link*(the link) and *box*(each outbox) where they were."""
        self._link = link(self._link)
        self._boxes = {ring: box(plain) for ring, plain in self._boxes.items()}

    def stream_keys(self, service: str) -> list[int]:
        """The keys of its streams to *service*, opened by either end."""
        return self.hub.keys_of(service)

    # Out

    def post(self, ring: Ring, kind: int, flags: int, id: int, body: bytes) -> bool:
        """Send a message of any size; False: too much waits already. ValueError: larger than any message."""
        if len(body) > limits.MESSAGE_SIZE_MAX:
            raise ValueError(f"a message of {len(body)} bytes; at most {limits.MESSAGE_SIZE_MAX}")
        box = self._boxes[ring]
        if self.dead or not box.has_place(len(body)):
            self._count["queue_full"] += 1
            return False
        records = fragments(ring, kind, flags, id, self.generation, bytes(body))
        if ring in self._waiting:
            box.put_message(records, len(body))
            return True
        left = len(body)
        for tag, payload in records:
            if not self._send(ring, tag, payload):
                box.put_message(chain([(tag, payload)], records), left)
                self._flush(ring)
                break
            left -= size_of(payload) - HEADER.size
        return True

    def waiting_size(self) -> int:
        """Bytes of messages that wait for room, on both rings."""
        return sum(box.messages_size for box in self._boxes.values())

    async def drained(self, ring: Ring) -> None:
        """Wait until nothing waits for room in *ring*: how a sender of much is held back. Raises PeerDied."""
        while ring in self._waiting and not self.dead:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drained[ring].append(future)
            await future
        self.raise_if_ended()

    def is_drained(self, ring: Ring) -> bool:
        """Whether nothing waits for room in *ring*: what is posted goes at once, or is the first to wait."""
        return ring not in self._waiting and not self.dead

    def raise_if_ended(self) -> None:
        """Raises the error that the link ended with, if it did."""
        if self._ended is not None:
            raise copy.copy(self._ended)
        if self.dead:
            raise PeerDied(f"the link to kernel {self.kid} is gone")

    def _transmit(self, record: Transmit) -> None:
        ring = ring_of(record.kind)
        tag, payload = tag_of(record.kind, record.flags), payload_of(record.id, self.generation, record.body)
        if ring in self._waiting:
            self._boxes[ring].put(tag, payload)
        elif not self._send(ring, tag, payload):
            self._boxes[ring].put(tag, payload)
            self._flush(ring)

    def _send(self, ring: Ring, tag: int, payload: Payload) -> bool:
        """Into the ring at once; False: no room. What is sent on a dead link is gone."""
        if self.dead:
            return True
        try:
            went = self._link.send(ring, payload, tag)
        except (Violation, LinkClosed) as error:
            self._die(error)
            return True
        self._count["sent" if went else "waited_for_room"] += 1
        return went

    def _flush(self, ring: Ring) -> None:
        """Send what waits while there is room; what still waits then has room armed, or a turn coming."""
        box = self._boxes[ring]
        self._waiting.add(ring)
        for _ in range(FLUSH_BATCHES):
            staged = box.staged()
            if not staged or self.dead:
                self._waiting.discard(ring)
                self._wake_drained(ring)
                return
            try:
                went = self._link.send_many(ring, staged)
                box.sent(went)
                self._count["sent"] += went
                if staged and self._link.arm_room(ring, size_of(staged[0][1])):
                    return
            except (Violation, LinkClosed) as error:
                self._die(error)
        self._host.wake()

    def _wake_drained(self, ring: Ring) -> None:
        waiters, self._drained[ring] = self._drained[ring], []
        for future in waiters:
            if not future.done():
                future.set_result(None)

    # In

    def turn(self) -> Turn:
        """Handle a budget of records and send what has room."""
        high = self._drain(Ring.HIGH, limits.BUDGET)
        budget = max(limits.BUDGET - high, NORMAL_SHARE)
        normal = self._drain(Ring.NORMAL, budget)
        for ring in tuple(self._waiting):
            self._flush(ring)
        if high == limits.BUDGET or normal == budget:
            return Turn.FULL
        return Turn.SOME if high or normal else Turn.NONE

    def arm(self) -> bool:
        """Ask for a kick at the next record, but for rings that are `polled`. False: there is one already."""
        if self.dead:
            return True
        try:
            return all(self._link.arm(ring) for ring in Ring if ring not in self.polled)
        except (Violation, LinkClosed) as error:
            self._die(error)
            return True

    def _drain(self, ring: Ring, budget: int) -> int:
        if self.dead:
            return 0
        try:
            records = self._link.receive_many(ring, budget)
            if not records:
                return 0
            for tag, payload in records:
                self._handle(ring, record_of(tag, payload))
                if self.dead:
                    return 0
        except (Violation, LinkViolation, LinkClosed) as error:
            self._die(error)
            return 0
        self._count["received"] += len(records)
        return len(records)

    def _handle(self, ring: Ring, record: Record) -> None:
        if record.generation != self._host.generation:
            self._count["stale"] += 1
            if record.kind not in (Kind.STALE, Kind.UNKNOWN):
                self.post(ring, Kind.STALE, 0, 0, self._host.generation.to_bytes(4, "little"))
        elif record.kind in STREAM_KINDS:
            self.hub.handle(record)
        else:
            message = self._parts[ring].feed(record)
            if message is not None:
                check(message, self._host.forms)
                self._host.dispatch(self, ring, message)

    # The end

    def _die(self, error: Exception) -> None:
        if not self.dead:
            self.dead = True
            self._host.lost(self, str(error), not isinstance(error, LinkClosed))

    def end(self, error: PopnetError) -> None:
        """Every stream and call of this peer ends with *error*; the link is let go of."""
        self.dead = True
        self._link = GoneLink()
        self._ended = error
        self._waiting.clear()
        for ring in Ring:
            self._wake_drained(ring)
        for task in self.answer_tasks.values():
            if task is not asyncio.current_task():
                task.cancel()
        self._boxes = {ring: Outbox() for ring in Ring}
        self._parts = {ring: Reassembly() for ring in Ring}
        self.hub.lost(error)
        for future in self.calls.values():
            if not future.done():
                future.set_exception(copy.copy(error))
        self.calls.clear()
