"""Interleaved rounds of boots: every peer starts N of its kind once a round, and is ended; then medians.

Of each start: the time until all were ready, and until all were gone; the CPU time of everything that it
took, interpreters of managers included; and the memory (PSS: shared pages are divided among those who share
them) of all processes while N stand idle, managers included. See `bootpeers` for whose clock starts when.
"""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from popnet.bench.bed import Bed, Broken, cpu_s
from popnet.bench.bootpeers import PEERS, Peer
from popnet.bench.rounds import describe, spread
from popnet.bench.wires import Host

COUNTS: Final = (1, 8, 32, 64)
FIGURES: Final = ("ready_ms", "each_ms", "cpu_ms", "pss_mib", "down_ms")
"""Of all: ready_ms, down_ms. Of one of N: the others."""


@dataclass(frozen=True, slots=True)
class BootPlan:
    """What to measure; it goes to the worker as JSON."""

    peers: Sequence[str]
    counts: Sequence[int] = COUNTS
    rounds: int = 3

    @classmethod
    def from_json(cls, text: str) -> "BootPlan":
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def measure(plan: BootPlan, say: Callable[[str], None]) -> dict[str, Any]:
    """Run *plan*, inside a bed; the document that `-o json` prints. What is missing or fails is listed."""
    load = os.getloadavg()[0]
    chosen = [peer for peer in PEERS if peer.id in plan.peers]
    reasons = {peer.id: peer.missing() for peer in chosen}
    cases = [(peer, n) for n in plan.counts for peer in chosen if not reasons[peer.id] and n <= peer.most]
    found: dict[tuple[str, int], list[dict[str, float]]] = {(peer.id, n): [] for peer, n in cases}
    failed: dict[tuple[str, int], dict[str, Any]] = {}
    for number in range(plan.rounds):
        for peer, n in cases if number % 2 == 0 else cases[::-1]:
            if (peer.id, n) in failed:
                continue
            say(f"round {number + 1} of {plan.rounds}: {n} of {peer.name}")
            try:
                found[peer.id, n].append(once(peer, n))
            except Broken as error:
                failed[peer.id, n] = {
                    "peer": peer.id, "name": peer.name, "kernels": n, "reason": str(error)
                }  # fmt: skip
    missing = [
        {"peer": peer.id, "name": peer.name, "reason": reasons[peer.id], "install": peer.install}
        for peer in chosen
        if reasons[peer.id]
    ]
    return {
        "apiVersion": "popnet/v1",
        "kind": "BootBench",
        "host": {**describe(Host(Path())), "load": load},
        "rounds": plan.rounds,
        "items": [row(peer, n, found[peer.id, n]) for peer, n in cases if found[peer.id, n]],
        "limited": [
            {"name": peer.name, "most": peer.most} for peer in chosen if peer.most < max(plan.counts)
        ],
        "missing": missing,
        "failed": list(failed.values()),
    }


def once(peer: Peer, n: int) -> dict[str, float]:
    """The figures of one start of *n*."""
    with Bed() as bed:
        before = cpu_s()
        started = peer.start(bed, n)
        spent = spent_since(before)
        pss = pss_bytes()
        began = time.perf_counter()
        started.stop()
        down_s = time.perf_counter() - began
    return {
        "ready_ms": started.ready_s * 1e3,
        "each_ms": started.ready_s * 1e3 / n,
        "cpu_ms": spent * 1e3 / n,
        "pss_mib": pss / n / (1 << 20),
        "down_ms": down_s * 1e3,
    }


def spent_since(before: Mapping[str, float]) -> float:
    """CPU seconds of all that was started since *before*, whether it has ended or runs."""
    return sum(spent - before.get(key, 0.0) for key, spent in cpu_s().items())


def pss_bytes(proc: Path = Path("/proc")) -> int:
    """The memory of all processes but pid 1, the bench itself."""
    total = 0
    for file in proc.glob("[0-9]*/smaps_rollup"):
        if file.parent.name == "1":
            continue
        with contextlib.suppress(OSError):
            for line in file.read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def row(peer: Peer, n: int, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, best and spread of each figure."""
    figures = {}
    for name in FIGURES:
        values = [one[name] for one in rounds]
        middle = statistics.median(values)
        figures[name] = {
            "median": middle,
            "best": min(values),
            "spread": spread(values) if middle else 0.0,
        }
    return {"peer": peer.id, "name": peer.name, "kernels": n, "figures": figures, "rounds": rounds}
