"""How a program and its kernel begin: one packet each way on a fresh connection to the kernel's socket.

    kernel -> program   {"popnet": 1, "machine", "kernel", "kid", "generation", "program", "kernels": {name:
    kid}} program -> kernel   {"popnet": 1, "attach": false}      records ride the socket from here on
                        {"popnet": 1, "attach": true} + window, doorbell
    kernel -> program   {"attached": true} + window, doorbell     records ride the two windows from here on

or, instead of its first packet, {"popnet": 1, "error": {"code", "message", "hint"}} and the end. An attached
program keeps its socket open and says nothing more on it: its end is the end of either.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from popnet.core.errors import LinkViolation, PopnetError
from popnet.message import codec
from popnet.transport._native import Link, Window
from popnet.transport.doorbell import check_doorbell
from popnet.transport.handover import send_packet
from popnet.transport.window import attach_window, create_window

SOCKET_PATH: Final = "/run/popnet.sock"
"""Where every kernel has its socket, inside."""

VERSION: Final = 1
"""Of this conversation; a program that speaks another one is told so."""

HOST: Final = 255
"""The number of the kernel on such a link, whatever its kid. No kid is 255; so no end of the link takes the
other for the primary, or for itself."""

PROGRAM_FIRST: Final = 256
"""Programs are numbered from here: what a kid never is."""

PROGRAM_GENERATION: Final = 1
"""A program is never started again under its number."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a program learns of where it runs.

    Attributes:
        program: its number, at least PROGRAM_FIRST.
        kernels: name -> kid of every kernel of the machine, whether it runs or not.
    """

    machine: str
    kernel: str
    kid: int
    generation: int
    program: int
    kernels: dict[str, int]

    def packet(self) -> dict[str, Any]:
        return {"popnet": VERSION, **asdict(self)}


def greeting_of(packet: dict[str, Any]) -> Greeting:
    """Raises the error that the kernel sent instead, or LinkViolation if it is neither."""
    match packet:
        case {"error": dict(error)}:
            raise codec.error_of(error)
        case {
            "popnet": 1,
            "machine": str(machine),
            "kernel": str(kernel),
            "kid": int(kid),
            "generation": int(generation),
            "program": int(program),
            "kernels": dict(kernels),
        }:
            return Greeting(machine, kernel, kid, generation, program, kernels)
    raise LinkViolation("what answers there is no popnet kernel of this version")


def refusal(error: PopnetError) -> dict[str, Any]:
    return {"popnet": VERSION, "error": codec.error_object(error)}


def wants_attach(packet: dict[str, Any]) -> bool:
    """What the program answered. Raises LinkViolation."""
    match packet:
        case {"popnet": 1, "attach": bool(attach)}:
            return attach
    raise LinkViolation("the program speaks another version")


class Half:
    """This end's half of an attached link: its window, not yet shown to the other end.

    Args:
        own, peer: (number, generation) of this end and of the other.
        bell: this end's doorbell, which the other end kicks. Not owned.
    """

    def __init__(self, own: tuple[int, int], peer: tuple[int, int], bell: int) -> None:
        self._own = own
        self._peer = peer
        self._bell = bell
        self._window: Window
        self._window, self._fd = create_window(*own, peer[0])

    def offer(self, sock: socket.socket, packet: dict[str, Any]) -> None:
        """Send *packet* with this half, once. Raises OSError."""
        try:
            send_packet(sock, packet, (self._fd, self._bell))
        finally:
            self.discard()

    def discard(self) -> None:
        """Offer it to nobody any more. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def complete(self, fds: list[int]) -> Link:
        """The link, with the other end's half, whose descriptors are this call's to close. Raises
        LinkViolation."""
        with closing(fds):
            if len(fds) != 2:
                raise LinkViolation(f"handed over {len(fds)} descriptors instead of two")
            window_fd, bell = fds
            check_doorbell(bell)
            window = attach_window(window_fd)
            if (window.kid, window.generation, window.peer_kid) != (*self._peer, self._own[0]):
                raise LinkViolation("handed over the window of another link")
            return Link(self._window, window, bell, -1)


@contextlib.contextmanager
def closing(fds: list[int]) -> Iterator[None]:
    """Close *fds* at the end."""
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)
