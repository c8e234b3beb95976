"""popnet's own link from Python: blocking, one message a call or in batches."""

import os
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

    `send` is the ring's own: in a round trip it is never full. A poller needs no wait: it asks again.
    """

    def __init__(self, link: Link, bell: int, mode: Mode) -> None:
        self._link, self._bell = link, bell
        self._plain = link.plain(NORMAL)
        self.send = self._plain.send  # type: ignore[method-assign]
        link.set_mode(NORMAL, mode)
        if mode == "poll":
            self.receive = self._ask_again  # type: ignore[method-assign]

    def receive(self) -> bytes:
        return self._link.receive_wait(NORMAL, 1, None, self._bell)[0][1]

    def _ask_again(self) -> bytes:
        receive = self._plain.receive
        while (data := receive()) is None:
            pass
        return data

    def send_stream(self, data: bytes, count: int) -> None:
        send = self._plain.send
        for _ in range(count):
            if not send(data):
                self._link.send_wait(NORMAL, data, 0, None, self._bell)


class BatchWire(RingWire):
    """The same, but streams go in batches: published, and their space released, together."""

    def send_stream(self, data: bytes, count: int) -> None:
        send_many, batch = self._plain.send_many, [data] * BATCH
        while count:
            sent = send_many(batch if count >= BATCH else batch[:count])
            count -= sent
            if not sent:
                self._link.send_wait(NORMAL, data, 0, None, self._bell)
                count -= 1

    def receive_stream(self, count: int) -> tuple[int, bytes]:
        receive_many = self._plain.receive_many
        size, last = 0, b""
        while count:
            if payloads := receive_many(BUDGET):
                size += sum(map(len, payloads))
                last = payloads[-1]
                count -= len(payloads)
            else:
                last = self.receive()
                size += len(last)
                count -= 1
        return size, last


class PackedWire(RingWire):
    """The same, but a stream is a buffer of messages of one size: no object for each."""

    def send_stream(self, data: bytes, count: int) -> None:
        send_packed, each, batch = self._plain.send_packed, len(data), memoryview(data * BATCH)
        while count:
            sent = send_packed(batch if count >= BATCH else batch[: count * each], each)
            count -= sent
            if not sent:
                self._link.send_wait(NORMAL, data, 0, None, self._bell)
                count -= 1

    def receive_stream(self, count: int) -> tuple[int, bytes]:
        receive_packed = self._plain.receive_packed
        last = self.receive()
        size = each = len(last)
        count -= 1
        room = memoryview(bytearray(each * BUDGET))
        while count:
            if got := receive_packed(room, each):
                last = bytes(room[(got - 1) * each : got * each])
            else:
                got, last = 1, self.receive()
            size += got * each
            count -= got
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


KINDS: Final = {"popnet-python": RingWire, "popnet-batches": BatchWire, "popnet-packed": PackedWire}


def ring_roles(wire: str, mode: Mode) -> BlockingRoles:
    kind = KINDS[wire]
    one, other = links()
    return BlockingRoles(lambda: kind(*one, mode), lambda: kind(*other, mode))
