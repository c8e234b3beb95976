"""A measurement of punctuality as a row, and drawn."""

from typing import Any

import pytest

from popnet.cli.jitterdraw import histogram_lines, nanoseconds_text, summary
from popnet.core.histogram import doublings, percentile

BUCKETS = [(1000, 1024, 50), (2048, 2112, 49), (64_000, 65_536, 1)]
WAKEUPS = {"count": 100, "total_ns": 214_000, "min_ns": 1003, "max_ns": 65_000, "buckets": BUCKETS}
NONE: dict[str, Any] = {"count": 0, "total_ns": 0, "min_ns": 0, "max_ns": 0, "buckets": []}
FOUND = {
    "wakeups": WAKEUPS,
    "noise": NONE,
    "missed": 2,
    "looked_ns": 0,
    "cpu": 3,
    "fifo": 80,
    "locked": False,
}


def test_percentiles() -> None:
    assert [percentile(BUCKETS, share, 65_000) for share in (0, 0.5, 0.51, 0.99, 0.999, 1)] == [
        1023,
        1023,
        2111,
        2111,
        65_000,
        65_000,
    ]
    assert percentile([], 0.5, 0) == 0


def test_doublings() -> None:
    assert doublings(BUCKETS) == {9: 50, 11: 49, 15: 1}
    assert doublings([(0, 1, 5), (1, 2, 1)]) == {0: 6}


def test_a_row() -> None:
    row = summary("rt", FOUND)
    assert (row["kernel"], row["cpu"], row["policy"], row["missed"]) == ("rt", 3, "fifo 80", 2)
    assert (row["min_ns"], row["p50_ns"], row["p99_ns"], row["p99.9_ns"], row["max_ns"]) == (
        1003,
        1023,
        2111,
        65_000,
        65_000,
    )
    assert (row["gaps"], row["gap_share"]) == (0, 0.0)
    assert (
        summary("k", {**FOUND, "fifo": None, "looked_ns": 8, "noise": {**NONE, "total_ns": 2}})["gap_share"]
        == 0.25
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1.00 us"),
        (12_345, "12.3 us"),
        (999_900, "1.00 ms"),
        (5e9, "5.00 s"),
    ],
)
def test_times(value: float, text: str) -> None:
    assert nanoseconds_text(value) == text


def test_two_histograms_beside_each_other() -> None:
    lines = histogram_lines(
        "late by", [("rt", WAKEUPS), ("k1", {**WAKEUPS, "buckets": BUCKETS[:1]})], fancy=False
    )
    assert lines[0].split() == ["late", "by", "rt", "k1"]
    assert lines[1].startswith("512 ns - 1.02 us    ############")
    assert lines[1].count("50.00%") == 2
    assert len(lines) == 1 + 7, "every doubling between the first and the last"
    assert lines[2].split() == ["1.02", "us", "-", "2.05", "us"]
    assert lines[-1].count("1.00%") == 1
    assert histogram_lines("gaps", [("rt", NONE)]) == ["gaps: none"]
