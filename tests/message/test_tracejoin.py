"""Halves of traced messages: on a stream and back, joined, ordered, and given out in time."""

import pytest

from popnet.core.errors import LinkViolation
from popnet.message import tracejoin
from popnet.message.kinds import Kind
from popnet.message.tracehalf import HEAD, Received, Sent, pack, unpack
from popnet.message.tracejoin import HOLD_NS, LATE_NS, Joiner, Traced

TAG = Kind.DATA | 2 << 16
PAYLOAD = bytes([6, 0, 0, 0, 1, 0, 0, 0]) + b"body"


def sent(number: int = 0, at: int = 1000, waited: int = 0, kicked: bool = True, ring: int = 1) -> Sent:
    """Kernel 1's half of a message to kernel 2, published at *at*."""
    return Sent(ring, 2, 5, number, TAG, 12, PAYLOAD, at - waited, at, at + 10, kicked)


def received(number: int = 0, taken: int = 1100, wake: int = 1050, ring: int = 1) -> Received:
    """Kernel 2's half of a message from kernel 1."""
    return Received(ring, 1, 1, number, TAG, 12, PAYLOAD, wake, taken, taken + 5, taken + 20)


def joined(*halves: Sent | Received) -> list[Traced]:
    joiner = Joiner()
    add(joiner, *halves)
    return joiner.rest()


def add(joiner: Joiner, *halves: Sent | Received) -> None:
    for half in halves:
        joiner.add(*((1, 1) if isinstance(half, Sent) else (2, 5)), half)


def test_halves_survive_their_journey() -> None:
    halves = [sent(), received(), sent(1 << 40, kicked=False, ring=0)]
    assert list(unpack(b"".join(map(pack, halves)))) == halves
    assert list(unpack(b"")) == []


@pytest.mark.parametrize("cut", [1, HEAD.size - 1, HEAD.size, HEAD.size + 11])
def test_a_cut_half_is_nonsense(cut: int) -> None:
    with pytest.raises(LinkViolation):
        list(unpack(pack(sent()) + pack(sent())[:cut]))


@pytest.mark.parametrize(("place", "value"), [(0, 2), (1, 2)])
def test_sides_and_rings_that_are_none(place: int, value: int) -> None:
    data = bytearray(pack(sent()))
    data[place] = value
    with pytest.raises(LinkViolation):
        list(unpack(bytes(data)))


def test_two_halves_are_one_message() -> None:
    [message] = joined(sent(waited=100), received())
    assert (message.sender, message.sender_generation, message.receiver) == (1, 1, 2)
    assert (message.receiver_generation, message.ring, message.number) == (5, 1, 0)
    assert (message.kind, message.flags, message.id, message.size) == (Kind.DATA, 2, 6, 12)
    assert (message.enqueue_ns, message.publish_ns, message.sent_ns) == (900, 1000, 1010)
    assert (message.kick_ns, message.wake_ns) == (1010, 1050)
    assert (message.begin_ns, message.handle_ns) == (1105, 1120)
    assert message.whole and not message.awake and message.start_ns == 900


def test_halves_of_other_names_are_not_joined() -> None:
    assert len(joined(sent(0), received(1))) == 2
    assert len(joined(sent(ring=0), received(ring=1))) == 2
    joiner = Joiner()
    joiner.add(1, 1, sent())
    joiner.add(2, 6, received())  # another generation of the receiver
    assert [message.whole for message in joiner.rest()] == [False, False]


def test_a_message_that_was_not_kicked_has_no_kick() -> None:
    [message] = joined(sent(kicked=False), received())
    assert message.kick_ns == 0 and message.whole


def test_a_receiver_that_is_there_was_rung_before() -> None:
    """The call that rings may come back later than the receiver comes."""
    [message] = joined(sent(), received(wake=1004))
    assert (message.kick_ns, message.wake_ns, message.sent_ns) == (1004, 1004, 1010)


def test_a_receiver_that_was_awake_turns_to_a_message_when_it_has_it() -> None:
    [message] = joined(sent(), received(wake=10))
    assert message.awake and message.wake_ns == 1100


@pytest.mark.parametrize("waited", [0, 100])
@pytest.mark.parametrize("wake", [10, 950, 1004, 1050])
@pytest.mark.parametrize("kicked", [True, False])
def test_times_are_ordered(waited: int, wake: int, kicked: bool) -> None:
    [message] = joined(sent(waited=waited, kicked=kicked), received(wake=wake))
    times = [message.enqueue_ns, message.kick_ns or message.enqueue_ns, message.wake_ns, message.handle_ns]
    assert times == sorted(times)


def test_one_half_alone() -> None:
    [first] = joined(sent())
    assert (first.handle_ns, first.wake_ns, first.kick_ns, first.whole) == (0, 0, 1010, False)
    [second] = joined(received())
    assert (second.enqueue_ns, second.publish_ns, second.kick_ns, second.wake_ns) == (0, 0, 0, 1050)
    assert second.start_ns == 1050 and not second.whole


def test_whole_messages_are_held_and_halves_wait_longer() -> None:
    joiner = Joiner()
    add(joiner, sent(1), received(1), sent(2, at=2000))
    assert joiner.take(1000 + HOLD_NS) == []
    assert [message.number for message in joiner.take(1001 + HOLD_NS)] == [1]
    assert joiner.take(2000 + LATE_NS) == []
    assert [message.number for message in joiner.take(2001 + LATE_NS)] == [2]
    assert joiner.rest() == []


def test_messages_come_in_the_order_of_their_beginning() -> None:
    messages = joined(sent(3, at=3000), received(3, 3100, 3050), received(1), sent(1), sent(2, at=2000))
    assert [message.number for message in messages] == [1, 2, 3]


def test_a_half_that_is_very_late_comes_alone() -> None:
    joiner = Joiner()
    add(joiner, sent())
    assert len(joiner.take(10 * LATE_NS)) == 1
    add(joiner, received())
    [late] = joiner.rest()
    assert not late.whole and late.handle_ns


def test_too_many_are_given_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracejoin, "WAITING_MAX", 3)
    joiner = Joiner()
    add(joiner, sent(1), sent(2), sent(3))
    assert joiner.take(0) == []
    add(joiner, sent(4))
    assert len(joiner.take(0)) == 4
    assert joiner.take(0) == []


def test_a_half_without_the_header_of_its_message_is_nonsense() -> None:
    half = Sent(1, 2, 5, 0, TAG, 12, b"short", 1, 1, 1, False)
    with pytest.raises(LinkViolation):
        Joiner().add(1, 1, half)
    tiny = Sent(1, 2, 5, 0, TAG, 3, b"abc", 1, 1, 1, False)  # a record that was too short on the wire
    assert len(joined(tiny)) == 1
