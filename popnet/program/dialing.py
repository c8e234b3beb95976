"""How a program gets its connection: the socket, the greeting, and the link that it asks for."""

import asyncio
import os
import socket
from typing import Any, Final

from popnet.core.errors import PeerDied, Unavailable
from popnet.message import codec
from popnet.program.connection import Connection
from popnet.program.end import ASK_TIMEOUT_S as CONNECT_TIMEOUT_S
from popnet.program.greeting import (
    HOST,
    PROGRAM_GENERATION,
    SOCKET_PATH,
    VERSION,
    Greeting,
    Half,
    closing,
    greeting_of,
)
from popnet.program.socketlink import SocketLink
from popnet.transport import doorbell
from popnet.transport._native import Link
from popnet.transport.handover import receive_packet, send_packet

_RETRY_S: Final = 0.01
"""Seconds until the next try when too many programs connect at once."""


async def open_connection(path: str = SOCKET_PATH, attach: bool = False) -> Connection:
    """Connect to the kernel whose socket is at *path*; see `popnet.connect`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bell = doorbell.create_doorbell()
    connection = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            sock.setblocking(False)
            await _dial(sock, path)
            greeting = greeting_of(await _packet(sock))
            connection = Connection(greeting, sock, attach, bell)
            connection.start(await _link(connection, greeting, sock, bell))
            return connection
    except BaseException as error:
        if connection is not None:
            await connection.stop()
        else:
            sock.close()
            os.close(bell)
        if isinstance(error, TimeoutError):
            raise Unavailable(f"the kernel at {path} did not greet within {CONNECT_TIMEOUT_S} s") from None
        raise


async def _link(
    connection: Connection, greeting: Greeting, sock: socket.socket, bell: int
) -> SocketLink | Link:
    if not connection.attached:
        send_packet(sock, {"popnet": VERSION, "attach": False})
        end = f"kernel {greeting.kernel} closed the connection"
        return SocketLink(sock, connection.wake, end)
    half = Half((greeting.program, PROGRAM_GENERATION), (HOST, greeting.generation), bell)
    half.offer(sock, {"popnet": VERSION, "attach": True})
    packet, fds = await _packet_and_descriptors(sock)
    if "error" in packet:
        with closing(fds):
            raise codec.error_of(packet["error"])
    return half.complete(fds)


async def _dial(sock: socket.socket, path: str) -> None:
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:  # too many connect at once
            await asyncio.sleep(_RETRY_S)
        except OSError as error:
            raise Unavailable(
                f"no popnet kernel answers at {path}: {error.strerror}",
                "this is for programs inside a kernel: `popnet exec k1 -- python3 program.py`",
            ) from None
        else:
            return


async def _packet(sock: socket.socket) -> dict[str, Any]:
    packet, fds = await _packet_and_descriptors(sock)
    with closing(fds):
        return packet


async def _packet_and_descriptors(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    loop = asyncio.get_running_loop()
    while True:
        try:
            received = receive_packet(sock)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(sock, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(sock)
            continue
        if received is None:
            raise PeerDied("the kernel closed the connection")
        return received
