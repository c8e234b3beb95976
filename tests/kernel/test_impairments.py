"""The impairments of a machine: the table, who is told what and when, and plans of faults."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from popnet.core.errors import NoSuchKernel, PeerDied, PopnetError, Refused
from popnet.kernel.impairments import Impairments
from popnet.kernel.impairservice import ImpairService, apply_all
from popnet.machine.faults import Fault, Flap, ways
from popnet.machine.impairment import Impairment
from popnet.message.stream import Stream, pair
from popnet.net.impairment import LINK, NIC_IN, NIC_OUT

MS = 10**6
DELAY = Impairment(delay_ns=5 * MS, seed=7)
K1_K2, K2_K1 = ways("k1", "k2")


class FakePump:
    def __init__(self) -> None:
        self.set: dict[tuple[int, int], bytes] = {}
        self.down: set[tuple[int, int]] = set()
        self.changes = 0

    def impair(
        self,
        place: int,
        kid: int,
        config: bytes | None,
        table: bytes,
        program: bytes | None,
        bpf_filter_address: int,
        /,
    ) -> None:
        self.changes += 1
        if config is None:
            self.set.pop((place, kid), None)
        else:
            self.set[place, kid] = config

    def impair_down(self, place: int, kid: int, down: bool, /) -> None:
        (self.down.add if down else self.down.discard)((place, kid))

    def impair_figures(self, place: int, kid: int, /) -> dict[str, int]:
        names = (
            "frames",
            "bytes",
            "unmatched",
            "passed",
            "drop_loss",
            "drop_limit",
            "drop_down",
            "drop_queue",
        )
        more = ("duplicated", "reordered", "corrupted", "queued", "delay_total_ns")
        times = ("delay_p50_ns", "delay_p99_ns", "late_p50_ns", "late_p99_ns")
        return {
            **dict.fromkeys((*names, *more, *times), 0),
            "frames": 4,
            "passed": 2,
            "delay_total_ns": 10 * MS,
        }


class Lab:
    """Three kernels, of which those in `running` answer."""

    def __init__(self) -> None:
        self.kids = {"primary": 0, "k1": 1, "k2": 2}
        self.running = set(self.kids)
        self.pumps = {name: FakePump() for name in self.kids}
        self.events: list[tuple[str, str]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.news = asyncio.Event()
        self.impairments = Impairments(self.kids, self.running.__contains__, self.open, self.tell)

    async def open(self, kid: int, params: Mapping[str, Any]) -> Stream:
        name = next(name for name, number in self.kids.items() if number == kid)
        if name == "k2" and "k2" not in self.running:
            raise PeerDied("k2 is dead")
        ours, theirs = pair("impair", dict(params))
        theirs.peer = 0
        task = asyncio.create_task(ImpairService(self.pumps[name])(theirs))
        self.tasks.add(task)
        return ours

    def tell(self, kind: str, text: str, **more: Any) -> None:
        self.events.append((kind, text))
        self.news.set()

    async def until(self, kind: str, text: str) -> None:
        while (kind, text) not in self.events:
            self.news.clear()
            await self.news.wait()


async def test_a_link_is_impaired_where_its_frames_arrive() -> None:
    lab = Lab()
    await lab.impairments.set([K1_K2, K2_K1], DELAY)
    assert set(lab.pumps["k2"].set) == {(LINK, 1)}
    assert set(lab.pumps["k1"].set) == {(LINK, 2)}
    assert lab.pumps["k1"].set[LINK, 2] != lab.pumps["k2"].set[LINK, 1], "each has chances of its own"
    await lab.impairments.set([K1_K2], Impairment())
    assert lab.pumps["k2"].set == {}
    assert set(lab.pumps["k1"].set) == {(LINK, 2)}
    assert lab.events == [
        ("link.impaired", "k1 -> k2: delay 5ms seed 7"),
        ("link.impaired", "k2 -> k1: delay 5ms seed 7"),
        ("link.cleared", "k1 -> k2: no impairments"),
    ]


async def test_a_nic_is_impaired_at_its_kernel() -> None:
    lab = Lab()
    await lab.impairments.set(ways("k1", None), DELAY)
    await lab.impairments.cut(ways("primary", None, "in"), True)
    assert set(lab.pumps["k1"].set) == {(NIC_IN, 0), (NIC_OUT, 0)}
    assert lab.pumps["primary"].down == {(NIC_IN, 0)}


async def test_a_seed_is_drawn_and_told_unless_it_is_given() -> None:
    lab = Lab()
    for _ in range(2):
        await lab.impairments.set([K1_K2], Impairment(delay_ns=MS))
    first, second = (text.rpartition("seed ")[2] for _, text in lab.events)
    assert int(first) != int(second)
    with pytest.raises(Refused, match="a seed alone"):
        await lab.impairments.set([K1_K2], Impairment(seed=1))


async def test_the_same_seed_makes_the_same_wire() -> None:
    lab, other = Lab(), Lab()
    await lab.impairments.set([K1_K2], DELAY)
    await other.impairments.set([K1_K2], DELAY)
    assert lab.pumps["k2"].set == other.pumps["k2"].set


async def test_cut_and_mended_apart_from_what_is_set() -> None:
    lab = Lab()
    await lab.impairments.cut([K1_K2], True)
    await lab.impairments.set([K1_K2], DELAY)
    assert lab.pumps["k2"].down == {(LINK, 1)}
    changes = lab.pumps["k2"].changes
    await lab.impairments.cut([K1_K2], False)
    assert lab.pumps["k2"].down == set()
    assert lab.pumps["k2"].changes == changes, "the impairment, and its chances, go on as they were"


async def test_a_kernel_that_boots_begins_with_what_holds() -> None:
    lab = Lab()
    lab.running.discard("k2")
    await lab.impairments.set([K1_K2], DELAY)
    await lab.impairments.cut(ways("k2", None, "out"), True)
    assert lab.pumps["k2"].set == {}
    apply_all(lab.pumps["k2"], lab.impairments.at_boot("k2"))
    assert set(lab.pumps["k2"].set) == {(LINK, 1)}
    assert lab.pumps["k2"].down == {(NIC_OUT, 0)}
    changes = lab.pumps["k2"].changes
    lab.running.add("k2")
    await lab.impairments.online("k2")
    assert lab.pumps["k2"].changes == changes, "nothing changed meanwhile"


async def test_what_changes_while_a_kernel_boots_reaches_it_when_it_is_online() -> None:
    lab = Lab()
    lab.running.discard("k2")
    await lab.impairments.set([K1_K2], DELAY)
    apply_all(lab.pumps["k2"], lab.impairments.at_boot("k2"))
    await lab.impairments.set([K1_K2], Impairment())
    await lab.impairments.cut(ways("k2", None, "in"), True)
    lab.running.add("k2")
    await lab.impairments.online("k2")
    assert lab.pumps["k2"].set == {}
    assert lab.pumps["k2"].down == {(NIC_IN, 0)}


async def test_one_that_dies_meanwhile_is_no_error() -> None:
    lab = Lab()
    impairments = Impairments(lab.kids, lambda name: True, lab.open, lab.tell)
    lab.running.discard("k2")
    await impairments.set([K1_K2, K2_K1], DELAY)
    assert set(lab.pumps["k1"].set) == {(LINK, 2)}
    assert all("frames" not in row["observed"] for row in await impairments.rows() if row["to"] == "k2")


async def test_rows_tell_what_is_configured_and_observed() -> None:
    lab = Lab()
    await lab.impairments.set([K1_K2], DELAY)
    await lab.impairments.cut(ways("k1", None, "in"), True)
    link, nic = await lab.impairments.rows()
    assert (nic["from"], nic["to"], nic["state"], nic["impairment"]) == (None, "k1", "down", {})
    assert (link["from"], link["to"], link["state"]) == ("k1", "k2", "up")
    assert link["impairment"] == {"delay": "5ms", "seed": 7}
    assert link["observed"]["frames"] == 4
    assert link["observed"]["delay_mean_s"] == 0.005


async def test_a_plan_runs_in_its_order_and_tells() -> None:
    lab = Lab()
    plan = [
        Fault(2 * MS, (K1_K2,), down=False),
        Fault(0, (K1_K2,), down=True),
        Fault(MS, (K2_K1,), impairment=DELAY),
    ]
    lab.impairments.run(plan, "plan")
    assert [step["done"] for step in lab.impairments.plan()["steps"]] == [False] * 3
    await lab.until("fault.plan", "plan: done")
    assert lab.events == [
        ("fault.plan", "plan: started, 3 steps"),
        ("link.down", "k1 -> k2: down"),
        ("link.impaired", "k2 -> k1: delay 5ms seed 7"),
        ("link.up", "k1 -> k2: up"),
        ("fault.plan", "plan: done"),
    ]
    told = lab.impairments.plan()
    assert [step["done"] for step in told["steps"]] == [True] * 3
    assert [step["action"] for step in told["steps"]] == ["down", "set", "up"]
    assert not lab.pumps["k2"].down


async def test_a_plan_that_is_stopped_does_no_more() -> None:
    lab = Lab()
    lab.impairments.run([Fault(0, (K1_K2,), down=True), Fault(3600 * 10**9, (K1_K2,), down=False)], "plan")
    await lab.until("link.down", "k1 -> k2: down")
    assert lab.impairments.plan()["running"]
    lab.impairments.stop()
    assert not lab.impairments.plan()["running"]
    assert lab.events[-1] == ("fault.plan", "stopped")
    await asyncio.gather(*lab.impairments._pushing)
    assert lab.pumps["k2"].down == {(LINK, 1)}, "what it did stays, and was told to the kernel to its end"


async def test_a_flap_ends_when_a_hand_touches_the_same_link() -> None:
    lab = Lab()
    lab.impairments.flap([K1_K2, K2_K1], Flap(3600 * 10**9, MS, 5))
    await lab.until("link.down", "k2 -> k1: down")
    await lab.impairments.cut_for_good(ways("k1", None), True)
    assert len(lab.impairments._flaps) == 1, "that is another wire"
    await lab.impairments.cut_for_good([K1_K2], False)
    await asyncio.gather(*lab.impairments._flaps, *lab.impairments._pushing, return_exceptions=True)
    assert lab.impairments._flaps == {}
    assert lab.pumps["k2"].down == set()


async def test_only_the_primary_may() -> None:
    ours, theirs = pair("impair", {})
    theirs.peer = 3
    with pytest.raises(Refused, match="only the primary"):
        await ImpairService(FakePump())(theirs)
    del ours


async def test_a_step_that_fails_is_told_and_the_plan_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab()

    async def refuse(*_: object) -> None:
        raise PopnetError("no")

    monkeypatch.setattr(lab.impairments, "set", refuse)
    lab.impairments.run([Fault(0, (K1_K2,), impairment=DELAY), Fault(0, (K1_K2,), down=True)], "plan")
    await lab.until("fault.plan", "plan: done")
    assert ("fault.failed", "plan: set failed: no") in lab.events
    assert ("link.down", "k1 -> k2: down") in lab.events


async def test_a_kernel_that_leaves_the_machine_leaves_nothing() -> None:
    lab = Lab()
    await lab.impairments.set([K1_K2, K2_K1], DELAY)
    await lab.impairments.cut([K1_K2], True)
    lab.impairments.forget("k1")
    lab.running.discard("k1")
    del lab.kids["k1"]
    await asyncio.gather(*lab.impairments._pushing)
    assert lab.pumps["k2"].set == {}
    assert lab.pumps["k2"].down == set()
    assert await lab.impairments.rows() == []
    with pytest.raises(NoSuchKernel, match="'k1' any more"):
        await lab.impairments.cut([K1_K2], True)
    assert await lab.impairments.rows() == []
    lab.kids["k3"] = 3
    lab.running.add("k3")
    lab.pumps["k3"] = FakePump()
    await lab.impairments.set(ways("k3", "k2"), DELAY)
    assert set(lab.pumps["k3"].set) == {(LINK, 2)}
