"""exec and dial over streams in memory: real programs beside a fake init, a real server on 127.0.0.1."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from popnet.core.errors import NoSuchProgram, Refused, StreamClosed
from popnet.kernel import services
from popnet.kernel.initclient import Program
from popnet.kernel.services import ExecService, check_exec, serve_dial
from popnet.message.stream import Stream, pair
from popnet.tty import pty

PATH = {"PATH": os.environ["PATH"]}


class FakeInit:
    """Starts programs here, as children of the test, and tells how they end."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.ended = asyncio.Event()
        self._waiting: set[asyncio.Task[None]] = set()

    async def spawn(
        self,
        argv: list[str],
        environ: dict[str, str],
        *,
        cwd: str | None = None,
        fifo: int | None = None,
        streams: tuple[int, int, int] | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Program:
        master = None
        try:
            if terminal is not None:
                master, slave = pty.open_pty(*terminal)
                with contextlib.closing(os.fdopen(slave, "rb", buffering=0)):
                    pid = pty.spawn_on_pty(argv, environ, slave, cwd=cwd)
            else:
                assert streams is not None
                pid = pty.spawn(argv, environ, streams, cwd=cwd)
        except pty.SpawnFailed as error:
            if master is not None:
                os.close(master)
            raise NoSuchProgram(str(error)) from None
        program = Program(1, pid, master)
        task = asyncio.create_task(self._wait(program))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return program

    async def _wait(self, program: Program) -> None:
        _, status = await asyncio.to_thread(os.waitpid, program.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        program.ended.set_result({"status": code} if code >= 0 else {"signal": -code})
        self.ended.set()

    def signal(self, program: Program, number: int) -> None:
        self.signals.append(number)
        pty.signal_group(program.pid, number)


class Session:
    """A client's end of an exec, and the service's task."""

    def __init__(self, **params: Any) -> None:
        self.init = FakeInit()
        service = ExecService(self.init, lambda **more: {**PATH, **more})  # type: ignore[arg-type]
        self.client, self.server = pair("exec", params)
        self.task: asyncio.Task[None] = asyncio.create_task(_as_coroutine(service(self.server)))

    async def control(self, message: Any) -> None:
        await self.client.send(message if isinstance(message, bytes) else json.dumps(message).encode(), 2)

    async def output(self) -> dict[int, bytes]:
        """All that the program writes, by channel."""
        said: dict[int, bytes] = {}
        while (received := await self.client.receive()) is not None:
            said[received[0]] = said.get(received[0], b"") + received[1]
        await self.task
        return said


async def _as_coroutine(work: Coroutine[Any, Any, None]) -> None:
    await work


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    """No test waits for ever, and none leaves a descriptor open."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    async with asyncio.timeout(20):
        yield
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def sh(script: str, **params: Any) -> Session:
    return Session(argv=["sh", "-c", script], **params)


async def test_output_errors_and_status() -> None:
    session = sh("echo out; echo err >&2; echo $colour; exit 3", env={"colour": "blue"})
    assert await session.output() == {0: b"out\nblue\n", 1: b"err\n"}
    assert session.client.result == {"status": 3}


async def test_input_until_its_end() -> None:
    session = Session(argv=["wc", "-c"])
    for _ in range(4):
        await session.client.send(b"x" * 50_000)
    await session.control({"eof": True})
    await session.client.send(b"too late")
    assert (await session.output())[0].strip() == b"200000"


async def test_input_that_the_program_does_not_read_is_dropped() -> None:
    session = sh("exec <&-; echo closed; sleep 0.2; exit 0")
    assert await session.client.receive() == (0, b"closed\n")
    for _ in range(3):
        await session.client.send(b"x" * 1000)
    await session.output()
    assert session.client.result == {"status": 0}


async def test_a_slow_reader_gets_the_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "_OUTPUT_GRACE_S", 0.001)
    session = sh("head -c 150000 /dev/zero; echo end")
    await session.init.ended.wait()
    for _ in range(1000):  # the grace is long over, with more to read than the stream has credit for
        await asyncio.sleep(0)
    said = (await session.output())[0]
    assert (len(said), said[-4:]) == (150_004, b"end\n")


async def test_a_child_left_behind_with_the_pipes_does_not_hold_up_the_result() -> None:
    session = sh("sleep 1000 & echo $!")
    received = await session.client.receive()
    assert received is not None
    await session.output()
    assert session.client.result == {"status": 0}
    os.kill(int(received[1]), signal.SIGKILL)


async def test_a_client_that_goes_away_hangs_up() -> None:
    session = sh("echo up; sleep 1000")
    await session.client.receive()
    session.client.abort()
    await session.task
    assert session.init.signals == [signal.SIGHUP]


async def test_signals_and_nonsense_on_the_control_channel() -> None:
    session = sh("trap 'echo got; exit 5' USR1; echo up; sleep 1000 & wait")
    await session.client.receive()
    for nonsense in (
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'{"signal": "x"}',
        b'{"signal": 0}',
        b'{"signal": -1}',
        b'{"signal": 99999}',
        b'{"signal": 1e3}',
        b'{"resize": [1]}',
        b'{"resize": [-1, 2]}',
        b'{"resize": "big"}',
        b'{"resize": [70000, 2]}',
        b"[" * 50_000,
    ):
        await session.control(nonsense)
    await session.control({"signal": int(signal.SIGUSR1)})
    assert (await session.output())[0] == b"got\n"
    assert (session.client.result, session.init.signals) == ({"status": 5}, [signal.SIGUSR1])


async def test_a_terminal_its_size_and_its_end_of_file() -> None:
    session = sh("stty size; trap 'stty size' WINCH; echo go; cat; echo $TERM", tty=True, cols=97, rows=31)
    said = b""
    while b"go" not in said:
        received = await session.client.receive()
        assert received is not None
        said += received[1]
    assert said.split() == [b"31", b"97", b"go"]
    await session.control({"resize": [132, 43]})
    await session.client.send(b"typed\n")
    await session.control({"eof": True})
    words = (await session.output())[0].split()
    assert words.count(b"typed") == 2, "echo, and cat"
    assert words[-1] == b"xterm-256color"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"argv": []},
        {"argv": "ls"},
        {"argv": [1]},
        {"argv": ["ls"], "env": []},
        {"argv": ["ls"], "env": {"a": 1}},
        {"argv": ["ls"], "cwd": 5},
        {"argv": ["ls"], "cols": "wide"},
        {"argv": ["ls"], "cols": -1},
        {"argv": ["ls"], "rows": 1 << 16},
        {"argv": ["ls"], "rows": 2.5},
    ],
)
async def test_bad_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="exec: "):
        check_exec(params)
    with pytest.raises(Refused, match="exec: "):
        await Session(**params).task


async def test_what_cannot_be_started_leaves_no_descriptor_open() -> None:
    for tty in (False, True):
        with pytest.raises(NoSuchProgram):
            await Session(argv=["no-such-program"], tty=tty).task


@pytest.fixture
async def dialled() -> AsyncIterator[tuple[Stream, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's stream, and the server's end of the connection that `dial` made for it."""
    accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_server(lambda *ends: accepted.put_nowait(ends), "127.0.0.1", 0)
    client, stream = pair("dial", {"port": server.sockets[0].getsockname()[1]})
    task = asyncio.create_task(serve_dial(stream))
    reader, writer = await accepted.get()
    yield client, reader, writer
    writer.close()
    server.close()
    await task


Dialled = tuple[Stream, asyncio.StreamReader, asyncio.StreamWriter]


async def _all(client: Stream) -> bytes:
    """The bytes that come until the other end has closed its half."""
    said = b""
    while (received := await client.receive()) is not None:
        said += received[1] if received[0] == 0 else b""
    return said


async def test_dial_carries_bytes_both_ways_and_each_end_on_its_own(dialled: Dialled) -> None:
    client, reader, writer = dialled
    await client.send(b"question")
    await client.send(b"not json", 2)
    await client.close()
    assert await reader.read() == b"question"
    writer.write(b"answer")
    writer.write_eof()
    assert await _all(client) == b"answer"
    assert client.result == {}


async def test_dial_the_server_ends_first(dialled: Dialled) -> None:
    client, reader, writer = dialled
    writer.write(b"bye")
    writer.write_eof()
    assert await client.receive() == (0, b"bye")
    await client.send(b"still here")
    await client.close()
    assert await reader.read() == b"still here"
    assert await _all(client) == b""


async def test_dial_the_client_goes_away(dialled: Dialled) -> None:
    client, reader, _ = dialled
    client.abort()
    assert await reader.read() == b""


async def test_dial_the_server_resets(dialled: Dialled) -> None:
    client, _, writer = dialled
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.close()
    with pytest.raises(StreamClosed):
        while True:
            await client.receive()


@pytest.mark.parametrize("port", [None, 0, -1, 65536, "80", 1.5])
async def test_dial_bad_ports(port: object) -> None:
    _, stream = pair("dial", {"port": port})
    with pytest.raises(Refused, match="is not a number"):
        await serve_dial(stream)


async def test_dial_what_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for host in ("127.0.0.1", "a\0b", "x" * 300, "\udc80"):
        _, stream = pair("dial", {"port": port, "host": host})
        with pytest.raises(Refused, match="cannot reach"):
            await serve_dial(stream)
