"""The two ends of `pair`: the same promises as over a link."""

import asyncio
import gc

import pytest

from popnet.core import limits
from popnet.core.errors import StreamClosed
from popnet.message.stream import Stream, pair

from .ends import read_all, settle


def test_a_pair_needs_no_loop_to_be_made() -> None:
    opener, accepter = pair("exec", {"argv": ["ls"]})
    assert (
        (opener.service, opener.params) == (accepter.service, accepter.params) == ("exec", {"argv": ["ls"]})
    )
    assert opener.result is accepter.result is None


async def test_both_directions_and_channels() -> None:
    a, b = pair()
    await a.send(b"question", 3)
    await b.send(b"answer", 255)
    assert await b.receive() == (3, b"question")
    assert await a.receive() == (255, b"answer")


@pytest.mark.parametrize(
    "size", [1, 63, 64, 65, 65_536, limits.STREAM_RECORD_MAX, limits.STREAM_RECORD_MAX + 1, 1 << 20]
)
async def test_sends_of_any_size(size: int) -> None:
    a, b = pair()
    data = (bytes(range(251)) * (size // 251 + 1))[:size]

    async def send() -> None:
        await a.send(data)
        await a.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        items = await read_all(b)
    assert b"".join(data for _, data in items) == data
    assert len(items) == 1 or size > limits.STREAM_RECORD_MAX, "what fits one record is received whole"


async def test_an_empty_send_says_nothing() -> None:
    a, b = pair()
    await a.send(b"")
    await a.send(b"x")
    assert await b.receive() == (0, b"x")


async def test_a_sender_may_reuse_its_buffer() -> None:
    a, b = pair()
    buffer = bytearray(b"first")
    await a.send(buffer)  # type: ignore[arg-type, unused-ignore]
    buffer[:] = b"other"
    assert await b.receive() == (0, b"first")


async def test_close_delivers_what_was_sent_before_and_the_result() -> None:
    a, b = pair()
    await a.send(b"one")
    await a.send(b"two")
    await a.close({"status": 0})
    await a.close({"status": 1})
    assert await read_all(b) == [(0, b"one"), (0, b"two")]
    assert b.result == {"status": 0}
    assert await b.receive() is None


async def test_each_half_closes_on_its_own() -> None:
    a, b = pair()
    await a.close()
    assert await b.receive() is None
    await b.send(b"still here")
    await b.close({"n": 1})
    assert await read_all(a) == [(0, b"still here")]
    assert a.result == {"n": 1}


async def test_who_has_closed_sends_no_more() -> None:
    a, _b = pair()
    await a.close()
    with pytest.raises(StreamClosed, match="this end"):
        await a.send(b"x")


async def test_abort_ends_both_halves() -> None:
    a, b = pair()
    await a.send(b"last words")
    a.abort()
    a.abort()
    await a.close()
    with pytest.raises(StreamClosed):
        await a.send(b"x")
    with pytest.raises(StreamClosed):
        await a.receive()
    assert await b.receive() == (0, b"last words")
    for _ in range(2):
        with pytest.raises(StreamClosed, match="other end"):
            await b.receive()
    with pytest.raises(StreamClosed):
        await b.send(b"x")


async def test_abort_behind_close_loses_nothing() -> None:
    a, b = pair()
    await a.send(b"data")
    await a.close({"n": 1})
    a.abort()
    assert await read_all(b) == [(0, b"data")]
    assert b.result == {"n": 1}
    with pytest.raises(StreamClosed):
        await b.send(b"nobody reads this")


async def fill(stream: Stream) -> asyncio.Task[None]:
    """A task that sends for ever, and is stuck."""

    async def send() -> None:
        while True:
            await stream.send(bytes(10_000))

    task = asyncio.create_task(send())
    await settle()
    assert not task.done()
    return task


async def test_a_sender_waits_for_its_reader() -> None:
    a, b = pair()
    task = await fill(a)
    stored = 0
    async with asyncio.timeout(30):
        while stored + 10_000 <= limits.STREAM_WINDOW:
            item = await b.receive()
            assert item is not None
            stored += len(item[1])
    assert not task.done()
    task.cancel()


@pytest.mark.parametrize("how", ["abort here", "abort there", "let go there"])
async def test_a_waiting_sender_is_woken_by_the_end(how: str) -> None:
    a, b = pair()
    task = await fill(a)
    if how == "abort here":
        a.abort()
    elif how == "abort there":
        b.abort()
    else:
        del b
        gc.collect()
    with pytest.raises(StreamClosed):
        await task


async def test_close_waits_for_the_sends_under_way() -> None:
    a, b = pair()
    data = bytes(1 << 20)
    async with asyncio.TaskGroup() as group:
        group.create_task(a.send(data))
        await settle()
        group.create_task(a.close({"n": 1}))
        items = await read_all(b)
    assert sum(len(data) for _, data in items) == len(data)
    assert b.result == {"n": 1}


async def test_senders_are_served_in_turn() -> None:
    a, b = pair()
    async with asyncio.TaskGroup() as group:
        for channel in range(10):
            group.create_task(a.send(bytes([channel]) * 60_000, channel))
        order = []
        for _ in range(10):
            item = await b.receive()
            assert item is not None
            order.append(item[0])
    assert order == list(range(10))


async def test_cancelling_a_receive_loses_nothing() -> None:
    a, b = pair()
    task = asyncio.create_task(b.receive())
    await settle()
    task.cancel()
    await a.send(b"x")
    await settle()
    assert await b.receive() == (0, b"x")


async def test_two_may_receive() -> None:
    a, b = pair()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(b.receive()) for _ in range(2)]
        await settle()
        await a.send(b"1")
        await a.send(b"2")
    assert {task.result() for task in tasks} == {(0, b"1"), (0, b"2")}


async def test_a_stream_nobody_holds_is_aborted() -> None:
    a, b = pair()
    await a.send(b"x")
    del a
    gc.collect()
    assert await b.receive() == (0, b"x")
    with pytest.raises(StreamClosed):
        await b.receive()


def test_letting_go_without_a_loop_is_no_error() -> None:
    a, b = pair()
    del a
    gc.collect()
    assert b.result is None
