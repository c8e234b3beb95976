"""One end of a conversation, for scripts without asyncio."""

import asyncio
import weakref
from typing import Any, Self

from popnet.core.errors import PopnetError
from popnet.message.stream import Stream
from popnet.program.waiting import Waiting


class Served:
    """A stream that was opened for a service of the script, until the script has done with it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.error: PopnetError | None = None
        self.closed = False
        self.done = asyncio.Event()

    def end(self, error: PopnetError) -> None:
        """The script has done with it, by this error."""
        self.error = error
        self.done.set()

    async def wait(self) -> None:
        """The life of the stream's handler. Raises what the script failed it with."""
        await self.done.wait()
        if self.error is not None:
            raise self.error
        if not self.closed:
            self.stream.abort()


class BlockingStream:
    """See `popnet.message.stream.Stream` for what its methods promise.

    With `with` it is closed at the end; at an error it is aborted, and a PopnetError is told to the other end
    if that opened it.

    Attributes:
        service, params, peer: as they were opened with; the kid of the kernel at the other end.
    """

    def __init__(self, stream: Stream, waiting: Waiting, served: Served | None = None) -> None:
        self.service, self.params, self.peer = stream.service, stream.params, stream.peer
        self._stream = stream
        self._waiting = waiting
        self._served = served
        if served is not None:
            weakref.finalize(self, served.done.set).atexit = False  # a script that lets go of it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.close()
        elif isinstance(error, PopnetError) and self._served is not None:
            self.fail(error)
        else:
            self.abort()

    @property
    def result(self) -> dict[str, Any] | None:
        """What the peer closed with."""
        return self._stream.result

    def send(self, data: bytes, channel: int = 0, timeout_s: float | None = None) -> None:
        """Raises also DeadlineExceeded: then a part of *data* may have been sent."""
        self._waiting.now(self._stream.send(data, channel), timeout_s)

    def receive(self, timeout_s: float | None = None) -> tuple[int, bytes] | None:
        """Raises also DeadlineExceeded, which loses nothing."""
        return self._waiting.now(self._stream.receive(), timeout_s)

    def close(self, result: dict[str, Any] | None = None) -> None:
        """Send no more. A stream that came by `accept` is over then, both ways, as when a service returns."""
        self._waiting.now(self._stream.close(result))
        if self._served is not None:
            self._served.closed = True
        self._let_go()

    def fail(self, error: PopnetError) -> None:
        """End a stream that came by `accept` with *error*, which its opener gets; before anything was sent or
        received this refuses it."""
        assert self._served is not None, "it is for the service to fail"
        self._served.error = error
        self._let_go()

    def abort(self) -> None:
        self._stream.abort()
        self._let_go()

    def _let_go(self) -> None:
        if self._served is not None:
            self._served.done.set()
            if not self._waiting.over:
                self._waiting.now(asyncio.sleep(0))  # its handler ends, and says so
