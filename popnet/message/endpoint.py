"""The endpoint of a kernel: who serves what, and what its users call. `linkend` moves the messages.

A kernel has a link to itself, in memory: `open`, `post` and `call` need not care who they talk to.

Handlers run as tasks of the endpoint and end with it. What a handler raises on purpose (PopnetError) goes to
the opener or caller; anything else is a bug of ours: it is logged with its traceback, and the other end is
told "internal error".
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from popnet.core.errors import DeadlineExceeded, LinkViolation
from popnet.message import codec
from popnet.message.calls import CallHandler, Calls
from popnet.message.form import FORMS, Form, is_free
from popnet.message.group import Group
from popnet.message.groups import Groups
from popnet.message.kinds import KERNEL_FIRST, KIND_MAX, Kind, Ring
from popnet.message.linkend import LinkEnd
from popnet.message.peer import Peer
from popnet.message.ports import OnCall, OnMessage, Ports
from popnet.message.registryclient import OnNotice, RegistryClient
from popnet.message.services import Services, StreamHandler
from popnet.message.stream import Stream
from popnet.message.streamshell import LinkStream

log = logging.getLogger(__name__)

MessageHandler: TypeAlias = Callable[[int, bytes], None]

SEND_S: Final = 5.0
"""Seconds that a send may wait for a link, and for the port of its service."""


class Endpoint(LinkEnd):
    """Messages, calls and streams of one kernel; see LinkEnd for its links, and for the arguments."""

    def __init__(
        self,
        kid: int,
        generation: int,
        bell_fd: int,
        connect: Callable[[int], Awaitable[None]],
        forms: dict[tuple[int, int], Form] = FORMS,
    ) -> None:
        super().__init__(kid, generation, bell_fd, connect, forms)
        self._services = Services(self)
        self._handlers: dict[int, MessageHandler] = {}
        self._calls = Calls(self)
        self.registry = RegistryClient(self)
        self.ports = Ports(self, self._calls, self.registry.changed)
        self.groups = Groups(self)

    def start(self) -> None:
        super().start()
        self.registry.started()

    async def stop(self) -> None:
        """End every handler, stream and call; a handler may ask for it. Links stay: they are not owned."""
        await super().stop()
        self.groups.moved()

    # Streams

    def serve(self, service: str, handler: StreamHandler, version: int = 1) -> None:
        """Let *handler* have every stream opened for *service*; see the module for what becomes of its
        errors.

        It accepts with its first send or receive, or with `accept`; raising before that refuses the stream.
        When it returns, the stream is closed.
        """
        self.ports.add(service, version)
        self._services.serve(service, handler)

    def unserve(self, service: str) -> None:
        """Take no new streams for *service*; those there are go on."""
        self._services.unserve(service)
        self.ports.remove(service)

    async def open(self, kid: int, service: str, params: dict[str, Any] | None = None) -> Stream:
        """A stream to *service* of kernel *kid*, once that has accepted it.

        Raises NoSuchService, PeerDied, Refused, or whatever PopnetError the service or `connect` raised.
        """
        stream = (await self.linked(kid)).hub.open(service, params or {})
        await stream.opened()
        return stream

    # Messages and calls

    def on(self, kind: int, handler: MessageHandler) -> None:
        """Let *handler* have (from kid, body) of every message of *kind*. It must not block. For nonsense it
        raises LinkViolation: that costs the peer its link; of a kind that is free for users it is counted and
        does no more, because a program may have written it."""
        assert kind not in self._handlers, f"messages of kind {kind} are handled already"
        self._handlers[self._checked(kind)] = handler

    def off(self, kind: int) -> None:
        """Messages of *kind* are answered with UNKNOWN again."""
        self._handlers.pop(kind, None)

    def post(self, kid: int, kind: int, body: bytes, high: bool = False) -> bool:
        """Send one message, of up to MESSAGE_SIZE_MAX bytes. In order for each kernel and priority.

        False: there is no link, or too much waits for room already; nothing of it is sent then.
        """
        peer = self._peers.get(kid)
        if peer is None:
            self.count("post_without_link")
            return False
        return peer.post(Ring.HIGH if high else Ring.NORMAL, self._checked(kind), 0, 0, body)

    def answer(self, kind: int, handler: CallHandler) -> None:
        """Let *handler* answer (from kid, body) of every call of *kind* with a body. Runs as a task."""
        self._calls.answer(self._checked(kind), handler)

    def unanswer(self, kind: int) -> None:
        """Calls of *kind* are answered with NoSuchService again."""
        self._calls.unanswer(kind)

    def waiting_size(self, kid: int) -> int:
        """Bytes of messages to *kid* that wait for room: what `post` may add to until it says False."""
        peer = self._peers.get(kid)
        return 0 if peer is None else peer.waiting_size()

    async def call(self, kid: int, kind: int, body: bytes, timeout_s: float, high: bool = False) -> bytes:
        """The answer of kernel *kid*. Raises DeadlineExceeded, PeerDied, Overloaded (too much waits for room
        already, or is in work there), NoSuchService (it answers no such kind), or the PopnetError its handler
        raised."""
        async with self._deadline(kid, timeout_s):
            ring = Ring.HIGH if high else Ring.NORMAL
            return await self._calls.call(await self.linked(kid), ring, self._checked(kind), body)

    # Services by name

    def register(
        self, name: str, version: int, on_message: OnMessage | None = None, on_call: OnCall | None = None
    ) -> None:
        """Serve *name*: messages (from kid, body) go to *on_message*, which must not block; calls are
        answered by *on_call*, a task each, which is cancelled when its caller gives up."""
        self.ports.add(name, version, on_message, on_call)

    def unregister(self, name: str) -> None:
        """Serve *name* no more; what comes for it is answered as an unknown service."""
        self.ports.remove(name)

    async def send(
        self, kernel: int | str, service: str, body: bytes, high: bool = False, timeout_s: float = SEND_S
    ) -> None:
        """Send one message to *service* of a kernel, by kid or name; in order for each kernel and priority.

        Raises NoSuchService, NoSuchKernel, PeerDied, Overloaded (too much waits for room already), or
        DeadlineExceeded (the kernel does not tell where its service is). A service that goes while the
        message is under way is told to `ports.on_unknown`.
        """
        async with self._deadline(kernel, timeout_s):
            ring = Ring.HIGH if high else Ring.NORMAL
            await self.ports.send(await self.linked(await self._kid(kernel)), ring, service, body)

    async def call_service(
        self, kernel: int | str, service: str, body: bytes, timeout_s: float, high: bool = False
    ) -> bytes:
        """The answer of *service* of a kernel, by kid or name. Raises as `call` does; NoSuchKernel."""
        async with self._deadline(kernel, timeout_s):
            ring = Ring.HIGH if high else Ring.NORMAL
            return await self.ports.call(await self.linked(await self._kid(kernel)), ring, service, body)

    def watch(self, pattern: str, callback: OnNotice) -> int:
        """Tell *callback* of kernels and services that come up and go down, each once, in order; what is
        there comes first. *pattern* is a glob for `kernel/NAME` and `service/NAME`. The number is for
        `unwatch`."""
        return self.registry.watch(pattern, callback)

    def group(self, name: str) -> Group:
        """This kernel's part in the group of that name, for joining, sending and leaving."""
        return self.groups.group(name)

    def unwatch(self, number: int) -> None:
        self.registry.unwatch(number)

    def counters(self) -> dict[str, int]:
        """Every count since the start, and what there is now (links, streams, calls, tasks)."""
        total = Counter(self.counters_total)
        for peer in self._peers.values():
            total.update(peer.hub.machine.counters)
        total["links"] = len(self._peers) - (self.kid in self._peers)
        total["streams"] = sum(len(peer.hub.machine) for peer in self._peers.values())
        total["calls"] = sum(len(peer.calls) for peer in self._peers.values())
        total["tasks"] = len(self._tasks)
        return dict(total)

    # What comes

    def offered(self, peer: Peer, stream: LinkStream) -> None:
        self._services.offered(peer, stream)

    def dispatch(self, peer: Peer, ring: Ring, message: codec.Record) -> None:
        kind = message.kind
        if kind == Kind.STALE:
            generation = codec.u32_of(message.body)
            self.lost(peer, f"kernel {peer.kid} runs in generation {generation} now", violation=False)
        elif kind == Kind.UNKNOWN:
            self.count("unknown_to_peer")
            self.ports.unknown(peer, message.body)
        elif kind == Kind.CANCEL:
            self._calls.cancel(peer, message.id)
        elif self._calls.handle(peer, ring, message):
            return
        elif kind == Kind.GROUP:
            self.groups.received(peer, message)
        elif kind == Kind.SEND:
            self.ports.sent(peer, ring, message)
        elif handler := self._handlers.get(kind):
            try:
                handler(peer.kid, message.body)
            except LinkViolation as error:
                if not is_free(kind):
                    raise
                self.nonsense(f"a message of kind {kind} from kernel {peer.kid}", error)
            except Exception:
                self.count("handler_errors")
                log.exception("kernel %d: the handler of kind %d failed", self.kid, kind)
        else:
            self.count("unknown_kinds")
            peer.post(ring, Kind.UNKNOWN, 0, 0, codec.U32.pack(kind))

    def nonsense(self, what: str, error: LinkViolation) -> None:
        """A handler found nonsense that a program may have written: no bug of ours, and no kernel's fault."""
        self.count("nonsense")
        log.debug("kernel %d: nonsense in %s: %s", self.kid, what, error)

    @staticmethod
    @asynccontextmanager
    async def _deadline(kernel: int | str, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            raise DeadlineExceeded(f"kernel {kernel} did not answer within {timeout_s} s") from None

    async def _kid(self, kernel: int | str) -> int:
        return kernel if isinstance(kernel, int) else await self.registry.kid_of(kernel, SEND_S)

    @staticmethod
    def _checked(kind: int) -> int:
        assert KERNEL_FIRST <= kind <= KIND_MAX, f"kind {kind} is not for users"
        return kind
