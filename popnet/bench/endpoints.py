"""popnet's message layer: an endpoint in each process, as kernels have it. Messages of any size, in
fragments."""

import asyncio
from collections import deque
from typing import Final

from popnet.bench.loops import follow_loop, lead_loop
from popnet.bench.ring import links
from popnet.bench.timing import Control, Figures, wait_for_follower
from popnet.kernel.loop import run
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import USER_FIRST, Ring
from popnet.transport._native import Link, look, looks
from popnet.transport.modes import SPIN_MAX_US, Mode

QUEUE_MAX: Final = 256 << 10
"""Bytes that wait for room before a sender waits, too."""


class EndpointWire:
    """What `lead_loop` and `follow_loop` use."""

    def __init__(self, kid: int, link: Link, bell: int, mode: Mode) -> None:
        self._peer = 3 - kid
        for ring in Ring:
            link.set_mode(ring, mode)
        self._endpoint = Endpoint(kid, 1, bell, _no_connect)
        self._endpoint.look = lambda: look([link], SPIN_MAX_US)
        self._endpoint.looks = lambda: looks([link])
        self._received: deque[bytes] = deque()
        self._came = asyncio.Event()
        self._endpoint.on(USER_FIRST, self._take)
        self._endpoint.start()
        self._endpoint.add_link(self._peer, 1, link)

    def send_now(self, data: bytes) -> bool:
        return self._endpoint.waiting_size(self._peer) <= QUEUE_MAX and self._endpoint.post(
            self._peer, USER_FIRST, data
        )

    async def send(self, data: bytes) -> None:
        while not self.send_now(data):  # noqa: ASYNC110  the endpoint tells nobody about room
            await asyncio.sleep(0)

    async def flush(self) -> None:
        while self._endpoint.waiting_size(self._peer):  # noqa: ASYNC110  likewise
            await asyncio.sleep(0)

    async def receive(self) -> bytes:
        while not self._received:
            await self._arrival()
        return self._received.popleft()

    async def receive_many(self) -> list[bytes]:
        while not self._received:
            await self._arrival()
        received = list(self._received)
        self._received.clear()
        return received

    async def stop(self) -> None:
        await self.flush()
        await self._endpoint.stop()

    async def _arrival(self) -> None:
        self._came.clear()
        await self._came.wait()

    def _take(self, kid: int, body: bytes) -> None:
        self._received.append(body)
        self._came.set()


class EndpointRoles:
    """Both ends of a link, each with an endpoint on an event loop of the kind that kernels run."""

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._ends = links()

    def lead(self, control: Control, size: int, budget_s: float) -> Figures:
        async def main() -> None:
            wire = EndpointWire(1, *self._ends[0], self._mode)
            wait_for_follower(control)
            done.append(await lead_loop(wire, control, size, budget_s))
            await wire.stop()

        done: list[Figures] = []
        run(main())
        return done[0]

    def follow(self, control: Control, size: int) -> None:
        async def main() -> None:
            wire = EndpointWire(2, *self._ends[1], self._mode)
            control.tell("made", 0)
            await follow_loop(wire, control, size, batches=True)
            await wire.stop()

        run(main())


async def _no_connect(kid: int) -> None:
    raise AssertionError("the link is there")
