"""Bytes over pipes and ptys, awaited."""

import asyncio
import os

import pytest

from popnet.kernel import fdio
from popnet.tty import pty


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return ends


async def test_a_pipe_its_bytes_and_its_end() -> None:
    reading, writing = _pipe()
    waiting = asyncio.create_task(fdio.read(reading))
    await asyncio.sleep(0)
    assert not waiting.done()
    await fdio.write(writing, b"hello")
    assert await waiting == b"hello"
    os.close(writing)
    assert await fdio.read(reading) == b""
    os.close(reading)


async def test_what_does_not_fit_waits_for_the_reader() -> None:
    reading, writing = _pipe()
    data = os.urandom(300_000)
    task = asyncio.create_task(fdio.write(writing, data))
    got = b""
    while len(got) < len(data):
        piece = await fdio.read(reading)
        assert 0 < len(piece) <= fdio.CHUNK
        got += piece
    await task
    assert got == data
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        await fdio.write(writing, b"x")
    os.close(writing)


async def test_a_cancelled_wait_loses_nothing_and_leaves_no_watch() -> None:
    reading, writing = _pipe()
    waiting = asyncio.create_task(fdio.read(reading))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not asyncio.get_running_loop().remove_reader(reading)
    await fdio.write(writing, b"kept")
    assert await fdio.read(reading) == b"kept"
    os.close(reading)
    os.close(writing)


async def test_a_pty_ends_with_its_last_slave() -> None:
    master, slave = pty.open_pty()
    os.set_blocking(master, False)
    waiting = asyncio.create_task(fdio.read(master))
    await asyncio.sleep(0)
    os.write(slave, b"shown")
    assert await waiting == b"shown"
    os.close(slave)
    assert await fdio.read(master) == b""
    os.close(master)


async def test_errors_that_are_no_end_are_raised() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        await fdio.read(-1)


async def test_a_source_that_nobody_reads_is_not_watched_for_ever() -> None:
    reading, writing = _pipe()
    loop = asyncio.get_running_loop()
    source = fdio.Source(reading)
    waiting = asyncio.create_task(source.read())
    await asyncio.sleep(0)
    os.write(writing, b"first")
    assert await waiting == b"first"
    calls: list[int] = []
    stopped = asyncio.Event()
    plain = source._readable

    def counted() -> None:
        calls.append(1)
        plain()
        if not source._watched:
            stopped.set()

    loop.remove_reader(reading)
    loop.add_reader(reading, counted)
    os.write(writing, b"second")
    await stopped.wait()
    assert not loop.remove_reader(reading)
    assert len(calls) <= 2, "the second call without a reader was the last"
    assert await source.read() == b"second"
    waiting = asyncio.create_task(source.read())
    await asyncio.sleep(0)
    os.write(writing, b"third")
    assert await waiting == b"third", "it is watched again"
    source.close()
    source.close()
    assert not loop.remove_reader(reading)
    os.close(reading)
    os.close(writing)
