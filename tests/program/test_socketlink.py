"""SocketLink as a LinkPort: two endpoints joined by a socket pair; bounds, order, room, and every way it
ends."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from popnet.message.kinds import Ring
from popnet.program.socketlink import SocketLink
from popnet.transport._native import PAYLOAD_MAX, LinkClosed, Violation


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[SocketLink, SocketLink, list[str]]]:
    """Both ends, and who was woken."""
    woken: list[str] = []
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends = (
        SocketLink(a, lambda: woken.append("a"), "b ended"),
        SocketLink(b, lambda: woken.append("b"), "a ended"),
    )
    try:
        yield (*ends, woken)
    finally:
        for end in ends:
            end.close()


async def test_records_keep_their_ring_tag_and_order() -> None:
    async with pair() as (a, b, _):
        for n in range(20):
            assert a.send(n % 2, b"%d" % n, tag=n << 16)
        assert b.receive_many(Ring.HIGH, 64) == [(n << 16, b"%d" % n) for n in range(0, 20, 2)]
        assert not b.arm(Ring.NORMAL), "something waits in the inbox"
        assert b.arm(Ring.HIGH)
        assert b.receive_many(Ring.NORMAL, 3) == [(n << 16, b"%d" % n) for n in (1, 3, 5)]
        assert len(b.receive_many(Ring.NORMAL, 64)) == 7
        assert b.arm(Ring.NORMAL)


@pytest.mark.parametrize("ring", Ring)
async def test_the_largest_payload(ring: Ring) -> None:
    async with pair() as (a, b, _):
        data = os.urandom(PAYLOAD_MAX[ring])
        assert a.send(ring, data, tag=0xFFFF_FFFF)
        assert b.receive_many(ring, 1) == [(0xFFFF_FFFF, data)]
        with pytest.raises(ValueError, match="at most"):
            a.send(ring, data + b"x")


async def test_an_inbox_is_bounded_and_the_sender_waits_for_room() -> None:
    async with pair() as (a, b, woken):
        sent = 0
        while a.send(Ring.NORMAL, bytes(1000), tag=sent):
            sent += 1
        assert a.arm_room(Ring.NORMAL, 1000)
        assert a.send_many(Ring.NORMAL, [(1, b"x"), (2, b"y")]) == 0
        assert b.receive_many(Ring.HIGH, 64) == []
        assert len(b._inboxes[Ring.NORMAL]) == 64, "then it stops reading"
        got: list[int] = []
        while "a" not in woken:
            got += [tag for tag, _ in b.receive_many(Ring.NORMAL, 64)]
            await asyncio.sleep(0)
        assert a.send(Ring.NORMAL, b"more", tag=sent)
        while len(got) <= sent:
            got += [tag for tag, _ in b.receive_many(Ring.NORMAL, 64)]
        assert got == list(range(sent + 1))


async def test_data_wakes() -> None:
    async with pair() as (a, _, woken):
        a.send(Ring.NORMAL, b"x")
        while "b" not in woken:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_the_end_comes_behind_what_was_sent() -> None:
    async with pair() as (a, b, _):
        b.send(Ring.NORMAL, b"unread")  # so that the kernel tells a reset, before what came
        a.send(Ring.NORMAL, b"1")
        a.send(Ring.HIGH, b"2")
        a.close()
        assert b.receive_many(Ring.HIGH, 64) == [(0, b"2")]
        assert not b.arm(Ring.HIGH)
        assert b.receive_many(Ring.NORMAL, 64) == [(0, b"1")]
        with pytest.raises(LinkClosed, match="a ended"):
            b.receive_many(Ring.HIGH, 64)
        with pytest.raises(LinkClosed):
            a.send(Ring.NORMAL, b"closed")


async def test_sending_to_nobody_ends_it_too() -> None:
    async with pair() as (a, b, woken):
        a.close()
        assert b.send(Ring.NORMAL, b"x"), "what is sent on a dead link is gone"
        assert "b" in woken
        with pytest.raises(LinkClosed, match="a ended"):
            b.receive_many(Ring.NORMAL, 64)


@pytest.mark.parametrize("packet", [b"x", bytes([2]) + bytes(10), bytes([0]) + bytes(60_000)])
async def test_nonsense_is_a_violation_behind_what_was_good(packet: bytes) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = SocketLink(b, lambda: None, "ended")
    a.send(bytes([1]) + bytes(4) + b"good")
    a.send(packet)
    assert link.receive_many(Ring.NORMAL, 64) == [(0, b"good")]
    assert not link.arm(Ring.NORMAL)
    with pytest.raises(Violation, match="packet"):
        link.receive_many(Ring.NORMAL, 64)
    link.close()
    a.close()


async def test_counters() -> None:
    async with pair() as (a, b, _):
        a.send(Ring.HIGH, b"x")
        b.receive_many(Ring.HIGH, 64)
        assert a.counters()["high_sent"] == b.counters()["high_received"] == 1
        assert a.counters()["normal_sent"] == 0
