"""One HTTP/1.1 exchange as pure text: the request as bytes, the response from bytes as they come.

http.client would do, but it brings the email package and ssl and costs 20 ms at every start of a command;
this is the part of HTTP that a control socket speaks. The responses come from the machine's own server, yet
every length is checked: whatever listens in the run directory may be something else.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing: that import alone would cost 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

HEAD_SIZE_MAX: Final = 64 << 10
"""Bytes a response head, or a chunk's size line, may have before it counts as nonsense."""


class Malformed(ValueError):
    """The peer does not speak HTTP/1.1."""


class Truncated(EOFError):
    """The connection ended before the response did."""


def request(method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """The whole request; *target* is path and query, already percent-encoded."""
    lines = [f"{method} {target} HTTP/1.1", "Host: popnet"]
    if body or method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


class Response:
    """A response, read incrementally: `feed` what arrives, `take` the body so far.

    States: head → body → complete. `status` is 0 until the head is there. The body is framed by chunks, by a
    length, or by the end of the connection. What follows it (a WebSocket's first frames) is in `rest`.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self._buffer = bytearray()
        self._body = bytearray()
        self._step = self._head
        self._left = 0

    @property
    def rest(self) -> bytes:
        return bytes(self._buffer) if self.complete else b""

    def take(self) -> bytes:
        """The body bytes that came since the last call."""
        body = bytes(self._body)
        self._body.clear()
        return body

    def feed(self, data: bytes) -> None:
        """Takes what arrived. Raises Malformed."""
        self._buffer += data
        while not self.complete and self._step():
            pass

    def feed_eof(self) -> None:
        """The peer closed the connection. Raises Truncated unless that is where the response ends."""
        if self._step == self._until_eof:
            self.complete = True
        if not self.complete:
            raise Truncated("the connection ended in the middle of a response")

    # Each step consumes one element of the buffer and says whether it did.

    def _line(self, end: bytes) -> bytes | None:
        line, found, _ = self._buffer.partition(end)
        if not found:
            if len(self._buffer) > HEAD_SIZE_MAX:
                raise Malformed("a line of the response never ends")
            return None
        del self._buffer[: len(line) + len(end)]
        return bytes(line)

    def _head(self) -> bool:
        head = self._line(b"\r\n\r\n")
        if head is None:
            if not b"HTTP/1.".startswith(self._buffer[:7]):
                raise Malformed("the answer is not HTTP/1.1")
            return False
        first, *fields = head.decode("latin-1").split("\r\n")
        version, _, status = first.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or not status[:3].isdigit():
            raise Malformed(f"bad status line: {first[:80]!r}")
        for field in fields:
            name, colon, value = field.partition(":")
            if not colon:
                raise Malformed(f"bad header line: {field[:80]!r}")
            self.headers[name.strip().lower()] = value.strip()
        self.status = int(status[:3])
        if self.status in (101, 204, 304):
            self.complete = True
        elif self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._step = self._chunk_size
        elif "content-length" in self.headers:
            self._left = _number(self.headers["content-length"], 10)
            self._step = self._by_length
        else:
            self._step = self._until_eof
        return True

    def _by_length(self) -> bool:
        self._move_left()
        self.complete = self._left == 0
        return False

    def _until_eof(self) -> bool:
        self._body += self._buffer
        self._buffer.clear()
        return False

    def _chunk_size(self) -> bool:
        line = self._line(b"\r\n")
        if line is None:
            return False
        self._left = _number(line.partition(b";")[0].decode("latin-1").strip(), 16)
        self._step = self._chunk if self._left else self._trailer
        return True

    def _chunk(self) -> bool:
        self._move_left()
        if self._left or len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise Malformed("a chunk is longer than it says")
        del self._buffer[:2]
        self._step = self._chunk_size
        return True

    def _trailer(self) -> bool:
        line = self._line(b"\r\n")
        self.complete = line == b""
        return bool(line)

    def _move_left(self) -> None:
        piece = self._buffer[: self._left]
        self._body += piece
        del self._buffer[: len(piece)]
        self._left -= len(piece)


def _number(text: str, base: int) -> int:
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if number < 0:
        raise Malformed(f"bad length: {text[:80]!r}")
    return number
