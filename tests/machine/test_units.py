"""CPU lists, sizes and durations: what is read, what is refused, and the way there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.machine.units import (
    approximate_size,
    format_cpus,
    format_duration,
    format_size,
    parse_cpus,
    parse_duration,
    parse_size,
)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpus_round_trip(cpus: set[int]) -> None:
    assert parse_cpus(format_cpus(cpus)) == tuple(sorted(cpus))


@given(st.integers(0, 1 << 60))
def test_sizes_round_trip(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.integers(0, 10**18))
def test_durations_round_trip(duration_ns: int) -> None:
    assert parse_duration(format_duration(duration_ns)) == duration_ns


@pytest.mark.parametrize(
    ("text", "cpus", "shortest"),
    [
        ("0", (0,), "0"),
        ("0-1,3", (0, 1, 3), "0-1,3"),
        ("3, 1,2", (1, 2, 3), "1-3"),
        ("1,1-2", (1, 2), "1-2"),
        ("0xb", (0, 1, 3), "0-1,3"),
    ],
)
def test_cpus(text: str, cpus: tuple[int, ...], shortest: str) -> None:
    assert parse_cpus(text) == cpus
    assert format_cpus(cpus) == shortest


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "-1", "1-", "3-1", "0-8192", "1 2", "0x", "0x0", "0xg", "0x1,2", "\u0663"]
)
def test_wrong_cpus(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        parse_cpus(text)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("512MiB", 512 << 20),
        ("1T", 1 << 40),
        ("4k", 4096),
        ("0", 0),
        ("7", 7),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "M", "1.5G", "512MB", "-1", "1 G", "1GG", "1e9"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: a size such as"):
        parse_size(text)


def test_sizes_are_written_in_the_largest_exact_unit() -> None:
    assert [format_size(n) for n in (0, 1000, 1 << 10, 512 << 20, 3 << 30)] == [
        "0",
        "1000",
        "1K",
        "512M",
        "3G",
    ]
    assert [approximate_size(n) for n in (999, 25_270_767_616, 8 << 30)] == ["999", "23.5G", "8G"]


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("5ms", 5_000_000),
        ("200us", 200_000),
        ("200µs", 200_000),
        ("1.5s", 1_500_000_000),
        ("2m", 120 * 10**9),
    ],
)
def test_durations(text: str, duration_ns: int) -> None:
    assert parse_duration(text) == duration_ns


@pytest.mark.parametrize("text", ["", "5", "ms", "-1ms", "1.ms", "5 ms", "5d"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: a duration such as"):
        parse_duration(text)
