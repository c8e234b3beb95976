"""A link in memory, for two ends on one thread: a kernel's link to itself, and the ground of FakeLink.

Rings are bounded in bytes as the real ones are, doorbells are functions, and arming means what it means in
`port`: one kick for one arm. No other thread is there, so nothing can come between "look" and "arm".
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from popnet.core import limits
from popnet.message.codec import Payload, whole
from popnet.message.kinds import Ring

RING_SIZES: Mapping[int, int] = {Ring.HIGH: limits.RING_HIGH_SIZE, Ring.NORMAL: limits.RING_NORMAL_SIZE}


def record_size(payload_size: int) -> int:
    """Bytes of ring that a record takes: header and payload, up to the next cache line."""
    return -(-(limits.RECORD_HEADER_SIZE + payload_size) // limits.RECORD_ALIGN) * limits.RECORD_ALIGN


class MemoryRing:
    """Records on their way from one producer to one consumer.

    Args:
        size: bytes of records it holds.
        kick_consumer, kick_producer: their doorbells.
    """

    def __init__(
        self, size: int, kick_consumer: Callable[[], None], kick_producer: Callable[[], None]
    ) -> None:
        self.size = size
        self.produced = 0
        self.consumed = 0
        self.sent = 0
        self.kicks = 0
        self.armed_data = False
        self.armed_room = False
        self.kick_consumer = kick_consumer
        self.kick_producer = kick_producer
        self._records: deque[tuple[int, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._records)

    def has_room(self, payload_size: int) -> bool:
        return self.produced - self.consumed + record_size(payload_size) <= self.size

    def put(self, tag: int, data: Payload) -> bool:
        payload = whole(data)
        if len(payload) > self.size // 2:
            raise ValueError(f"a record of {len(payload)} bytes in a ring of {self.size}")
        if not self.has_room(len(payload)):
            return False
        self.produced += record_size(len(payload))
        self.sent += 1
        self._records.append((tag, bytes(payload)))
        if self.armed_data:
            self.armed_data = False
            self.kicks += 1
            self.kick_consumer()
        return True

    def take(self, budget: int) -> list[tuple[int, bytes]]:
        taken = [self._records.popleft() for _ in range(min(budget, len(self._records)))]
        self.consumed += sum(record_size(len(payload)) for _, payload in taken)
        if taken and self.armed_room:
            self.armed_room = False
            self.kick_producer()
        return taken


class MemoryLink:
    """One end of a link: what it sends goes into *outgoing*, what it receives comes from *incoming*."""

    def __init__(self, outgoing: Mapping[int, MemoryRing], incoming: Mapping[int, MemoryRing]) -> None:
        self.outgoing = outgoing
        self.incoming = incoming

    @classmethod
    def to_itself(cls, kick: Callable[[], None]) -> "MemoryLink":
        """A link whose two ends are one."""
        rings = {ring: MemoryRing(size, kick, kick) for ring, size in RING_SIZES.items()}
        return cls(rings, rings)

    def send(self, ring: int, data: Payload, tag: int = 0) -> bool:
        return self.outgoing[ring].put(tag, data)

    def send_many(self, ring: int, items: Sequence[tuple[int, Payload]]) -> int:
        for count, (tag, payload) in enumerate(items):
            if not self.send(ring, payload, tag):
                return count
        return len(items)

    def receive_many(self, ring: int, budget: int) -> list[tuple[int, bytes]]:
        return self.incoming[ring].take(budget)

    def arm(self, ring: int) -> bool:
        self.incoming[ring].armed_data = not self.incoming[ring]
        return self.incoming[ring].armed_data

    def arm_room(self, ring: int, size: int) -> bool:
        self.outgoing[ring].armed_room = not self.outgoing[ring].has_room(size)
        return self.outgoing[ring].armed_room

    def counters(self) -> dict[str, int]:
        counts = {}
        for ring, out in self.outgoing.items():
            into, name = self.incoming[ring], Ring(ring).name.lower()
            counts[f"{name}_sent"] = out.sent
            counts[f"{name}_received"] = into.sent - len(into)
            counts[f"{name}_kicks"] = out.kicks
        return counts
