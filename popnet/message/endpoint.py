"""The endpoint of a kernel: its links, who serves what, and the loop that moves messages between them.

Theory of operation. All of it runs on one thread, in the event loop. Every peer kicks the same doorbell; a
kick says only "look at your rings". `_turn` gives each link one budget; if any link used it up, or has
something again when armed, there is another turn after everybody else in the loop had theirs; otherwise every
ring is armed and the endpoint sleeps at its doorbell. Before it sleeps it may `look` for a short while; but
not in a turn that has handled something: whoever waited for that has its turn first, because what we would
look for may be the answer to what it has yet to send. The doorbell is drained before the rings are: a kick
that comes between the two costs an empty turn, where the other order would lose it.

A kernel has a link to itself, in memory: `open`, `post` and `call` need not care who they talk to.

Handlers run as tasks of the endpoint and end with it. What a handler raises on purpose (PopnetError) goes to
the opener or caller; anything else is a bug of ours: it is logged with its traceback, and the other end is
told "internal error".
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeAlias

from popnet.core.errors import DeadlineExceeded, LinkViolation, PeerDied
from popnet.message import codec
from popnet.message.calls import CallHandler, Calls
from popnet.message.form import FORMS, Form, is_free
from popnet.message.group import Group
from popnet.message.groups import Groups
from popnet.message.kinds import KERNEL_FIRST, KIND_MAX, Kind, Ring
from popnet.message.memory import MemoryLink
from popnet.message.peer import Peer, Turn
from popnet.message.port import LinkPort
from popnet.message.ports import OnCall, OnMessage, Ports
from popnet.message.registryclient import OnNotice, RegistryClient
from popnet.message.services import Services, StreamHandler
from popnet.message.stream import Stream
from popnet.message.streamshell import LinkStream
from popnet.message.trace import Sink, Tracer
from popnet.transport import doorbell

log = logging.getLogger(__name__)

MessageHandler: TypeAlias = Callable[[int, bytes], None]

SEND_S: Final = 5.0
"""Seconds that a send may wait for a link, and for the port of its service."""


class Endpoint:
    """Messages, calls and streams of one kernel.

    Args:
        kid, generation: who this is; what is addressed to another generation is refused.
        bell_fd: this kernel's message doorbell, which its peers kick. Not owned.
        connect: makes a link to a kernel that has none, and returns once `add_link` was called; raises
            PopnetError when it cannot.
        forms: what bodies look like, by kind and flags.

    Attributes:
        on_violation: told (kid, text) when a link is dropped because its peer spoke nonsense.
        look: called before every sleep; may wait a short while for records, and tells whether there are some.
        looks: whether `look` would wait at all, if it were called now.
    """

    def __init__(
        self,
        kid: int,
        generation: int,
        bell_fd: int,
        connect: Callable[[int], Awaitable[None]],
        forms: dict[tuple[int, int], Form] = FORMS,
    ) -> None:
        self.kid = kid
        self.generation = generation
        self.forms = forms
        self.on_violation: Callable[[int, str], None] = lambda kid, text: None
        self.look: Callable[[], bool] = lambda: False
        self.looks: Callable[[], bool] = lambda: False
        self.counters_total: Counter[str] = Counter()
        self._bell_fd = bell_fd
        self._connect = connect
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn_coming = False
        self._peers: dict[int, Peer] = {}
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self._services = Services(self)
        self._handlers: dict[int, MessageHandler] = {}
        self._calls = Calls(self)
        self.registry = RegistryClient(self)
        self.ports = Ports(self, self._calls, self.registry.changed)
        self.groups = Groups(self)
        self._tasks: set[asyncio.Task[None]] = set()
        self._up: list[Callable[[int, int], None]] = []
        self._down: list[Callable[[int, str], None]] = []
        self._tracer = Tracer()

    # Life

    def start(self) -> None:
        """Listen at the doorbell; from inside the loop, before anything else."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._bell_fd, self._rung)
        self._peers[self.kid] = Peer(self, self.kid, self.generation, MemoryLink.to_itself(self.wake))
        self.registry.started()
        self.wake()

    async def stop(self) -> None:
        """End every handler, stream and call; a handler may ask for it. Links stay: they are not owned."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._bell_fd)
        own = {asyncio.current_task()}
        while tasks := {*self._tasks, *self._connecting.values()} - own:  # a last turn may start some more
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for peer in self._peers.values():
            peer.end(PeerDied(f"kernel {self.kid} stops"))
        self._peers.clear()
        self._loop = None
        self.groups.moved()

    @property
    def running(self) -> bool:
        return self._loop is not None

    # Links

    def has_link(self, kid: int) -> bool:
        return kid in self._peers

    def add_link(self, kid: int, generation: int, link: LinkPort) -> None:
        """There is a link to kernel *kid* in *generation*. One to an earlier generation ends."""
        assert self._loop is not None, "add_link before start"
        assert kid != self.kid, "a kernel's link to itself is built in"
        if kid in self._peers:
            self.remove_link(kid, f"kernel {kid} runs in generation {generation} now")
        peer = self._peers[kid] = Peer(self, kid, generation, link)
        self._tracer.add(peer)
        log.info("kernel %d: link up (generation %d)", kid, generation)
        for callback in self._up:
            self.later(partial(callback, kid, generation))
        self.wake()

    def remove_link(self, kid: int, reason: str) -> None:
        """The link to *kid* is gone: its streams and calls end with PeerDied(*reason*). Nothing happens if
        there is none."""
        assert kid != self.kid, "a kernel's link to itself stays"
        peer = self._peers.pop(kid, None)
        if peer is None:
            return
        peer.end(PeerDied(reason))
        self.counters_total.update(peer.hub.machine.counters)
        log.info("kernel %d: link down (%s)", kid, reason)
        for callback in self._down:
            self.later(partial(callback, kid, reason))

    def on_peer_up(self, callback: Callable[[int, int], None]) -> None:
        """Call *callback* (kid, generation) once for every link, those that are there already included.

        Ups and downs come from the loop, in the order in which they happened.
        """
        self._up.append(callback)
        for peer in self._peers.values():
            if peer.kid != self.kid:
                self.later(partial(callback, peer.kid, peer.generation))

    def on_peer_down(self, callback: Callable[[int, str], None]) -> None:
        """Call *callback* (kid, reason) once for every link that goes."""
        self._down.append(callback)

    def generations(self) -> dict[int, int]:
        """The generation of every kernel that there is a link to, by kid."""
        return {kid: peer.generation for kid, peer in self._peers.items() if kid != self.kid}

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

    # Tracing

    def start_trace(self, sink: Sink) -> None:
        """Let *sink* have its half of every record of every link, links to come included; see
        `popnet.message.trace`."""
        self._tracer.start(sink, self._peers.values())

    def stop_trace(self, sink: Sink) -> None:
        """Once the last sink is gone, all links are as they were before the first. Idempotent."""
        self._tracer.stop(sink, self._peers.values())

    # The loop

    def wake(self) -> None:
        """See to it that there is a turn soon."""
        if self._loop is not None and not self._turn_coming:
            self._turn_coming = True
            self._loop.call_soon(self._turn)

    def _rung(self) -> None:
        doorbell.drain(self._bell_fd)
        self.count("rings")
        if not self._turn_coming:
            self._turn()

    def _turn(self) -> None:
        self._turn_coming = False
        self.count("turns")
        peers = list(self._peers.values())
        handled = max([peer.turn() for peer in peers], default=Turn.NONE)
        if handled is Turn.FULL:
            self.count("budget_exhausted")
            self.wake()
        elif (
            (handled and self.looks())
            or self.look()
            or not all(peer.arm() for peer in peers)
            or any(peer.polled for peer in peers)
        ):
            self.wake()

    def poll(self, kid: int, rings: Collection[Ring]) -> None:
        """Look at these rings of the link to *kid* at every turn of the event loop from now on, which then
        never sleeps, instead of being kicked."""
        if kid in self._peers:
            self._peers[kid].polled = frozenset(rings)
            self.wake()

    # What peers ask of their host

    def count(self, name: str) -> None:
        self.counters_total[name] += 1

    def later(self, function: Callable[[], None]) -> object:
        if self._loop is None:
            raise RuntimeError("the endpoint has stopped")
        return self._loop.call_soon_threadsafe(function)

    def lost(self, peer: Peer, text: str, violation: bool) -> None:
        def remove() -> None:
            if self._peers.get(peer.kid) is not peer:
                return
            if violation:
                self.count("violations")
                log.warning("kernel %d: nonsense on its link: %s", peer.kid, text)
            self.remove_link(peer.kid, text)
            if violation:
                self.on_violation(peer.kid, text)

        self.later(remove)

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

    async def linked(self, kid: int) -> Peer:
        """The peer *kid*, after connecting if need be; those who want the same link wait for the same
        connect."""
        if kid not in self._peers:
            task = self._connecting.get(kid)
            if task is None:
                task = self._connecting[kid] = asyncio.ensure_future(self._connected(kid))
                task.add_done_callback(lambda _: self._connecting.pop(kid, None))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    raise PeerDied(f"kernel {self.kid} stops") from None
                raise
        peer = self._peers.get(kid)
        if peer is None:
            raise PeerDied(f"there is no link to kernel {kid}")
        return peer

    async def _connected(self, kid: int) -> None:
        await self._connect(kid)

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @staticmethod
    def _checked(kind: int) -> int:
        assert KERNEL_FIRST <= kind <= KIND_MAX, f"kind {kind} is not for users"
        return kind
