"""Calls: a request that waits for one answer, with a deadline; and who answers which kind.

A call is two messages of its kind, REQUEST and ANSWER, with the caller's number as their id. Numbers are the
caller's alone and an answer is looked for only among the calls of the link it came by, so a peer can answer
nothing but what it was asked. A caller that gives up says so (CANCEL), behind its request, and the task that
works on the answer is cancelled, as it is when the caller's link goes. An answer that was under way finds
nobody, and is counted.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeAlias

from popnet.core import limits
from popnet.core.errors import LinkViolation, NoSuchService, Overloaded, PopnetError
from popnet.message import codec
from popnet.message.kinds import Flag, Kind, Ring
from popnet.message.peer import Peer

log = logging.getLogger(__name__)

CallHandler: TypeAlias = Callable[[int, bytes], Awaitable[bytes]]

REQUEST, ANSWER, ERROR = int(Flag.REQUEST), int(Flag.ANSWER), int(Flag.ERROR)


class TaskHost(Protocol):
    """What calls and services need of their endpoint."""

    kid: int

    def count(self, name: str) -> None:
        """One more of *name*."""

    def nonsense(self, what: str, error: LinkViolation) -> None:
        """A program's nonsense was found."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run *work* as a task that ends with the endpoint."""


class Calls:
    """The calls of one endpoint, both ways."""

    def __init__(self, host: TaskHost) -> None:
        self._host = host
        self._handlers: dict[int, CallHandler] = {}
        self._made = 0

    def answer(self, kind: int, handler: CallHandler) -> None:
        assert kind not in self._handlers, f"calls of kind {kind} are answered already"
        self._handlers[kind] = handler

    def unanswer(self, kind: int) -> None:
        self._handlers.pop(kind, None)

    async def call(self, peer: Peer, ring: Ring, kind: int, body: bytes) -> bytes:
        """The answer; for ever, unless cancelled. Raises PeerDied, Overloaded, or what the peer answers
        with."""
        self._made = id = (self._made + 1) & 0xFFFF_FFFF
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        peer.calls[id] = future
        try:
            if not peer.post(ring, kind, REQUEST, id, body):
                peer.raise_if_ended()
                raise Overloaded(f"too much waits to be sent to kernel {peer.kid}")
            return await future
        except asyncio.CancelledError:
            if id in peer.calls and not peer.dead:
                self._host.count("calls_given_up")
                peer.post(ring, Kind.CANCEL, 0, id, b"")
            raise
        finally:
            peer.calls.pop(id, None)

    def handle(self, peer: Peer, ring: Ring, message: codec.Record) -> bool:
        """A message that came: True if it belongs to a call. Raises LinkViolation."""
        if message.flags & ANSWER:
            self._answered(peer, message)
        elif message.flags & REQUEST:
            self._requested(peer, ring, message)
        else:
            return False
        return True

    def cancel(self, peer: Peer, id: int) -> None:
        """The caller does not wait any more. It may have its answer already."""
        task = peer.answer_tasks.get(id)
        if task is not None:
            self._host.count("calls_cancelled")
            task.cancel()

    def _answered(self, peer: Peer, message: codec.Record) -> None:
        error = codec.error_of(codec.json_object(message.body)) if message.flags & ERROR else None
        future = peer.calls.pop(message.id, None)
        if future is None or future.done():
            self._host.count("late_answers")
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(message.body)

    def _requested(self, peer: Peer, ring: Ring, message: codec.Record) -> None:
        handler = self._handlers.get(message.kind)
        if handler is None:
            self._host.count("unknown_kinds")
            error = NoSuchService(f"kernel {self._host.kid} answers no calls of kind {message.kind}")
            self._reply_error(peer, ring, message, error)
        elif peer.answering >= limits.CALLS_MAX:
            busy = Overloaded(f"kernel {self._host.kid} is busy with {peer.answering} calls of this peer")
            self._reply_error(peer, ring, message, busy)
        else:
            peer.answering += 1
            task = self._host.spawn(self._answer(handler, peer, ring, message))
            peer.answer_tasks[message.id] = task
            task.add_done_callback(lambda task: self._finished(peer, message.id, task))

    @staticmethod
    def _finished(peer: Peer, id: int, task: "asyncio.Task[None]") -> None:
        """Not a `finally` of the task: one that is cancelled before it began runs none."""
        peer.answering -= 1
        if peer.answer_tasks.get(id) is task:
            del peer.answer_tasks[id]

    async def _answer(self, handler: CallHandler, peer: Peer, ring: Ring, message: codec.Record) -> None:
        try:
            await self._handle(handler, peer, ring, message)
        except Exception:
            self._host.count("handler_errors")
            log.exception("kernel %d: the answer to kind %d failed", self._host.kid, message.kind)
            self._reply_error(peer, ring, message, PopnetError(f"internal error in kernel {self._host.kid}"))

    async def _handle(self, handler: CallHandler, peer: Peer, ring: Ring, message: codec.Record) -> None:
        try:
            self._reply(peer, ring, message, ANSWER, await handler(peer.kid, message.body))
        except PopnetError as error:
            self._reply_error(peer, ring, message, error)

    def _reply_error(self, peer: Peer, ring: Ring, message: codec.Record, error: PopnetError) -> None:
        self._reply(peer, ring, message, ANSWER | ERROR, codec.json_bytes(codec.error_object(error)))

    def _reply(self, peer: Peer, ring: Ring, message: codec.Record, flags: int, body: bytes) -> None:
        if not peer.post(ring, message.kind, flags, message.id, body):
            self._host.count("answers_dropped")
