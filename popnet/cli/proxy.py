"""Bytes between stdin, stdout and a TCP port of a kernel: what OpenSSH's ProxyCommand runs.

Theory of operation. Every ssh starts one of these and waits for it, so there is no event loop to import: two
threads, one a direction, each of which blocks where its bytes block. The main thread takes what the machine
sends, and ends the process when the other side has closed; the second one reads stdin, and says `close` at
its end, while the other direction goes on (half-close). It is a daemon: a read of stdin holds up nobody. Both
write to the socket (the main thread: pongs), so frames are sent whole under a lock.
"""

import json
import os
import threading
from socket import socket
from typing import Final

from popnet.cli.complete import quoted
from popnet.cli.settings import Settings
from popnet.control import http1, wire
from popnet.control.client import decode_body, decode_error, died, not_a_machine, not_running
from popnet.control.rundir import open_socket
from popnet.core.errors import PeerDied

_DATA: Final = b"\0"
"""Channel 0, before the bytes of the connection."""

CHUNK: Final = 64 << 10


def run_proxy(settings: Settings, kernel: str, port: int) -> None:
    """Relay until the port's side closes. Raises what the machine refused it with; PeerDied."""
    client = settings.client()
    row = client.get(f"/v1/kernels/{quoted(kernel)}")
    try:
        sock = open_socket(client.socket, None)
    except OSError as error:
        raise not_running(client.machine, error) from error
    with sock:
        proxy = Proxy(sock, client.machine)
        try:
            proxy.open(wire.stream_path("primary", "dial", {"host": row["ipv4"], "port": port}))
            threading.Thread(target=proxy.send_input, daemon=True).start()
            proxy.receive_output()
        except (http1.Malformed, json.JSONDecodeError) as error:
            raise not_a_machine(client.socket, error) from error


class Proxy:
    """One connection: descriptors 0 and 1 on this side, a stream of *machine* over *sock* on the other."""

    def __init__(self, sock: socket, machine: str) -> None:
        self._sock = sock
        self._machine = machine
        self._lock = threading.Lock()
        self._decoder = wire.Decoder()
        self._early: list[wire.Message] = []

    def open(self, path: str) -> None:
        """Handshake, and wait until the service accepted. Raises the error that it refused with."""
        key = os.urandom(16)
        self._send(wire.handshake(path, key))
        response = http1.Response()
        while not response.complete:
            response.feed(self._receive())
        if response.status != 101:
            raise decode_error(decode_body(response))
        wire.check_handshake(response, key)
        messages = self._decoder.feed(response.rest) if response.rest else []
        while not messages:
            messages = self._messages()
        accepted, *self._early = messages
        fields = json.loads(accepted.payload) if accepted.kind == wire.TEXT else {}
        if "accepted" not in fields:
            raise decode_error(fields)

    def send_input(self) -> None:
        """Body of the second thread: stdin to the stream, and its end."""
        try:
            while data := os.read(0, CHUNK):
                self._send(wire.frame(wire.BINARY, _DATA, data))
            self._send(wire.text({"close": True}))
        except PeerDied:
            return  # the main thread meets the same end, and tells of it

    def receive_output(self) -> None:
        """The stream to stdout, until its end."""
        messages = self._early
        while True:
            for message in messages:
                if message.kind == wire.BINARY:
                    _write_all(memoryview(message.payload)[1:])
                elif message.kind == wire.CLOSE:
                    raise died(self._machine)
                elif self._is_end(json.loads(message.payload)):
                    return
            messages = self._messages()

    def _is_end(self, fields: dict[str, object]) -> bool:
        if "error" in fields:
            raise decode_error(fields)
        return "result" in fields

    def _messages(self) -> list[wire.Message]:
        messages = self._decoder.feed(self._receive())
        if self._decoder.reply:
            self._send(bytes(self._decoder.reply))
            self._decoder.reply.clear()
        return messages

    def _send(self, data: bytes) -> None:
        try:
            with self._lock:
                self._sock.sendall(data)
        except OSError as error:
            raise died(self._machine) from error

    def _receive(self) -> bytes:
        try:
            data = self._sock.recv(CHUNK * 2)
        except OSError as error:
            raise died(self._machine) from error
        if not data:
            raise died(self._machine)
        return data


def _write_all(data: memoryview) -> None:
    while data:
        data = data[os.write(1, data) :]
