"""Between this process's stdin, stdout, stderr and a stream of a kernel: what `exec` and `console` share."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from popnet.cli.terminal import Input, Output, RawTerminal, size
from popnet.core.errors import PopnetError

T = TypeVar("T")

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

DATA: Final = 0
"""Channel of the bytes: stdin, stdout, keystrokes."""

ERRORS: Final = 1
"""Channel of stderr."""

CONTROL: Final = 2
"""Channel of JSON: resize, signal, eof."""


class Stream(Protocol):
    """What is needed of `control.stream.ClientStream`."""

    async def send(self, data: bytes, channel: int = 0) -> None: ...

    async def receive(self) -> tuple[int, bytes] | None: ...


async def send_control(stream: Stream, fields: Mapping[str, Any]) -> None:
    await stream.send(json.dumps(fields).encode(), CONTROL)


class Outputs:
    """stdout and stderr for the channels of a stream; `with` gives back what was opened for them."""

    def __init__(self) -> None:
        self._outputs: dict[int, Output] = {}

    def __enter__(self) -> "Outputs":
        self._outputs = {DATA: Output(STDOUT), ERRORS: Output(STDERR)}
        return self

    def __exit__(self, *_: object) -> None:
        for output in self._outputs.values():
            output.close()

    def remark(self, text: str, raw: bool) -> None:
        """A line of our own on stderr, dropped if that takes nothing now; *raw*: our terminal is."""
        line = f"\r\n[{text}]\r\n" if raw else f"[{text}]\n"
        self._outputs[ERRORS].remark(line.encode())

    async def write(self, data: bytes, channel: int = DATA) -> None:
        """Raises BrokenPipeError when nobody reads any more."""
        await self._outputs[channel].write(data)


async def feed(send: Callable[[bytes], Awaitable[bool]]) -> None:
    """Give stdin to *send*, as fast as it takes the pieces, until stdin ends or *send* says False."""
    source = Input(STDIN)
    while (data := await source.read()) and await send(data):
        continue


class Poster:
    """Sends control messages that signal handlers, which cannot wait, put down; in order."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def post(self, fields: dict[str, Any]) -> None:
        self._queue.put_nowait(fields)

    def post_size(self) -> None:
        """Tell the kernel the size of our terminal, if we have one."""
        found = size(STDOUT, STDIN, STDERR)
        if found is not None:
            self.post({"resize": list(found)})

    async def run(self) -> None:
        """Never returns before the stream ends; the one who receives tells how."""
        try:
            while True:
                await send_control(self._stream, await self._queue.get())
        except PopnetError:
            return


async def first_of(*ends: Coroutine[Any, Any, T], beside: Sequence[Coroutine[Any, Any, None]] = ()) -> T:
    """Run all at once until the first of *ends* returns, and return what it did; the others are cancelled.

    Those *beside* may end earlier. An exception of any of them ends all, and is raised.
    """
    tasks = [asyncio.ensure_future(end) for end in ends]
    helpers = [asyncio.ensure_future(helper) for helper in beside]
    pending: set[asyncio.Future[Any]] = {*tasks, *helpers}
    try:
        while True:
            _done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for helper in helpers:
                if helper.done():
                    helper.result()
            for task in tasks:
                if task.done():
                    return task.result()
    finally:
        for future in (*tasks, *helpers):
            future.cancel()
        await asyncio.gather(*tasks, *helpers, return_exceptions=True)


def window_actions(terminal: RawTerminal, changed: Callable[[], None]) -> dict[int, Callable[[], None]]:
    """Signal handlers of a raw terminal: its size changed, it is to be given back for a while."""

    def stop() -> None:
        terminal.suspend()
        changed()  # it may have another size now

    return {signal.SIGWINCH: changed, signal.SIGTSTP: stop}
