"""popnet's own link from Python: blocking, one message a call or in batches."""

import os
import select
from time import perf_counter_ns
from typing import Final

from popnet.bench.timing import Base, BlockingRoles
from popnet.core.limits import BUDGET, POLL_US
from popnet.transport._native import Link
from popnet.transport.doorbell import create_doorbell, drain
from popnet.transport.window import attach_window, create_window

NORMAL: Final = 1
BATCH: Final = 64
"""Records published together by a sender that has many."""


class RingWire(Base):
    """A message a call, waited for in one of the receive modes."""

    def __init__(self, link: Link, bell: int, mode: str) -> None:
        self._link, self._bell = link, bell
        self._spin_ns = {"poll": -1, "adaptive": POLL_US * 1000, "interrupt": 0}[mode]
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)

    def send(self, data: bytes, /) -> None:
        while not self._link.send(NORMAL, data):
            self._wait_for_room(len(data))

    def receive(self) -> bytes:
        receive = self._link.receive
        while True:
            record = receive(NORMAL)
            if record is not None:
                return record[1]
            self._wait_for_data()

    def _wait_for_data(self) -> None:
        """Return when a look is worth it: while spinning at once, else after a kick."""
        if self._spin_ns < 0:
            return
        if self._spin_ns:
            end = perf_counter_ns() + self._spin_ns
            while perf_counter_ns() < end:
                if not self._link.arm(NORMAL):
                    return
                os.sched_yield()
        if self._link.arm(NORMAL):
            self._poll.poll()
            drain(self._bell)
            self._link.disarm(NORMAL)

    def _wait_for_room(self, size: int) -> None:
        if self._spin_ns < 0:
            return
        if self._link.arm_room(NORMAL, size):
            self._poll.poll()
            drain(self._bell)
            self._link.disarm_room(NORMAL)


class BatchWire(RingWire):
    """The same, but streams go in batches: published, and their space released, together."""

    def send_stream(self, data: bytes, count: int) -> None:
        batch = [(0, data)] * BATCH
        while count:
            items = batch if count >= BATCH else batch[:count]
            sent = self._link.send_many(NORMAL, items)
            count -= sent
            if sent < len(items):
                self._wait_for_room(len(data))

    def receive_stream(self, count: int) -> tuple[int, bytes]:
        size, last = 0, b""
        while count:
            records = self._link.receive_many(NORMAL, BUDGET)
            if not records:
                self._wait_for_data()
                continue
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


def ring_roles(mode: str, batches: bool) -> BlockingRoles:
    kind = BatchWire if batches else RingWire
    one, other = links()
    return BlockingRoles(lambda: kind(*one, mode), lambda: kind(*other, mode))
