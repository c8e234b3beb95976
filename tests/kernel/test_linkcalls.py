"""What the control API asks of links and faults: read, checked, and told to who does it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from popnet.core.errors import PopnetError, Refused
from popnet.kernel.linkcalls import LinkCalls
from popnet.machine.faults import Way
from popnet.machine.impairment import Impairment
from tests.kernel.parts import MACHINE, roster_of

PLAN = MACHINE + "faults:\n  - {at: 10ms, link: [k1, k2], down: true}\n"


class Doer:
    """Stands for Impairments: writes down what it is told, and shows two rows."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.running: list[str] = []

    async def set(self, ways: Sequence[Way], impairment: Impairment) -> None:
        self.done.append(("set", set(ways), impairment.words()))

    async def cut_for_good(self, ways: Sequence[Way], down: bool) -> None:
        self.done.append(("cut", set(ways), down))

    def flap(self, ways: Sequence[Way], flap: Any) -> None:
        self.done.append(("flap", set(ways), flap.times))

    async def rows(self) -> list[dict[str, Any]]:
        return [{"from": "k1", "to": "k2"}, {"from": "k2", "to": "k1"}, {"from": "k1", "to": None}]

    def run(self, plan: Sequence[Any], name: str) -> None:
        self.running.append(f"{name}: {len(plan)}")

    def stop(self) -> None:
        self.running.clear()

    def plan(self) -> dict[str, Any]:
        return {"running": list(self.running)}


def calls(tmp: Path, text: str = MACHINE) -> tuple[LinkCalls, Doer]:
    doer: Any = Doer()
    return LinkCalls(roster_of(tmp, text), doer), doer


BOTH = {Way("k1", "k2"), Way("k2", "k1")}


async def test_each_operation_is_done_and_the_rows_of_its_ways_come_back(tmp_path: Path) -> None:
    link, doer = calls(tmp_path)
    where = {"kernel": "k1", "peer": "k2", "direction": "both"}
    rows = await link.link("set", {**where, "impairment": {"delay": "5ms"}})
    assert rows == [{"from": "k1", "to": "k2"}, {"from": "k2", "to": "k1"}]
    assert await link.link("down", {**where, "direction": "out"}) == [{"from": "k1", "to": "k2"}]
    await link.link("up", where)
    await link.link("clear", where)
    await link.link("flap", {**where, "flap": {"down": "1s", "up": "1s", "times": 3}})
    assert doer.done == [
        ("set", BOTH, {"delay": "5ms"}),
        ("cut", {Way("k1", "k2")}, True),
        ("cut", BOTH, False),
        ("set", BOTH, {}),
        ("flap", BOTH, 3),
    ]
    assert len(await link.links()) == 3


@pytest.mark.parametrize(
    ("op", "request_", "says"),
    [
        ("cut", {"kernel": "k1"}, "no such operation on links: 'cut'"),
        ("x" * 1000, {"kernel": "k1"}, "no such operation"),
        ("down", {"kernel": "k9"}, "k9"),
        ("down", {"kernel": "k1", "peer": "k1"}, "two different kernels"),
        ("down", {"kernel": "k1", "direction": "up"}, "direction"),
        ("down", {}, ""),
        ("set", {"kernel": "k1", "impairment": {"loss": "200%"}}, "loss"),
        ("set", {"kernel": "k1", "impairment": {"match": "icmp or"}}, "icmp or"),
        ("set", {"kernel": "k1", "impairment": 7}, ""),
        ("flap", {"kernel": "k1", "flap": {"down": "x"}}, ""),
    ],
)
async def test_what_makes_no_sense_is_refused_and_nothing_done(
    tmp_path: Path, op: str, request_: dict[str, Any], says: str
) -> None:
    link, doer = calls(tmp_path)
    with pytest.raises(PopnetError) as caught:
        await link.link(op, {"direction": "both", **request_})
    assert says in f"{caught.value} {caught.value.hint}"
    assert len(str(caught.value)) < 1000
    assert doer.done == []


def test_plans_are_the_machines_or_ones_own(tmp_path: Path) -> None:
    link, doer = calls(tmp_path, PLAN)
    assert link.run_faults(None) == {"running": ["the machine's plan: 1"]}
    assert link.faults() == {"running": ["the machine's plan: 1"]}
    assert link.stop_faults() == {"running": []}
    link.run_faults([{"at": "1s", "nic": "k1", "down": True}, {"at": "2s", "nic": "k1", "down": False}])
    assert doer.running == ["plan: 2"]


def test_a_plan_that_there_is_not_and_one_that_is_none(tmp_path: Path) -> None:
    link, doer = calls(tmp_path)
    with pytest.raises(Refused, match="has no plan of faults"):
        link.run_faults(None)
    with pytest.raises(PopnetError, match="k9"):
        link.run_faults([{"at": "1s", "nic": "k9", "down": True}])
    assert doer.running == []
