"""A client of a terminal, in the shape of a stream, so that one bridge serves both.

Channel 0 is bytes both ways. Channel 2 is JSON: `{"resize": [cols, rows]}` from the client, and `{"taken":
true}` to it when another client took the keyboard by force.
"""

import asyncio
import json
from typing import Any

from popnet.control.service import Attachment, Terminal
from popnet.control.wire import CONTROL, DATA
from popnet.core.errors import Refused

_SIZE_MAX = (1 << 16) - 1  # struct winsize has 16 bits for each


async def read_history(terminal: Terminal) -> bytes:
    """What *terminal* remembers: all that a new client reads without having to wait."""
    attachment = terminal.attach(write=False)
    history = bytearray()
    try:
        while True:
            reading = asyncio.create_task(attachment.read())
            await asyncio.sleep(0)
            if not reading.done():
                reading.cancel()
                return bytes(history)
            if not reading.result():
                return bytes(history)
            history += reading.result()
    finally:
        attachment.detach()


class TerminalStream:
    """The stream of *attachment*; without *write*, keystrokes are dropped and not refused."""

    def __init__(self, attachment: Attachment, *, write: bool) -> None:
        self.result: dict[str, Any] | None = None
        self._attachment = attachment
        self._write = write
        self._taken = False  # and the client was told
        self._read = b""  # what was read when it had to be told first

    async def send(self, data: bytes, channel: int = DATA) -> None:
        if channel == CONTROL:
            self._attachment.resize(*_size(data))
        elif self._write:
            await self._attachment.write(data)

    async def receive(self) -> tuple[int, bytes] | None:
        data, self._read = self._read or await self._attachment.read(), b""
        if self._attachment.taken.is_set() and not self._taken:  # who takes it over has woken the reader
            self._taken = True
            self._write = False
            self._read = data
            return CONTROL, b'{"taken": true}'
        if not data:
            self.result = {}
            return None
        return DATA, data

    async def close(self, result: dict[str, Any] | None = None) -> None:
        """Nothing: a terminal takes no notice of one that only stops typing."""

    def abort(self) -> None:
        self._attachment.detach()


def _size(data: bytes) -> tuple[int, int]:
    """Columns and rows of a resize message. Raises Refused."""
    try:
        match json.loads(data):
            case {"resize": [int(cols), int(rows)]} if 0 < cols <= _SIZE_MAX and 0 < rows <= _SIZE_MAX:
                return cols, rows
    except ValueError:
        pass
    raise Refused(f"not a message to a terminal: {data[:80]!r}")
