"""Whether the process at the other end of a socket is gone, noticed even while nobody reads the socket.

A server that applies back-pressure does not read, so it does not see the end of the connection either: a
command that was interrupted while its program did not take input would stay for ever. EPOLLHUP tells,
whatever is still unread, and an epoll set that waits for nothing else is itself a file that an event loop
can watch.
"""

import asyncio
import select
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hangup(fd: int) -> Iterator[asyncio.Event]:
    """An event that is set once the peer of the connected socket *fd* has closed, or died."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    watcher = select.epoll()
    watcher.register(fd, 0)  # EPOLLHUP and EPOLLERR need not be asked for

    def ring() -> None:
        loop.remove_reader(watcher.fileno())
        gone.set()

    loop.add_reader(watcher.fileno(), ring)
    try:
        yield gone
    finally:
        loop.remove_reader(watcher.fileno())
        watcher.close()
