"""Await bytes on plain descriptors (pipes, ptys): try first, and wait only when there is nothing, so that
bulk pays no epoll calls."""

import asyncio
import contextlib
import os
from collections.abc import Callable

CHUNK = 60 << 10
"""Bytes a read asks for: what fits one record of a message ring with its headers."""


class Source:
    """The non-blocking *fd*, read by one task until `close`; it is not owned.

    The loop watches it from the first wait on, not anew for each: a keystroke's echo would pay for that.
    Where nobody reads what came, it stops watching, or it would call again and again.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._watched = False

    async def read(self) -> bytes:
        """Up to CHUNK bytes; b"" at the end (for a pty: once its last slave is closed)."""
        while True:
            self._ready.clear()
            try:
                return os.read(self._fd, CHUNK)
            except BlockingIOError:
                if not self._watched:
                    self._watched = True
                    self._loop.add_reader(self._fd, self._readable)
                await self._ready.wait()
            except OSError as error:
                if error.errno == 5:  # EIO: a pty whose slaves are all closed
                    return b""
                raise

    def _readable(self) -> None:
        if self._ready.is_set():
            self.close()
        self._ready.set()

    def close(self) -> None:
        """Watch it no more; before the descriptor is closed. Idempotent."""
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fd)


async def read(fd: int) -> bytes:
    """Up to CHUNK bytes from the non-blocking *fd*; b"" at the end: `Source.read`, once."""
    with contextlib.closing(Source(fd)) as source:
        return await source.read()


async def write(fd: int, data: bytes) -> None:
    """Write all of *data* to the non-blocking *fd*. Raises BrokenPipeError or OSError(EIO) when nobody reads
    it any more."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _wait(loop.add_writer, loop.remove_writer, fd)


async def _wait(add: Callable[..., None], remove: Callable[[int], object], fd: int) -> None:
    ready = asyncio.Event()
    add(fd, ready.set)
    try:
        await ready.wait()
    finally:
        remove(fd)
