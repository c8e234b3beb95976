"""Interleaved rounds: every wire is measured once a round, so that a noisy host hits all alike; then medians.

Rounds run in alternating order. The *best* round says what the wire can do when the host lets it: noise only
ever adds. The *spread* of a figure is (largest - smallest) / median of its rounds.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from popnet.bench.wires import CARRIES_NOTHING, Host, WireKind

SIZES: Final = (64, 1024, 65536)
TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        budget_s: seconds of one measurement, half for round trips and half for a stream.
    """

    wires: Sequence[WireKind]
    sizes: Sequence[int] = SIZES
    rounds: int = 3
    budget_s: float = 0.2


@dataclass(slots=True)
class Series:
    """The rounds of one wire in one mode with one size."""

    kind: WireKind
    mode: str
    size: int
    rounds: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None


def measure(plan: Plan, host: Host, say: Callable[[str], None]) -> dict[str, Any]:
    """Run *plan*; the document that `-o json` prints. A wire that is missing or fails is listed as such."""
    missing = [
        {"wire": kind.id, "name": kind.name, "reason": reason, "install": kind.install}
        for kind in plan.wires
        if (reason := host.missing(kind))
    ]
    absent = {entry["wire"] for entry in missing}
    series = [
        Series(kind, mode, size)
        for size in plan.sizes
        for kind in plan.wires
        for mode in kind.modes
        if kind.id not in absent
        and size <= kind.size_max
        and (kind.id not in CARRIES_NOTHING or size == min(plan.sizes))
    ]
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}: {len(series)} measurements")
        for one in series if number % 2 == 0 else reversed(series):
            if one.failure is None:
                _measure_once(one, plan, host)
    return {
        "apiVersion": "popnet/v1",
        "kind": "MessageBench",
        "host": describe(host),
        "rounds": plan.rounds,
        "budget_s": plan.budget_s,
        "items": [summary(one) for one in series if one.failure is None],
        "missing": missing,
        "failed": [
            {"wire": one.kind.id, "mode": one.mode, "size": one.size, "reason": one.failure}
            for one in series
            if one.failure is not None
        ],
    }


def summary(series: Series) -> dict[str, Any]:
    """Medians and spreads of the rounds."""
    p50 = [one["p50_us"] for one in series.rounds]
    rates = [one["rate"] for one in series.rounds if one["rate"] is not None]
    return {
        "wire": series.kind.id,
        "name": series.kind.name,
        "mode": series.mode,
        "size": series.size,
        "one_way_us": {
            "p50": statistics.median(p50),
            "p99": statistics.median(one["p99_us"] for one in series.rounds),
            "best": min(p50),
            "spread": spread(p50),
        },
        "messages_per_s": (
            {"median": statistics.median(rates), "best": max(rates), "spread": spread(rates)}
            if rates
            else None
        ),
        "rounds": series.rounds,
    }


def spread(values: Sequence[float]) -> float:
    """The noise: (largest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)


def describe(host: Host) -> dict[str, Any]:
    """What ran the measurement."""
    return {
        "cpu": _cpu_model(),
        "cpus": list(host.cpus),
        "linux": platform.release(),
        "python": platform.python_version(),
    }


def _measure_once(series: Series, plan: Plan, host: Host) -> None:
    try:
        command = host.command(series.kind, series.mode, series.size, plan.budget_s)
    except subprocess.CalledProcessError as error:
        series.failure = f"it does not compile: {_last_line(error.stderr)}"
        return
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, **host.environment, "PYTHONPATH": root}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        series.failure = f"no end within {TIMEOUT_S:g} s"
        return
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # both ends: they are in a session of their own
            process.communicate()
    if process.returncode:
        series.failure = _last_line(errors) or f"exit status {process.returncode}"
    else:
        series.rounds.append(json.loads(output.splitlines()[-1]))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def fastest(items: Sequence[Mapping[str, Any]], wire: str, size: int) -> Mapping[str, Any] | None:
    """The mode of *wire* with the shortest way at *size*."""
    found = [item for item in items if item["wire"] == wire and item["size"] == size]
    return min(found, key=lambda item: item["one_way_us"]["p50"], default=None)
