"""An io kernel's end of `io.files`: calls of other kernels go to the worker in the kernel, its answers back.

The worker answers in the order of its requests; each waits for its own, by number. When the worker has ended,
so has the kernel's share: every call is refused.
"""

import asyncio
import errno
import socket
from typing import Final

from popnet.kernel import filewire
from popnet.kernel.filework import HEADER, REQUEST_MAX
from popnet.message.endpoint import Endpoint

WAITING_MAX: Final = 1024
"""Requests that may wait for the worker; more are answered EAGAIN."""


class FileService:
    """Serves `io.files` on *endpoint* by the worker at the other end of *channel*."""

    def __init__(self, endpoint: Endpoint, channel: socket.socket) -> None:
        self._endpoint = endpoint
        self._channel = channel
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def start(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._channel)
        self._reading = asyncio.create_task(self._read(reader))
        self._endpoint.register(filewire.SERVICE, filewire.VERSION, on_call=self._call)

    def stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()

    async def _call(self, kid: int, body: bytes) -> bytes:
        if self._writer is None or self._writer.is_closing():
            return filewire.pack({"errno": errno.EIO})
        if len(body) > REQUEST_MAX:
            return filewire.pack({"errno": errno.EMSGSIZE})
        if len(self._answers) >= WAITING_MAX:
            return filewire.pack({"errno": errno.EAGAIN})
        self._number += 1
        number = self._number
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._writer.write(HEADER.pack(len(body), number) + body)
            await self._writer.drain()
            return await answer
        except ConnectionError:
            return filewire.pack({"errno": errno.EIO})
        finally:
            self._answers.pop(number, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                length, number = HEADER.unpack(await reader.readexactly(HEADER.size))
                body = await reader.readexactly(length)
                answer = self._answers.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._endpoint.unregister(filewire.SERVICE)
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_result(filewire.pack({"errno": errno.EIO}))
            if self._writer is not None:
                self._writer.close()
