"""The kernel's half of the greeting: from a fresh connection to the link that the program wants.

    greeting sent --answer--> a link over the socket, or over two windows that are exchanged now

Anything else is nonsense. See `greeting` for the packets.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from popnet.core.errors import LinkViolation
from popnet.program.greeting import HOST, PROGRAM_GENERATION, Greeting, Half, closing, wants_attach
from popnet.program.socketlink import SocketLink
from popnet.transport._native import Link
from popnet.transport.handover import receive_packet, send_packet


async def admit(
    sock: socket.socket, greeting: Greeting, bell: int, wake: Callable[[], None], name: str
) -> SocketLink | Link | None:
    """The link; None if the program went before it answered. Raises LinkViolation.

    Args:
        bell: the doorbell of the kernel's end. wake: sees to a turn of its endpoint. name: of the program.
    """
    try:
        send_packet(sock, greeting.packet())
        received = await _answer(sock)
        if received is None:
            return None
        answer, fds = received
        if fds:
            return _attach(sock, greeting, bell, answer, fds)
        if wants_attach(answer):
            raise LinkViolation("wants to attach, and hands over nothing")
        return SocketLink(sock, wake, f"{name} ended")
    except (BrokenPipeError, ConnectionResetError):
        return None


def _attach(
    sock: socket.socket, greeting: Greeting, bell: int, answer: dict[str, Any], fds: list[int]
) -> Link:
    if not wants_attach(answer):
        with closing(fds):
            raise LinkViolation("hands over descriptors, and does not want to attach")
    half = Half((HOST, greeting.generation), (greeting.program, PROGRAM_GENERATION), bell)
    try:
        link = half.complete(fds)
        half.offer(sock, {"attached": True})
    finally:
        half.discard()
    return link


async def _answer(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                return receive_packet(sock)
            except BlockingIOError:
                continue
    finally:
        loop.remove_reader(sock)
