"""A program's connection for scripts without asyncio: each call waits until it is done.

Theory of operation. A private event loop runs inside each call, and only then: nothing happens behind the
script's back, and handlers run while some call waits, `run` included. Messages of the kinds that were asked
for with `listen` queue up, at most QUEUE_MAX, until `recv`; more are dropped and counted. One thread at a
time.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, TypeVar

from popnet.core.errors import DeadlineExceeded, PeerDied
from popnet.message.stream import Stream
from popnet.program.connection import Connection
from popnet.program.dialing import open_connection
from popnet.program.end import KernelName
from popnet.program.greeting import SOCKET_PATH

T = TypeVar("T")

QUEUE_MAX: Final = 1024
"""Messages that wait for `recv`."""


class BlockingStream:
    """One end of a conversation: see `popnet.message.stream.Stream` for what its methods promise."""

    def __init__(self, stream: Stream, wait: Callable[[Coroutine[Any, Any, Any], float | None], Any]) -> None:
        self._stream = stream
        self._wait = wait

    @property
    def result(self) -> dict[str, Any] | None:
        """What the peer closed with."""
        return self._stream.result

    def send(self, data: bytes, channel: int = 0, timeout_s: float | None = None) -> None:
        """Raises also DeadlineExceeded: then a part of *data* may have been sent."""
        self._wait(self._stream.send(data, channel), timeout_s)

    def receive(self, timeout_s: float | None = None) -> tuple[int, bytes] | None:
        """Raises also DeadlineExceeded, which loses nothing."""
        received: tuple[int, bytes] | None = self._wait(self._stream.receive(), timeout_s)
        return received

    def close(self, result: dict[str, Any] | None = None) -> None:
        self._wait(self._stream.close(result), None)

    def abort(self) -> None:
        self._stream.abort()


class BlockingConnection:
    """As Connection, with the same errors."""

    def __init__(self, path: str = SOCKET_PATH, attach: bool = False) -> None:
        self._runner = asyncio.Runner()
        self._over = False
        self._messages: deque[tuple[int, int, bytes]] = deque()
        self._came = asyncio.Event()
        self.dropped = 0
        """Messages that found the queue full."""
        try:
            self.connection: Connection = self._runner.run(open_connection(path, attach))
        except BaseException:
            self._runner.close()
            raise
        self.kid, self.kernel, self.machine = (
            self.connection.kid,
            self.connection.kernel,
            self.connection.machine,
        )
        self.kernels = self.connection.kernels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(
        self,
        kernel: KernelName,
        service: str,
        params: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> BlockingStream:
        return BlockingStream(
            self._wait(self.connection.open(kernel, service, params), timeout_s), self._wait
        )

    def call(self, kernel: KernelName, kind: int, body: bytes, timeout_s: float, high: bool = False) -> bytes:
        return self._wait(self.connection.call(kernel, kind, body, timeout_s, high), None)

    def post(self, kernel: KernelName, kind: int, body: bytes, high: bool = False) -> bool:
        async def post() -> bool:
            return self.connection.post(kernel, kind, body, high)

        return self._wait(post(), None)

    def listen(self, kind: int) -> None:
        """From now on messages of *kind* to this kernel come from `recv`."""

        def take(kid: int, body: bytes) -> None:
            if len(self._messages) >= QUEUE_MAX:
                self.dropped += 1
                return
            self._messages.append((kid, kind, body))
            self._came.set()

        self._wait(self.connection.on(kind, take), None)

    def recv(self, timeout_s: float | None = None) -> tuple[int, int, bytes]:
        """The next message as (from kid, kind, body). Raises DeadlineExceeded, PeerDied."""
        if not self._messages:
            self._wait(self._arrival(), timeout_s)
        return self._messages.popleft()

    def answer(self, kind: int, handler: Callable[[int, bytes], bytes]) -> None:
        """Let *handler* answer calls of *kind* while this script waits in some call: `run`, say."""

        async def answer(kid: int, body: bytes) -> bytes:
            return handler(kid, body)

        self._wait(self.connection.answer(kind, answer), None)

    def run(self, timeout_s: float | None = None) -> None:
        """Answer calls until the kernel goes, or *timeout_s* is over."""
        try:
            self._wait(self.connection.wait_closed(), timeout_s)
        except DeadlineExceeded:
            return

    def close(self) -> None:
        """Idempotent."""
        if not self._over:
            self._over = True
            self._runner.run(self.connection.close())
            self._runner.close()

    async def _arrival(self) -> None:
        closed = asyncio.ensure_future(self.connection.wait_closed())
        try:
            while not self._messages:
                self._came.clear()
                came = asyncio.ensure_future(self._came.wait())
                try:
                    await asyncio.wait((came, closed), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    came.cancel()
                if closed.done() and not self._messages:
                    raise PeerDied(f"kernel {self.kernel} closed the connection")
        finally:
            closed.cancel()

    def _wait(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        async def bounded() -> T:
            try:
                async with asyncio.timeout(timeout_s):
                    return await work
            except TimeoutError:
                raise DeadlineExceeded(f"nothing within {timeout_s} s") from None

        return self._runner.run(bounded())


def connect_blocking(path: str = SOCKET_PATH, attach: bool = False) -> BlockingConnection:
    """Connect a script to the kernel that it runs in; close it, or use it with `with`. Raises as
    `connect`."""
    return BlockingConnection(path, attach)
