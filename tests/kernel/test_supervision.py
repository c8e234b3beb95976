"""Supervision: hangs and recoveries are told, and what is to be restarted is, unless somebody was faster."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from popnet.core import limits
from popnet.core.errors import BootFailed
from popnet.kernel.entry import Entry
from popnet.kernel.supervision import Supervision
from popnet.machine import restart, states
from popnet.machine.states import KernelState
from popnet.transport.directory import Directory
from tests.kernel.parts import Body, Told, bring_online, move, roster_of, until

MACHINE = """\
apiVersion: popnet/v1
name: test
kernels:
  k1: {image: full, restart: on-failure}
  k2: {image: full}
"""


class Lab:
    """Supervision of k1 (on-failure) and k2 (never), whose heartbeats the test counts."""

    def __init__(self, tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(restart, "PAUSE_S", 0.0)
        self.roster = roster_of(tmp, MACHINE)
        self.k1, self.k2 = self.roster.named("k1"), self.roster.named("k2")
        self.beats = {1: 1, 2: 1}
        self.told = Told()
        self.booted: list[str] = []
        self.boots_fail = False
        self.directory, _ = Directory.create()
        self.supervision = Supervision(
            self.roster, self.directory, self.beats.__getitem__, self._boot, self.told
        )

    async def _boot(self, kernel: Entry) -> None:
        self.booted.append(kernel.spec.name)
        if self.boots_fail:
            raise BootFailed("no more memory")

    def look(self, kernel: Entry, times: int = 1) -> None:
        for _ in range(times):
            assert kernel.incarnation is not None
            self.supervision._look_at(kernel, kernel.incarnation)

    def fail(self, kernel: Entry, reason: str = "killed by SIGSEGV") -> None:
        bring_online(kernel)
        move(kernel, states.Died(kernel.life.generation, reason))
        self.supervision.state_changed(kernel)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    lab = Lab(tmp_path, monkeypatch)
    yield lab
    lab.directory.close()


async def test_a_kernel_without_a_heartbeat_hangs_once_and_recovers(lab: Lab) -> None:
    bring_online(lab.k2)
    body = Body(lab.k2)
    lab.look(lab.k2)
    lab.look(lab.k2, limits.HEARTBEAT_LOOKS_MAX - 1)
    assert not lab.k2.hung and lab.told.all == []
    lab.look(lab.k2, 5)
    assert lab.k2.hung
    lab.beats[2] += 1
    lab.look(lab.k2, 2)
    assert not lab.k2.hung
    assert [kind for kind, _, _ in lab.told.all] == ["kernel.hung", "kernel.recovered"]
    assert not body.killed, "its policy is never"
    body.close()


async def test_one_to_be_restarted_is_killed_when_it_hangs(lab: Lab) -> None:
    bring_online(lab.k1)
    body = Body(lab.k1)
    lab.look(lab.k1, limits.HEARTBEAT_LOOKS_MAX + 1)
    assert body.killed
    body.close()
    assert body.incarnation.reason.startswith("hung (no heartbeat for ")


async def test_run_looks_at_those_that_are_online(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT_LOOK_S", 0.0)
    bring_online(lab.k1)
    body = Body(lab.k1)
    task = asyncio.create_task(lab.supervision.run())
    await until(lambda: lab.k1.hung)
    task.cancel()
    assert [name for _, name, _ in lab.told.all] == ["k1"], "k2 and the primary are nobody's business"
    body.close()


async def test_a_failed_kernel_is_booted_again_if_its_policy_says_so(lab: Lab) -> None:
    lab.fail(lab.k1)
    lab.fail(lab.k2)
    await until(lambda: lab.booted)
    assert lab.booted == ["k1"]
    assert lab.told.texts() == ["kernel 1: restarts in 0 s (1 of 5): killed by SIGSEGV"]


async def test_who_was_booted_or_loaded_meanwhile_is_left_alone(lab: Lab) -> None:
    lab.fail(lab.k1)
    move(lab.k1, states.Load())
    for _ in range(20):
        await asyncio.sleep(0)
    assert lab.booted == []


async def test_a_machine_that_goes_down_restarts_nobody(lab: Lab) -> None:
    lab.fail(lab.k1)
    lab.supervision.restart_no_more()
    lab.fail(lab.k1) if lab.k1.life.state is not KernelState.FAILED else lab.supervision.state_changed(lab.k1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert lab.booted == []
    assert len(lab.told.all) == 1, "the one that was planned before"


async def test_a_boot_that_fails_is_told(lab: Lab) -> None:
    lab.boots_fail = True
    lab.fail(lab.k1)
    await until(lambda: len(lab.told.all) == 2)
    assert lab.told.texts()[1] == "kernel 1: not restarted: no more memory"


async def test_a_crash_loop_is_given_up_and_a_kill_forgets_it(lab: Lab) -> None:
    for _ in range(restart.FAILURES_MAX + 1):
        move(lab.k1, states.Load()) if lab.k1.life.state is KernelState.ONLINE else None
        lab.fail(lab.k1)
    assert lab.told.all[-1][0] == "kernel.given-up"
    assert lab.told.texts()[-1] == "kernel 1: given up after 5 restarts in a row: killed by SIGSEGV"
    lab.k1.restarts = restart.Record(3)
    move(lab.k1, states.Unload())
    lab.supervision.state_changed(lab.k1)
    assert lab.k1.restarts == restart.Record()
