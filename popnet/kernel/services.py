"""The services that every kernel's daemon offers on its streams: run a program, reach a TCP port."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from popnet.core.errors import Overloaded, PeerDied, Refused, StreamClosed
from popnet.kernel import fdio
from popnet.kernel.initclient import InitClient, Program
from popnet.kernel.realtime import check_priority
from popnet.message.endpoint import Endpoint
from popnet.message.notice import Notice
from popnet.message.stream import Stream
from popnet.tty import pty

STDIN: Final = 0
STDOUT: Final = 0
STDERR: Final = 1
CONTROL: Final = 2

_OUTPUT_GRACE_S: Final = 0.5
"""Seconds without output to wait for its end once the program has ended: children that it left behind may
hold its pipes for ever."""


_NOTICES_MAX: Final = 4096
"""Notices that may wait for a slow client of `watch`."""


class WatchService:
    """`watch`: what comes up and goes down in the machine, as this kernel is told.

    Parameters: optionally pattern, a glob for `kernel/NAME` and `service/NAME` (default: all). Channel 0: a
    line of JSON a notice, what is there first; until the client closes.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, stream: Stream) -> None:
        pattern = stream.params.get("pattern", "*")
        if not isinstance(pattern, str):
            raise Refused("watch: `pattern` must be a string")
        waiting: asyncio.Queue[Notice] = asyncio.Queue()
        number = self._endpoint.watch(pattern, waiting.put_nowait)
        sending: asyncio.Task[None] | None = None
        try:
            await stream.accept()
            sending = asyncio.create_task(self._send(stream, waiting))
            closing = asyncio.create_task(_until_closed(stream))
            await asyncio.wait([sending, closing], return_when=asyncio.FIRST_COMPLETED)
            closing.cancel()
            if sending.done():
                await sending
        finally:
            self._endpoint.unwatch(number)
            if sending is not None:
                sending.cancel()

    @staticmethod
    async def _send(stream: Stream, waiting: "asyncio.Queue[Notice]") -> None:
        while True:
            notice = await waiting.get()
            if waiting.qsize() > _NOTICES_MAX:
                raise Overloaded(f"more than {_NOTICES_MAX} notices wait for the client")
            line = json.dumps(notice_row(notice)).encode() + b"\n"
            await stream.send(line)


def notice_row(notice: Notice) -> dict[str, Any]:
    """A notice for people and programs."""
    row: dict[str, Any] = {"change": notice.change.value, "kid": notice.kid, "generation": notice.generation}
    if notice.subject.startswith("service/"):
        row |= {"service": notice.name, "version": notice.version}
    else:
        row |= {"kernel": notice.name}
    return row if notice.change.up else {**row, "reason": notice.reason}


async def _until_closed(stream: Stream) -> None:
    with contextlib.suppress(StreamClosed, PeerDied):
        while await stream.receive() is not None:
            pass


class ExecService:
    """`exec`: runs a program in the kernel.

    Parameters: argv, and optionally env (added to the kernel's), cwd, tty with cols and rows; fifo, a
    priority of SCHED_FIFO, in a kernel that has its cores alone.
    Channels: 0 stdin and stdout; 1 stderr; 2 to the kernel, JSON {"signal": n}, {"resize": [cols, rows]} or
    {"eof": true}. Result: {"status": n} or {"signal": n}.
    """

    def __init__(
        self, init: InitClient, environment: Callable[..., dict[str, str]], isolated: bool = False
    ) -> None:
        self._init = init
        self._environment = environment
        self._isolated = isolated

    async def __call__(self, stream: Stream) -> None:
        params = check_exec(stream.params)
        check_priority(params.get("fifo"), self._isolated)
        environ = self._environment(**params.get("env", {}))
        if params.get("tty"):
            session = await self._start_on_terminal(stream, params, environ)
        else:
            session = await self._start_on_pipes(stream, params, environ)
        await stream.accept()
        await session.run()

    async def _start_on_terminal(
        self, stream: Stream, params: dict[str, Any], environ: dict[str, str]
    ) -> "_Session":
        environ.setdefault("TERM", "xterm-256color")
        size = (params.get("cols", 80), params.get("rows", 24))
        program = await self._init.spawn(
            params["argv"], environ, cwd=params.get("cwd"), terminal=size, fifo=params.get("fifo")
        )
        assert program.terminal is not None
        os.set_blocking(program.terminal, False)
        return _Session(stream, self._init, program, program.terminal, {STDOUT: program.terminal})

    async def _start_on_pipes(
        self, stream: Stream, params: dict[str, Any], environ: dict[str, str]
    ) -> "_Session":
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = pipes
        try:
            program = await self._init.spawn(
                params["argv"],
                environ,
                cwd=params.get("cwd"),
                streams=(in_read, out_write, err_write),
                fifo=params.get("fifo"),
            )
        except BaseException:
            for fd in (in_write, out_read, err_read):
                os.close(fd)
            raise
        finally:
            for fd in (in_read, out_write, err_write):
                os.close(fd)
        for fd in (in_write, out_read, err_read):
            os.set_blocking(fd, False)
        return _Session(stream, self._init, program, in_write, {STDOUT: out_read, STDERR: err_read})


class _Session:
    """One running program and the stream that it talks over."""

    def __init__(
        self, stream: Stream, init: InitClient, program: Program, stdin: int, outputs: Mapping[int, int]
    ) -> None:
        self._stream = stream
        self._init = init
        self._program = program
        self._stdin: int | None = stdin
        self._outputs = outputs
        self._sending = 0
        self._sent = 0

    async def run(self) -> None:
        input_task = asyncio.create_task(self._feed())
        output_tasks = [
            asyncio.create_task(self._drain(fd, channel)) for channel, fd in self._outputs.items()
        ]
        try:
            outcome = await self._program.ended
            await self._wait_for_output(output_tasks)
            with contextlib.suppress(StreamClosed, PeerDied):
                await self._stream.close(outcome)
        finally:
            for task in (input_task, *output_tasks):
                task.cancel()
            await asyncio.gather(input_task, *output_tasks, return_exceptions=True)
            self._stream.abort()
            for fd in {*self._outputs.values(), *(() if self._stdin is None else (self._stdin,))}:
                os.close(fd)
            self._stdin = None

    async def _wait_for_output(self, tasks: "list[asyncio.Task[None]]") -> None:
        """Until all output is sent, or none has come for a while; the client's slowness does not count."""
        while not all(task.done() for task in tasks):
            sent = self._sent
            await asyncio.wait(tasks, timeout=_OUTPUT_GRACE_S)
            if self._sent == sent and not self._sending:
                return

    async def _drain(self, fd: int, channel: int) -> None:
        with contextlib.suppress(StreamClosed, PeerDied):
            while data := await fdio.read(fd):
                self._sending += 1
                await self._stream.send(data, channel)
                self._sending -= 1
                self._sent += 1

    async def _feed(self) -> None:
        """Hand the stream's input to the program; when the other end goes away, the program gets SIGHUP."""
        try:
            while (received := await self._stream.receive()) is not None:
                channel, data = received
                if channel == CONTROL:
                    self._control(_decode(data))
                elif channel == STDIN and self._stdin is not None:
                    await self._write(data)
        except (StreamClosed, PeerDied):
            self._init.signal(self._program, signal.SIGHUP)

    async def _write(self, data: bytes) -> None:
        assert self._stdin is not None
        try:
            await fdio.write(self._stdin, data)
        except OSError:
            self._close_stdin()  # the program reads no more: what comes is dropped, as a shell's pipe would

    def _control(self, request: object) -> None:
        """Do what the client asks; what is no request is left alone."""
        match request:
            case {"signal": int(number)} if 0 < number < signal.NSIG:
                self._init.signal(self._program, number)
            case {"resize": [int(cols), int(rows)]} if _is_size(cols) and _is_size(rows):
                if self._program.terminal is not None:
                    with contextlib.suppress(OSError):
                        pty.set_size(self._program.terminal, cols, rows)
            case {"eof": True}:
                self._close_stdin()

    def _close_stdin(self) -> None:
        """End the program's input. On a terminal that is the end-of-file character, since the pty stays open
        for output."""
        if self._stdin is None:
            return
        if self._program.terminal is not None:
            with contextlib.suppress(OSError):
                os.write(self._stdin, b"\x04")
        else:
            os.close(self._stdin)
            self._stdin = None


def check_exec(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an `exec`. Raises Refused if they are none."""
    argv = params.get("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        raise Refused("exec: `argv` must be a list of at least one string")
    env = params.get("env", {})
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise Refused("exec: `env` must map names to strings")
    if not isinstance(params.get("cwd"), str | None):
        raise Refused("exec: `cwd` must be a string")
    if not all(_is_size(params.get(name, 0)) for name in ("cols", "rows")):
        raise Refused("exec: `cols` and `rows` must be numbers up to 65535")
    return params


def _is_size(number: object) -> bool:
    return isinstance(number, int) and 0 <= number < 1 << 16  # 0 is what a terminal without a size has


def _decode(data: bytes) -> object:
    """A message on a control channel; None if it is not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


async def serve_dial(stream: Stream) -> None:
    """`dial`: a byte stream to a TCP port, reached from the kernel's own network namespace.

    Parameters: port, and optionally host (default 127.0.0.1). Channel 0: bytes both ways. Each direction ends
    on its own, as in TCP: the end of the connection's closes this half of the stream, with the result {}.
    """
    host, port = str(stream.params.get("host", "127.0.0.1")), stream.params.get("port")
    if not isinstance(port, int) or not 0 < port < 65536:
        raise Refused(f"dial: port {port!r} is not a number from 1 to 65535")
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        why = getattr(error, "strerror", None) or error
        raise Refused(f"cannot reach {host} port {port}: {why}") from None
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await stream.accept()
    inward = asyncio.create_task(_copy_to_stream(reader, stream))
    outward = asyncio.create_task(_copy_from_stream(stream, writer))
    try:
        await _both(inward, outward)
    except (StreamClosed, PeerDied, OSError):
        stream.abort()
    finally:
        writer.close()


async def _both(*tasks: "asyncio.Task[None]") -> None:
    """Wait for all *tasks*; when one fails, end the others and raise its error."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy_to_stream(reader: asyncio.StreamReader, stream: Stream) -> None:
    while data := await reader.read(fdio.CHUNK):
        await stream.send(data)
    await stream.close({})


async def _copy_from_stream(stream: Stream, writer: asyncio.StreamWriter) -> None:
    while (received := await stream.receive()) is not None:
        channel, data = received
        if channel == STDIN:
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
