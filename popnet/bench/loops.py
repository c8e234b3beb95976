"""popnet's own link under an event loop, and a bare eventfd on the same loop as its yardstick."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final, Protocol

from popnet.bench.ring import HIGH, NORMAL, links
from popnet.bench.timing import (
    DISTINCT,
    STREAMED,
    TRIPS,
    VERIFIED,
    Control,
    Figures,
    check_echo,
    check_report,
    figures,
    fitting,
    messages,
    report,
    wait_for_follower,
)
from popnet.core.limits import BUDGET
from popnet.kernel.loop import run
from popnet.transport._native import Link, look
from popnet.transport.doorbell import create_doorbell, drain
from popnet.transport.modes import SPIN_MAX_US, Mode

TRIED_BYTES: Final = 64 << 20
"""A stream that only finds out how long a longer one takes carries no more, if that is many messages."""

YIELD_EVERY: Final = 64
"""Messages that a sender stages between two turns of its loop."""


class AwaitedWire(Protocol):
    """One end of a wire that is awaited."""

    def send_now(self, data: bytes, /) -> bool:
        """False: there is no room, and nothing is sent."""

    async def send(self, data: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    async def receive_many(self) -> list[bytes]:
        """What is there, at least one."""

    async def flush(self) -> None:
        """All that was sent is with the other end, who may be waiting for it: now this process may block."""


class LoopWire:
    """A link whose doorbell a loop watches."""

    def __init__(self, link: Link, bell: int, mode: Mode) -> None:
        self._link, self._bell = link, bell
        self._links = [link]
        link.set_mode(NORMAL, mode)
        link.set_mode(HIGH, "interrupt")  # nothing comes there, and nothing is waited for
        self._waiting: asyncio.Future[None] | None = None
        self._received: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(bell, self._rung)
        self._turn_coming = False
        self.send_now: Callable[[bytes], bool] = link.plain(NORMAL).send
        self._turn()

    async def send(self, data: bytes) -> None:
        while not self.send_now(data):
            if self._link.arm_room(NORMAL, len(data)):
                await self._wake_up()
                self._link.disarm_room(NORMAL)

    async def flush(self) -> None:
        """`send` has seen to it."""

    async def receive(self) -> bytes:
        while not self._received:
            await self._wake_up()
        return self._received.popleft()

    async def receive_many(self) -> list[bytes]:
        """What is there, at least one."""
        while not self._received:
            await self._wake_up()
        received = list(self._received)
        self._received.clear()
        return received

    async def _wake_up(self) -> None:
        self._waiting = self._loop.create_future()
        await self._waiting
        self._waiting = None

    def _rung(self) -> None:
        drain(self._bell)
        if not self._turn_coming:
            self._turn()

    def _turn(self) -> None:
        """As an endpoint does: records first, then their readers' turn, then look or sleep."""
        self._turn_coming = False
        link = self._link
        while not (records := link.receive_many(NORMAL, BUDGET)):
            if not look(self._links, SPIN_MAX_US) and link.arm(NORMAL):
                break
        else:
            self._received.extend([data for _, data in records])
            self._turn_coming = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        if self._turn_coming:
            self._loop.call_soon(self._turn)


async def lead_loop(wire: AwaitedWire, control: Control, size: int, budget_s: float) -> Figures:
    """`timing.lead`, for a wire that is awaited."""
    sent = messages(size)
    tried = await _trips(wire, control, sent, VERIFIED)
    taken = await _trips(wire, control, sent, fitting(sum(tried) / len(tried), budget_s / 2, TRIPS))
    count = max(STREAMED[0], min(STREAMED[0] * 16, TRIED_BYTES // size))
    took = await _stream(wire, control, sent[0], count)
    count = fitting(took / count, budget_s / 2, STREAMED)
    took = await _stream(wire, control, sent[0], count)
    control.tell("end", 0)
    return figures(taken, count, took)


async def follow_loop(wire: AwaitedWire, control: Control, size: int, batches: bool) -> None:
    """`timing.follow`, for a wire that is awaited: a message at a time, or what is there."""
    right = messages(size)[0]
    while (task := control.hear())[0] != "end":
        count = task[1]
        if task[0] == "echo":
            for _ in range(count):
                await wire.send(await wire.receive())
            await wire.flush()
        else:
            total, last = await (_drain_batches if batches else _drain)(wire, count)
            await wire.send(report(count, total, last == right, size))
            await wire.flush()


async def _drain(wire: AwaitedWire, count: int) -> tuple[int, bytes]:
    total, last = 0, b""
    for _ in range(count):
        last = await wire.receive()
        total += len(last)
    return total, last


async def _drain_batches(wire: AwaitedWire, count: int) -> tuple[int, bytes]:
    total, last = 0, b""
    while count:
        received = await wire.receive_many()
        total += sum(map(len, received))
        last = received[-1]
        count -= len(received)
    return total, last


async def _trips(wire: AwaitedWire, control: Control, sent: list[bytes], count: int) -> list[int]:
    control.tell("echo", count)
    taken = []
    for number in range(count):
        data = sent[number % DISTINCT]
        start = perf_counter_ns()
        await wire.send(data)
        answer = await wire.receive()
        taken.append(perf_counter_ns() - start)
        check_echo(data, answer)
    return taken


async def _stream(wire: AwaitedWire, control: Control, data: bytes, count: int) -> int:
    control.tell("count", count)
    start = perf_counter_ns()
    for number in range(count):
        if not wire.send_now(data):
            await wire.send(data)
        elif number % YIELD_EVERY == 0:
            await asyncio.sleep(0)
    answer = await wire.receive()
    took = perf_counter_ns() - start
    check_report(answer, count, len(data))
    return took


class BellWire:
    """Two eventfds: it wakes, and carries nothing. No ring is missed: callbacks run while we wait only."""

    def __init__(self, own: int, peer: int) -> None:
        self._own, self._peer = own, peer
        self._waiting: asyncio.Future[None] | None = None
        asyncio.get_running_loop().add_reader(own, self._rung)

    def kick(self) -> None:
        os.eventfd_write(self._peer, 1)

    async def rung(self) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def _rung(self) -> None:
        os.eventfd_read(self._own)
        assert self._waiting is not None
        self._waiting.set_result(None)


async def lead_bells(wire: BellWire, control: Control, budget_s: float) -> Figures:
    """Round trips of nothing but wake-ups."""
    taken = await _rings(wire, control, VERIFIED)
    taken = await _rings(wire, control, fitting(sum(taken) / len(taken), budget_s, TRIPS))
    control.tell("end", 0)
    return figures(taken, 0, 0)


async def follow_bells(wire: BellWire, control: Control) -> None:
    while (task := control.hear())[0] != "end":
        for _ in range(task[1]):
            await wire.rung()
            wire.kick()


async def _rings(wire: BellWire, control: Control, count: int) -> list[int]:
    control.tell("echo", count)
    taken = []
    for _ in range(count):
        start = perf_counter_ns()
        wire.kick()
        await wire.rung()
        taken.append(perf_counter_ns() - start)
    return taken


class LoopRoles:
    """Both ends of a link, each on an event loop of the kind that kernels run."""

    def __init__(self, mode: Mode, batches: bool) -> None:
        self._mode = mode
        self._batches = batches
        self._ends = links()

    def lead(self, control: Control, size: int, budget_s: float) -> Figures:
        async def main() -> None:
            wire = LoopWire(*self._ends[0], self._mode)
            wait_for_follower(control)
            done.append(await lead_loop(wire, control, size, budget_s))

        done: list[Figures] = []
        run(main())
        return done[0]

    def follow(self, control: Control, size: int) -> None:
        async def main() -> None:
            wire = LoopWire(*self._ends[1], self._mode)
            control.tell("made", 0)
            await follow_loop(wire, control, size, self._batches)

        run(main())


class BellRoles:
    """Two processes that wake each other from their event loops."""

    def __init__(self) -> None:
        self._bells = create_doorbell(), create_doorbell()

    def lead(self, control: Control, size: int, budget_s: float) -> Figures:
        async def main() -> None:
            wire = BellWire(*self._bells)
            wait_for_follower(control)
            done.append(await lead_bells(wire, control, budget_s))

        done: list[Figures] = []
        run(main())
        return done[0]

    def follow(self, control: Control, size: int) -> None:
        async def main() -> None:
            wire = BellWire(*reversed(self._bells))
            control.tell("made", 0)
            await follow_bells(wire, control)

        run(main())
