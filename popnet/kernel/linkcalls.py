"""What the control API asks of links and faults: requests are read and checked here, `Impairments` does them.

Each is a method of the control API's Service, and described there.
"""

from typing import Any

from popnet.core.errors import Refused
from popnet.kernel.impairments import Impairments
from popnet.kernel.roster import Roster
from popnet.machine.faults import Way
from popnet.machine.impairment import Impairment
from popnet.machine.wires import read_flap, read_impairment, read_plan, read_ways
from popnet.net.filter import match_problem


class LinkCalls:
    """Calls that change how the links and NICs of the kernels of *roster* behave, or show it."""

    def __init__(self, roster: Roster, impairments: Impairments) -> None:
        self._roster = roster
        self._impairments = impairments

    async def links(self) -> list[dict[str, Any]]:
        return await self._impairments.rows()

    async def link(self, op: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Impair, clear, cut, mend or flap; the rows of these that are not perfect then. Raises Refused."""
        kernel, peer, direction = map(request.get, ("kernel", "peer", "direction"))
        where = read_ways(kernel, peer, direction, list(self._roster.kids))
        match op:
            case "set":
                await self._impairments.set(where, read_impairment(request.get("impairment"), match_problem))
            case "clear":
                await self._impairments.set(where, Impairment())
            case "flap":
                self._impairments.flap(where, read_flap(request.get("flap")))
            case "down" | "up":
                await self._impairments.cut_for_good(where, op == "down")
            case _:
                raise Refused(f"no such operation on links: {op[:80]!r}", "set, clear, down, up, flap")
        return [row for row in await self._impairments.rows() if Way(row["from"], row["to"]) in where]

    def faults(self) -> dict[str, Any]:
        return self._impairments.plan()

    def run_faults(self, plan: Any) -> dict[str, Any]:
        """Run *plan*, or (None) the machine file's. Raises Refused."""
        machine = self._roster.machine
        if plan is None and not machine.faults:
            raise Refused(f"{machine.file} has no plan of faults", "write one under 'faults:', or give one")
        own = plan is None
        faults = machine.faults if own else read_plan(plan, list(self._roster.kids), match_problem)
        self._impairments.run(faults, "the machine's plan" if own else "plan")
        return self._impairments.plan()

    def stop_faults(self) -> dict[str, Any]:
        self._impairments.stop()
        return self._impairments.plan()
