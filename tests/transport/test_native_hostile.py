"""A mad peer: whatever it writes into its window, we see a Violation or a strange payload, never a crash."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.transport._native import (
    PAYLOAD_MAX,
    RING_OFFSETS,
    RING_SIZES,
    WINDOW_SIZE,
    WORD_OFFSETS,
    Violation,
)
from tests.transport.pair import FRAMES, HIGH, NORMAL, RING_NAMES, Pair

RINGS = (HIGH, NORMAL, FRAMES)


def assert_violated(pair: Pair, text: str) -> None:
    """The victim `a` reported *text*, once, and its link does nothing any more."""
    link = pair.a.link
    assert link.violation is not None
    assert text in link.violation
    assert link.counters()["violations"] == 1
    for call in (lambda: link.send(HIGH, b""), lambda: link.receive(HIGH), lambda: link.arm(NORMAL)):
        with pytest.raises(Violation, match=text):
            call()


def lie(pair: Pair, ring: int, length: int, produced: int, at: int = 0) -> None:
    """The mad peer `b` claims a record of *length* at *at*, and to have produced *produced* bytes."""
    pair.b.window.poke(RING_OFFSETS[ring] + at, struct.pack("<II", length % 2**32, 0))
    pair.b.poke_word(f"produced_{RING_NAMES[ring]}", produced)


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize(
    ("length", "published"),
    [(57, 64), (121, 128), (2**32 - 1, 64), (2**32 - 8, 64), (2**31, 128), (2**32 - 64, 4096)],
)
def test_a_length_beyond_what_was_published(ring: int, length: int, published: int) -> None:
    with Pair() as pair:
        lie(pair, ring, length, published)
        with pytest.raises(Violation, match=f"{RING_NAMES[ring]} ring: a record is longer"):
            pair.a.link.receive(ring)
        assert_violated(pair, "a record is longer")


@pytest.mark.parametrize("ring", RINGS)
def test_a_length_beyond_what_is_allowed(ring: int) -> None:
    with Pair() as pair:
        lie(pair, ring, PAYLOAD_MAX[ring] + 1, RING_SIZES[ring])
        with pytest.raises(Violation):
            pair.a.link.receive(ring)
        assert_violated(pair, "a record is longer")


@pytest.mark.parametrize("ring", RINGS)
@pytest.mark.parametrize("beyond", [64, 1 << 20, 1 << 40, 2**63])
def test_produced_too_far(ring: int, beyond: int) -> None:
    with Pair() as pair:
        lie(pair, ring, 8, RING_SIZES[ring] + beyond)
        with pytest.raises(Violation):
            pair.a.link.receive(ring)
        assert_violated(pair, "more than a ring ahead")


def test_a_whole_ring_of_produced_is_legal() -> None:
    with Pair() as pair:
        lie(pair, HIGH, 8, RING_SIZES[HIGH])
        assert pair.a.link.receive(HIGH) == (0, bytes(8))


@pytest.mark.parametrize("value", [1, 63, 65, 2**64 - 1])
def test_produced_unaligned(value: int) -> None:
    with Pair() as pair:
        pair.b.poke_word("produced_normal", value)
        with pytest.raises(Violation):
            pair.a.link.arm(NORMAL)
        assert_violated(pair, "produced is not a multiple of 64")


def test_produced_behind_what_was_taken() -> None:
    with Pair() as pair:
        pair.b.link.send(HIGH, b"one")
        assert pair.a.link.receive(HIGH)
        pair.b.poke_word("produced_high", 0)
        with pytest.raises(Violation):
            pair.a.link.receive(HIGH)
        assert_violated(pair, "more than a ring ahead")


def test_produced_behind_what_was_seen() -> None:
    with Pair() as pair:
        for _ in range(3):
            pair.b.link.send(HIGH, b"one")
        assert pair.a.link.receive(HIGH)
        pair.b.poke_word("produced_high", 128)
        with pytest.raises(Violation):
            pair.a.link.arm(HIGH)
        assert_violated(pair, "produced went backwards")


@pytest.mark.parametrize("value", [1, 2**64 - 63])
def test_consumed_unaligned(value: int) -> None:
    with Pair() as pair:
        pair.b.poke_word("consumed_high", value)
        with pytest.raises(Violation):
            pair.a.link.send(HIGH, b"")
        assert_violated(pair, "consumed is not a multiple of 64")


@pytest.mark.parametrize("value", [128, 1 << 40, 2**63, 2**64 - (1 << 20)])
def test_consumed_beyond_produced(value: int) -> None:
    with Pair() as pair:
        pair.b.poke_word("consumed_high", value)
        with pytest.raises(Violation):
            pair.a.link.arm_room(HIGH, 1)
        assert_violated(pair, "consumed is beyond")


def test_consumed_backwards() -> None:
    with Pair() as pair:
        assert pair.a.link.send(HIGH, bytes(1000))
        assert pair.b.link.receive(HIGH)
        assert not pair.a.link.arm_room(HIGH, 1), "it saw 1024 consumed"
        pair.b.poke_word("consumed_high", 960)
        with pytest.raises(Violation):
            pair.a.link.arm_room(HIGH, 1)
        assert_violated(pair, "consumed went backwards")


def test_good_records_before_a_bad_one_are_delivered() -> None:
    with Pair() as pair:
        pair.b.link.send(HIGH, b"good", 1)
        lie(pair, HIGH, 5000, 128, at=64)
        assert pair.a.link.receive_many(HIGH, 9) == [(1, b"good")]
        with pytest.raises(Violation):
            pair.a.link.receive_many(HIGH, 9)


def test_other_links_do_not_notice() -> None:
    with Pair() as mad, Pair() as sane:
        mad.b.poke_word("produced_high", 1)
        with pytest.raises(Violation):
            mad.a.link.receive(HIGH)
        assert sane.b.link.send(HIGH, b"fine")
        assert sane.a.link.receive(HIGH) == (0, b"fine")


def test_armed_words_of_a_mad_peer_only_cost_kicks() -> None:
    with Pair() as pair:
        for value in (1, 2**64 - 1, 77, 0, 77):
            for name in RING_NAMES:
                pair.b.poke_word(f"armed_data_{name}", value)
                pair.b.poke_word(f"armed_room_{name}", value)
            for ring in RINGS:
                assert pair.a.link.send(ring, b"x")
                assert pair.b.link.receive(ring)
                assert pair.b.link.send(ring, b"x")
                assert pair.a.link.receive(ring)
        assert pair.a.link.violation is None


NUMBERS = (
    st.integers(0, 2**64 - 1)
    | st.integers(0, 1 << 15).map(lambda lines: lines * 64)
    | st.integers(-(1 << 10), 1 << 10).map(lambda lines: lines * 64 % 2**64)
)
POKES = (
    st.tuples(st.sampled_from(sorted(WORD_OFFSETS.values())), NUMBERS.map(lambda n: n.to_bytes(8, "little")))
    | st.tuples(
        st.sampled_from(RINGS).flatmap(
            lambda ring: st.integers(0, 4).map(lambda line: RING_OFFSETS[ring] + line * 64)
        ),
        st.integers(0, 2**32 - 1).map(lambda n: n.to_bytes(4, "little"))
        | st.integers(0, 1 << 17).map(lambda n: n.to_bytes(4, "little")),
    )
    | st.tuples(st.integers(0, WINDOW_SIZE - 64), st.binary(max_size=64))
)


def victim_calls(pair: Pair) -> list[Callable[[int], object]]:
    link = pair.a.link
    return [
        lambda ring: link.send(ring, b"x" * 100, 1),
        lambda ring: link.send(ring, bytes(PAYLOAD_MAX[ring])),
        lambda ring: link.send_many(ring, [(1, b"y")] * 10),
        link.receive,
        lambda ring: link.receive_many(ring, 1000),
        link.arm,
        lambda ring: link.arm_room(ring, 1000),
    ]


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(POKES, max_size=3), st.integers(0, 6), st.sampled_from(RINGS)),
        min_size=1,
        max_size=25,
    )
)
def test_random_bytes_anywhere(
    rounds: list[tuple[list[tuple[int, bytes]], int, int]],
) -> None:
    """Every call does its work or raises Violation; after the first Violation all do."""
    with Pair() as pair:
        calls = victim_calls(pair)
        violated = False
        for pokes, call, ring in rounds:
            for offset, data in pokes:
                pair.b.window.poke(offset, data)
            try:
                calls[call](ring)
            except Violation:
                violated = True
            else:
                assert not violated
        assert not violated or pair.a.link.violation is not None
