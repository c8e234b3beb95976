"""The client's end of streams and of lists, on asyncio: `connect` and its `ClientStream`; `follow`.

Theory of operation. One connection is one stream: a WebSocket whose codec is `wire`. A `_Connection` is the
asyncio protocol below it, and holds all its state:

    handshake → opening → open → ended

`opening` lasts until the server said that the service accepted. `ended` has one cause, set once: the
result, an error, the close of either end. What was received before it is received first.

Nothing is dropped and nothing piles up, either way. Towards the server, `send` waits while the transport's
buffer is over its mark. From it, the transport stops reading while more than _QUEUE_MAX bytes wait to be
received; then the server's buffers fill, and the service of the kernel runs out of credit.
"""

import asyncio
import json
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

from popnet.control import http1, wire
from popnet.control.client import decode_body, decode_error, decode_line, died, not_a_machine, not_running
from popnet.control.rundir import open_socket
from popnet.core.errors import PopnetError, StreamClosed
from popnet.core.limits import STREAM_RECORD_MAX

_QUEUE_MAX: Final = 1 << 20
"""Bytes waiting to be received at which the transport stops reading; it goes on at a quarter of them."""

_WRITE_MAX: Final = 256 << 10
"""Bytes in the transport's buffer at which senders wait."""


class ClientStream:
    """A stream to a service, or to a terminal, of a kernel. Several tasks may send, one should receive.

    Attributes:
        result: what the service closed with, once `receive` returned None.
    """

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection

    @property
    def result(self) -> dict[str, Any] | None:
        return self._connection.result

    async def send(self, data: bytes, channel: int = 0) -> None:
        """Sends *data*, of any size, in order; waits while the service is slow to read. If empty: nothing.

        Up to limits.STREAM_RECORD_MAX bytes arrive in one piece. Raises StreamClosed, or what the stream
        ended with.
        """
        prefix = bytes((channel,))
        if len(data) <= STREAM_RECORD_MAX:
            if data:
                await self._connection.send(wire.frame(wire.BINARY, prefix, data))
            return
        view = memoryview(data)
        for start in range(0, len(view), STREAM_RECORD_MAX):
            piece = view[start : start + STREAM_RECORD_MAX]
            await self._connection.send(wire.frame(wire.BINARY, prefix, piece))

    async def receive(self) -> tuple[int, bytes] | None:
        """The next (channel, data); None once the service has closed and everything is received.

        Raises PeerDied (the kernel, or the machine, did), StreamClosed (closed here), or what the service
        ended with. Cancelling it loses nothing.
        """
        return await self._connection.receive()

    async def finish(self) -> None:
        """Closes this half: the service is told that nothing more comes. It may still send, and close."""
        await self._connection.send(wire.text({"close": True}))

    async def close(self) -> None:
        """Ends the stream at once, both ways; what is under way may be lost. Idempotent.

        To lose nothing: `finish`, then `receive` until None, then close.
        """
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def connect(address: Path, path: str, params: Mapping[str, Any] | None = None) -> ClientStream:
    """Opens a stream on the control socket *address*, and waits until its service accepted it.

    Args:
        path: of the API, such as `wire.tty_path` makes.
        params: of the service, if *path* does not have them.

    Raises the error that the machine or the service refused it with; NoSuchMachine, PeerDied.
    """
    if params is not None:
        path = wire.with_params(path, params)
    sock = await _connected(address)
    loop = asyncio.get_running_loop()
    transport, connection = await loop.create_unix_connection(lambda: _Connection(address, path), sock=sock)
    try:
        await connection.accepted
    except BaseException:
        connection.accepted.cancel()
        transport.abort()
        raise
    return ClientStream(connection)


async def follow(address: Path, path: str) -> AsyncIterator[dict[str, Any]]:
    """The JSON lines of GET *path*, each as it comes, until the machine ends them. Errors as of `Client`."""
    machine = address.parent.name
    sock = await _connected(address)
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    response = http1.Response()
    pending = b""
    try:
        writer.write(http1.request("GET", path, {"Connection": "close"}))
        while not response.complete:
            if data := await reader.read(64 << 10):
                response.feed(data)
            else:
                response.feed_eof()
            if response.status < 400:
                *lines, pending = (pending + response.take()).split(b"\n")
                for line in lines:
                    yield decode_line(line)
    except (OSError, EOFError) as error:
        raise died(machine) from error
    except http1.Malformed as error:
        raise not_a_machine(address, error) from error
    finally:
        writer.close()
    if response.status >= 400:
        raise decode_error(decode_body(response))


async def _connected(address: Path) -> socket.socket:
    try:
        try:
            sock = open_socket(address, 0)
        except BlockingIOError:  # the machine is slow to accept
            sock = await asyncio.to_thread(open_socket, address, None)
    except OSError as error:
        raise not_running(address.parent.name, error) from error
    sock.setblocking(False)
    return sock


class _Connection(asyncio.Protocol):
    def __init__(self, address: Path, path: str) -> None:
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.result: dict[str, Any] | None = None
        self._address = address
        self._path = path
        self._key = os.urandom(16)
        self._response = http1.Response()
        self._decoder = wire.Decoder()
        self._transport: asyncio.Transport
        self._queue: deque[tuple[int, bytes]] = deque()
        self._queued = 0
        self._reading = True
        self._end: PopnetError | None = None
        self._ended = False
        self._news = asyncio.Event()  # something was queued, or the stream ended
        self._room = asyncio.Event()  # senders need not wait
        self._room.set()
        self._lost = asyncio.Event()

    # For the stream

    async def send(self, data: bytes) -> None:
        if self._ended:
            raise self._closed()
        self._transport.write(data)
        if not self._room.is_set():
            await self._room.wait()
            if self._end is not None:
                raise self._closed()

    async def receive(self) -> tuple[int, bytes] | None:
        while not self._queue:
            if self._ended:
                if self._end is not None:
                    raise self._end
                return None
            self._news.clear()
            await self._news.wait()
        item = self._queue.popleft()
        self._queued -= len(item[1])
        if not self._reading and self._queued <= _QUEUE_MAX // 4:
            self._reading = True
            self._transport.resume_reading()
        return item

    async def close(self) -> None:
        if not self._ended:
            self._finish(StreamClosed("the stream was closed here"))
        if not self._transport.is_closing():
            self._transport.write(wire.close())
            self._transport.abort()
        await self._lost.wait()

    # For asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._transport.set_write_buffer_limits(high=_WRITE_MAX)
        self._transport.write(wire.handshake(self._path, self._key))

    def data_received(self, data: bytes) -> None:
        try:
            if not self._response.complete:
                data = self._handshake(data)
            if data and not self._ended:
                for message in self._decoder.feed(data):
                    self._take(message)
                if self._decoder.reply:
                    self._transport.write(bytes(self._decoder.reply))
                    self._decoder.reply.clear()
        except (http1.Malformed, ValueError) as error:
            self._finish(not_a_machine(self._address, error))
            self._transport.abort()
        if self._queued > _QUEUE_MAX and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(died(self._address.parent.name))
        self._lost.set()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    # Within

    def _handshake(self, data: bytes) -> bytes:
        self._response.feed(data)
        if not self._response.complete:
            return b""
        if self._response.status != 101:
            self._finish(decode_error(decode_body(self._response)))
            self._transport.abort()
            return b""
        wire.check_handshake(self._response, self._key)
        return self._response.rest

    def _take(self, message: wire.Message) -> None:
        if message.kind == wire.BINARY:
            if not message.payload:
                raise http1.Malformed("a message without a channel")
            self._queue.append((message.payload[0], message.payload[1:]))
            self._queued += len(message.payload)
            self._news.set()
        elif message.kind == wire.TEXT:
            self._control(json.loads(message.payload))
        else:
            self._finish(died(self._address.parent.name))
            self._transport.write(wire.close())
            self._transport.close()

    def _control(self, fields: Any) -> None:
        match fields:
            case {"accepted": _}:
                if not self.accepted.done():
                    self.accepted.set_result(None)
            case {"error": _}:
                self._finish(decode_error(fields))
            case {"result": result}:
                self.result = result
                self._finish(None)
            case _:
                pass  # of a later version of the machine: nothing that this one waits for

    def _finish(self, end: PopnetError | None) -> None:
        """The stream ended: with an error, or well. Only the first call says how."""
        if self._ended:
            return
        self._ended = True
        self._end = end
        self._room.set()
        self._news.set()
        if not self.accepted.done():
            self.accepted.set_exception(end or StreamClosed("the stream was closed before it was accepted"))

    def _closed(self) -> PopnetError:
        return self._end or StreamClosed("the service has closed the stream")
