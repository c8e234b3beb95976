"""What an endpoint needs of a link: a small device, which the transport's Link, MemoryLink and FakeLink all
are.

Theory of operation, for whoever implements one: a ring is drained with `receive_many` until it gives nothing,
then armed, and `arm` looks again before it says that sleeping is safe. A full ring is the same with
`arm_room`. After either, the peer kicks the doorbell once. Any call may raise Violation (the peer wrote
nonsense) or LinkClosed; the link is lost then.
"""

from collections.abc import Sequence
from typing import Protocol

from popnet.message.codec import Payload
from popnet.transport._native import LinkClosed


class LinkPort(Protocol):
    """Rings are 0 (high) and 1 (normal); records are (tag, payload), to be sent also one in two pieces."""

    def send(self, ring: int, data: Payload, /, tag: int = 0) -> bool:
        """Send one record; False: no room. ValueError: longer than half the ring."""

    def send_many(self, ring: int, items: Sequence[tuple[int, Payload]], /) -> int:
        """Send records, made visible together; how many had room."""

    def receive_many(self, ring: int, budget: int, /) -> list[tuple[int, bytes]]:
        """At most *budget* records."""

    def arm(self, ring: int, /) -> bool:
        """Ask for a kick when data comes. False: there is some already; do not sleep."""

    def arm_room(self, ring: int, size: int, /) -> bool:
        """Ask for a kick when there may be room for a payload of *size*. False: there is already; try
        again."""

    def counters(self) -> dict[str, int]:
        """Of each ring, `high_` and `normal_`, since the link began: records `sent` and `received`, and the
        `kicks` given for data."""


class GoneLink:
    """In place of a link that has ended. A peer that ended is in a cycle of objects: it waits for the
    collector, and would keep the windows and doorbells of the real link until then."""

    def send(self, ring: int, data: Payload, /, tag: int = 0) -> bool:
        raise LinkClosed("the link is gone")

    def send_many(self, ring: int, items: Sequence[tuple[int, Payload]], /) -> int:
        raise LinkClosed("the link is gone")

    def receive_many(self, ring: int, budget: int, /) -> list[tuple[int, bytes]]:
        raise LinkClosed("the link is gone")

    def arm(self, ring: int, /) -> bool:
        raise LinkClosed("the link is gone")

    def arm_room(self, ring: int, size: int, /) -> bool:
        raise LinkClosed("the link is gone")

    def counters(self) -> dict[str, int]:
        return {}
