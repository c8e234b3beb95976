"""The client of a machine's control API: plain calls over its unix socket, on the standard library alone.

Every command starts here, so importing this must stay below 15 ms: no asyncio, no typing, no http.client.
A request has a connection of its own; a unix socket makes that free, and nothing goes stale between calls.
"""

from __future__ import annotations

import json

from popnet.control import http1
from popnet.control.rundir import (
    is_alive,
    machines,
    make_run_dir,
    open_socket,
    pick_machine,
    run_dir,
    socket_path,
)
from popnet.core.errors import NoSuchMachine, PeerDied, PopnetError, Unavailable, by_code

TYPE_CHECKING = False  # not from typing: that import alone would cost 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from socket import socket
    from typing import Any, Final

__all__ = [
    "Client",
    "decode_error",
    "decode_line",
    "encode_error",
    "is_alive",
    "machines",
    "make_run_dir",
    "pick_machine",
    "run_dir",
    "socket_path",
]

_READ_SIZE: Final = 64 << 10


class Client:
    """Calls to one machine.

    Every method raises the typed error that the machine answered with; NoSuchMachine if it does not run;
    PeerDied if it ended before its answer did; Unavailable if it did not answer within *timeout_s* seconds
    (None: wait for ever).
    """

    def __init__(
        self, machine: str | None = None, *, run_dir: Path | None = None, timeout_s: float | None = 120.0
    ) -> None:
        """A client of *machine*, or of the one that `pick_machine` picks. Raises NoSuchMachine."""
        self.machine = pick_machine(machine, run_dir)
        self.socket = socket_path(self.machine, run_dir)
        self.timeout_s = timeout_s

    def get(self, path: str) -> Any:
        """What GET *path* answers: the decoded JSON, a list for JSON lines, or text for what is text."""
        return self._call("GET", path, b"")

    def post(self, path: str, body: Any = None) -> Any:
        """What POST *path* answers; *body* is sent as JSON."""
        return self._call("POST", path, json.dumps(body if body is not None else {}).encode())

    def follow(self, path: str) -> Iterator[dict[str, Any]]:
        """The JSON lines of GET *path*, each as it comes; ends when the machine ends the list."""
        with self._open() as sock:
            response = self._send(sock, "GET", path, b"")
            sock.settimeout(None)
            pending = b""
            while True:
                *lines, pending = (pending + response.take()).split(b"\n")
                yield from map(decode_line, lines)
                if response.complete:
                    return
                self._read(sock, response)

    def _call(self, method: str, path: str, body: bytes) -> Any:
        with self._open() as sock:
            response = self._send(sock, method, path, body)
            while not response.complete:
                self._read(sock, response)
        return decode_body(response)

    def _open(self) -> socket:
        try:
            return open_socket(self.socket, self.timeout_s)
        except TimeoutError:
            raise self._too_slow() from None
        except OSError as error:
            raise not_running(self.machine, error) from error

    def _send(self, sock: socket, method: str, path: str, body: bytes) -> http1.Response:
        """Sends the request and reads the head of the response. Raises the error it carries, if it does."""
        try:
            sock.sendall(http1.request(method, path, {"Connection": "close"}, body))
        except TimeoutError:
            raise self._too_slow() from None
        except OSError as error:
            raise died(self.machine) from error
        response = http1.Response()
        while not response.status or (response.status >= 400 and not response.complete):
            self._read(sock, response)
        if response.status >= 400:
            raise decode_error(decode_body(response))
        return response

    def _read(self, sock: socket, response: http1.Response) -> None:
        try:
            if data := sock.recv(_READ_SIZE):
                response.feed(data)
            else:
                response.feed_eof()
        except TimeoutError:
            raise self._too_slow() from None
        except (OSError, EOFError) as error:
            raise died(self.machine) from error
        except http1.Malformed as error:
            raise not_a_machine(self.socket, error) from error

    def _too_slow(self) -> Unavailable:
        return Unavailable(
            f"machine {self.machine!r} did not answer within {self.timeout_s:g} s", "it may be overloaded"
        )


def decode_body(response: http1.Response) -> Any:
    """The body of a complete response: decoded JSON, a list for JSON lines, or text."""
    body = response.take()
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind == "application/x-ndjson":
        return [decode_line(line) for line in body.splitlines()]
    if kind == "application/json":
        return json.loads(body) if body else None
    return body.decode(errors="replace")


def encode_error(error: PopnetError) -> dict[str, Any]:
    """How an error travels: `{"error": {"code", "message", "hint"}}`."""
    return {"error": {"code": error.code, "message": str(error), "hint": error.hint}}


def decode_error(body: Any) -> PopnetError:
    """The error that `encode_error` made *body* from; a code without a class of its own stays in `.code`."""
    if not isinstance(body, dict) or not isinstance(body.get("error"), dict):
        return PopnetError(f"the machine answered with an error: {str(body)[:200]}")
    fields = body["error"]
    code = str(fields.get("code", "error"))
    error = by_code(code, str(fields.get("message", "")), str(fields.get("hint", "")))
    error.code = code
    return error


def decode_line(line: bytes) -> dict[str, Any]:
    """One line of a list. Raises the error that ended the list, if that is what the line says."""
    fields: dict[str, Any] = json.loads(line)
    if fields.keys() == {"error"}:
        raise decode_error(fields)
    return fields


def not_running(machine: str, error: OSError) -> NoSuchMachine:
    """The control socket of *machine* cannot be reached."""
    return NoSuchMachine(f"machine {machine!r} is not running ({error.strerror})", "start it: popnet up FILE")


def died(machine: str) -> PeerDied:
    """*machine* closed the connection before its answer was complete."""
    return PeerDied(
        f"machine {machine!r} ended before it had answered", "its log tells why, beside its control socket"
    )


def not_a_machine(path: Path, error: Exception) -> Unavailable:
    """What listens on *path* does not speak the control API."""
    return Unavailable(f"{path} is not the control socket of a machine: {error}")
