"""Terminals through the control API: a client's keyboard and screen, and its takeover."""

import asyncio
import json

import pytest

from popnet.control import wire
from popnet.control.client import Client
from popnet.control.stream import ClientStream, connect
from popnet.core.errors import NoSuchKernel, NoSuchTerminal, Refused
from popnet.message.stream import Stream, pair
from tests.control.fakes import Served


async def attach(served: Served, **options: bool) -> ClientStream:
    return await connect(served.socket, wire.tty_path("k1", 0, **options))


async def power_on(served: Served) -> tuple[Stream, "asyncio.Task[None]"]:
    """The kernel's end of its terminal 0."""
    kernel, primary = pair("tty")
    return kernel, asyncio.create_task(served.service.terminals["k1", 0].run(primary))


async def read(stream: ClientStream, what: bytes) -> bytes:
    """What the screen shows, until it shows *what*."""
    shown = b""
    while what not in shown:
        received = await stream.receive()
        assert received is not None
        if received[0] == wire.DATA:
            shown += received[1]
    return shown


async def test_keystrokes_and_output(served: Served) -> None:
    kernel, running = await power_on(served)
    await kernel.send(b"login: ")
    async with await attach(served) as client:
        await read(client, b"login: ")
        await client.send(b"root\r")
        received = []
        while (0, b"root\r") not in received:
            item = await kernel.receive()
            assert item is not None
            received.append(item)
        await client.send(b'{"resize": [132, 43]}', wire.CONTROL)
        while received[-1][0] != 2 or "resize" not in json.loads(received[-1][1]):
            item = await kernel.receive()
            assert item is not None
            received.append(item)
        assert json.loads(received[-1][1]) == {"resize": [132, 43]}
    kernel.abort()
    await running


async def test_history_or_not(served: Served) -> None:
    served.service.terminals["k1", 0].marker("long ago")
    async with await attach(served, write=False) as with_history:
        await read(with_history, b"long ago")
    async with await attach(served, write=False, history=False) as without:
        served.service.terminals["k1", 0].marker("now")
        assert b"long ago" not in await read(without, b"now")


async def test_history_as_text(served: Served) -> None:
    client = Client("m", run_dir=served.run_dir)
    terminal = served.service.terminals["k1", 0]
    for number in range(3):
        terminal.marker(f"number {number}")
    text = await asyncio.to_thread(client.get, "/v1/kernels/k1/tty/0/history")
    assert [line for line in text.splitlines() if line] == [f"[popnet: number {n}]" for n in range(3)]
    for _ in range(2000):
        terminal.marker("x" * 1000)
    text = await asyncio.to_thread(client.get, "/v1/kernels/k1/tty/0/history")
    assert len(text) > 500_000
    terminal.close()
    with pytest.raises(Refused, match="closed"):
        await asyncio.to_thread(client.get, "/v1/kernels/k1/tty/0/history")
    with pytest.raises(NoSuchTerminal):
        await asyncio.to_thread(client.get, "/v1/kernels/k1/tty/7/history")
    assert terminal.counters()["viewers"] == 0


async def test_one_writer_unless_by_force(served: Served) -> None:
    kernel, running = await power_on(served)
    first = await attach(served)
    with pytest.raises(Refused, match="somebody else writes"):
        await attach(served)
    second = await attach(served, force=True)
    while (received := await first.receive()) is not None:
        if received == (wire.CONTROL, b'{"taken": true}'):
            break
    await first.send(b"lost")
    await second.send(b"kept")
    while (item := await kernel.receive()) is not None:
        if item[0] == wire.DATA:
            assert item[1] == b"kept"
            break
    await first.close()
    await second.close()
    kernel.abort()
    await running


async def test_one_who_only_watches(served: Served) -> None:
    kernel, running = await power_on(served)
    async with await attach(served, write=False) as watching, await attach(served) as writing:
        await watching.send(b"nothing")
        await watching.send(b'{"resize": [1, 1]}', wire.CONTROL)
        await writing.send(b"typed")
        while (item := await kernel.receive()) is not None and item[0] != wire.DATA:
            assert "resize" not in json.loads(item[1])
        assert item == (0, b"typed")
        await kernel.send(b"seen by both")
        await read(watching, b"seen by both")
        await read(writing, b"seen by both")
    kernel.abort()
    await running


async def test_a_client_that_vanishes_gives_the_keyboard_back(served: Served) -> None:
    for _ in range(3):
        client = await attach(served)
        client._connection._transport.abort()
        while served.service.terminals["k1", 0].counters()["viewers"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_terminal_that_closes_ends_its_clients(served: Served) -> None:
    async with await attach(served) as client:
        served.service.terminals["k1", 0].close()
        while await client.receive() is not None:
            pass
        assert client.result == {}


async def test_wrong_sizes_are_refused(served: Served) -> None:
    for wrong in (b"", b"{}", b'{"resize": 1}', b'{"resize": [0, 1]}', b'{"resize": [1, 65536]}', b"\xff"):
        client = await attach(served)
        await client.send(wrong or b"[]", wire.CONTROL)
        with pytest.raises(Refused, match="not a message to a terminal"):
            while await client.receive():
                pass
        await client.close()


async def test_no_such_terminal(served: Served) -> None:
    with pytest.raises(NoSuchTerminal):
        await connect(served.socket, wire.tty_path("k1", 9))
    with pytest.raises(NoSuchKernel):
        await connect(served.socket, wire.tty_path("nobody", 0))
    with pytest.raises(Refused, match="not a number"):
        await connect(served.socket, "/v1/kernels/k1/tty/console")
    with pytest.raises(Refused, match="write is 0 or 1"):
        await connect(served.socket, "/v1/kernels/k1/tty/0?write=perhaps")
