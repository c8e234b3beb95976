"""Terminals: what viewers read, who may write, who stalls whom, and what the kernel is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from popnet.core.errors import Refused
from popnet.core.limits import STREAM_WINDOW
from popnet.message.stream import pair
from popnet.tty.hub import Attachment, Terminal
from tests.tty.fakes import FakeStream, settle

HISTORY = 4096
QUARTER = HISTORY // 4


@asynccontextmanager
async def running(terminal: Terminal, generation: int | None = None) -> AsyncIterator[FakeStream]:
    """The terminal with a kernel on its stream, which stops cleanly at the end."""
    stream = FakeStream()
    async with asyncio.TaskGroup() as group:
        group.create_task(terminal.run(stream, generation))
        await settle()
        yield stream
        stream.finish()


async def read_all(viewer: Attachment) -> bytes:
    """Everything this viewer can read by now, the source going on as it may."""
    data = b""
    while True:
        reading = asyncio.ensure_future(viewer.read())
        await settle()
        if not reading.done():
            reading.cancel()
            return data
        piece = reading.result()
        if not piece:
            return data
        data += piece


# Reading


async def test_viewers_read_the_same_bytes_at_their_own_pace() -> None:
    terminal = Terminal("k1", HISTORY)
    early = terminal.attach(write=False)
    async with running(terminal) as stream:
        stream.feed(b"login: ")
        assert b"login: " in await read_all(early)
        late = terminal.attach(write=False)
        new_only = terminal.attach(write=False, history=False)
        stream.feed(b"root\r\n")
        await settle()
        assert await read_all(early) == b"root\r\n"
        assert await read_all(late) == b"login: root\r\n"
        assert await read_all(new_only) == b"root\r\n"


async def test_a_reader_that_falls_behind_skips_forward_and_reads_how_far() -> None:
    terminal = Terminal("k1", HISTORY)
    async with running(terminal) as stream:
        reader = terminal.attach(write=False)
        stream.feed(b"x" * 10_000)
        await settle()
        data = await read_all(reader)
    assert data == b"\r\n[popnet: 7952 bytes skipped]\r\n" + b"x" * (10_000 - 7952)
    assert terminal.counters()["skipped_bytes"] == 7952


async def test_old_questions_to_the_terminal_are_not_asked_again() -> None:
    terminal = Terminal("k1", HISTORY)
    async with running(terminal) as stream:
        stream.feed(b"/ # \x1b[6n\x1b[c\x1b[32mgreen\x1b[0m")
        await settle()
        viewer = terminal.attach(write=True)
        assert await read_all(viewer) == b"/ # \x1b[32mgreen\x1b[0m"
        stream.feed(b"now \x1b[6n")
        await settle()
        assert await read_all(viewer) == b"now \x1b[6n"


async def test_without_a_writer_the_source_always_runs() -> None:
    terminal = Terminal("k1", HISTORY)
    terminal.attach(write=False)
    async with running(terminal) as stream:
        stream.feed(b"x" * 1_000_000)
        await settle()
        assert stream.unreceived == 0
    assert terminal.counters()["stalls"] == 0


# The writer stalls its source, and nothing else


async def test_a_writer_that_stops_reading_stalls_its_source_and_loses_nothing() -> None:
    terminal = Terminal("k1", HISTORY)
    writer = terminal.attach(write=True)
    output = bytes(range(256)) * 400
    async with running(terminal) as stream:
        await read_all(writer)
        for start in range(0, len(output), 100):
            stream.feed(output[start : start + 100])
        await settle()
        assert len(output) - HISTORY // 2 - 200 <= stream.unreceived < len(output)
        assert await read_all(writer) == output
        assert stream.unreceived == 0
    assert terminal.counters()["stalls"] > 0
    assert terminal.counters()["skipped_bytes"] == 0


async def test_one_piece_larger_than_the_history_reaches_the_writer_whole() -> None:
    terminal = Terminal("k1", HISTORY)
    writer = terminal.attach(write=True, history=False)
    output = bytes(range(256)) * 100
    async with running(terminal) as stream:
        await read_all(writer)
        stream.feed(output)
        assert await read_all(writer) == output


async def test_a_stalled_terminal_stalls_no_other() -> None:
    stuck, free = Terminal("k1", HISTORY), Terminal("k1", HISTORY)
    stuck.attach(write=True)
    free_writer = free.attach(write=True)
    async with running(stuck) as stuck_stream, running(free) as free_stream:
        await read_all(free_writer)
        for stream in (stuck_stream, free_stream):
            for _ in range(100):
                stream.feed(b"y" * QUARTER)
        assert await read_all(free_writer) == b"y" * (100 * QUARTER)
        assert stuck_stream.unreceived > 0
        stuck.close()  # or the stuck source would never end


async def test_a_reader_follows_while_the_writer_stalls() -> None:
    terminal = Terminal("k1", HISTORY)
    terminal.attach(write=True)
    reader = terminal.attach(write=False)
    async with running(terminal) as stream:
        await read_all(reader)
        for _ in range(100):
            stream.feed(b"z" * 100)
        seen = await read_all(reader)
        assert QUARTER <= len(seen) <= HISTORY // 2 + 200
        terminal.close()


async def test_a_stalled_source_goes_on_when_the_writer_leaves() -> None:
    terminal = Terminal("k1", HISTORY)
    writer = terminal.attach(write=True)
    async with running(terminal) as stream:
        for _ in range(100):
            stream.feed(b"z" * QUARTER)
        await settle()
        assert stream.unreceived > 0
        writer.detach()
        for _ in range(10):
            await settle()
        assert stream.unreceived == 0


# One writer


async def test_a_second_writer_is_refused_and_told_what_it_can_do() -> None:
    terminal = Terminal("k1", HISTORY)
    terminal.attach(write=True)
    with pytest.raises(Refused) as refused:
        terminal.attach(write=True)
    assert "--force" in refused.value.hint
    assert "--ro" in refused.value.hint


async def test_force_takes_the_keyboard_over_and_tells_the_one_before() -> None:
    terminal = Terminal("k1", HISTORY)
    async with running(terminal) as stream:
        old = terminal.attach(write=True)
        old.resize(80, 24)
        new = terminal.attach(write=True, force=True)
        new.resize(120, 40)
        old.resize(1, 1)
        await old.write(b"lost")
        await new.write(b"kept")
        await settle()
        assert (old.taken.is_set(), old.writes, new.writes) == (True, False, True)
        assert stream.typed == b"kept"
        assert terminal.size == (120, 40)
        assert b"took over" in await read_all(old)
        stream.feed(b"both see this")
        assert await read_all(old) == await read_all(new) == b"both see this"
    assert terminal.counters()["takeovers"] == 1
    assert terminal.counters()["dropped_input_bytes"] == 4


async def test_a_take_over_frees_a_source_that_the_old_writer_stalled() -> None:
    terminal = Terminal("k1", HISTORY)
    terminal.attach(write=True)
    async with running(terminal) as stream:
        for _ in range(100):
            stream.feed(b"z" * QUARTER)
        await settle()
        new = terminal.attach(write=True, force=True, history=False)
        assert len(await read_all(new)) > 90 * QUARTER
        assert stream.unreceived == 0


async def test_after_the_writer_left_another_may_write() -> None:
    terminal = Terminal("k1", HISTORY)
    first = terminal.attach(write=True)
    first.detach()
    first.detach()
    assert terminal.attach(write=True).writes
    assert terminal.counters()["viewers"] == 1


async def test_a_mere_reader_cannot_type() -> None:
    terminal = Terminal("k1", HISTORY)
    with pytest.raises(Refused):
        await terminal.attach(write=False).write(b"x")


async def test_typing_waits_while_the_kernel_takes_no_input() -> None:
    terminal = Terminal("k1", HISTORY)
    async with running(terminal) as stream:
        writer = terminal.attach(write=True)
        await settle()
        stream.takes_input.clear()
        typing = asyncio.ensure_future(writer.write(b"slow"))
        await settle()
        assert not typing.done()
        stream.takes_input.set()
        await typing
        assert stream.typed == b"slow"


# What the kernel is told


async def test_the_first_viewer_lets_the_kernel_start_its_shell() -> None:
    terminal = Terminal("k1", HISTORY)
    async with running(terminal) as stream:
        assert stream.told == []
        terminal.attach(write=False)
        terminal.attach(write=False)
        await settle()
        assert stream.told == [{"attached": True}]


async def test_a_new_generation_learns_the_size_and_that_somebody_looks() -> None:
    terminal = Terminal("k1", HISTORY)
    writer = terminal.attach(write=True)
    async with running(terminal) as stream:
        writer.resize(80, 24)
        await settle()
        writer.resize(100, 30)
        await settle()
        assert stream.told == [{"attached": True}, {"resize": [80, 24]}, {"resize": [100, 30]}]
    async with running(terminal) as stream:
        assert stream.told == [{"attached": True}, {"resize": [100, 30]}]


async def test_a_stream_is_accepted_even_when_there_is_nothing_to_say() -> None:
    async with running(Terminal("k1", HISTORY)) as stream:
        assert stream.accepted


# Deaths and boots


async def test_viewers_stay_over_a_death_and_a_boot_and_read_of_both() -> None:
    terminal = Terminal("k1", HISTORY)
    viewer = terminal.attach(write=True, history=False)
    assert b"k1 is not running" in await read_all(viewer)
    async with running(terminal) as stream:
        stream.feed(b"one")
        assert await read_all(viewer) == b"one"
        stream.die("killed by signal 9")
        expected = b"\r\n[popnet: k1 died (killed by signal 9); waiting for boot]\r\n"
        assert await read_all(viewer) == expected
        await viewer.write(b"into the void")
        await viewer.write(b"again")
        assert await read_all(viewer) == b"\r\n[popnet: k1 is down; input is dropped]\r\n"
    async with running(terminal, generation=7) as stream:
        stream.feed(b"two")
        assert await read_all(viewer) == b"\r\n[popnet: k1 is back, generation 7]\r\ntwo"
        await viewer.write(b"hello")
        assert stream.typed == b"hello"


async def test_input_on_its_way_to_a_dying_kernel_is_dropped_and_said_so() -> None:
    terminal = Terminal("k1", HISTORY)
    async with running(terminal) as stream:
        viewer = terminal.attach(write=True)
        await settle()
        stream.takes_input.clear()
        typing = asyncio.ensure_future(viewer.write(b"x"))
        await settle()
        stream.die("hung")
        stream.takes_input.set()
        await typing
        assert b"input is dropped" in await read_all(viewer)


async def test_a_boot_does_not_wait_for_a_viewer_that_stalled_the_run_before() -> None:
    terminal = Terminal("k1", HISTORY)
    writer = terminal.attach(write=True)
    async with running(terminal) as old:
        for _ in range(8):
            old.feed(b"1" * QUARTER)
        old.die("crashed")
        await settle()
        async with running(terminal) as new:
            assert new.told == [{"attached": True}]
            new.feed(b"2")
            await settle()
            assert new.unreceived == 1
            data = await read_all(writer)
    assert data.count(b"1" * QUARTER * 8) == 1
    assert data.index(b"k1 died (crashed)") < data.index(b"k1 is back, generation 2") < data.index(b"]\r\n2")


async def test_a_clean_stop_reads_as_one() -> None:
    terminal = Terminal("k1", HISTORY)
    viewer = terminal.attach(write=False, history=False)
    async with running(terminal):
        await read_all(viewer)
    assert await read_all(viewer) == b"\r\n[popnet: k1 stopped; waiting for boot]\r\n"


async def test_a_closed_terminal_ends_after_what_is_left() -> None:
    terminal = Terminal("k1", HISTORY)
    async with running(terminal) as stream:
        viewer = terminal.attach(write=True, history=False)
        stream.feed(b"last words")
        await settle()
        waiting = terminal.attach(write=False, history=False)
        reading = asyncio.ensure_future(waiting.read())
        await settle()
        terminal.close()
        assert await reading == b""
        assert await viewer.read() == b"last words"
        assert await viewer.read() == b""
        with pytest.raises(Refused):
            terminal.attach(write=False)


async def test_detaching_ends_a_pending_read() -> None:
    terminal = Terminal("k1", HISTORY)
    async with running(terminal):
        viewer = terminal.attach(write=False)
        reading = asyncio.ensure_future(viewer.read())
        await settle()
        viewer.detach()
        assert await reading == b""


# On a real stream


async def test_a_keystroke_and_its_echo_and_the_end() -> None:
    terminal = Terminal("k1")
    ours, kernels = pair("tty", {"n": 0})
    writer = terminal.attach(write=True, history=False)
    async with asyncio.TaskGroup() as group:
        group.create_task(terminal.run(ours))
        await settle()
        writer.resize(90, 20)
        await writer.write(b"x")
        told = {await kernels.receive() for _ in range(3)}
        assert told == {(0, b"x"), (2, b'{"attached": true}'), (2, b'{"resize": [90, 20]}')}
        assert b"not running" in await writer.read()
        await kernels.send(b"x")
        assert await writer.read() == b"x"
        await kernels.close()
    assert await writer.read() == b"\r\n[popnet: k1 stopped; waiting for boot]\r\n"


async def test_a_kernel_feels_a_stalled_writer_and_nothing_is_lost() -> None:
    terminal = Terminal("k1")
    ours, kernels = pair("tty")
    writer = terminal.attach(write=True, history=False)
    await writer.read()
    sent = 0
    total = 64 * STREAM_WINDOW

    async def kernel() -> None:
        nonlocal sent
        while sent < total:
            await kernels.send(bytes([sent >> 12 & 0xFF]) * 4096)
            sent += 4096
        await kernels.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(terminal.run(ours))
        group.create_task(kernel())
        before = -1
        while before != sent:
            before = sent
            await settle()
        assert STREAM_WINDOW < sent < 6 * STREAM_WINDOW
        data = b""
        while len(data) < total:
            data += await writer.read()
    assert data[:total:4096] == bytes(range(256)) * (total >> 20)
    assert data[total:] in (b"", b"\r\n[popnet: k1 stopped; waiting for boot]\r\n")
