"""Await bytes on plain descriptors (pipes, ptys): try first, and wait only when there is nothing, so that
bulk pays no epoll calls."""

import asyncio
import os
from collections.abc import Callable

CHUNK = 60 << 10
"""Bytes a read asks for: what fits one record of a message ring with its headers."""


async def read(fd: int) -> bytes:
    """Up to CHUNK bytes from the non-blocking *fd*; b"" at the end (for a pty: once its last slave is
    closed)."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            await _wait(loop.add_reader, loop.remove_reader, fd)
        except OSError as error:
            if error.errno == 5:  # EIO: a pty whose slaves are all closed
                return b""
            raise


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
