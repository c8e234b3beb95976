"""Joins the two halves of each traced record to one story: pure, bounded, and in the order of time.

Theory of operation. Halves come from several kernels, each stream a little later than it happened, and none
waits for another. A record whose halves are both there is given out once it is HOLD_NS old, so that others
which began before it have had time to come; one of which only one half came, because nobody traces the other
end, or it was lost, or is still to be handled, is given out alone when it is LATE_NS old. If its other half
does come after that, it too is given out alone. Times are arguments.
"""

from dataclasses import dataclass
from typing import Final

from popnet.core.errors import LinkViolation
from popnet.message.codec import HEADER
from popnet.message.tracehalf import Received, Sent

HOLD_NS: Final = 200_000_000
LATE_NS: Final = 1_000_000_000

WAITING_MAX: Final = 100_000
"""Records that wait for their other half, or their time; beyond it all are given out as they are."""

_Key = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Traced:
    """One record from its enqueue to the end of its handler. Times are CLOCK_MONOTONIC in ns; 0: not known.

    Attributes:
        sender, receiver: kids, each with its generation.
        number: records that went through this ring of this link before it.
        kick_ns: when the receiver's doorbell had been rung for it: the call that did so had come back, or the
            receiver was there, whichever was first; 0: it was not rung.
        wake_ns: when the receiver turned to its rings, or, if it was at them already, had the record.
        awake: it was at them already.
    """

    sender: int
    sender_generation: int
    receiver: int
    receiver_generation: int
    ring: int
    number: int
    tag: int
    size: int
    payload: bytes
    enqueue_ns: int = 0
    publish_ns: int = 0
    sent_ns: int = 0
    kick_ns: int = 0
    wake_ns: int = 0
    begin_ns: int = 0
    handle_ns: int = 0
    awake: bool = False

    @property
    def start_ns(self) -> int:
        """The first time that is known of it."""
        return self.enqueue_ns or self.publish_ns or self.wake_ns

    @property
    def whole(self) -> bool:
        """Whether both halves are there."""
        return bool(self.publish_ns and self.handle_ns)

    @property
    def kind(self) -> int:
        return self.tag & 0xFFFF

    @property
    def flags(self) -> int:
        return self.tag >> 16

    @property
    def id(self) -> int:
        """Of its stream or call, as it is on the wire."""
        return int.from_bytes(self.payload[:4], "little")


class Joiner:
    """Halves in, records out."""

    def __init__(self) -> None:
        self._sent: dict[_Key, Sent] = {}
        self._received: dict[_Key, Received] = {}

    def add(self, kid: int, generation: int, half: Sent | Received) -> None:
        """What kernel *kid* saw. Raises LinkViolation for what is no message."""
        if len(half.payload) < min(HEADER.size, half.size):
            raise LinkViolation(f"a trace that kept {len(half.payload)} bytes of a message")
        if isinstance(half, Sent):
            key = (kid, generation, half.peer, half.peer_generation, half.ring, half.number)
            self._sent[key] = half
        else:
            key = (half.peer, half.peer_generation, kid, generation, half.ring, half.number)
            self._received[key] = half

    def take(self, now_ns: int) -> list[Traced]:
        """What is due."""
        if len(self._sent) + len(self._received) > WAITING_MAX:
            return self.rest()
        return self._given(now_ns - HOLD_NS, now_ns - LATE_NS)

    def rest(self) -> list[Traced]:
        """Everything, due or not."""
        return self._given(None, None)

    def _given(self, whole_before_ns: int | None, any_before_ns: int | None) -> list[Traced]:
        """What began before these times, the first of them for records with both halves; None: all."""
        given = []
        for key in [*self._sent, *(key for key in self._received if key not in self._sent)]:
            traced = _join(key, self._sent.get(key), self._received.get(key))
            before_ns = whole_before_ns if traced.whole else any_before_ns
            if before_ns is None or traced.start_ns < before_ns:
                given.append(traced)
                self._sent.pop(key, None)
                self._received.pop(key, None)
        given.sort(key=lambda traced: traced.start_ns)
        return given


def _join(key: _Key, sent: Sent | None, received: Received | None) -> Traced:
    half = sent or received
    assert half is not None
    times: dict[str, int] = {}
    awake = False
    if sent is not None:
        times |= {"enqueue_ns": sent.enqueue_ns, "publish_ns": sent.publish_ns, "sent_ns": sent.sent_ns}
        times["kick_ns"] = sent.sent_ns if sent.kicked else 0
    if received is not None:
        awake = sent is not None and received.wake_ns < sent.publish_ns
        times["wake_ns"] = received.taken_ns if awake else received.wake_ns
        times["kick_ns"] = min(times.get("kick_ns", 0), times["wake_ns"])
        times |= {"begin_ns": received.begin_ns, "handle_ns": received.handle_ns}
    return Traced(*key, half.tag, half.size, half.payload, **times, awake=awake)
