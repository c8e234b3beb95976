"""Services: who gets the streams that peers open, by name; each stream has a task of its own.

A handler accepts with its first send or receive; raising before that refuses the stream. What it raises on
purpose (PopnetError) goes to the opener; anything else is a bug of ours: logged with its traceback, and the
opener is told "internal error". When it returns, the stream is closed, and whatever still comes is read by
nobody.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from popnet.core import limits
from popnet.core.errors import NoSuchService, Overloaded, PopnetError
from popnet.message.calls import TaskHost
from popnet.message.peer import Peer
from popnet.message.stream import Stream
from popnet.message.streamshell import LinkStream

log = logging.getLogger(__name__)

StreamHandler: TypeAlias = Callable[[Stream], Awaitable[None]]


class Services:
    """The services of one endpoint."""

    def __init__(self, host: TaskHost) -> None:
        self._host = host
        self._handlers: dict[str, StreamHandler] = {}

    def serve(self, service: str, handler: StreamHandler) -> None:
        assert service not in self._handlers, f"service {service} is there already"
        self._handlers[service] = handler

    def unserve(self, service: str) -> None:
        self._handlers.pop(service, None)

    def offered(self, peer: Peer, stream: LinkStream) -> None:
        """A peer opened *stream*. Handlers may outlive their streams, so it is they that are bounded here."""
        handler = self._handlers.get(stream.service)
        if handler is None:
            stream.fail(NoSuchService(f"kernel {self._host.kid} has no service {stream.service!r}"))
        elif peer.serving >= limits.STREAMS_MAX:
            busy = f"kernel {self._host.kid} is busy with {peer.serving} streams of this peer"
            stream.fail(Overloaded(busy))
        else:
            peer.serving += 1
            self._host.spawn(self._run(handler, peer, stream))

    async def _run(self, handler: StreamHandler, peer: Peer, stream: LinkStream) -> None:
        try:
            await self._handle(handler, stream)
        except Exception:
            self._host.count("handler_errors")
            log.exception("kernel %d: service %s failed", self._host.kid, stream.service)
            where = f"service {stream.service!r} of kernel {self._host.kid}"
            stream.fail(PopnetError(f"internal error in {where}"))
        finally:
            peer.serving -= 1
            stream.abort()

    async def _handle(self, handler: StreamHandler, stream: LinkStream) -> None:
        try:
            await handler(stream)
            await stream.close()
        except PopnetError as error:
            stream.fail(error)
