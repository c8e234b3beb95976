"""Supervision: which kernels hang, and which are booted again after a failure.

Theory of operation. Each kernel counts heartbeats in its window; they are looked at every HEARTBEAT_LOOK_S. A
kernel without a new one at HEARTBEAT_LOOKS_MAX looks in a row counts as hung: it is told as an event, and if
it is one to be restarted, it is killed, which fails it. Whether and when a failed kernel is booted again is
decided by `popnet.machine.restart`; here is the clock, and the task that waits.

Nothing here changes a state: it kills, and it calls *boot*.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import assert_never

from popnet.core import limits
from popnet.core.errors import PopnetError
from popnet.kernel.entry import Entry
from popnet.kernel.incarnation import Incarnation
from popnet.kernel.roster import Roster
from popnet.machine import restart
from popnet.machine.states import KernelState
from popnet.transport.directory import Directory

TellEvent = Callable[[str, Entry, str], None]
"""Takes (kind, kernel, text)."""


class Supervision:
    """Looks after the kernels of *roster*.

    Args:
        directory: where the time of each heartbeat is noted.
        heartbeat: the heartbeats that a kernel has counted, by kid.
        boot: boots a kernel that has failed, and raises PopnetError if that fails too.
    """

    def __init__(
        self,
        roster: Roster,
        directory: Directory,
        heartbeat: Callable[[int], int],
        boot: Callable[[Entry], Awaitable[None]],
        event: TellEvent,
    ) -> None:
        self._roster = roster
        self._directory = directory
        self._heartbeat = heartbeat
        self._boot = boot
        self._event = event
        self._restarts: set[asyncio.Task[None]] = set()
        self._restarts_wanted = True

    async def run(self) -> None:
        """Look at every heartbeat, for ever."""
        while True:
            await asyncio.sleep(limits.HEARTBEAT_LOOK_S)
            for kernel in self._roster:
                if kernel.incarnation is not None and kernel.life.state is KernelState.ONLINE:
                    self._look_at(kernel, kernel.incarnation)

    def restart_no_more(self) -> None:
        """The machine goes down: whatever fails from now on stays failed."""
        self._restarts_wanted = False

    def state_changed(self, kernel: Entry) -> None:
        """Its state has changed: boot it again, in a while, if its policy says so."""
        state, now_s = kernel.life.state, time.monotonic()
        if state is KernelState.ONLINE:
            kernel.restarts = restart.online(kernel.restarts, now_s)
        elif state is KernelState.OFFLINE:
            kernel.restarts = restart.Record()
        elif state is KernelState.FAILED and kernel.spec.kid != 0 and self._restarts_wanted:
            self._failed(kernel, now_s)

    def _failed(self, kernel: Entry, now_s: float) -> None:
        policy, reason = kernel.spec.restart, kernel.life.reason
        kernel.restarts, decision = restart.failed(kernel.restarts, policy, reason, now_s)
        match decision:
            case restart.RestartIn(pause_s, text):
                self._event("kernel.restart", kernel, f"kernel {kernel.spec.kid}: {text}")
                task = asyncio.create_task(self._restart(kernel, kernel.life.generation, pause_s))
                self._restarts.add(task)
                task.add_done_callback(self._restarts.discard)
            case restart.GiveUp(text):
                self._event("kernel.given-up", kernel, f"kernel {kernel.spec.kid}: {text}")
            case None:
                return
            case _:
                assert_never(decision)

    async def _restart(self, kernel: Entry, generation: int, pause_s: float) -> None:
        """Boot *kernel* after a pause, unless somebody else has done something with it meanwhile. A boot that
        fails is considered like any other failure."""
        await asyncio.sleep(pause_s)
        same = kernel.life.state is KernelState.FAILED and kernel.life.generation == generation
        if same and self._restarts_wanted:
            try:
                await self._boot(kernel)
            except PopnetError as error:
                self._event("kernel.failed", kernel, f"kernel {kernel.spec.kid}: not restarted: {error}")

    def _look_at(self, kernel: Entry, incarnation: Incarnation) -> None:
        beats = self._heartbeat(kernel.spec.kid)
        if beats != incarnation.heartbeat:
            incarnation.heartbeat, incarnation.looks = beats, 0
            self._directory.beat(kernel.spec.kid, time.monotonic_ns())
            if kernel.hung:
                kernel.hung = False
                self._event("kernel.recovered", kernel, f"kernel {kernel.spec.kid}: beats again")
            return
        incarnation.looks += 1
        if incarnation.looks == limits.HEARTBEAT_LOOKS_MAX:
            kernel.hung = True
            silent_s = limits.HEARTBEAT_LOOKS_MAX * limits.HEARTBEAT_LOOK_S
            reason = f"hung (no heartbeat for {silent_s:g} s)"
            self._event("kernel.hung", kernel, f"kernel {kernel.spec.kid}: {reason}")
            if kernel.spec.restart != "never":
                incarnation.failed(reason, "")
                incarnation.kill()
