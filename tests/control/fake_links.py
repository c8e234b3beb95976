"""Links and faults of a fake machine: what the API asks is checked, remembered, and done to no frame."""

from typing import Any

from popnet.core.errors import Refused
from popnet.machine import faults
from popnet.machine.faults import Way
from popnet.machine.impairment import Impairment
from popnet.machine.wires import read_flap, read_impairment, read_plan, read_ways

OBSERVED = {
    "frames": 10,
    "passed": 9,
    "drop_loss": 1,
    "duplicated": 0,
    "corrupted": 2,
    "queued": 0,
    "delay_mean_s": 0.0051,
    "delay_p99_s": 0.0062,
}


class FakeLinks:
    """The part of a Service that is about links.

    Attributes:
        flaps: (ways, flap) that were asked for.
    """

    def __init__(self, kernels: list[str]) -> None:
        self._names = kernels
        self._set: dict[Way, Impairment] = {}
        self._down: set[Way] = set()
        self._steps: list[dict[str, Any]] = []
        self._running = False
        self.flaps: list[tuple[tuple[Way, ...], faults.Flap]] = []

    async def links(self) -> list[dict[str, Any]]:
        return [self._row(way) for way in sorted(self._set.keys() | self._down, key=str)]

    async def link(self, op: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        ways = read_ways(request.get("kernel"), request.get("peer"), request.get("direction"), self._names)
        match op:
            case "set":
                self._set.update(dict.fromkeys(ways, read_impairment(request.get("impairment"))))
            case "clear":
                for way in ways:
                    self._set.pop(way, None)
            case "flap":
                self.flaps.append((ways, read_flap(request.get("flap"))))
            case "down":
                self._down.update(ways)
            case "up":
                self._down.difference_update(ways)
            case _:
                raise Refused(f"no such operation on links: {op!r}")
        return [row for row in await self.links() if Way(row["from"], row["to"]) in ways]

    def faults(self) -> dict[str, Any]:
        return {"running": self._running, "since_s": 1.5 if self._running else None, "steps": self._steps}

    def run_faults(self, plan: Any) -> dict[str, Any]:
        if plan is None:
            raise Refused("machine.yaml has no plan of faults")
        self._steps = [{**step.row(), "done": False} for step in faults.steps(read_plan(plan, self._names))]
        self._running = True
        return self.faults()

    def stop_faults(self) -> dict[str, Any]:
        self._running = False
        return self.faults()

    def _row(self, way: Way) -> dict[str, Any]:
        impairment = self._set.get(way, Impairment())
        return {
            "from": way.source,
            "to": way.target,
            "state": "down" if way in self._down else "up",
            "impairment": impairment.words(),
            "observed": OBSERVED if impairment.words() else {},
        }
