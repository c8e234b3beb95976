"""Boot bars: every line is as wide as promised, and long steps look long."""

from hypothesis import given
from hypothesis import strategies as st

from popnet.cli.bars import (
    WIDTH,
    bar,
    boot_lines,
    fancy_ok,
    machine_lines,
    span,
    summary_line,
    timeline_lines,
)

TIMELINE = [
    {"step": "partition", "start_ms": 100.0, "took_ms": 2.0},
    {"step": "namespaces", "start_ms": 102.0, "took_ms": 8.0},
    {"step": "init", "start_ms": 110.0, "took_ms": 30.0},
]


def test_span() -> None:
    assert span(TIMELINE) == (100.0, 140.0)
    assert span([]) == (0.0, 0.0)


def test_lines() -> None:
    assert timeline_lines(TIMELINE, fancy=False) == [
        "partition   ##                                          2.0 ms",
        "namespaces    ########                                  8.0 ms",
        "init                  ##############################     30 ms",
    ]


def test_fancy_lines_use_eighths() -> None:
    assert bar(0.0, 0.1, 10.0, width=10) == "▏         "
    assert bar(5.0, 2.5, 10.0, width=10) == "     ██▌  "


TIMES = st.integers(0, 10**9).map(lambda us: us / 1000)


@given(TIMES, TIMES, TIMES, st.integers(1, 80), st.booleans())
def test_bars_are_as_wide_as_asked(start: float, took: float, whole: float, width: int, fancy: bool) -> None:
    assert len(bar(start, took, whole, width, fancy)) == width


def test_summary_names_the_slowest() -> None:
    assert summary_line(TIMELINE, 2) == "init 30 ms, namespaces 8.0 ms"


def test_boot_lines_share_an_axis() -> None:
    short = [{"step": "init", "start_ms": 0.0, "took_ms": 10.0}]
    assert boot_lines({"primary": short, "k1": TIMELINE, "k2": []}, fancy=False) == [
        "primary  #####                    10 ms  init 10 ms",
        "k1       ####################     40 ms  init 30 ms, namespaces 8.0 ms, partition 2.0 ms",
    ]


def test_empty_timeline() -> None:
    assert timeline_lines([]) == [] and bar(0, 0, 0) == " " * WIDTH


def test_fancy_only_where_it_shows() -> None:
    assert fancy_ok("utf-8") and not fancy_ok("ascii") and not fancy_ok(None) and not fancy_ok("no-such")


def test_a_machines_steps_share_one_axis() -> None:
    timelines = {
        "k1": [{"step": "fork", "start_ms": 0.0, "took_ms": 10.0}],
        "longer": [
            {"step": "fork", "start_ms": 0.0, "took_ms": 20.0},
            {"step": "services", "start_ms": 20.0, "took_ms": 20.0},
        ],
        "off": [],
    }
    assert machine_lines(timelines, fancy=False) == [
        "k1: online after 10 ms",
        f"  fork      {'#' * 10:<40}     10 ms",
        "",
        "longer: online after 40 ms",
        f"  fork      {'#' * 20:<40}     20 ms",
        f"  services  {' ' * 20}{'#' * 20}     20 ms",
    ]
