"""Floods: large messages of many senders are bounded; high messages pass normal ones, counted in turns."""

import os
import random
from collections import deque

from popnet.core import limits
from popnet.message import codec
from popnet.message.codec import FRAGMENT_SIZE, Reassembly
from popnet.message.endpoint import Endpoint
from popnet.message.fake import FakeLink, fake_links
from popnet.message.kinds import Ring
from popnet.transport.doorbell import create_doorbell

from .ends import KIND, Ends, echo, everywhere, no_connect, until

SENDERS = (2, 3, 4)


def stored(endpoint: Endpoint) -> dict[int, int]:
    """Bytes of unfinished messages that *endpoint* holds, by their sender."""
    return {
        kid: sum(sum(map(len, parts._parts)) for parts in peer._parts.values())
        for kid, peer in endpoint._peers.items()
        if kid != endpoint.kid
    }


class Crowd:
    """Kernel 1, and three senders that the test plays."""

    def __init__(self) -> None:
        self.bells = [create_doorbell() for _ in range(4)]
        self.endpoint = Endpoint(1, 1, self.bells[0], no_connect)
        self.endpoint.start()
        self.links: dict[int, FakeLink] = {}
        for kid in SENDERS:
            ours, theirs = fake_links(self.bells[0], self.bells[kid - 1])
            self.endpoint.add_link(kid, 1, ours)
            self.links[kid] = theirs

    async def stop(self) -> None:
        await self.endpoint.stop()
        for bell in self.bells:
            os.close(bell)


async def test_large_messages_of_many_senders_on_both_rings_do_not_mix() -> None:
    crowd, dice = Crowd(), random.Random(1)
    got: list[tuple[int, bytes]] = []
    crowd.endpoint.on(KIND, lambda kid, body: got.append((kid, body)))
    bodies = {
        (kid, ring): dice.randbytes(dice.randint(700_000, 1_500_000)) for kid in SENDERS for ring in Ring
    }
    ways = {
        (kid, ring): deque(codec.fragments(ring, KIND, 0, 0, 1, body)) for (kid, ring), body in bodies.items()
    }
    most = 0
    while ways:
        kid, ring = dice.choice(list(ways))
        tag, payload = ways[kid, ring][0]
        if crowd.links[kid].send(ring, payload, tag):
            ways[kid, ring].popleft()
            if not ways[kid, ring]:
                del ways[kid, ring]
        else:
            await until(lambda link=crowd.links[kid], ring=ring: not link.outgoing[ring])
        most = max(most, *stored(crowd.endpoint).values())
    await until(lambda: len(got) == len(bodies))
    assert sorted(got) == sorted((kid, body) for (kid, _), body in bodies.items())
    assert most > FRAGMENT_SIZE[Ring.NORMAL], "they were put together side by side"
    assert set(stored(crowd.endpoint).values()) == {0}
    await crowd.stop()


async def test_a_sender_without_an_end_is_bounded_and_hurts_itself_only() -> None:
    crowd = Crowd()
    got: list[tuple[int, int]] = []
    crowd.endpoint.on(KIND, lambda kid, body: got.append((kid, len(body))))
    endless = codec.tag_of(KIND, codec.MORE), codec.payload_of(0, 1, bytes(FRAGMENT_SIZE[Ring.NORMAL]))
    body = bytes(300_000)
    others = [deque(codec.fragments(Ring.NORMAL, KIND, 0, 0, 1, body)) for _ in SENDERS[1:]]
    sent = 0
    while 2 in crowd.endpoint.generations():
        if crowd.links[2].send(Ring.NORMAL, endless[1], endless[0]):
            sent += len(endless[1]) - codec.HEADER.size
        else:
            await until(lambda: not crowd.links[2].outgoing[1] or 2 not in crowd.endpoint.generations())
        assert stored(crowd.endpoint).get(2, 0) <= limits.MESSAGE_SIZE_MAX
        assert sent <= limits.MESSAGE_SIZE_MAX + 2 * limits.RING_NORMAL_SIZE, (
            "its ring, and what was taken from it"
        )
    for kid, records in zip(SENDERS[1:], others, strict=True):
        while records:
            tag, payload = records[0]
            if crowd.links[kid].send(Ring.NORMAL, payload, tag):
                records.popleft()
            else:
                await until(lambda link=crowd.links[kid]: not link.outgoing[1])
    await until(lambda: len(got) == 2)
    assert sorted(got) == [(3, len(body)), (4, len(body))]
    assert crowd.endpoint.counters()["violations"] == 1
    await crowd.stop()


def test_control_without_a_bound_it_grows() -> None:
    """Negative control: the bound is the one in Reassembly."""
    unbounded = Reassembly(1 << 40)
    record = codec.Record(KIND, codec.MORE, 0, 1, bytes(1 << 20))
    for _ in range(20):
        assert unbounded.feed(record) is None
    assert unbounded._size > limits.MESSAGE_SIZE_MAX


@everywhere
async def test_a_high_message_is_handled_in_the_turn_after_it_came(ends: Ends) -> None:
    """However much waits on the normal ring, in the ring and behind it."""
    normal: list[int] = []
    high: list[tuple[int, int]] = []

    def handle(kid: int, body: bytes) -> None:
        if body == b"high":
            high.append((ends.b.counters().get("turns", 0), len(normal)))
        else:
            normal.append(len(body))

    ends.b.on(KIND, handle)
    flood = [bytes(size) for size in (20, 200, 2000)]
    for n in range(6000):
        assert ends.a.post(2, KIND, flood[n % 3])
    assert ends.a.counters()["waited_for_room"]
    for count in (1, 2, 3):
        before = ends.b.counters().get("turns", 0), len(normal)
        assert ends.a.post(2, KIND, b"high", high=True)
        await until(lambda count=count: len(high) == count)
        turns, handled = high[-1][0] - before[0], high[-1][1] - before[1]
        assert turns <= 1
        assert handled <= limits.BUDGET
        handled = len(normal)
        await until(lambda handled=handled: len(normal) > handled)
    assert len(normal) < 6000, "the flood went on all the while"
    await until(lambda: len(normal) == 6000)


@everywhere
async def test_control_on_the_normal_ring_it_would_wait_for_the_flood(ends: Ends) -> None:
    order: list[bytes] = []
    ends.b.on(KIND, lambda kid, body: order.append(body))
    for _ in range(1000):
        ends.a.post(2, KIND, bytes(200))
    ends.a.post(2, KIND, b"high")
    await until(lambda: len(order) == 1001)
    assert order.index(b"high") > limits.BUDGET


@everywhere
async def test_nothing_urgent_is_stuck_behind_a_large_message(ends: Ends) -> None:
    """High messages, and the records of streams, come while one of 16 MiB is under way; the messages behind
    it on its ring keep their order."""
    order: list[str] = []
    names = {limits.MESSAGE_SIZE_MAX: "large", 1: "behind", 2: "high"}
    ends.b.on(KIND, lambda kid, body: order.append(names[len(body)]))
    ends.b.serve("echo", echo)
    stream = await ends.a.open(2, "echo")
    assert ends.a.post(2, KIND, bytes(limits.MESSAGE_SIZE_MAX))
    assert ends.a.post(2, KIND, b"1")
    assert ends.a.post(2, KIND, b"22", high=True)
    await stream.send(b"key")
    assert await stream.receive() == (0, b"key")
    assert order == ["high"]
    await until(lambda: len(order) == 3)
    assert order == ["high", "large", "behind"]
