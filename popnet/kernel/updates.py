"""Changes of partitions while kernels run: decided by `popnet.machine.change`, carried out by each kernel's
daemon.

Theory of operation. One change at a time, whoever asks. A running kernel is asked first (service
`partition`); when it has the new partition, the roster says so, and those who watch the kernel in the
registry are told. A move between two kernels takes from the one before it gives to the other, so that at no
moment both have a thing; if the other cannot take it, the first gets it back."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from popnet.core.errors import IllegalState, PopnetError, Refused, Unavailable
from popnet.kernel.entry import Entry
from popnet.kernel.roster import Roster
from popnet.machine import states
from popnet.machine.change import Change, changed_spec, check_memory, differences, given_back, with_cores
from popnet.machine.spec import KernelSpec
from popnet.machine.states import KernelState
from popnet.message.stream import Stream

ANSWER_S: Final = 10.0
"""Seconds that a kernel may take to change its partition; one that hangs is not waited for."""

OpenService = Callable[[int, dict[str, Any]], Awaitable[Stream]]
"""Opens the service `partition` of a kernel, by kid. Raises PeerDied and others."""


class Updates:
    """Changes partitions of the kernels of *roster*.

    Args:
        changed: told (kid, what changed) of a running kernel that has another partition.
        event: takes (kind, kernel, text).
    """

    def __init__(
        self,
        roster: Roster,
        open_service: OpenService,
        changed: Callable[[int, str], None],
        event: Callable[[str, Entry, str], None],
    ) -> None:
        self._roster = roster
        self._open = open_service
        self._changed = changed
        self._event = event
        self.lock = asyncio.Lock()

    async def update(self, name: str, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Change a kernel's partition: `cpus`, `memory`, `devices` as `popnet.machine.change` has them, and
        `from`, the kernel that gives what is added. The rows of the kernels that changed.

        Raises NoSuchKernel, IllegalState, Refused, PeerDied, Unavailable; then nothing has changed.
        """
        change, giver = _change_of(request)
        kernel = self._roster.named(name)
        async with self.lock:
            if giver is None:
                new = self._decide(kernel, change)
                await self.give(kernel, new)
                await self.settle_cores()
                return [self._roster.row(kernel)]
            other = self._roster.named(giver)
            if other is kernel:
                raise Refused(f"kernel {name} cannot give to itself")
            return await self._move(other, kernel, change)

    async def _move(self, giver: Entry, taker: Entry, change: Change) -> list[dict[str, Any]]:
        less = self._decide(giver, given_back(giver.spec, change))
        more = self._decide(taker, change, instead={giver.spec.name: less})
        before = giver.spec
        await self.give(giver, less)
        try:
            await self.give(taker, more)
        except PopnetError:
            await self.give(giver, before)
            raise
        await self.settle_cores()
        return [self._roster.row(giver), self._roster.row(taker)]

    def _decide(
        self, kernel: Entry, change: Change, instead: Mapping[str, KernelSpec] | None = None
    ) -> KernelSpec:
        """What *change* makes of *kernel*, while those named in *instead* are what that says."""
        states.handle(kernel.life, states.Update(), 0.0)  # whether it may be changed at all comes first
        holders = [(instead or {}).get(spec.name, spec) for spec in self._roster.holders()]
        return changed_spec(self._roster.machine, kernel.spec, change, holders, self.held(kernel))

    def held(self, kernel: Entry) -> int | None:
        """Bytes of memory that *kernel* cannot give back; None if it does not run, or nobody counts."""
        if kernel.life.state is not KernelState.ONLINE:
            return None
        group = kernel.incarnation.group if kernel.incarnation else self._roster.own_group
        return group.memory_held()

    async def give(self, kernel: Entry, spec: KernelSpec) -> None:
        """Have *kernel* be what *spec* says, at once if it runs: only its partition may differ from what it
        is. Raises IllegalState, Refused, PeerDied, Unavailable; then it has what it had."""
        before = kernel.spec
        if kernel.life.state is KernelState.STARTING:
            raise IllegalState(
                f"cannot update kernel {spec.name}: it is starting", "Wait until it is online."
            )
        if kernel.life.state is KernelState.ONLINE:
            if before.memory_bytes != spec.memory_bytes:
                check_memory(spec, self.held(kernel))  # version 2 of control groups would kill to get there
            await self._push(kernel, spec)
        self._roster.respec(kernel, spec)
        text = differences(before, spec)
        if text:
            self._event("kernel.partition", kernel, f"kernel {spec.kid}: {text}")
            if kernel.life.state is KernelState.ONLINE:
                self._changed(spec.kid, text)

    async def settle_cores(self) -> None:
        """A CPU that several kernels have is less than a core of each: tell those for whom that has changed
        whether they may spin."""
        cores = with_cores(self._roster.holders())
        for kernel in list(self._roster):
            own = cores.get(kernel.spec.name, kernel.spec.cores)
            if own == kernel.spec.cores:
                continue
            flips = (own >= 1) != (kernel.spec.cores >= 1)
            self._roster.respec(kernel, replace(kernel.spec, cores=own))
            if flips and kernel.life.state is KernelState.ONLINE:
                await self._push(kernel, kernel.spec)

    async def _push(self, kernel: Entry, spec: KernelSpec) -> None:
        others = [one for one in self._roster.holders() if one.kid != spec.kid]
        params = {
            "cpus": spec.cpus,
            "memory_bytes": spec.memory_bytes,
            "memory_nodes": spec.memory_nodes,
            "devices": spec.devices,
            "cores": with_cores([*others, spec])[spec.name],
        }
        try:
            async with asyncio.timeout(ANSWER_S):
                stream = await self._open(spec.kid, params)
                while await stream.receive() is not None:
                    pass
        except TimeoutError:
            raise Unavailable(f"kernel {spec.name} did not answer within {ANSWER_S:.0f} s") from None
        except Refused as error:
            raise Refused(f"cannot update kernel {spec.name}: {error}", error.hint) from None


def _change_of(request: Mapping[str, Any]) -> tuple[Change, str | None]:
    known = {"cpus", "memory", "devices", "from"}
    unknown: Sequence[str] = sorted(set(request) - known)
    if unknown:
        raise Refused(f"unknown key {unknown[0]!r}; allowed: {', '.join(sorted(known))}")
    for key, value in request.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise Refused(f"{key}: got {value!r}; allowed: a text, as `popnet update --help` has it")
    change = Change(request.get("cpus"), request.get("memory"), request.get("devices"))
    if change.is_nothing:
        raise Refused("nothing to update", "Say what: --cpus, --memory or --devices.")
    return change, request.get("from")
