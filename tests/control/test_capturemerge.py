"""Feeds of several kernels become one file in the order of time, whatever comes when."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.control.capturemerge import PATIENCE_NS, Merger, Section
from popnet.control.pcapng_reader import Reader
from popnet.core.errors import LinkViolation
from popnet.net import pcapng


def merger(feeds: int) -> Merger:
    made = Merger()
    for place in range(feeds):
        assert made.add(f"k{place}/eth0", 100, "", bytes(6), f"kernel {place}") == place
    return made


def packet(place: int, *times_ns: int, size: int = 20) -> bytes:
    return pcapng.packets([(time_ns, place & 1, size, bytes(size)) for time_ns in times_ns], place)


def told(blocks: bytes) -> list[int]:
    """Times of the packets of *blocks*, in their order."""
    reader = Reader()
    reader.feed(pcapng.section_header() + b"".join(pcapng.interface(str(n), 9) for n in range(9)))
    return [item.time_ns for item in reader.feed(blocks)]


def test_a_feed_alone_waits_for_nothing() -> None:
    one = merger(1)
    data = packet(0, 5, 6, 7)
    one.feed(0, data[:70])
    one.feed(0, data[70:-1])
    assert told(one.take(0)) == [5, 6]
    one.feed(0, data[-1:])
    assert one.take(0) == packet(0, 7)
    assert (one.taken, one.feeds[0].captured, one.size) == (3, 3, 0)


def test_heads_of_the_kernels_are_left_out_and_their_statistics_counted() -> None:
    one = merger(1)
    head = pcapng.section_header() + pcapng.interface("k0/eth0", 9)
    data = packet(0, 1, 2) + pcapng.statistics(3, 2, 77, 0) + packet(0, 4)
    one.feed(0, head + data)
    assert one.take(0) == packet(0, 1, 2, 4)
    assert one.feeds[0].dropped == 77


def test_the_order_of_time_needs_the_marks_of_all() -> None:
    two = merger(2)
    two.feed(0, packet(0, 10, 30, 50))
    assert two.take(0) == b""
    assert two.lagging() == [1], "feed 1 has said nothing"
    two.feed(1, packet(1, 20, 40))
    assert told(two.take(0)) == [10, 20, 30, 40]
    assert two.lagging() == [1]
    two.feed(1, pcapng.statistics(60, 2, 0, 1))  # the answer to a question
    assert two.lagging() == []
    assert told(two.take(0)) == [50]


def test_who_is_silent_holds_up_others_for_so_long_only() -> None:
    two = merger(2)
    two.feed(0, packet(0, 1000))
    assert two.take(1000 + PATIENCE_NS - 1) == b""
    assert told(two.take(1000 + PATIENCE_NS)) == [1000]
    two.feed(1, packet(1, 900))
    assert told(two.take(1000 + 2 * PATIENCE_NS)) == [900]
    assert two.late == 1


def test_the_end_of_a_feed_ends_waiting_for_it() -> None:
    two = merger(2)
    two.feed(0, packet(0, 10))
    two.feed(1, packet(1, 5)[:-2])
    two.end(1, dropped=3)
    assert told(two.take(0)) == [10]
    assert [feed.dropped for feed in two.feeds] == [0, 3]


def test_what_a_dead_kernel_sent_is_in_order_too() -> None:
    two = merger(2)
    two.feed(1, packet(1, 20, 40))
    two.end(1)
    two.feed(0, packet(0, 10, 30))
    assert told(two.take(0)) == [10, 20, 30]
    two.end(0)
    assert told(two.take(0)) == [40]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), feeds=st.integers(1, 5))
def test_any_sequence_is_merged_whole_and_in_order(seed: int, feeds: int) -> None:
    dice = random.Random(seed)
    made = merger(feeds)
    times = [sorted(dice.choices(range(1, 1000), k=dice.randrange(40))) for _ in range(feeds)]
    rests = [packet(place, *some, size=dice.randrange(60)) for place, some in enumerate(times)]
    out: list[int] = []
    while any(rests):
        place = dice.randrange(feeds)
        cut = dice.randrange(300)
        made.feed(place, rests[place][:cut])
        rests[place] = rests[place][cut:]
        if not rests[place]:
            made.end(place)
        out += told(made.take(0))
    for place in range(feeds):
        made.end(place)
    out += told(made.take(0))
    assert out == sorted(time_ns for some in times for time_ns in some)
    assert (made.taken, made.late, made.size) == (len(out), 0, 0)


def test_each_section_describes_its_interfaces_before_their_packets() -> None:
    made = merger(1)
    first = Section(made)
    assert first.news() == pcapng.section_header() + made.feeds[0].description
    assert first.news() == b""
    made.add("k1/eth0", 100, "icmp", bytes(6), "kernel 1, generation 2")
    assert first.news() == made.feeds[1].description
    assert b"generation 2" in made.feeds[1].description
    second = Section(made)
    assert second.news() == pcapng.section_header() + made.feeds[0].description + made.feeds[1].description
    made.add("k2/eth0", 100, "", bytes(6), "")
    assert second.statistics(9) == pcapng.statistics(9, 0, 0, 0) + pcapng.statistics(9, 0, 0, 1)


@pytest.mark.parametrize("length", [0, 13, 1 << 24])
def test_what_is_no_pcapng_is_a_violation(length: int) -> None:
    with pytest.raises(LinkViolation, match=f"a block of {length} bytes"):
        merger(1).feed(0, (6).to_bytes(4, "little") + length.to_bytes(4, "little") + bytes(4))
