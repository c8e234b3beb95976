"""The fate of frames: native code against its twin in Python, and against what the words promise."""

import dataclasses
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.transport._native import fates
from tests.transport.impair_model import ONE, Config, Fate, Wire, splitmix64

probability = st.one_of(st.just(0), st.just(ONE), st.integers(0, ONE))
nanoseconds = st.one_of(st.just(0), st.integers(0, 10**12))
configs = st.builds(
    Config,
    seed=st.integers(0, (1 << 64) - 1),
    delay_ns=nanoseconds,
    jitter_ns=nanoseconds,
    keep_order=st.integers(0, 1),
    loss_good=probability,
    loss_bad=probability,
    to_bad=probability,
    to_good=probability,
    duplicate=probability,
    corrupt=probability,
    reorder=probability,
    rate_bps=st.one_of(st.just(0), st.integers(1, 10**12)),
    limit_ns=nanoseconds,
)
tables = st.lists(st.integers(-32768, 32767), max_size=50).map(tuple)
traffic = st.lists(st.tuples(st.integers(0, 10**7), st.integers(14, 65550)), max_size=60)


def packed(table: tuple[int, ...]) -> bytes:
    return struct.pack(f"{len(table)}i", *table)


def twin(config: Config, table: tuple[int, ...], frames: list[tuple[int, int]]) -> list[Fate]:
    wire = Wire(config, table)
    return [wire.decide(*frame) for frame in frames]


def after_each_other(gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    now_ns, frames = 10**9, []
    for gap_ns, size in gaps:
        now_ns += gap_ns
        frames.append((now_ns, size))
    return frames


@given(configs, tables, traffic)
@settings(max_examples=300, deadline=None)
def test_native_code_decides_as_its_twin(
    config: Config, table: tuple[int, ...], gaps: list[tuple[int, int]]
) -> None:
    frames = after_each_other(gaps)
    assert fates(config.pack(), packed(table), frames) == twin(config, table, frames)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Config)])
def test_the_twin_would_notice_a_word_that_is_ignored(field: str) -> None:
    """Negative control: without this word of the configuration, some fate differs."""
    config = Config(1, 10**6, 10**6, 1, ONE // 10, ONE // 2, ONE // 4, ONE // 4, ONE // 5, ONE // 5, ONE // 5)
    config = dataclasses.replace(config, rate_bps=10**8, limit_ns=10**6)
    without = dataclasses.replace(config, **{field: 0})
    frames = [(10**9 + 50_000 * n, 1000) for n in range(300)]
    table = (-8192, 0, 8192)
    native = fates(config.pack(), packed(table), frames)
    assert native == twin(config, table, frames)
    assert native != twin(without, table, frames)


def test_the_generator_is_splitmix64() -> None:
    # The first numbers of https://prng.di.unimi.it/splitmix64.c from the state 1234567.
    assert [splitmix64(1234567, n) for n in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def told(config: Config, count: int, *, size: int = 1000, gap_ns: int = 10**6) -> list[tuple[int, ...]]:
    return fates(config.pack(), b"", [(10**9 + gap_ns * n, size) for n in range(count)])


@pytest.mark.parametrize("question", ["loss_good", "duplicate", "corrupt", "reorder"])
@pytest.mark.parametrize("percent", [0.1, 1, 10, 50])
def test_chances_are_within_their_binomial_bounds(question: str, percent: float) -> None:
    count, p = 100_000, percent / 100
    fate = told(Config(7, **{question: round(p * ONE)}), count)
    hits = {
        "loss_good": sum(f[0] for f in fate),
        "duplicate": sum(f[2] == 2 for f in fate),
        "corrupt": sum(f[4] > 0 for f in fate),
        "reorder": sum(f[1] for f in fate),
    }[question]
    assert abs(hits - count * p) < 4 * math.sqrt(count * p * (1 - p))


def test_a_question_does_not_change_the_answers_of_another() -> None:
    lossy = Config(3, loss_good=ONE // 20)
    more = dataclasses.replace(lossy, delay_ns=10**6, jitter_ns=10**5, corrupt=ONE // 2, duplicate=ONE // 2)
    assert [f[0] for f in told(lossy, 5000)] == [f[0] for f in told(more, 5000)]
    assert [f[0] for f in told(lossy, 5000)] != [f[0] for f in told(dataclasses.replace(lossy, seed=4), 5000)]


def test_losses_come_in_bursts_of_the_length_that_was_asked_for() -> None:
    """Gilbert: r = 20 %, so a burst has 5 frames in the mean; p = 1 %."""
    lost = [f[0] for f in told(Config(5, to_bad=ONE // 100, to_good=ONE // 5, loss_bad=ONE), 200_000)]
    bursts = sum(now and not before for before, now in zip([0, *lost], lost, strict=False))
    assert 4.7 < sum(lost) / bursts < 5.3
    assert 0.045 < sum(lost) / len(lost) < 0.051  # p / (p + r) = 4.8 %


@pytest.mark.parametrize("rate_bps", [10**6, 10**9, 3_333_333, 10**11])
def test_the_rate_is_exact_in_the_long_run(rate_bps: int) -> None:
    fate = told(Config(rate_bps=rate_bps, limit_ns=10**15), 10_000, size=1514, gap_ns=0)
    took_ns = fate[-1][5] - 10**9
    assert took_ns == 10_000 * 1514 * 8 * 10**9 // rate_bps


def test_a_full_queue_drops_and_an_idle_rate_saves_nothing_up() -> None:
    config = Config(rate_bps=8 * 10**6, limit_ns=10 * 10**6)  # 1 MB/s: a frame of 1000 bytes a millisecond
    burst = told(config, 20, gap_ns=0)
    assert [f[2] for f in burst] == [1] * 11 + [0] * 9
    assert [f[3] for f in burst] == [0] * 11 + [1] * 9
    late = fates(config.pack(), b"", [(10**9, 1000), (2 * 10**9, 1000), (2 * 10**9, 1000)])
    assert [f[5] for f in late] == [10**9 + 10**6, 2 * 10**9 + 10**6, 2 * 10**9 + 2 * 10**6]


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="104 bytes"):
        fates(b"short", b"", [])
    with pytest.raises(ValueError, match="numbers of 4"):
        fates(Config().pack(), b"123", [])
