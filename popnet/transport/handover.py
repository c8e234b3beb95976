"""Handover: small JSON messages with file descriptors, over a SEQPACKET socket between two processes of a
machine.

One packet is one message. The sender keeps its descriptors; the receiver owns what it gets (close-on-exec). A
packet that is no JSON object, or was cut short, is the peer's fault, and none of its descriptors stays open.
"""

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

from popnet.core.errors import LinkViolation

PACKET_SIZE_MAX: Final = 64 << 10
"""Bytes of JSON in one packet: well below the default socket buffer, so that an idle socket always takes
one."""

DESCRIPTORS_MAX: Final = 253
"""Descriptors in one packet: the kernel's SCM_MAX_FD."""


def create_handover() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, close-on-exec and blocking."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send_packet(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send *message* and duplicates of *fds*.

    Raises:
        ValueError: the packet is too large.
        OSError: the peer is gone (BrokenPipeError), or there is no room in a non-blocking socket
        (BlockingIOError).
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > PACKET_SIZE_MAX:
        raise ValueError(f"a packet of {len(data)} bytes is larger than {PACKET_SIZE_MAX}")
    if len(fds) > DESCRIPTORS_MAX:
        raise ValueError(f"{len(fds)} descriptors are more than {DESCRIPTORS_MAX}")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)


def receive_packet(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next packet and its descriptors, which are the caller's to close; None once the peer closed.

    Raises:
        LinkViolation: the peer sent something else than a whole JSON object.
        BlockingIOError: a non-blocking socket has nothing.
    """
    room = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
    try:
        data, ancillary, flags, _ = sock.recvmsg(PACKET_SIZE_MAX, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    fds = _descriptors(ancillary)
    if not data and not fds:
        return None
    try:
        return _decode(data, flags), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _decode(data: bytes, flags: int) -> dict[str, Any]:
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise LinkViolation("the peer's packet is too large")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LinkViolation(f"the peer's packet is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise LinkViolation("the peer's packet is not a JSON object")
    return message
