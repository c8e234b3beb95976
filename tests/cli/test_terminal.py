"""Descriptors and the event loop: nothing inherited is changed, nothing blocks the loop, nothing is lost."""

import asyncio
import fcntl
import os
import signal
import socket
import termios
from pathlib import Path

import pytest

from popnet.cli.terminal import Input, Output, RawTerminal, Signals, size
from tests.cli.conftest import untouched


def nonblocking(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK)


async def test_output_into_a_full_pipe_waits_and_leaves_the_pipe_as_it_is() -> None:
    reading, writing = os.pipe()
    output = Output(writing)
    data = os.urandom(1 << 20)
    task = asyncio.create_task(output.write(data))
    received = b""
    while len(received) < len(data):
        received += await asyncio.to_thread(os.read, reading, 1 << 16)
        assert not nonblocking(writing)
    await task
    assert received == data
    output.close()
    os.write(writing, b"still open")
    os.close(reading)
    os.close(writing)


async def test_output_to_nobody_is_a_broken_pipe() -> None:
    reading, writing = os.pipe()
    output = Output(writing)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        await output.write(b"x")
    output.close()
    os.close(writing)


async def test_output_into_a_socket() -> None:
    ours, theirs = socket.socketpair()
    output = Output(ours.fileno())
    task = asyncio.create_task(output.write(bytes(4 << 20)))
    received = 0
    while received < 4 << 20:
        received += len(await asyncio.to_thread(theirs.recv, 1 << 16))
    await task
    assert not nonblocking(ours.fileno())
    ours.close()
    theirs.close()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_until_closed(kind: str) -> None:
    if kind == "pipe":
        reading, writing = os.pipe()
    else:
        pair = socket.socketpair()
        reading, writing = pair[0].detach(), pair[1].detach()
    output = Output(writing)
    task = asyncio.create_task(output.until_closed())
    await output.write(b"x")
    assert not task.done()
    os.close(reading)
    await task
    output.close()
    os.close(writing)


async def test_remark_on_a_full_pipe_is_dropped() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, bytes(1 << 16))
    os.set_blocking(writing, True)
    output = Output(writing)
    output.remark(b"nobody reads this")
    os.close(reading)
    output.remark(b"nor this")
    output.close()
    os.close(writing)


async def test_input_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file")
    with open(tmp_path / "file", "rb") as file:
        source = Input(file.fileno())
        assert (await source.read(), await source.read()) == (b"file", b"")
    with open("/dev/null", "rb") as null:
        assert await Input(null.fileno()).read() == b""
    reading, writing = os.pipe()
    source = Input(reading)
    task = asyncio.create_task(source.read())
    await asyncio.sleep(0)
    os.write(writing, b"pipe")
    assert await task == b"pipe"
    assert not nonblocking(reading)
    os.close(writing)
    assert await source.read() == b""
    os.close(reading)


async def test_input_of_a_terminal_that_is_gone() -> None:
    ours, theirs = os.openpty()
    task = asyncio.create_task(Input(theirs).read())
    await asyncio.sleep(0)
    os.close(ours)
    assert await task == b""
    os.close(theirs)


def test_raw_is_undone_by_an_exception() -> None:
    ours, theirs = os.openpty()
    with pytest.raises(ZeroDivisionError), RawTerminal(theirs):
        assert not termios.tcgetattr(theirs)[3] & termios.ICANON
        raise ZeroDivisionError
    assert termios.tcgetattr(theirs) == untouched()
    os.close(ours)
    os.close(theirs)


def test_raw_of_a_terminal_that_is_gone_meanwhile() -> None:
    ours, theirs = os.openpty()
    with RawTerminal(theirs):
        os.close(ours)
    os.close(theirs)


def test_raw_of_what_is_no_terminal(tmp_path: Path) -> None:
    with RawTerminal(None), open(tmp_path / "file", "wb") as file, RawTerminal(file.fileno()):
        pass


def test_size() -> None:
    ours, theirs = os.openpty()
    assert size(theirs) is None  # a fresh one has none
    termios.tcsetwinsize(ours, (33, 99))
    assert size(theirs) == (99, 33)
    with open("/dev/null", "rb") as null:
        assert size(null.fileno(), theirs) == (99, 33)
    os.close(ours)
    os.close(theirs)


async def test_signals_only_inside_the_block() -> None:
    came = asyncio.Event()
    before = signal.getsignal(signal.SIGUSR1)
    with Signals({signal.SIGUSR1: came.set}):
        os.kill(os.getpid(), signal.SIGUSR1)
        await came.wait()
    assert signal.getsignal(signal.SIGUSR1) == before
