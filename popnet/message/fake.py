"""A link for tests, with the interface, the limits and the ends of the real one, and no shared memory.

Two FakeLinks of a pair kick eventfds as real links do, so that an Endpoint cannot tell the difference. A test
may hold one end itself and speak nonsense, or make an end raise as if its peer had written nonsense into the
window.
"""

import os
from collections.abc import Mapping, Sequence

from popnet.message.codec import Payload
from popnet.message.memory import RING_SIZES, MemoryLink, MemoryRing
from popnet.transport._native import LinkClosed, Violation


class FakeLink(MemoryLink):
    """One end of a fake link; make two with `fake_links`."""

    violation: str | None = None
    closed = False

    def violate(self, text: str) -> None:
        """From now on every call raises, as after nonsense in the peer's window; tells the owner with a
        kick."""
        self.violation = text
        for ring in self.incoming.values():
            ring.armed_data = False
            ring.kick_consumer()

    def close(self) -> None:
        self.closed = True

    def send(self, ring: int, data: Payload, tag: int = 0) -> bool:
        self._check()
        return super().send(ring, data, tag)

    def send_many(self, ring: int, items: Sequence[tuple[int, Payload]]) -> int:
        self._check()
        return super().send_many(ring, items)

    def receive(self, ring: int) -> tuple[int, bytes] | None:
        records = self.receive_many(ring, 1)
        return records[0] if records else None

    def receive_many(self, ring: int, budget: int) -> list[tuple[int, bytes]]:
        self._check()
        return super().receive_many(ring, budget)

    def arm(self, ring: int) -> bool:
        self._check()
        return super().arm(ring)

    def disarm(self, ring: int) -> None:
        self._check()
        self.incoming[ring].armed_data = False

    def arm_room(self, ring: int, size: int) -> bool:
        self._check()
        return super().arm_room(ring, size)

    def disarm_room(self, ring: int) -> None:
        self._check()
        self.outgoing[ring].armed_room = False

    def counters(self) -> dict[str, int]:
        return super().counters() | {
            "produced": sum(ring.produced for ring in self.outgoing.values()),
            "consumed": sum(ring.consumed for ring in self.incoming.values()),
        }

    def _check(self) -> None:
        if self.violation is not None:
            raise Violation(self.violation)
        if self.closed:
            raise LinkClosed("closed")


def fake_links(bell_a: int, bell_b: int, sizes: Mapping[int, int] = RING_SIZES) -> tuple[FakeLink, FakeLink]:
    """The two ends of a link: a's, whose owner listens at the eventfd *bell_a*, and b's.

    Args:
        sizes: bytes of each ring, by its number.
    """

    def rings(consumer_bell: int, producer_bell: int) -> dict[int, MemoryRing]:
        return {
            ring: MemoryRing(
                size,
                lambda: os.eventfd_write(consumer_bell, 1),
                lambda: os.eventfd_write(producer_bell, 1),
            )
            for ring, size in sizes.items()
        }

    a_to_b, b_to_a = rings(bell_b, bell_a), rings(bell_a, bell_b)
    return FakeLink(a_to_b, b_to_a), FakeLink(b_to_a, a_to_b)
