"""Ranges of memory: arithmetic against sets of addresses, and `memmap=` as Linux and Popcorn write it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.machine.memory import (
    Memory,
    Range,
    below,
    common,
    format_memmap,
    kernel_memory,
    nearest_fit,
    parse_memmap,
    subtract,
    total,
    union,
)

G = 1 << 30
RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda r: Range(r[0], r[0] + r[1])))
MEMORY = RANGES.map(union)


def addresses(memory: Memory) -> set[int]:
    return {address for one in memory for address in range(one.start, one.end)}


@given(RANGES)
def test_a_union_is_in_order_and_has_no_two_that_touch(ranges: list[Range]) -> None:
    merged = union(ranges)
    assert addresses(merged) == addresses(tuple(ranges))
    assert all(first.end < second.start for first, second in pairwise(merged))


@given(MEMORY, MEMORY, st.integers(0, 45))
def test_arithmetic_is_that_of_sets(first: Memory, second: Memory, end: int) -> None:
    assert addresses(subtract(first, second)) == addresses(first) - addresses(second)
    assert addresses(common(first, second)) == addresses(first) & addresses(second)
    assert addresses(below(first, end)) == {address for address in addresses(first) if address < end}
    assert total(first) == len(addresses(first))


@given(MEMORY, st.integers(0, 30), st.integers(1, 8), st.sampled_from([1, 2, 4]))
def test_the_nearest_fit_is_free_and_nearest(free: Memory, start: int, size: int, align: int) -> None:
    fit = nearest_fit(free, Range(start, start + size), align)
    room = [s for s in range(45) if set(range(s, s + size)) <= addresses(free)]
    if fit is None:
        assert not room
    else:
        assert fit.start in room
        if align == 1:
            assert abs(fit.start - start) == min(abs(s - start) for s in room)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2048M@6144M", "2G@6G"),
        ("6128M$16M", "6128M$16M"),
        ("0x80000000@0x100000000", "2G@4G"),
        ("0x2G@4G, 1M$0", "2G@4G,1M$0"),
    ],
)
def test_memmap(text: str, written: str) -> None:
    assert format_memmap(parse_memmap(text)) == written
    assert parse_memmap(written) == parse_memmap(text)


@pytest.mark.parametrize("text", ["", "1G", "1G@", "@1G", "1G#1G", "0@1G", "1G@1X", "1G@0xzz", "9999T@9999T"])
def test_wrong_memmaps(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        parse_memmap(text)


def test_a_kernel_has_what_it_names_less_what_is_reserved_up_to_its_end() -> None:
    machine = (Range(0, 3 * G), Range(4 * G, 16 * G))
    assert kernel_memory(machine, parse_memmap("2048M@6144M,6128M$16M"), 8 * G) == (Range(6 * G, 8 * G),)
    assert kernel_memory(machine, parse_memmap("2G$4G"), 8 * G) == (Range(0, 3 * G), Range(6 * G, 8 * G))
    assert kernel_memory(machine, parse_memmap("2G@6G"), 7 * G) == (Range(6 * G, 7 * G),)
