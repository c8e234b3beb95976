"""Accepts connections from a listening socket that others hold too, and ends when nobody comes any more.

Theory of operation. Whoever forks this process holds the listening socket and waits for it to become
readable; then it forks, does not look at the socket while the child lives, and waits for it again
afterwards (inetd's way). No connection is lost between the two: it is accepted here, or stays in the
socket's queue for the next one. To end, the acceptor stops looking at the socket and returns in one turn of
its loop, and it ends only with no connection.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Final

_RETRY_S: Final = 1.0
"""Seconds until the next try when this process is out of descriptors or memory."""

Handler = Callable[[socket.socket], Awaitable[None]]


class Acceptor:
    """Gives each connection to *handle*, in a task of its own.

    Args:
        listener: bound and listening. It becomes non-blocking, for all who share it; it stays open.
        handle: owns the connected socket; its errors end everything.
        connections_max: further connections wait in the listener's queue.
        idle_s: seconds without a connection after which `serve` returns; None: never.
        on_log: gets a line when connections cannot be accepted.
    """

    def __init__(
        self,
        listener: socket.socket,
        handle: Handler,
        *,
        connections_max: int,
        idle_s: float | None,
        on_log: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._handle = handle
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._log = on_log
        self._connections: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Until idle. Cancelled, it cancels the connections and waits for their ends."""
        self._loop = asyncio.get_running_loop()
        self._idle = self._loop.create_future()
        self._listener.setblocking(False)
        try:
            async with asyncio.TaskGroup() as self._group:
                self._look()
                await self._idle
        finally:
            self._look_away()

    def _look(self) -> None:
        self._look_away()
        self._loop.add_reader(self._listener, self._accept)
        if not self._connections and self._idle_s is not None:
            self._timer = self._loop.call_later(self._idle_s, self._end)

    def _look_away(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self._look_away()
        if not self._idle.done():
            self._idle.set_result(None)

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # the client left before it was its turn
        except OSError as error:  # no descriptors, no memory: it may be there in a while
            self._log(f"cannot accept a connection: {error}")
            self._look_away()
            self._timer = self._loop.call_later(_RETRY_S, self._look)
            return
        self._look_away()
        task = self._group.create_task(self._serve(connected))
        self._connections.add(task)
        task.add_done_callback(self._left)
        if len(self._connections) < self._connections_max:
            self._look()

    async def _serve(self, connected: socket.socket) -> None:
        await self._handle(connected)

    def _left(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        if not task.cancelled() and not self._idle.done():
            self._look()
