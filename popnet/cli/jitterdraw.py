"""How punctual kernels are, as a table and drawn as histograms: pure, measurements in, lines out."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from popnet.cli.bars import bar
from popnet.core.histogram import doublings, percentile

SHARES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def summary(kernel: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A row of *found*, what the service `jitter` told of *kernel*: times in nanoseconds, shares from 0 to
    1."""
    wakeups, noise = found["wakeups"], found["noise"]
    row: dict[str, Any] = {
        "kernel": kernel,
        "cpu": found["cpu"],
        "policy": "other" if found["fifo"] is None else f"fifo {found['fifo']}",
        "wakeups": wakeups["count"],
        "missed": found["missed"],
        "min_ns": wakeups["min_ns"],
    }
    for name, share in SHARES.items():
        row[f"{name}_ns"] = percentile(wakeups["buckets"], share, wakeups["max_ns"])
    looked = found["looked_ns"]
    return {
        **row,
        "max_ns": wakeups["max_ns"],
        "gaps": noise["count"],
        "gap_max_ns": noise["max_ns"],
        "gap_share": noise["total_ns"] / looked if looked else 0.0,
        "locked": found["locked"],
    }


def nanoseconds_text(value: float) -> str:
    """`870 ns`, `12.3 us`, `4.1 ms`, `1.2 s`: three digits."""
    for unit, size in (("ns", 1), ("us", 1e3), ("ms", 1e6), ("s", 1e9)):
        if value < 999.5 * size or unit == "s":
            number = value / size
            digits = 0 if unit == "ns" or number >= 99.95 else 1 if number >= 9.995 else 2
            return f"{number:.{digits}f} {unit}"
    raise AssertionError("every value has a unit")


def histogram_lines(
    title: str, found: Sequence[tuple[str, Mapping[str, Any]]], fancy: bool = True
) -> list[str]:
    """The histograms *found* of kernels by name, side by side: a line a doubling, bars by the share of
    each."""
    shares: list[dict[int, float]] = []
    for _, spread in found:
        counts = doublings([tuple(bucket) for bucket in spread["buckets"]])
        shares.append({exponent: n / max(1, spread["count"]) for exponent, n in counts.items()})
    exponents = sorted({exponent for one in shares for exponent in one})
    if not exponents:
        return [f"{title}: none"]
    width = 40 if len(found) == 1 else 24
    heading = "  ".join(f"{name:<{width + 8}}" for name, _ in found)
    lines = [f"{title:<20}{heading}".rstrip()]
    for exponent in range(exponents[0], exponents[-1] + 1):
        cells = []
        for one in shares:
            share = one.get(exponent, 0.0)
            drawn = bar(0, share, 1.0, width, fancy) if share else " " * width
            cells.append(f"{drawn}{share:8.2%}" if share else " " * (width + 8))
        low, high = nanoseconds_text(1 << exponent), nanoseconds_text(2 << exponent)
        lines.append(f"{f'{low} - {high}':<20}{'  '.join(cells)}".rstrip())
    return lines
