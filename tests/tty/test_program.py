"""Programs pumped by a loop: every byte, flow control both ways, and ends of all kinds."""

import asyncio
import gc
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from popnet.tty.program import STDERR, STDOUT, Program
from popnet.tty.pty import SpawnFailed
from tests.tty.fakes import settle

ENV = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


started: list["Watched"] = []


@pytest.fixture(autouse=True)
async def end_what_was_started() -> AsyncIterator[None]:
    """Whatever a test's outcome, no program outlives it."""
    yield
    while started:
        watched = started.pop()
        watched.program.signal(signal.SIGKILL)
        watched.program.hang_up()


class Watched:
    """A program, and everything it told its owner."""

    def __init__(self, *argv: str, size: tuple[int, int] | None = None, limit: int | None = None) -> None:
        self.output = {STDOUT: bytearray(), STDERR: bytearray()}
        self.rooms: list[bool] = []
        self.room = asyncio.Event()
        self.room.set()
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()
        self._limit = limit
        self.program = Program(
            argv, ENV, output=self._take, room=self._make_room, ended=self.ended.set_result, size=size
        )
        started.append(self)

    def _take(self, file: int, data: bytes) -> None:
        self.output[file] += data
        self._news.set()
        if self._limit is not None and len(self.output[STDOUT]) > self._limit:
            self.program.pause()

    def _make_room(self, room: bool) -> None:
        self.rooms.append(room)
        if room:
            self.room.set()
        else:
            self.room.clear()

    @property
    def stdout(self) -> bytes:
        return bytes(self.output[STDOUT])

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()

    async def feed(self, data: bytes, piece: int = 32 << 10) -> None:
        for start in range(0, len(data), piece):
            await self.room.wait()
            self.program.feed(data[start : start + piece])


async def end_of(pid: int) -> None:
    """Wait until a process, of whatever parent, has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    await ended.wait()
    loop.remove_reader(pidfd)
    os.close(pidfd)


async def test_output_errors_and_status_are_told_apart() -> None:
    watched = Watched("sh", "-c", "echo out; echo err >&2; exit 7")
    assert await watched.ended == 7
    assert watched.output == {STDOUT: b"out\n", STDERR: b"err\n"}


async def test_a_signal_that_ended_it_is_a_negative_status() -> None:
    assert await Watched("sh", "-c", "kill -TERM $$").ended == -signal.SIGTERM


async def test_a_program_that_does_not_exist_is_an_error_and_leaves_nothing() -> None:
    for size in (None, (80, 24)):
        gc.collect()  # those of earlier tests
        before = {file.name for file in Path("/proc/self/fd").iterdir()}
        with pytest.raises(SpawnFailed) as failed:
            Watched("no-such-program-anywhere", size=size)
        assert failed.value.status == 127
        assert {file.name for file in Path("/proc/self/fd").iterdir()} == before


async def test_many_bytes_go_through_unchanged_with_flow_control_on_both_sides() -> None:
    data = os.urandom(1 << 16) * 128
    watched = Watched("cat", limit=0)  # pauses after each piece

    async def resume() -> None:
        while len(watched.stdout) < len(data):
            await watched._news.wait()
            watched._news.clear()
            watched.program.resume()

    async with asyncio.TaskGroup() as group:
        group.create_task(resume())
        await watched.feed(data)
        watched.program.feed_eof()
    watched.program.resume()
    assert await watched.ended == 0
    assert hashlib.sha256(watched.stdout).digest() == hashlib.sha256(data).digest()
    assert watched.rooms[:2] == [False, True]


async def test_a_paused_program_waits() -> None:
    watched = Watched("yes", limit=1 << 20)
    await watched.until(lambda: len(watched.stdout) > 1 << 20)
    before = len(watched.stdout)
    await settle()
    assert len(watched.stdout) == before
    watched.program.hang_up()


async def test_input_for_a_program_that_reads_no_more_is_dropped() -> None:
    watched = Watched("sh", "-c", "exec <&-; echo closed; sleep 1000")
    await watched.until(lambda: watched.stdout == b"closed\n")
    for _ in range(10):
        watched.program.feed(b"x" * 100_000)
    watched.program.feed_eof()
    watched.program.signal(signal.SIGKILL)
    assert await watched.ended == -signal.SIGKILL


async def test_output_of_a_background_job_on_pipes_is_waited_for() -> None:
    watched = Watched("sh", "-c", "(sleep 0.1; echo later) & echo now; exit 3")
    assert await watched.ended == 3
    assert watched.stdout == b"now\nlater\n"


# On a pty


async def test_a_pty_has_a_size_and_a_controlling_terminal() -> None:
    watched = Watched("sh", "-c", "stty size >/dev/tty; test -t 0 && test -t 1 && test -t 2", size=(100, 30))
    assert await watched.ended == 0
    assert watched.stdout == b"30 100\r\n"


async def test_everything_written_to_a_pty_before_the_end_is_read() -> None:
    for _ in range(20):
        watched = Watched("sh", "-c", "seq 1 2000", size=(80, 24))
        assert await watched.ended == 0
        assert watched.stdout == b"".join(b"%d\r\n" % n for n in range(1, 2001))


async def test_a_pty_ends_with_its_program_whatever_its_background_jobs_do() -> None:
    watched = Watched("sh", "-c", "trap '' HUP; sleep 1000 & echo $!; exit 5", size=(80, 24))
    assert await watched.ended == 5
    os.kill(int(watched.stdout), signal.SIGKILL)


async def test_a_pty_that_a_background_job_floods_ends_nevertheless(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    watched = Watched("sh", "-c", f"trap '' HUP; yes & echo $! > {pid}; exit 5", size=(80, 24))
    assert await watched.ended == 5
    os.kill(int(pid.read_text()), signal.SIGKILL)


async def test_a_paused_pty_loses_nothing_at_the_end() -> None:
    watched = Watched("sh", "-c", "seq 1 500", size=(80, 24), limit=0)
    await watched.until(lambda: bool(watched.stdout))
    while not watched.ended.done():
        watched.program.resume()
        await asyncio.sleep(0)
    assert watched.stdout == b"".join(b"%d\r\n" % n for n in range(1, 501))


async def test_control_keys_and_resizes_reach_the_foreground() -> None:
    script = "trap 'echo interrupted' INT; trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"
    watched = Watched("sh", "-c", script, size=(80, 24))
    await watched.until(lambda: b"ready" in watched.stdout)
    watched.program.feed(b"\x03")
    await watched.until(lambda: b"interrupted" in watched.stdout)
    watched.program.resize(132, 43)
    await watched.until(lambda: b"43 132" in watched.stdout)
    watched.program.signal(signal.SIGKILL)
    assert await watched.ended == -signal.SIGKILL


async def test_an_end_of_file_is_typed() -> None:
    watched = Watched("sh", "-c", "cat; echo over", size=(80, 24))
    watched.program.feed(b"line\n")
    watched.program.feed_eof()
    assert await watched.ended == 0
    assert watched.stdout.endswith(b"over\r\n")


# Hanging up


@pytest.mark.parametrize("size", [None, (80, 24)])
async def test_hanging_up_ends_the_programs_session_and_tells_nothing(size: tuple[int, int] | None) -> None:
    watched = Watched("sh", "-c", "sleep 1000 & echo $$ $!; wait", size=size)
    await watched.until(lambda: b"\n" in watched.stdout)
    pids = [int(pid) for pid in watched.stdout.split()]
    watched.program.hang_up()
    watched.program.hang_up()
    watched.program.feed(b"x")
    watched.program.resize(1, 1)
    for pid in pids:
        await end_of(pid)
    await settle()
    assert not watched.ended.done()
    assert not Path(f"/proc/{pids[0]}").exists()  # it was reaped
