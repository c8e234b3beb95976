"""How cost grows with the number of kernels: all pairs at once, and what an idle machine uses.

Of n kernels each sends to all that come after it: n(n-1)/2 TCP flows at once, by frames.c. Flows are
connected before the clock starts; the sum is what arrived within it. Beside popnet: as many namespaces on one
Linux bridge. Boot is not in any of these times.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from popnet.bench.bed import Bed, Broken, Place, cpu_s, spent_s
from popnet.bench.netwires import bridged, kernels, machine
from popnet.bench.rounds import describe
from popnet.bench.wires import Host
from popnet.core.errors import Refused

if TYPE_CHECKING:
    from popnet.bench.netrounds import NetPlan

PORT: Final = 7003
CONNECT_S: Final = 2.5
CONNECT_EACH_S: Final = 0.01
"""Time for all flows to be connected: a fixed part, in which a lost SYN is sent again, and one for each."""

SETTLE_S: Final = 3.0
"""Seconds after boot until a machine counts as idle."""

MAKERS: Final = {"popnet": kernels, "bridge": bridged}
NAMES: Final = {"popnet": "popnet", "bridge": "veth + Linux bridge"}


def measure(plan: "NetPlan", say: Callable[[str], None]) -> dict[str, Any]:
    """The document, inside a bed.

    Raises:
        Refused: there is no C compiler.
    """
    if len(plan.load.helper) > 1:
        raise Refused("many flows at once need a C compiler", "apt install gcc libc6-dev")
    cases = [(wire, count) for count in plan.kernels for wire in MAKERS if wire in plan.wires]
    found: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    failed: list[dict[str, Any]] = []
    for number in range(plan.rounds):
        for wire, count in cases if number % 2 == 0 else cases[::-1]:
            say(f"round {number + 1} of {plan.rounds}: {NAMES[wire]}, {count} kernels")
            try:
                with Bed() as bed:
                    places, addresses = MAKERS[wire](bed, count, plan.mtus[0])
                    found[wire, count].append(all_pairs(bed, places, addresses, plan))
            except Broken as error:
                failed.append({"wire": wire, "name": NAMES[wire], "kernels": count, "reason": str(error)})
    return {
        "apiVersion": "popnet/v1",
        "kind": "NetScaleBench",
        "host": {**describe(Host(Path())), "load": os.getloadavg()[0]},
        "rounds": plan.rounds,
        "mtu": plan.mtus[0],
        "items": items(found),
        "idle": idle(max(plan.kernels), plan.idle_s, say) if plan.idle_s else None,
        "missing": [],
        "failed": failed,
    }


def items(found: Mapping[tuple[str, int], list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians by network and number of kernels; the ratio is to the same network's fewest kernels."""
    from popnet.bench.netrounds import figures

    rows = []
    for (wire, count), rounds in found.items():
        if rounds:
            fewest = min(other for name, other in found if name == wire and found[name, other])
            of_rounds = figures(rounds, found[wire, fewest])
            flows = count * (count - 1) // 2
            row = {"wire": wire, "name": NAMES[wire], "kernels": count, "flows": flows}
            rows.append({**row, "figures": of_rounds, "rounds": rounds})
    return rows


def all_pairs(
    bed: Bed, places: Sequence[Place], addresses: Sequence[str], plan: "NetPlan"
) -> dict[str, float]:
    """Gbit/s of all flows together, the slowest flow's share of a fair one, CPU seconds a gigabyte."""
    count, seconds, (program, *_) = len(places), str(plan.load.tcp_s), plan.load.helper
    flows = count * (count - 1) // 2
    start = time.monotonic_ns() + int((CONNECT_S + CONNECT_EACH_S * (flows + 2 * count)) * 1e9)
    with ExitStack() as stack:
        drains = [
            stack.enter_context(
                bed.running([program, "drain", str(PORT), str(number), str(start), seconds], place, "ready")
            )
            for number, place in enumerate(places)
            if number
        ]
        for number, place in enumerate(places[:-1]):
            bed.start([program, "spread", str(PORT), str(start), seconds, *addresses[number + 1 :]], place)
        time.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
        before = cpu_s()
        time.sleep(plan.load.tcp_s)
        spent = spent_s(before, cpu_s())
        arrived: list[int] = []
        for process in drains:
            assert process.stdout is not None
            if not (line := process.stdout.readline()):
                raise Broken("not all flows could be connected, or one broke")
            arrived += json.loads(line)["bytes"]
    total = sum(arrived)
    if not total:
        raise Broken("nothing arrived")
    return {
        "total_gbit": total * 8 / plan.load.tcp_s / 1e9,
        "slowest_share": min(arrived) * len(arrived) / total,
        "median_share": statistics.median(arrived) * len(arrived) / total,
        "total_cpu_s_per_gb": spent / (total / 1e9),
    }


def idle(count: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """The share of one core that a machine of *count* kernels, the primary included, uses when nothing
    happens."""
    say(f"an idle machine of {count} kernels, for {seconds:g} s")
    with Bed() as bed:
        machine(bed, [f"k{number}" for number in range(1, count)], "{}")
        time.sleep(min(SETTLE_S, seconds))
        before = cpu_s()
        time.sleep(seconds)
        spent = spent_s(before, cpu_s())
    return {"kernels": count, "seconds": seconds, "cpu_share": spent / seconds}
