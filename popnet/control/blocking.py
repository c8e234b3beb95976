"""The client's end of a stream for programs without an event loop: what `stream` is, on a plain socket.

One thread may receive while others send; `close` may be called by any, and ends a `receive` or a `send`
that waits.
"""

import json
import os
import socket
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from popnet.control import http1, wire
from popnet.control.client import decode_body, decode_error, died, not_a_machine, not_running
from popnet.control.rundir import open_socket
from popnet.core.errors import PopnetError, StreamClosed

_READ_SIZE = 256 << 10


class BlockingStream:
    """A stream to a service of a kernel. Made by `connect`.

    Attributes:
        result: what the service closed with, once `receive` returned None.
    """

    def __init__(self, address: Path, sock: socket.socket) -> None:
        self.result: dict[str, Any] | None = None
        self._address = address
        self._sock = sock
        self._sending = threading.Lock()
        self._decoder = wire.Decoder()
        self._queue: deque[tuple[int, bytes]] = deque()
        self._accepted = False
        self._ended = False
        self._end: PopnetError | None = None

    def send(self, data: bytes, channel: int = wire.DATA) -> None:
        """Sends one message; waits while the service is slow to read. Raises what the stream ended with."""
        self._write(wire.frame(wire.BINARY, bytes((channel,)), data))

    def receive(self) -> tuple[int, bytes] | None:
        """The next (channel, data); None once the service has closed. Raises what the stream ended with."""
        while not self._queue:
            if self._ended:
                if self._end is not None:
                    raise self._end
                return None
            self._read()
        return self._queue.popleft()

    def finish(self) -> None:
        """Closes this half: the service is told that nothing more comes. It may still send, and close."""
        self._write(wire.text({"close": True}))

    def close(self) -> None:
        """Ends the stream at once, both ways; what is under way may be lost. Idempotent."""
        if not self._ended:
            self._finish(StreamClosed("the stream was closed here"))
        try:
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes threads that wait in it; closing would not
        except OSError:
            return  # the other end was first
        finally:
            with self._sending:
                self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, target: str) -> None:
        """For `connect`: the handshake, and the service's answer."""
        key = os.urandom(16)
        response = http1.Response()
        self._write(wire.handshake(target, key))
        try:
            while not response.complete:
                if data := self._receive_some():
                    response.feed(data)
                else:
                    response.feed_eof()
            if response.status != 101:
                raise decode_error(decode_body(response))
            wire.check_handshake(response, key)
        except http1.Malformed as error:
            raise not_a_machine(self._address, error) from error
        except EOFError as error:
            raise died(self._address.parent.name) from error
        self._feed(response.rest)
        while not self._accepted:
            if self._ended:
                raise self._end or StreamClosed("the stream was closed before it was accepted")
            self._read()

    def _read(self) -> None:
        data = self._receive_some()
        if data:
            self._feed(data)
        else:
            self._finish(died(self._address.parent.name))

    def _receive_some(self) -> bytes:
        try:
            return self._sock.recv(_READ_SIZE)
        except OSError:  # reset by the machine's death, or closed here
            return b""

    def _write(self, data: bytes) -> None:
        if self._ended:
            raise self._end or StreamClosed("the service has closed the stream")
        try:
            with self._sending:
                self._sock.sendall(data)
        except OSError as error:
            raise self._end or died(self._address.parent.name) from error

    def _feed(self, data: bytes) -> None:
        try:
            for kind, payload in self._decoder.feed(data):
                if kind == wire.BINARY and payload:
                    self._queue.append((payload[0], payload[1:]))
                elif kind == wire.TEXT:
                    self._control(json.loads(payload))
                else:
                    self._finish(died(self._address.parent.name))
        except ValueError as error:
            self._finish(not_a_machine(self._address, error))
        if self._decoder.reply and not self._ended:
            self._write(bytes(self._decoder.reply))
            self._decoder.reply.clear()

    def _control(self, fields: dict[str, Any]) -> None:
        if "accepted" in fields:
            self._accepted = True
        elif "error" in fields:
            self._finish(decode_error(fields))
        elif "result" in fields:
            self.result = fields["result"]
            self._finish(None)

    def _finish(self, end: PopnetError | None) -> None:
        """The stream ended: with an error, or well. Only the first call says how."""
        if not self._ended:
            self._end = end
            self._ended = True


def connect(address: Path, path: str, params: Mapping[str, Any] | None = None) -> BlockingStream:
    """Opens a stream on the control socket *address*; as `stream.connect`, errors too."""
    if params is not None:
        path = wire.with_params(path, params)
    try:
        sock = open_socket(address, None)
    except OSError as error:
        raise not_running(address.parent.name, error) from error
    stream = BlockingStream(address, sock)
    try:
        stream.open(path)
    except BaseException:
        stream.close()
        raise
    return stream
