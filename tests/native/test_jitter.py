"""The native measurement of punctuality: its histograms hold what it says, and nothing else."""

import pytest

from popnet.transport._native import jitter

MS = 1_000_000


def test_timers_and_gaps_are_counted_in_buckets() -> None:
    found = jitter(50 * MS, MS, 100 * MS, 1000)
    assert 1 <= found["wakeups"]["count"] + found["missed"] <= 51
    assert found["looked_ns"] > 0
    for spread in (found["wakeups"], found["noise"]):
        buckets = spread["buckets"]
        assert sum(count for _, _, count in buckets) == spread["count"]
        assert all(start < end and count > 0 for start, end, count in buckets)
        assert all(end <= start * 1.04 + 1 for start, end, _ in buckets), "a bucket is narrow"
        assert buckets == sorted(buckets)
        if buckets:
            assert buckets[0][0] <= spread["min_ns"] < buckets[0][1]
            assert buckets[-1][0] <= spread["max_ns"] < buckets[-1][1]
            assert spread["min_ns"] * spread["count"] <= spread["total_ns"]
    assert found["noise"]["min_ns"] > 1000 or not found["noise"]["count"]


def test_nothing_asked_is_nothing_found() -> None:
    found = jitter(0, MS, 0, 1000)
    assert (found["wakeups"]["count"], found["noise"]["count"], found["looked_ns"]) == (0, 0, 0)
    assert found["wakeups"]["min_ns"] == 0


@pytest.mark.parametrize(
    "wrong", [(0, 10, 0, 0), (0, 2_000 * MS, 0, 0), (10**18, MS, 0, 0), (0, MS, 10**18, 0)]
)
def test_limits(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="an interval of 1 us to 1 s"):
        jitter(*wrong)
