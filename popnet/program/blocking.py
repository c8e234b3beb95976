"""A program's connection for scripts without asyncio: each call waits until it is done.

Theory of operation. Everything runs inside the calls (`waiting`): what the script registered as functions is
called while some call waits, `run` included, and may not wait itself. What comes without a function queues up
until the script asks for it: streams until `accept`, messages until `recv`, notices until `notice`, a group's
messages until its own `recv`. Each queue has a size, and says what happens when it is full. One thread at a
time.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Self

from popnet.core.errors import DeadlineExceeded, NoSuchService, Overloaded, PeerDied
from popnet.message.notice import Notice
from popnet.message.stream import Stream
from popnet.program.blockinggroup import BlockingGroup
from popnet.program.blockingstream import BlockingStream, Served
from popnet.program.connection import Connection
from popnet.program.dialing import open_connection
from popnet.program.end import ASK_TIMEOUT_S, CallHandler, KernelName, MessageHandler, NoticeHandler
from popnet.program.greeting import SOCKET_PATH
from popnet.program.waiting import Waiting

QUEUE_MAX: Final = 1024
"""Messages that wait for `recv`, and notices for `notice`."""

ACCEPT_MAX: Final = 16
"""Streams that wait for `accept`."""


class BlockingConnection:
    """As Connection, with the same errors.

    Attributes:
        kid, kernel, generation, machine, program, attached, kernels: as those of Connection.
        dropped: messages that found the queue of `recv` full.
    """

    def __init__(self, path: str = SOCKET_PATH, attach: bool = False) -> None:
        self._waiting = Waiting()
        self._over = False
        self._messages: deque[tuple[int, int, bytes]] = deque()
        self._offered: deque[Served] = deque()
        self._notices: deque[Notice] = deque()
        self._notices_lost = False
        self._groups: dict[str, BlockingGroup] = {}
        self.dropped = 0
        try:
            self.connection: Connection = self._waiting.now(open_connection(path, attach))
        except BaseException:
            self._waiting.close()
            raise
        me = self.connection
        self.kid, self.kernel, self.generation = me.kid, me.kernel, me.generation
        self.machine, self.program, self.attached = me.machine, me.program, me.attached
        self.kernels = me.kernels
        self.counters = me.counters
        self._waiting.closed = lambda: me.closed
        self._waiting.end_text = f"kernel {self.kernel} closed the connection"
        me.on_closed = self._waiting.moved

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Streams

    def open(
        self,
        kernel: KernelName,
        service: str,
        params: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> BlockingStream:
        stream = self._waiting.now(self.connection.open(kernel, service, params), timeout_s)
        return BlockingStream(stream, self._waiting)

    def serve(self, service: str) -> None:
        """From now on streams that are opened for *service* of this kernel come from `accept`. When
        ACCEPT_MAX of them wait, more are Overloaded. Raises Refused."""
        self._waiting.now(self.connection.serve(service, self._offer))

    def unserve(self, service: str) -> None:
        """Take no new streams for *service*; those that wait for `accept` are turned away."""
        self._waiting.now(self.connection.unserve(service))
        for served in [served for served in self._offered if served.stream.service == service]:
            self._offered.remove(served)
            served.end(NoSuchService(f"kernel {self.kernel} has no service {service!r}"))
        self._waiting.now(asyncio.sleep(0))  # their handlers end, and say so

    def accept(self, timeout_s: float | None = None) -> BlockingStream:
        """The next stream that was opened for a service of this script: use it with `with`. Raises
        DeadlineExceeded, PeerDied."""
        if not self._offered:
            self._waiting.until(lambda: self._offered, timeout_s)
        served = self._offered.popleft()
        return BlockingStream(served.stream, self._waiting, served)

    # Messages and calls

    def post(self, kernel: KernelName, kind: int, body: bytes, high: bool = False) -> bool:
        async def post() -> bool:
            return self.connection.post(kernel, kind, body, high)

        return self._waiting.now(post())

    def on(self, kind: int, handler: MessageHandler) -> None:
        """Let *handler* have (from kid, body) of every message of *kind*. It may not wait."""
        self._waiting.now(self.connection.on(kind, self._told(handler)))

    def listen(self, kind: int) -> None:
        """From now on messages of *kind* to this kernel come from `recv`; when QUEUE_MAX wait, more are
        dropped and counted."""

        def take(kid: int, body: bytes) -> None:
            if len(self._messages) >= QUEUE_MAX:
                self.dropped += 1
                return
            self._messages.append((kid, kind, body))

        self.on(kind, take)

    def recv(self, timeout_s: float | None = None) -> tuple[int, int, bytes]:
        """The next message as (from kid, kind, body). Raises DeadlineExceeded, PeerDied."""
        if not self._messages:
            self._waiting.until(lambda: self._messages, timeout_s)
        return self._messages.popleft()

    def call(self, kernel: KernelName, kind: int, body: bytes, timeout_s: float, high: bool = False) -> bytes:
        return self._waiting.now(self.connection.call(kernel, kind, body, timeout_s, high))

    def answer(self, kind: int, handler: Callable[[int, bytes], bytes]) -> None:
        """Let *handler* answer calls of *kind* while this script waits in some call: `run`, say."""
        self._waiting.now(self.connection.answer(kind, self._answered(handler)))

    # Services by name

    def register(
        self,
        name: str,
        version: int,
        on_message: MessageHandler | None = None,
        on_call: Callable[[int, bytes], bytes] | None = None,
    ) -> None:
        """Serve *name* while this script waits in some call: messages (from kid, body) go to *on_message*,
        calls are answered by *on_call*."""
        messages = None if on_message is None else self._told(on_message)
        calls = None if on_call is None else self._answered(on_call)
        self._waiting.now(self.connection.register(name, version, messages, calls))

    def unregister(self, name: str) -> None:
        self._waiting.now(self.connection.unregister(name))

    def send(
        self,
        kernel: KernelName,
        service: str,
        body: bytes,
        high: bool = False,
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> None:
        self._waiting.now(self.connection.send(kernel, service, body, high, timeout_s))

    def call_service(
        self, kernel: KernelName, service: str, body: bytes, timeout_s: float, high: bool = False
    ) -> bytes:
        return self._waiting.now(self.connection.call_service(kernel, service, body, timeout_s, high))

    # Notices

    def watch(self, pattern: str, callback: NoticeHandler | None = None) -> int:
        """As Connection.watch; without *callback* the notices come from `notice`."""
        return self._waiting.now(self.connection.watch(pattern, self._told(callback or self._note)))

    def unwatch(self, number: int) -> None:
        self._waiting.now(self.connection.unwatch(number))

    def notice(self, timeout_s: float | None = None) -> Notice:
        """The next notice of a watch. Raises DeadlineExceeded, PeerDied, and, once, Overloaded: so many
        waited that some are lost; watch anew."""
        if not self._notices and not self._notices_lost:
            self._waiting.until(lambda: self._notices, timeout_s)
        if self._notices_lost:
            self._notices_lost = False
            self._notices.clear()
            raise Overloaded(f"more than {QUEUE_MAX} notices waited, and some are lost", "Watch anew.")
        return self._notices.popleft()

    # Groups

    def group(self, name: str) -> BlockingGroup:
        """This script's part in the group of that name."""
        if name not in self._groups:
            self._groups[name] = BlockingGroup(self.connection.group(name), self._waiting)
        return self._groups[name]

    # Waiting, and the end

    def run(self, timeout_s: float | None = None, until: Callable[[], object] = lambda: False) -> bool:
        """Let everything that is registered run, until the kernel goes, *timeout_s* is over, or *until*
        holds, which is looked at whenever something came. Whether it holds."""
        try:
            self._waiting.until(until, timeout_s)
        except (DeadlineExceeded, PeerDied):
            return bool(until())
        return True

    def flush(self, timeout_s: float = ASK_TIMEOUT_S) -> None:
        """As Connection.flush."""
        self._waiting.now(self.connection.flush(timeout_s))

    def close(self) -> None:
        """Idempotent."""
        if not self._over:
            self._over = True
            self._waiting.now(self.connection.close())
            self._waiting.close()

    # What comes

    async def _offer(self, stream: Stream) -> None:
        if len(self._offered) >= ACCEPT_MAX:
            raise Overloaded(f"{ACCEPT_MAX} streams wait for the script already")
        served = Served(stream)
        self._offered.append(served)
        self._waiting.moved()
        try:
            await served.wait()
        finally:
            if served in self._offered:
                self._offered.remove(served)

    def _note(self, notice: Notice) -> None:
        if len(self._notices) >= QUEUE_MAX:
            self._notices_lost = True
        else:
            self._notices.append(notice)

    def _answered(self, handler: Callable[[int, bytes], bytes]) -> CallHandler:
        async def answer(kid: int, body: bytes) -> bytes:
            try:
                return handler(kid, body)
            finally:
                self._waiting.moved()

        return answer

    def _told(self, handler: Callable[..., None]) -> Callable[..., None]:
        def tell(*what: object) -> None:
            try:
                handler(*what)
            finally:
                self._waiting.moved()

        return tell


def connect_blocking(path: str = SOCKET_PATH, attach: bool = False) -> BlockingConnection:
    """Connect a script to the kernel that it runs in; close it, or use it with `with`. Raises as
    `connect`."""
    return BlockingConnection(path, attach)
