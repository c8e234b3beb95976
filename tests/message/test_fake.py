"""The fake link does what the real one does: the same table of behaviour over both."""

from collections.abc import Iterator

import pytest

from popnet.core import limits
from popnet.message.fake import FakeLink, fake_links
from popnet.message.memory import MemoryLink, record_size
from popnet.transport._native import LinkClosed, Violation
from popnet.transport.doorbell import drain

from .links import KINDS, LinkPair, link_pair

RINGS = [(0, limits.RING_HIGH_SIZE), (1, limits.RING_NORMAL_SIZE)]


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[LinkPair]:
    made = link_pair(request.param)
    yield made
    made.close()


@pytest.mark.parametrize(("ring", "size"), RINGS)
def test_records_arrive_in_order_each_once(pair: LinkPair, ring: int, size: int) -> None:
    sent = [(tag, bytes([tag]) * tag) for tag in range(100)]
    assert pair.a.send(ring, sent[0][1], sent[0][0])
    assert pair.a.send_many(ring, sent[1:]) == 99
    assert pair.b.receive_many(ring, 10) == sent[:10]
    assert pair.b.receive(ring) == sent[10]
    assert pair.b.receive_many(ring, 1000) == sent[11:]
    assert pair.b.receive_many(ring, 1000) == []
    assert pair.b.receive(ring) is None
    assert pair.a.receive_many(ring, 1000) == []


@pytest.mark.parametrize(("ring", "size"), RINGS)
def test_a_full_ring_takes_nothing_and_a_drained_one_takes_as_much_again(
    pair: LinkPair, ring: int, size: int
) -> None:
    payload = bytes(1000)
    for _ in range(3):
        count = 0
        while pair.a.send(ring, payload):
            count += 1
        assert count == size // record_size(1000)
        assert pair.a.send_many(ring, [(0, payload)]) == 0
        assert len(pair.b.receive_many(ring, 10_000)) == count


@pytest.mark.parametrize(("ring", "size"), RINGS)
def test_one_record_is_at_most_half_a_ring(pair: LinkPair, ring: int, size: int) -> None:
    assert pair.a.send(ring, bytes(size // 2 - limits.RECORD_HEADER_SIZE))
    with pytest.raises(ValueError):
        pair.a.send(ring, bytes(size // 2 + 1))


@pytest.mark.parametrize(("ring", "size"), RINGS)
def test_an_armed_ring_kicks_once(pair: LinkPair, ring: int, size: int) -> None:
    pair.a.send(ring, b"before")
    assert not drain(pair.bell_b), "nobody asked"
    assert not pair.b.arm(ring), "there is data: do not sleep"
    pair.b.receive_many(ring, 10)
    assert pair.b.arm(ring)
    for _ in range(3):
        pair.a.send(ring, b"after")
        if not drain(pair.bell_b):
            break
    else:
        pytest.fail("kicked for every record")
    assert pair.b.receive_many(ring, 10)
    assert pair.b.arm(ring)
    pair.a.send(ring, b"again")
    assert drain(pair.bell_b)


def test_a_disarmed_ring_does_not_kick(pair: LinkPair) -> None:
    assert pair.b.arm(0)
    pair.b.disarm(0)
    pair.a.send(0, b"x")
    assert not drain(pair.bell_b)


@pytest.mark.parametrize(("ring", "size"), RINGS)
def test_a_producer_that_is_armed_for_room_is_kicked_when_there_is_some(
    pair: LinkPair, ring: int, size: int
) -> None:
    assert not pair.a.arm_room(ring, 1000), "there is room: go on"
    while pair.a.send(ring, bytes(1000)):
        pass
    assert pair.a.arm_room(ring, 1000)
    assert not drain(pair.bell_a)
    pair.b.receive_many(ring, 10_000)
    assert drain(pair.bell_a)
    assert not pair.a.arm_room(ring, 1000)


def test_nobody_is_kicked_for_room_after_disarming(pair: LinkPair) -> None:
    while pair.a.send(1, bytes(1000)):
        pass
    assert pair.a.arm_room(1, 1000)
    pair.a.disarm_room(1)
    pair.b.receive_many(1, 10_000)
    assert not drain(pair.bell_a)


def test_a_closed_link_says_so(pair: LinkPair) -> None:
    pair.a.close()
    for call in (
        lambda: pair.a.send(0, b""),
        lambda: pair.a.send_many(0, []),
        lambda: pair.a.receive(0),
        lambda: pair.a.receive_many(0, 1),
        lambda: pair.a.arm(0),
        lambda: pair.a.disarm(0),
        lambda: pair.a.arm_room(0, 1),
        lambda: pair.a.disarm_room(0),
    ):
        with pytest.raises(LinkClosed):
            call()


@pytest.mark.parametrize(("ring", "name"), [(0, "high"), (1, "normal")])
def test_both_ends_count_the_same_records_and_each_kick(pair: LinkPair, ring: int, name: str) -> None:
    assert pair.b.arm(ring)
    pair.a.send(ring, b"kicks")
    pair.a.send_many(ring, [(0, b"suppressed"), (0, b"suppressed")])
    pair.b.receive_many(ring, 2)
    sender, receiver = pair.a.counters(), pair.b.counters()
    assert (sender[f"{name}_sent"], sender[f"{name}_kicks"], receiver[f"{name}_received"]) == (3, 1, 2)


def test_a_fake_link_can_be_made_to_complain() -> None:
    pair = link_pair("fake")
    assert isinstance(pair.a, FakeLink)
    pair.a.violate("a record of -1 bytes")
    assert drain(pair.bell_a)
    with pytest.raises(Violation, match="-1 bytes"):
        pair.a.receive_many(0, 1)
    pair.close()


def test_a_fake_link_counts_as_its_rings_do() -> None:
    pair = link_pair("fake")
    a, b = fake_links(pair.bell_a, pair.bell_b, {0: 128, 1: 128})
    assert a.send(1, b"x")
    assert a.counters().items() >= {"produced": 64, "consumed": 0}.items()
    b.receive(1)
    assert b.counters().items() >= {"produced": 0, "consumed": 64}.items()
    pair.close()


def test_a_link_to_itself_kicks_its_only_owner() -> None:
    kicks: list[int] = []
    link = MemoryLink.to_itself(lambda: kicks.append(1))
    assert link.arm(1)
    link.send(1, b"x", 7)
    link.send(1, b"y", 8)
    assert len(kicks) == 1
    assert link.receive_many(1, 10) == [(7, b"x"), (8, b"y")]
