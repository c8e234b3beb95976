"""Doorbells: eventfds by which one kernel wakes another.

A kernel has two, one for its message loop and one for its frame pump; every peer holds duplicates and kicks
them. The count says nothing but "look at your rings", so kicks add up and one drain answers them all.
"""

import os
from pathlib import Path

from popnet.core.errors import LinkViolation


def create_doorbell() -> int:
    """A new doorbell, not rung; the descriptor is the caller's to close."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def kick(bell: int) -> None:
    """Ring *bell*. One that is at the brim is rung already."""
    try:
        os.eventfd_write(bell, 1)
    except BlockingIOError:
        return


def drain(bell: int) -> bool:
    """Silence *bell*; True if it had been rung. Drain first, look at the rings after: the other order loses
    wake-ups."""
    try:
        os.eventfd_read(bell)
    except BlockingIOError:
        return False
    return True


def check_doorbell(bell: int) -> None:
    """Make sure that *bell*, which a peer handed over, is an eventfd that never blocks us.

    Raises:
        LinkViolation: it is something else.
    """
    if str(Path(f"/proc/self/fd/{bell}").readlink()) != "anon_inode:[eventfd]":
        raise LinkViolation("the peer's doorbell is not an eventfd")
    if os.get_blocking(bell):
        raise LinkViolation("the peer's doorbell blocks")
