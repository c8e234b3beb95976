"""Windows: the sealed memfds that links are made of.

The owner creates the memfd, maps it writable and only then seals it, so its own mapping stays the only
writable one there will ever be: F_SEAL_FUTURE_WRITE refuses new writable mappings and write(2) to everybody,
also through /proc/self/fd. The peer refuses a memfd that lacks any of the seals: one that could still shrink
would kill it with SIGBUS.
"""

import fcntl
import os
from typing import Final

from popnet.core.errors import LinkViolation
from popnet.transport._native import WINDOW_SIZE, Window

F_SEAL_FUTURE_WRITE: Final = 0x0010
"""linux/fcntl.h; Python names it from 3.13 on."""

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL


def create_window(kid: int, generation: int, peer_kid: int) -> tuple[Window, int]:
    """A fresh window that kernel *kid* writes and *peer_kid* may read.

    Returns the writable mapping and the descriptor to hand to the peer. The descriptor is the caller's to
    close.
    """
    fd = os.memfd_create(f"popnet-window-{kid}-{peer_kid}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, WINDOW_SIZE)
        window = Window(fd, True)
        window.initialise(kid, generation, peer_kid)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return window, fd


def attach_window(fd: int) -> Window:
    """The peer's window behind *fd*, mapped read-only. The descriptor stays the caller's.

    Raises:
        LinkViolation: what the peer handed over is not a sealed window of this version.
    """
    try:
        return Window(fd, False)
    except ValueError as error:
        raise LinkViolation(f"the peer's window is unfit: {error}") from error
