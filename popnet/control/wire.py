"""The client's half of a WebSocket (RFC 6455) as pure text: a handshake, frames out, messages in; no I/O.

Frames of a client carry a masking key. It protects proxies from scripts in browsers, and here is neither:
the key is zero, so that masking leaves the payload as it is and costs nothing. No extensions are offered,
so none come.

A stream of a machine on top of it: binary messages are one byte of channel and then data, text messages are
JSON to and from the control API itself.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from popnet.control.http1 import Malformed, Response, request
from popnet.core.errors import Refused
from popnet.core.limits import MESSAGE_SIZE_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

MESSAGE_MAX: Final = MESSAGE_SIZE_MAX + 1
"""Largest message in bytes: the largest that links carry, and its channel."""

DATA: Final = 0
"""Channel of a stream's bytes; of stdin and stdout, if a program is at the other end."""

STDERR: Final = 1

CONTROL: Final = 2
"""Channel of JSON to and from the service, such as `{"eof": true}` and `{"resize": [cols, rows]}`."""

TARGET_SIZE_MAX: Final = 256 << 10
"""Bytes of a request's target: the parameters of a stream are in it, %-escaped; a message takes 64 KiB."""

NORMAL_CLOSURE: Final = 1000

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FINAL: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_ZERO_KEY: Final = bytes(4)
_CONTROL_MAX: Final = 125


class Message(NamedTuple):
    """A whole message of the server: TEXT or BINARY with its payload, or CLOSE, which is the last."""

    kind: int
    payload: bytes


# Where streams are, on the control API


def stream_path(kernel: str, service: str, params: Mapping[str, Any] | None = None) -> str:
    """The target of a stream to *service* of *kernel*."""
    path = f"/v1/kernels/{quote(kernel, safe='')}/stream/{quote(service, safe='')}"
    return path if params is None else with_params(path, params)


def with_params(path: str, params: Mapping[str, Any]) -> str:
    """The target *path* with the parameters of a service. Raises Refused if they are too many."""
    target = f"{path}?params={quote(json.dumps(params, separators=(',', ':')), safe='')}"
    if len(target) > TARGET_SIZE_MAX:
        raise Refused(
            f"{len(target) >> 10} KiB of parameters; at most {TARGET_SIZE_MAX >> 10} KiB may be sent"
        )
    return target


def tty_path(
    kernel: str, n: int = 0, *, write: bool = True, force: bool = False, history: bool = True
) -> str:
    """The target of a stream to terminal *n* of *kernel*."""
    query = f"write={write:d}&force={force:d}&history={history:d}"
    return f"/v1/kernels/{quote(kernel, safe='')}/tty/{n}?{query}"


# Handshake


def handshake(target: str, key: bytes) -> bytes:
    """The request that opens a WebSocket; *key* is 16 random bytes."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": _base64(key),
    }
    return request("GET", target, headers)


def check_handshake(response: Response, key: bytes) -> None:
    """Raises Malformed unless *response*, of status 101, answers the handshake made with *key*."""
    digest = hashlib.sha1(_base64(key).encode() + _GUID, usedforsecurity=False).digest()
    if response.headers.get("sec-websocket-accept") != _base64(digest):
        raise Malformed("the answer to the WebSocket handshake has a wrong key")


# Frames out


def frame(kind: int, *parts: bytes | memoryview) -> bytes:
    """One whole message as one frame; its payload is *parts*, joined."""
    size = sum(map(len, parts))
    if size <= 125:
        head = struct.pack(">BB", _FINAL | kind, _MASKED | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", _FINAL | kind, _MASKED | 126, size)
    else:
        head = struct.pack(">BBQ", _FINAL | kind, _MASKED | 127, size)
    return b"".join((head, _ZERO_KEY, *parts))


def text(fields: Mapping[str, Any]) -> bytes:
    """A control message to the server."""
    return frame(TEXT, json.dumps(fields).encode())


def close(code: int = NORMAL_CLOSURE) -> bytes:
    """The last frame, or the answer to the server's."""
    return frame(CLOSE, struct.pack(">H", code))


# Messages in


class Decoder:
    """Makes messages of what the server sends: `feed` it, and send back what is in `reply` (pongs).

    A frame that has not arrived whole waits in pieces, joined once when it has: n pieces cost n steps, not
    n².
    """

    def __init__(self) -> None:
        self.reply = bytearray()
        self._pieces: list[bytes] = []
        self._size = 0
        self._needed = 2
        self._closed = False
        self._kind = CONTINUATION  # of the message whose fragments are coming in; CONTINUATION: none is
        self._fragments: list[bytes] = []
        self._fragments_size = 0

    def feed(self, data: bytes) -> list[Message]:
        """The messages that *data* completes. Raises Malformed; nothing may be fed afterwards."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return []
        buffer = data if len(self._pieces) == 1 else b"".join(self._pieces)
        messages: list[Message] = []
        start = 0
        while not self._closed:
            body, end = _extent(buffer, start)
            if end > len(buffer):
                self._needed = end - start
                break
            self._take(buffer[start], buffer[body:end], messages)
            start = end
        self._pieces = [buffer[start:]] if start < len(buffer) else []
        self._size = len(buffer) - start
        return messages

    def _take(self, first: int, payload: bytes, messages: list[Message]) -> None:
        kind, final = first & 0x0F, bool(first & _FINAL)
        if first & _RESERVED:
            raise Malformed("the server uses an extension that nobody offered")
        if kind >= CLOSE:
            if not final or len(payload) > _CONTROL_MAX:
                raise Malformed("a control frame is fragmented, or too long")
            self._control(kind, payload, messages)
            return
        if kind == CONTINUATION:
            if self._kind == CONTINUATION:
                raise Malformed("a fragment of no message")
        elif self._kind != CONTINUATION or kind > BINARY:
            raise Malformed(f"a frame of kind {kind} where none may be")
        else:
            self._kind = kind
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if self._fragments_size > MESSAGE_MAX:
            raise Malformed("a message is too long")
        if final:
            whole = payload if len(self._fragments) == 1 else b"".join(self._fragments)
            messages.append(Message(self._kind, whole))
            self._kind = CONTINUATION
            self._fragments = []
            self._fragments_size = 0

    def _control(self, kind: int, payload: bytes, messages: list[Message]) -> None:
        if kind == PING:
            self.reply += frame(PONG, payload)
        elif kind == CLOSE:
            self._closed = True
            messages.append(Message(CLOSE, payload))
        elif kind != PONG:
            raise Malformed(f"a frame of unknown kind {kind}")


def _extent(buffer: bytes, start: int) -> tuple[int, int]:
    """Where the payload of the frame at *start* begins and ends: outside the buffer if it is not whole."""
    have = len(buffer) - start
    if have < 2:
        return start, start + 2
    second = buffer[start + 1]
    if second & _MASKED:
        raise Malformed("the server masks its frames")
    if second <= 125:
        return start + 2, start + 2 + second
    head, layout = (4, ">H") if second == 126 else (10, ">Q")
    if have < head:
        return start, start + head
    (size,) = struct.unpack_from(layout, buffer, start + 2)
    if size > MESSAGE_MAX:
        raise Malformed(f"a frame of {size} bytes")
    return start + head, start + head + size


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()
