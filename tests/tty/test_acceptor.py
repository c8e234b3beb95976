"""Accepting from a shared listening socket, and ending without losing a connection."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from popnet.tty.acceptor import Acceptor, Handler

LONG_S = 60.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


class Visits:
    """A handler that greets, and stays until the visitor leaves."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    async def __call__(self, connected: socket.socket) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        reader, writer = await asyncio.open_connection(sock=connected)
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(b"hello")
                await reader.read()
        finally:
            self.now -= 1
            writer.close()


def acceptor(
    listener: socket.socket, handle: Handler, *, connections_max: int = 10, idle_s: float | None = LONG_S
) -> Acceptor:
    return Acceptor(listener, handle, connections_max=connections_max, idle_s=idle_s, on_log=print)


async def visit(listener: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*listener.getsockname())


async def test_it_ends_when_nobody_comes(listener: socket.socket) -> None:
    await acceptor(listener, Visits(), idle_s=0.01).serve()


async def test_it_stays_while_somebody_is_there_and_ends_when_all_left(listener: socket.socket) -> None:
    serving = asyncio.ensure_future(acceptor(listener, Visits(), idle_s=0.05).serve())
    visitors = [await visit(listener) for _ in range(3)]
    for reader, _ in visitors:
        assert await reader.readexactly(5) == b"hello"
    done, _ = await asyncio.wait({serving}, timeout=0.2)
    assert not done
    for _, writer in visitors:
        writer.close()
    await serving


async def test_who_comes_after_the_end_is_served_by_the_next_one(listener: socket.socket) -> None:
    for _ in range(5):
        await acceptor(listener, Visits(), idle_s=0.0).serve()
        reader, writer = await visit(listener)  # in the queue: nobody accepts
        next_one = asyncio.ensure_future(acceptor(listener, Visits(), idle_s=0.01).serve())
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await next_one


async def test_connections_over_the_limit_wait_for_their_turn(listener: socket.socket) -> None:
    visits = Visits()
    serving = asyncio.ensure_future(acceptor(listener, visits, connections_max=2, idle_s=0.01).serve())
    visitors = [await visit(listener) for _ in range(5)]
    for reader, writer in visitors:
        assert await reader.readexactly(5) == b"hello"
        writer.close()
    await serving
    assert visits.most == 2


async def test_cancelled_it_ends_its_connections(listener: socket.socket) -> None:
    visits = Visits()
    serving = asyncio.ensure_future(acceptor(listener, visits, idle_s=None).serve())
    reader, writer = await visit(listener)
    await reader.readexactly(5)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert visits.now == 0
    assert await reader.read() == b""
    writer.close()


async def test_a_client_that_left_before_its_turn_is_no_harm(listener: socket.socket) -> None:
    serving = asyncio.ensure_future(acceptor(listener, Visits(), idle_s=0.05).serve())
    for _ in range(3):
        with socket.create_connection(listener.getsockname()) as hasty:
            hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
    reader, writer = await visit(listener)
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await asyncio.wait_for(serving, LONG_S)
