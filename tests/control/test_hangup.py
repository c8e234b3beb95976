"""The end of a peer, noticed without reading."""

import asyncio
import os
import socket

from popnet.control.hangup import hangup


async def test_a_close_is_noticed_behind_unread_bytes() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"unread")
        with hangup(ours.fileno()) as gone:
            theirs.close()
            await gone.wait()
        assert ours.recv(10) == b"unread"


async def test_nothing_else_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, hangup(ours.fileno()) as gone:
        theirs.sendall(b"data")
        theirs.shutdown(socket.SHUT_WR)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not gone.is_set()


async def test_the_watched_socket_may_be_closed_meanwhile() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    ours, theirs = socket.socketpair()
    with theirs, hangup(ours.fileno()) as gone:
        ours.close()
        assert not gone.is_set()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
