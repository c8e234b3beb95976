"""One ring as a pipe of payloads, against the ring's model and beside the link's own calls."""

import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.transport._native import PAYLOAD_MAX, RING_OFFSETS, RING_SIZES, LinkClosed, Plain, Violation

from .pair import Pair
from .ring_model import RingModel

HIGH, NORMAL = 0, 1
RECORD = 64
"""Bytes of the smallest record."""


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as pair:
        yield pair


def test_payloads_arrive_with_their_tag(pair: Pair) -> None:
    assert pair.a.link.plain(NORMAL, 7).send(b"one")
    assert pair.a.link.plain(NORMAL).send(bytearray(b"two"))
    assert pair.b.link.receive_many(NORMAL, 9) == [(7, b"one"), (0, b"two")]
    assert pair.a.link.send(NORMAL, b"three", 9)
    plain = pair.b.link.plain(NORMAL)
    assert plain.receive() == b"three"
    assert plain.receive() is None


def test_many_payloads_are_published_together_and_stop_at_a_full_ring(pair: Pair) -> None:
    out, into = pair.a.link.plain(HIGH), pair.b.link.plain(HIGH)
    payload = bytes(range(200))
    fits = RING_SIZES[HIGH] // 256
    assert out.send_many([payload] * (fits + 5)) == fits
    assert not out.send(payload)
    assert into.receive_many(3) == [payload] * 3
    assert out.send_many((payload,) * 5) == 3
    assert into.receive_many(10_000) == [payload] * fits
    assert into.receive_many(0) == []
    assert out.send_many([]) == 0
    counters = pair.a.link.counters()
    assert counters["high_sent"] == fits + 3 and counters["high_full"] == 3
    assert counters["high_kicks"] + counters["high_kicks_suppressed"] == 2, "one publication a call"


def test_packed_records_of_one_size(pair: Pair) -> None:
    out, into = pair.a.link.plain(NORMAL, 3), pair.b.link.plain(NORMAL)
    records = [struct.pack("<Q", n) * 8 for n in range(100)]
    assert out.send_packed(b"".join(records), 64) == 100
    room = bytearray(64 * 30)
    got = []
    while count := into.receive_packed(room, 64):
        got += [bytes(room[n * 64 : n * 64 + 64]) for n in range(count)]
    assert got == records
    assert pair.b.link.counters()["normal_budget_exhausted"] == 3, "three calls ended with more there"


def test_packed_stops_before_a_record_of_another_size(pair: Pair) -> None:
    for payload in (b"ab", b"cd", b"efg", b"hi"):
        assert pair.a.link.send(NORMAL, payload)
    into, room = pair.b.link.plain(NORMAL), bytearray(20)
    assert into.receive_packed(room, 2) == 2 and room[:4] == b"abcd"
    assert into.receive_packed(room, 2) == 0, "it is not lost, nor cut"
    assert into.receive() == b"efg"
    assert into.receive_packed(room, 2) == 1 and room[:2] == b"hi"


def test_packed_into_a_full_ring(pair: Pair) -> None:
    out = pair.a.link.plain(HIGH)
    fits = RING_SIZES[HIGH] // 128
    assert out.send_packed(bytes(64) * (fits + 1), 64) == fits
    assert out.send_packed(bytes(64), 64) == 0
    assert pair.a.link.counters()["high_full"] == 2


def test_numbers_of_an_array_travel(pair: Pair) -> None:
    import array

    numbers = array.array("d", [1.5, -2.25, 3e300, 0.0])
    assert pair.a.link.plain(NORMAL).send_packed(numbers, 16) == 2
    back = array.array("d", bytes(32))
    assert pair.b.link.plain(NORMAL).receive_packed(back, 16) == 2
    assert back == numbers


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda plain: plain.send_packed(bytes(10), 3), "10 bytes are not packed records of 3 bytes"),
        (lambda plain: plain.send_packed(bytes(10), 0), "not packed records of 0 bytes"),
        (lambda plain: plain.receive_packed(bytearray(9), -9), "not packed records of -9 bytes"),
        (
            lambda plain: plain.send_packed(bytes(PAYLOAD_MAX[HIGH] + 1), PAYLOAD_MAX[HIGH] + 1),
            "larger than the",
        ),
        (lambda plain: plain.send(bytes(PAYLOAD_MAX[HIGH] + 1)), "larger than the"),
    ],
)
def test_wrong_sizes(pair: Pair, call: Callable[[Plain], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(pair.a.link.plain(HIGH))
    assert pair.b.link.receive(HIGH) is None


def test_wrong_types(pair: Pair) -> None:
    plain = pair.a.link.plain(NORMAL)
    wrong: list[Callable[[], object]] = [
        lambda: plain.send(5),  # type: ignore[arg-type]
        lambda: plain.send_many(5),  # type: ignore[arg-type]
        lambda: plain.send_many([b"good", 5]),  # type: ignore[list-item]
        lambda: plain.send_packed(b"", 1, 1),  # type: ignore[call-arg]
        lambda: plain.receive_many("x"),  # type: ignore[arg-type]
        lambda: Plain(),
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()
    with pytest.raises(BufferError):
        plain.receive_packed(b"read only", 1)
    assert pair.b.link.plain(NORMAL).receive_many(5) == [b"good"], "what was staged before an error is sent"
    with pytest.raises(ValueError, match="no such ring"):
        pair.a.link.plain(3)


def test_a_closed_link_and_a_mad_peer(pair: Pair) -> None:
    into = pair.b.link.plain(NORMAL)
    assert pair.a.link.send_many(NORMAL, [(0, b"good"), (0, b"bad")]) == 2
    pair.a.window.poke(RING_OFFSETS[NORMAL] + RECORD, struct.pack("<I", 2**31))
    assert into.receive_many(9) == [b"good"], "the good ones are handed over"
    for call in (into.receive, lambda: into.receive_many(1), lambda: into.receive_packed(bytearray(4), 4)):
        with pytest.raises(Violation):
            call()
    plain = pair.a.link.plain(NORMAL)
    pair.a.link.close()
    for call in (plain.receive, lambda: plain.send(b""), lambda: plain.send_packed(b"", 1)):
        with pytest.raises(LinkClosed):
            call()


def test_the_ring_outlives_the_name_of_its_link(pair: Pair) -> None:
    plain = pair.a.link.plain(NORMAL)
    del pair.a.link
    assert plain.send(b"still there")
    assert pair.b.link.receive(NORMAL) == (0, b"still there")


def next_of(model: RingModel) -> bytes:
    length, _ = struct.unpack("<II", model._read(model.consumed, 8))
    return model._read(model.consumed + 8, length)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["many", "packed", "take many", "take packed", "take"]),
        st.integers(0, 40),
        st.integers(1, 300),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_it_does_what_the_model_does(steps: list[tuple[str, int, int]]) -> None:
    """Sizes change from step to step, so packed reads also end before records of another size."""
    model = RingModel(RING_SIZES[HIGH], PAYLOAD_MAX[HIGH])
    with Pair() as pair:
        follow(pair, model, steps)


def follow(pair: Pair, model: RingModel, steps: list[tuple[str, int, int]]) -> None:
    out, into = pair.a.link.plain(HIGH, 5), pair.b.link.plain(HIGH)
    number = 0
    for what, count, size in steps:
        if what in ("many", "packed"):
            payloads = [bytes([(number + n) % 256]) * size for n in range(count)]
            number += count
            sent = out.send_many(payloads) if what == "many" else out.send_packed(b"".join(payloads), size)
            assert sent == model.send([(5, payload) for payload in payloads])
        elif what == "take packed":
            room = bytearray(count * size)
            got = into.receive_packed(room, size)
            taken = [bytes(room[n * size : n * size + size]) for n in range(got)]
            assert [(5, payload) for payload in taken] == model.receive(got)
            if got < count and model.used:
                assert len(next_of(model)) != size
        else:
            budget = count if what == "take many" else 1
            payloads = into.receive_many(budget) if what == "take many" else [into.receive()]
            assert [(5, payload) for payload in payloads if payload is not None] == model.receive(budget)
