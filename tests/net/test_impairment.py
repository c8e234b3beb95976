"""From the words of an impairment to what native code works with."""

import statistics
import struct

import pytest

from popnet.machine.impairment import Impairment, Loss
from popnet.net.impairment import distribution, observed, packed, seed_of
from popnet.transport._native import fates
from tests.transport.impair_model import ONE, Config

MS = 10**6


def test_a_configuration_is_packed_as_native_code_reads_it() -> None:
    impairment = Impairment(
        delay_ns=5,
        jitter_ns=6,
        ordered=True,
        loss=Loss(0.5, 0.25, 0.125, 1.0),
        duplicate=0.5,
        corrupt=0.25,
        reorder=0.125,
        rate_bps=8 * 10**6,
        limit_bytes=1000,
        seed=7,
    )
    parts = (5, 6, 1, ONE // 2, ONE // 4, ONE // 8, ONE, ONE // 2, ONE // 4, ONE // 8, 8 * 10**6, MS)
    assert packed(impairment, "k1 -> k2") == Config(seed_of(7, "k1 -> k2"), *parts).pack()


def test_each_direction_has_chances_of_its_own_and_the_same_each_time() -> None:
    assert seed_of(7, "k1 -> k2") == seed_of(7, "k1 -> k2")
    assert len({seed_of(7, "k1 -> k2"), seed_of(7, "k2 -> k1"), seed_of(8, "k1 -> k2")}) == 3


@pytest.mark.parametrize(
    ("name", "deviation", "below"), [("uniform", 0.577, -1), ("normal", 1, -4), ("pareto", 0.75, -0.6)]
)
def test_distributions_have_their_moments(name: str, deviation: float, below: float) -> None:
    table = distribution(name)
    values = [value / 8192 for value in struct.unpack(f"{len(table) // 4}i", table)]
    assert abs(statistics.fmean(values)) < 0.001
    assert statistics.pstdev(values) == pytest.approx(deviation, rel=0.1)
    assert below - 0.01 < min(values) and max(values) < 4.05


def test_jitter_follows_its_distribution() -> None:
    config = packed(Impairment(delay_ns=100 * MS, jitter_ns=10 * MS, seed=1), "x")
    told = fates(config, distribution("normal"), [(10**9, 100)] * 20_000)
    delays = [fate[5] - 10**9 for fate in told]
    assert statistics.fmean(delays) == pytest.approx(100 * MS, rel=0.005)
    assert statistics.pstdev(delays) == pytest.approx(10 * MS, rel=0.03)
    assert len(set(told)) > 3000


def test_what_a_pump_tells_is_in_seconds() -> None:
    assert observed({}) == {}
    counts = ("frames", "bytes", "unmatched", "passed", "duplicated", "reordered", "corrupted", "queued")
    drops = ("drop_loss", "drop_limit", "drop_down", "drop_queue")
    times = ("delay_total_ns", "delay_p50_ns", "delay_p99_ns", "late_p50_ns", "late_p99_ns")
    names = (*counts, *drops, *times)
    told = observed(
        {**dict.fromkeys(names, 0), "passed": 4, "delay_total_ns": 20 * MS, "delay_p99_ns": 7 * MS}
    )
    assert told["delay_mean_s"] == 0.005
    assert told["delay_p99_s"] == 0.007
    assert observed(dict.fromkeys(names, 0))["delay_mean_s"] == 0
