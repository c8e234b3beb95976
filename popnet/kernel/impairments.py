"""The impairments of a machine: what is set, what is cut, and the plan of faults; carried out by its kernels.

Theory of operation. The table here is the truth. A change enters the table first, then goes to the kernel
whose pump does it (`Way.kernel`), if it runs. One that boots gets what holds then along with its
configuration, so its first frame suffers already; what changed while it booted it gets when it is online. A
kernel that dies loses nothing but its figures: the table is still there for its next generation.

Changes of one kernel go out one after the other, in the order of the table's: each takes the kernel's lock.

A plan is one task that sleeps from step to step, and a new one ends the old one. A flap is a plan of its own
beside it, which ends when another, or a cut or a mend by hand, touches the same wires.
"""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from popnet.core.errors import NoSuchKernel, PeerDied, PopnetError, Refused, Unavailable
from popnet.kernel.impairservice import setting_json
from popnet.machine import faults
from popnet.machine.faults import Fault, Flap, Step, Way
from popnet.machine.impairment import Impairment
from popnet.machine.wires import seeded
from popnet.message.stream import Stream
from popnet.net.impairment import LINK, NIC_IN, NIC_OUT, Setting

SEED_BITS: Final = 32
"""Of a seed that is drawn: short enough to be typed."""

ANSWER_S: Final = 5.0
"""Seconds that a kernel may take to do as it is told; one that hangs is not waited for."""

OpenService = Callable[[int, dict[str, Any]], Awaitable[Stream]]
"""Opens the service `impair` of a kernel, by kid. Raises PeerDied and others."""

TellEvent = Callable[..., None]
"""Takes (kind, text, **more)."""


class Impairments:
    """What is set and cut, and the plan.

    Args:
        kids: name -> number of every kernel there is now; its owner keeps it so.
        runs: whether the kernel of that name is online.
    """

    def __init__(
        self,
        kids: dict[str, int],
        runs: Callable[[str], bool],
        open_service: OpenService,
        event: TellEvent,
    ) -> None:
        self._kids = kids
        self._runs = runs
        self._open = open_service
        self._event = event
        self._set: dict[Way, Impairment] = {}
        self._down: set[Way] = set()
        self._told_at_boot: dict[str, dict[Way, Setting]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._plan: asyncio.Task[None] | None = None
        self._pushing: set[asyncio.Task[None]] = set()
        self._flaps: dict[asyncio.Task[None], frozenset[Way]] = {}
        self._plan_rows: list[dict[str, Any]] = []
        self._plan_started_s = 0.0

    # The table

    def begin(self, impairments: Iterable[tuple[Way, Impairment]]) -> None:
        """What the machine file says, before any kernel runs."""
        for way, impairment in impairments:
            self._enter(way, impairment)

    def table(self) -> dict[Way, Impairment]:
        """What is set."""
        return dict(self._set)

    async def set(self, ways: Sequence[Way], impairment: Impairment) -> None:
        """Have *impairment* hold from now on instead of what held; the empty one clears."""
        if impairment.words().keys() == {"seed"}:
            raise Refused("a seed alone impairs nothing", "add delay, loss, rate or another")
        self._check(ways)
        for way in ways:
            self._enter(way, impairment)
            now = self._set.get(way)
            if now is None:
                self._tell("cleared", way, "no impairments")
            else:
                self._tell("impaired", way, now.text(), impairment=now.words())
        await self._push_whole({way: self._setting(way) for way in ways})

    async def cut(self, ways: Sequence[Way], down: bool) -> None:
        """Let nothing pass from now on, or (not *down*) let it pass again, with the impairments there are."""
        self._check(ways)
        for way in ways:
            (self._down.add if down else self._down.discard)(way)
            self._tell("down" if down else "up", way, "down" if down else "up")
        await self._push_whole({way: Setting(*self._place(way), None, down) for way in ways})

    def at_boot(self, name: str) -> tuple[dict[str, Any], ...]:
        """The settings that kernel *name*, which boots now, begins with."""
        told = self._told_at_boot[name] = self._settings(name)
        return tuple(map(setting_json, told.values()))

    async def online(self, name: str) -> None:
        """A kernel came online: tell it what changed meanwhile."""
        told, now = self._told_at_boot.get(name, {}), self._settings(name)
        changed = {
            way: self._setting(way) for way in told.keys() | now.keys() if told.get(way) != now.get(way)
        }
        await self._push(changed)

    def forget(self, name: str) -> None:
        """Kernel *name* is about to leave the machine: nothing is impaired or cut on its account any more."""
        ways = [way for way in self._every() if name in (way.source, way.target)]
        perfect = {way: Setting(*self._place(way), Impairment(), False) for way in ways if way.kernel != name}
        for way in ways:
            self._set.pop(way, None)
            self._down.discard(way)
        self._stop_flaps(ways)
        self._told_at_boot.pop(name, None)
        self._begin_push(perfect)

    def _check(self, ways: Sequence[Way]) -> None:
        for name in (name for way in ways for name in (way.source, way.target) if name is not None):
            if name not in self._kids:  # a plan may outlive it
                raise NoSuchKernel(f"there is no kernel {name!r} any more")

    def _enter(self, way: Way, impairment: Impairment) -> None:
        if impairment.words():
            self._set[way] = seeded(impairment, secrets.randbits(SEED_BITS))
        else:
            self._set.pop(way, None)

    def _settings(self, name: str) -> dict[Way, Setting]:
        """Of kernel *name*: all that is not perfect."""
        mine = (way for way in self._every() if way.kernel == name)
        return {way: self._setting(way) for way in mine}

    def _every(self) -> list[Way]:
        return sorted(self._set.keys() | self._down, key=str)

    def _setting(self, way: Way) -> Setting:
        return Setting(*self._place(way), self._set.get(way, Impairment()), way in self._down)

    def _place(self, way: Way) -> tuple[int, int, str]:
        if way.source is None:
            return NIC_IN, 0, str(way)
        return (NIC_OUT, 0, str(way)) if way.target is None else (LINK, self._kids[way.source], str(way))

    # Kernels

    async def _push_whole(self, settings: Mapping[Way, Setting]) -> None:
        """Push to the end, also if we are cancelled: what the table says, the kernels must do."""
        await asyncio.shield(self._begin_push(settings))

    def _begin_push(self, settings: Mapping[Way, Setting]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._push(settings))
        self._pushing.add(task)
        task.add_done_callback(self._pushing.discard)
        return task

    async def _push(self, settings: Mapping[Way, Setting]) -> None:
        by_kernel: dict[str, list[Setting]] = {}
        for way, setting in settings.items():
            if self._runs(way.kernel):
                by_kernel.setdefault(way.kernel, []).append(setting)
        await asyncio.gather(*(self._apply(name, mine) for name, mine in by_kernel.items()))

    async def _apply(self, name: str, settings: list[Setting]) -> None:
        async with self._locks[name]:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._call(name, {"settings": list(map(setting_json, settings))})
            except PeerDied:
                return  # its next generation learns of it at boot
            except TimeoutError:
                raise Unavailable(
                    f"kernel {name} did not take its impairments within {ANSWER_S:.0f} s"
                ) from None

    async def _call(self, name: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        stream = await self._open(self._kids[name], params)
        while await stream.receive() is not None:
            pass
        told = (stream.result or {}).get("told", [])
        return told if isinstance(told, list) else []

    # Shown

    async def rows(self) -> list[dict[str, Any]]:
        """A row for each direction that is impaired or cut: what is configured, and what was observed."""
        every = self._every()
        names = sorted({way.kernel for way in every})
        told = dict(
            zip(names, await asyncio.gather(*(self._told(name, every) for name in names)), strict=True)
        )
        return [self._row(way, told[way.kernel].get(way, {})) for way in every]

    async def _told(self, name: str, every: Sequence[Way]) -> dict[Way, dict[str, Any]]:
        mine = [way for way in every if way.kernel == name]
        if not self._runs(name):
            return {}
        try:
            async with asyncio.timeout(ANSWER_S):
                told = await self._call(name, {"tell": [self._place(way)[:2] for way in mine]})
        except (PopnetError, TimeoutError):
            return {}
        return dict(zip(mine, told, strict=False))

    def _row(self, way: Way, observed: dict[str, Any]) -> dict[str, Any]:
        impairment = self._set.get(way)
        return {
            "from": way.source,
            "to": way.target,
            "state": "down" if way in self._down else "up",
            "impairment": impairment.words() if impairment else {},
            "observed": observed,
        }

    def _tell(self, what: str, way: Way, text: str, **more: Any) -> None:
        kind = "nic" if way.source is None or way.target is None else "link"
        self._event(f"{kind}.{what}", f"{way}: {text}", **{"from": way.source, "to": way.target}, **more)

    # Faults

    def run(self, plan: Sequence[Fault], name: str) -> None:
        """Start *plan*, instead of one that runs. Times count from now."""
        self.stop()
        steps = faults.steps(plan)
        self._plan_rows = [{**step.row(), "done": False} for step in steps]
        self._plan_started_s = time.monotonic()
        self._event("fault.plan", f"{name}: started, {len(steps)} steps")
        self._plan = asyncio.create_task(self._run_plan(steps, name))

    def stop(self) -> None:
        """End the plan that runs, if one does, and all flaps; what they did stays."""
        if self._plan is not None and not self._plan.done():
            self._plan.cancel()
            self._event("fault.plan", "stopped")
        self._plan = None
        self._stop_flaps(None)

    def plan(self) -> dict[str, Any]:
        """The plan that ran last, and how far it is."""
        running = self._plan is not None and not self._plan.done()
        since_s = round(time.monotonic() - self._plan_started_s, 3) if running else None
        return {"running": running, "since_s": since_s, "steps": self._plan_rows}

    def flap(self, ways: Sequence[Way], flap: Flap) -> None:
        """Cut *ways* and mend them, several times, from now on; instead of flaps of the same that go on."""
        self._stop_flaps(ways)
        steps = faults.steps([Fault(0, tuple(ways), flap=flap)])
        task = asyncio.create_task(self._run(steps, "flap", time.monotonic()))
        self._flaps[task] = frozenset(ways)
        task.add_done_callback(lambda task: self._flaps.pop(task, None))

    async def cut_for_good(self, ways: Sequence[Way], down: bool) -> None:
        """`cut`, and no flap changes it again."""
        self._stop_flaps(ways)
        await self.cut(ways, down)

    def _stop_flaps(self, ways: Sequence[Way] | None) -> None:
        for task, flapping in list(self._flaps.items()):
            if ways is None or not flapping.isdisjoint(ways):
                task.cancel()

    async def _run_plan(self, steps: Sequence[Step], name: str) -> None:
        await self._run(steps, name, self._plan_started_s, self._plan_rows)
        self._event("fault.plan", f"{name}: done")

    async def _run(
        self, steps: Sequence[Step], name: str, started_s: float, rows: Sequence[dict[str, Any]] = ()
    ) -> None:
        for number, step in enumerate(steps):
            wait_s = started_s + step.at_ns / 1e9 - time.monotonic()
            await asyncio.sleep(max(0.0, wait_s))
            try:
                if step.impairment is not None:
                    await self.set(step.ways, step.impairment)
                else:
                    await self.cut(step.ways, step.action == "down")
            except PopnetError as error:
                self._event("fault.failed", f"{name}: {step.row()['action']} failed: {error}")
            if rows:
                rows[number]["done"] = True
