"""Interleaved rounds over networks: each is made, measured and ended once a round; then medians.

As for messages (see `rounds`): rounds run in alternating order, the best round says what a network can do
when the host lets it, and the spread is (largest - smallest) / median. The ratio of a figure is the median of
its rounds' ratios to the reference in the *same* round, which a slow round of a shared host spoils least.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from popnet.bench.bed import Bed, Broken
from popnet.bench.netloads import METRICS, Load, take, trips
from popnet.bench.netwires import NETS, REFERENCE, NetKind, program
from popnet.bench.rounds import describe, spread
from popnet.bench.wires import COMPILERS, Host
from popnet.core.errors import Refused

MTUS: Final = (1500, 9000)
READY_S: Final = 0.02
"""Seconds of round trips that show that a network works, before anything is measured on it."""

LOWER_IS_BETTER: Final = ("_us", "_loss", "_cpu_s_per_gb")


@dataclass(frozen=True, slots=True)
class NetPlan:
    """What to measure; it goes to the worker as JSON.

    Attributes:
        wires: ids of NETS.
        kernels: if not empty, how many for the measurement of scale, instead of the networks.
        idle_s: how long an idle machine is watched there; 0: not at all.
    """

    wires: Sequence[str]
    load: Load
    mtus: Sequence[int] = MTUS
    metrics: Sequence[str] = METRICS
    rounds: int = 3
    kernels: Sequence[int] = ()
    idle_s: float = 30.0

    @classmethod
    def from_json(cls, text: str) -> "NetPlan":
        raw = json.loads(text)
        return cls(**{**raw, "load": Load(**raw["load"])})

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class ToWorker(Protocol):
    """A plan that goes to a worker."""

    def to_json(self) -> str: ...


@dataclass(slots=True)
class NetSeries:
    """The rounds of one network at one MTU; a metric that failed is not tried again."""

    kind: NetKind
    mtu: int
    rounds: list[dict[str, float]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def helper(build: Path, say: Callable[[str], None]) -> list[str]:
    """The command of frames.c, compiled into *build*; of frames.py where there is no compiler."""
    host = Host(build)
    if host.program(COMPILERS):
        try:
            return [host.compiled("frames", COMPILERS)]
        except subprocess.CalledProcessError as error:
            say(f"frames.c does not compile: {error.stderr.strip()}")
    say("no C compiler, so datagrams are sent by Python, which limits them; apt install gcc libc6-dev")
    return [sys.executable, "-m", "popnet.bench.frames"]


def in_worker(
    plan: "ToWorker", say: Callable[[str], None], module: str = "popnet.bench.networker"
) -> dict[str, Any]:
    """Have *module* measure *plan* in namespaces of their own; the document. Raises Refused."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", module, plan.to_json()]
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    environment = {**os.environ, "PYTHONPATH": root, "PATH": path}
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert worker.stdout is not None
    with worker.stdout:
        try:
            for line in worker.stdout:
                match json.loads(line):
                    case {"say": text}:
                        say(text)
                    case {"error": text, "hint": hint}:
                        raise Refused(text, hint)
                    case {"document": document}:
                        return dict(document)
        finally:
            worker.wait()  # after Ctrl-C it unwinds, and ends in any case
    if worker.returncode == 130:
        raise KeyboardInterrupt
    raise Refused("the measurement ended without a result", "run it again with -v")


def measure(plan: NetPlan, say: Callable[[str], None]) -> dict[str, Any]:
    """Run *plan*, inside a bed; the document that `-o json` prints."""
    load_average = os.getloadavg()[0]
    chosen = [kind for kind in NETS if kind.id in plan.wires]
    reasons = {kind.id: kind.missing() for kind in chosen}
    present = [kind for kind in chosen if not reasons[kind.id]]
    metrics = [metric for metric in plan.metrics if not metric.startswith("tcp") or program("iperf3")]
    series = [NetSeries(kind, mtu) for mtu in plan.mtus for kind in present]
    for number in range(plan.rounds):
        for one in series if number % 2 == 0 else reversed(series):
            say(f"round {number + 1} of {plan.rounds}: {one.kind.name}, MTU {one.mtu}")
            one.rounds.append(_measure_once(one, metrics, plan.load))
    missing = [
        {"wire": kind.id, "name": kind.name, "reason": reason, "install": kind.install}
        for kind in chosen
        if (reason := reasons[kind.id])
    ]
    if len(metrics) < len(plan.metrics):
        missing.append(
            {"wire": "", "name": "TCP", "reason": "not installed: iperf3", "install": "apt install iperf3"}
        )
    return {
        "apiVersion": "popnet/v1",
        "kind": "NetBench",
        "host": {**describe(Host(Path())), "load": load_average},
        "rounds": plan.rounds,
        "reference": REFERENCE,
        "items": items(series),
        "missing": missing,
        "failed": [
            {"wire": one.kind.id, "name": one.kind.name, "mtu": one.mtu, "metric": metric, "reason": reason}
            for one in series
            for metric, reason in one.failures.items()
        ],
    }


def _measure_once(one: NetSeries, metrics: Sequence[str], load: Load) -> dict[str, float]:
    found: dict[str, float] = {}
    if "setup" in one.failures:
        return found
    try:
        with Bed() as bed:
            ends = one.kind.make(bed, one.mtu)
            trips(bed, ends, load, READY_S)
            for metric in metrics:
                if metric not in one.failures:
                    try:
                        found.update(take(metric, bed, ends, load))
                    except Broken as error:
                        one.failures[metric] = str(error)
    except Broken as error:
        one.failures["setup"] = str(error)
    return found


def items(series: Sequence[NetSeries]) -> list[dict[str, Any]]:
    """Medians, spreads and ratios of what was measured."""
    references = {one.mtu: one.rounds for one in series if one.kind.id == REFERENCE}
    return [
        {
            "wire": one.kind.id,
            "name": one.kind.name,
            "mtu": one.mtu,
            "figures": figures(one.rounds, references.get(one.mtu, [])),
            "rounds": one.rounds,
        }
        for one in series
        if any(one.rounds)
    ]


def figures(
    rounds: Sequence[Mapping[str, float]], reference: Sequence[Mapping[str, float]]
) -> dict[str, dict[str, float | None]]:
    """For each figure its median, best round and spread, and its ratio to the reference with the spread of
    that."""
    found = {}
    for name in dict.fromkeys(name for one in rounds for name in one):
        values = [one[name] for one in rounds if name in one]
        pairs = zip(rounds, reference, strict=False)
        ratios = [one[name] / other[name] for one, other in pairs if name in one and other.get(name, 0) > 0]
        found[name] = {
            "median": statistics.median(values),
            "best": (min if name.endswith(LOWER_IS_BETTER) else max)(values),
            "spread": noise(values),
            "ratio": statistics.median(ratios) if ratios else None,
            "ratio_spread": noise(ratios),
        }
    return found


def noise(values: Sequence[float]) -> float | None:
    """The spread; None of a single round, and where the median is 0, as of a loss that mostly was none."""
    return spread(values) if len(values) > 1 and statistics.median(values) else None
