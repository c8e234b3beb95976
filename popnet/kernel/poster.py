"""The messages that programs post to other kernels: links made on first use, and a bound for what waits.

Theory of operation. A message to a kernel that there is no link to starts one, and waits, with those behind
it, in order; if the link cannot be made they are dropped. What waits for room on a link shares the link's
outbox with the kernel's own messages: those of programs stop at a quarter of it. Drops are counted, never
told: a program that must know uses a call.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from popnet.core import limits
from popnet.core.errors import PopnetError
from popnet.message.endpoint import Endpoint

WAITING_MAX: Final = limits.QUEUE_SIZE_MAX // 4
"""Bytes that may wait for a kernel before messages of programs to it are dropped; the kernel's own may be
more."""

UNSENT_MAX: Final = 64
"""Messages to one kernel that wait while the first link to it is made."""


class Poster:
    """See the module; *count* is told `posted` or `dropped` for each message."""

    def __init__(
        self, endpoint: Endpoint, connect: Callable[[int], Awaitable[None]], count: Callable[[str], None]
    ) -> None:
        self._endpoint = endpoint
        self._connect = connect
        self._count = count
        self._unsent: dict[int, deque[tuple[int, bytes, bool]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Drop what waits for a link."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def has_room(self, kid: int) -> bool:
        """Whether programs may send more to *kid* now."""
        return self._endpoint.waiting_size(kid) <= WAITING_MAX

    def post(self, kid: int, kind: int, body: bytes, high: bool) -> None:
        if kid in self._unsent:
            self._keep(kid, kind, body, high)
        elif kid == self._endpoint.kid or kid in self._endpoint.generations():
            self._send(kid, kind, body, high)
        else:
            self._unsent[kid] = deque()
            self._keep(kid, kind, body, high)
            task = asyncio.get_running_loop().create_task(self._send_unsent(kid))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _send(self, kid: int, kind: int, body: bytes, high: bool) -> None:
        went = self.has_room(kid) and self._endpoint.post(kid, kind, body, high)
        self._count("posted" if went else "dropped")

    def _keep(self, kid: int, kind: int, body: bytes, high: bool) -> None:
        unsent = self._unsent[kid]
        if len(unsent) >= UNSENT_MAX or sum(len(item[1]) for item in unsent) + len(body) > WAITING_MAX:
            self._count("dropped")
        else:
            unsent.append((kind, body, high))

    async def _send_unsent(self, kid: int) -> None:
        """Make the first link to a kernel, then send what waits for it."""
        try:
            await self._connect(kid)
        except PopnetError:
            for _ in self._unsent[kid]:
                self._count("dropped")
        else:
            for kind, body, high in self._unsent[kid]:
                self._send(kid, kind, body, high)
        finally:
            del self._unsent[kid]
