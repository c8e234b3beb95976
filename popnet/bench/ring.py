"""popnet's own link from Python: blocking, one message a call or in batches."""

import os
from functools import partial
from typing import Final

from popnet.bench.timing import Base, BlockingRoles
from popnet.core.limits import BUDGET
from popnet.transport._native import Link
from popnet.transport.doorbell import create_doorbell
from popnet.transport.modes import Mode
from popnet.transport.window import attach_window, create_window

HIGH: Final = 0
NORMAL: Final = 1
BATCH: Final = 64
"""Records published together by a sender that has many."""


class RingWire(Base):
    """A message a call, waited for in one of the receive modes.

    `send` is the link's own: in a round trip its ring is never full. A poller needs no wait: it asks again.
    """

    def __init__(self, link: Link, bell: int, mode: Mode) -> None:
        self._link, self._bell = link, bell
        self.send = partial(link.send, NORMAL)  # type: ignore[method-assign]
        link.set_mode(NORMAL, mode)
        if mode == "poll":
            self.receive = self._ask_again  # type: ignore[method-assign]

    def receive(self) -> bytes:
        return self._link.receive_wait(NORMAL, 1, None, self._bell)[0][1]

    def _ask_again(self) -> bytes:
        receive = self._link.receive
        while (record := receive(NORMAL)) is None:
            pass
        return record[1]

    def send_stream(self, data: bytes, count: int) -> None:
        link = self._link
        for _ in range(count):
            if not link.send(NORMAL, data):
                link.send_wait(NORMAL, data, 0, None, self._bell)


class BatchWire(RingWire):
    """The same, but streams go in batches: published, and their space released, together."""

    def send_stream(self, data: bytes, count: int) -> None:
        send_many, batch = self._link.send_many, [(0, data)] * BATCH
        while count:
            sent = send_many(NORMAL, batch if count >= BATCH else batch[:count])
            count -= sent
            if not sent:
                self._link.send_wait(NORMAL, data, 0, None, self._bell)
                count -= 1

    def receive_stream(self, count: int) -> tuple[int, bytes]:
        receive, bell = self._link.receive_wait, self._bell
        size, last = 0, b""
        while count:
            records = receive(NORMAL, BUDGET, None, bell)
            for _, last in records:
                size += len(last)
            count -= len(records)
        return size, last


def links() -> list[tuple[Link, int]]:
    """Both ends of a fresh link, each with its doorbell; made before the fork, used by one process each."""
    bells = [create_doorbell(), create_doorbell()]
    made = [create_window(1, 1, 2), create_window(2, 1, 1)]
    ends = []
    for own in (0, 1):
        peer = 1 - own
        ends.append((Link(made[own][0], attach_window(made[peer][1]), bells[peer], -1), bells[own]))
    for _, fd in made:
        os.close(fd)
    return ends


def ring_roles(mode: Mode, batches: bool) -> BlockingRoles:
    kind = BatchWire if batches else RingWire
    one, other = links()
    return BlockingRoles(lambda: kind(*one, mode), lambda: kind(*other, mode))
