"""Endpoints for tests: two of them joined by a link, or one whose peer is the test itself.

`everywhere` runs a test over fake and over real links, and on both event loops.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from popnet.core.errors import PeerDied
from popnet.message import codec
from popnet.message.codec import Record
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import Ring
from popnet.message.stream import Stream
from popnet.transport._native import Link

from .links import KINDS, LinkPair, link_pair

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

KIND = 0x8000


async def no_connect(kid: int) -> None:
    raise PeerDied(f"kernel {kid} does not run")


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until *condition* holds; the test's timeout is the end of it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def settle() -> None:
    """Let everything happen that can happen without this test: a bounded number of turns of the loop."""
    for _ in range(50):
        await asyncio.sleep(0)


class Ends:
    """Kernel 1 (generation 1) at `a`, kernel 2 (generation 5) at `b`, and the link between them."""

    def __init__(self, pair: LinkPair) -> None:
        self.pair = pair
        self.a = Endpoint(1, 1, pair.bell_a, no_connect)
        self.b = Endpoint(2, 5, pair.bell_b, no_connect)

    def join(self) -> None:
        self.a.add_link(2, 5, self.pair.a)
        self.b.add_link(1, 1, self.pair.b)


class Alone:
    """Kernel 1 (generation 1) at `a`; the test plays its peer, kernel 2 (generation 5), record by record."""

    def __init__(self, pair: LinkPair) -> None:
        self.pair = pair
        self.a = Endpoint(1, 1, pair.bell_a, no_connect)
        self.violations: list[tuple[int, str]] = []
        self.a.on_violation = lambda kid, text: self.violations.append((kid, text))

    def say(self, ring: Ring, kind: int, flags: int = 0, id: int = 0, body: bytes = b"", to: int = 1) -> None:
        assert self.pair.b.send(ring, codec.payload_of(id, to, body), codec.tag_of(kind, flags))

    def heard(self, ring: Ring) -> list[Record]:
        return [codec.record_of(*item) for item in self.pair.b.receive_many(ring, 1000)]

    async def hear(self, ring: Ring) -> Record:
        """The next record that kernel 1 sends."""
        while (item := self.pair.b.receive(ring)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        return codec.record_of(*item)


@asynccontextmanager
async def running(ends: Ends | Alone) -> AsyncIterator[None]:
    endpoints = [ends.a, ends.b] if isinstance(ends, Ends) else [ends.a]
    for endpoint in endpoints:
        endpoint.start()
    if isinstance(ends, Ends):
        ends.join()
    else:
        ends.a.add_link(2, 5, ends.pair.a)
    try:
        yield
    finally:
        for endpoint in endpoints:
            await endpoint.stop()


def everywhere(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of an `async def test(ends: Ends)` or `(ends: Alone)`, over every kind of link and loop."""
    [(name, parameter)] = inspect.signature(test).parameters.items()
    make = parameter.annotation

    @pytest.mark.parametrize("loop", LOOPS)
    @pytest.mark.parametrize("link", KINDS)
    def run(link: str, loop: str) -> None:
        async def main() -> None:
            pair = link_pair(link)
            ends = make(pair)
            try:
                async with running(ends):
                    await test(**{name: ends})
            finally:
                pair.close()

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())

    functools.update_wrapper(run, test)
    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would look for its parameters
    return run


def is_real(ends: Ends | Alone) -> bool:
    return isinstance(ends.pair.a, Link)


# Services


async def echo(stream: Stream) -> None:
    """Send back what comes; the result counts the bytes."""
    count = 0
    while (item := await stream.receive()) is not None:
        count += len(item[1])
        await stream.send(item[1], item[0])
    await stream.close({"count": count})


async def sink(stream: Stream) -> None:
    """Read everything; the result counts the bytes."""
    count = 0
    while (item := await stream.receive()) is not None:
        count += len(item[1])
    await stream.close({"count": count})


async def deaf(stream: Stream) -> None:
    """Accept, and read nothing until the end."""
    await stream.accept()
    await asyncio.Event().wait()


async def read_all(stream: Stream) -> list[tuple[int, bytes]]:
    items: list[tuple[int, bytes]] = []
    while (item := await stream.receive()) is not None:
        items.append(item)
    return items


async def outcome(work: Awaitable[Any]) -> Any:
    """What *work* gives, or the exception it raises."""
    try:
        return await work
    except Exception as error:  # noqa: BLE001
        return error
