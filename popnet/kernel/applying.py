"""`popnet apply`: has the machine that runs become what a file says, as one transaction.

Theory of operation. The steps are decided by `popnet.machine.transition`, which is pure; here each is done,
in order. If one fails, it and those before it are undone, last first, and the error says which step failed,
why, and whether something could not be undone. While steps are done no partition is changed by anybody else
(the lock of `Updates`).

A plan has a token: digests of the file's text, and of what the machine was when it was made. Whoever applies
with a token gets exactly what was shown, or is told whether the file or the machine has changed since."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

from popnet.core.errors import PopnetError, Refused
from popnet.kernel.entry import Entry
from popnet.kernel.impairments import Impairments
from popnet.kernel.lives import Lives
from popnet.kernel.roster import Roster
from popnet.kernel.updates import Updates
from popnet.machine import file as machine_file
from popnet.machine import states, transition
from popnet.machine.host import Host
from popnet.machine.image import Image
from popnet.machine.search import image_search_path
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.states import KernelState
from popnet.machine.transition import Standing, Step
from popnet.net.filter import match_problem


@dataclass(frozen=True, slots=True)
class _Plan:
    wanted: MachineSpec
    images: Mapping[str, Image]
    steps: tuple[Step, ...]
    token: str


class Applying:
    """Plans and applies machine files for the kernels of *roster*.

    Args:
        host: what a file is checked against; None: what the running machine has of it.
        event: takes (kind, text).
    """

    def __init__(
        self,
        roster: Roster,
        lives: Lives,
        updates: Updates,
        impairments: Impairments,
        host: Host | None,
        event: Callable[[str, str], None],
    ) -> None:
        self._roster = roster
        self._lives = lives
        self._updates = updates
        self._impairments = impairments
        self._host = host
        self._event = event

    async def plan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The steps to what the `text` of a `file` says: {"steps": [{"step", "kernel", "text"}], "token"}.
        Raises InvalidMachineFile, Refused."""
        return _shown(await self._plan(request))

    async def apply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do the steps; as `plan`. With a `token`, only if the plan is still that one. Raises
        InvalidMachineFile,
        Refused: then the machine is as it was, or the text says what is not."""
        async with self._updates.lock:
            found = await self._plan(request)
            _check_token(request.get("token"), found.token)
            if found.steps:
                await self._do_all(found)
            else:
                self._adopt(found)
            return _shown(found)

    async def _plan(self, request: Mapping[str, Any]) -> _Plan:
        file, text = request.get("file"), request.get("text")
        if not isinstance(file, str) or not isinstance(text, str):
            raise Refused("a plan needs the `file`, a path, and its `text`")
        machine = self._roster.machine
        kids = {kernel.spec.name: kernel.spec.kid for kernel in self._roster}
        host = self._host or machine.resources

        def read() -> tuple[MachineSpec, dict[str, Image]]:
            search = image_search_path(os.environ, file)
            spec = machine_file.loads(text, host, search, file, match_problem, kids)
            return spec, {one.image: machine_file.load_image(one.image_path) for one in spec.kernels}

        wanted, images = await asyncio.to_thread(read)
        if wanted.name != machine.name and Path(file) == Path(machine.file).absolute():
            wanted = replace(wanted, name=machine.name)  # it was started under another name
        standing = {kernel.spec.name: _standing(kernel) for kernel in self._roster}
        impaired = self._impairments.table()
        steps = transition.plan(machine, standing, impaired, wanted, images)
        now = repr(
            (machine.file, machine.overcommit, sorted(standing.items()), sorted(impaired.items(), key=repr))
        )
        return _Plan(wanted, images, steps, f"{_digest(text)}-{_digest(now)}")

    async def _do_all(self, plan: _Plan) -> None:
        before = self._roster.machine
        self._event("machine.apply", f"machine {before.name}: becomes what {plan.wanted.file} says")
        self._roster.describe(plan.wanted)
        begun: list[Step] = []
        try:
            for step in plan.steps:
                begun.append(step)
                await self._do(step)
        except BaseException as error:
            left = await asyncio.shield(self._undo(begun))
            self._roster.describe(before)
            reason = f"{begun[-1].text}: {error}"
            self._event("machine.apply-failed", f"machine {before.name}: {reason}; undone{left}")
            if not isinstance(error, PopnetError):
                raise
            raise Refused(f"apply failed, and was undone{left}: {reason}", error.hint) from None
        await self._updates.settle_cores()
        self._adopt(plan)
        self._event("machine.applied", f"machine {before.name}: is what {plan.wanted.file} says")

    def _adopt(self, plan: _Plan) -> None:
        """What the file says is what `unload` leads back to, from now on."""
        self._roster.adopt(plan.wanted, plan.images)

    async def _undo(self, begun: list[Step]) -> str:
        """Undo the steps, the last of which has failed somewhere; in words what could not be undone."""
        left = []
        if begun and isinstance(begun[-1], transition.Update | transition.Impair):
            begun = begun[:-1]  # these fail as a whole
        for step in reversed(begun):
            try:
                await self._do(step.undo)
            except PopnetError as error:
                left.append(f"{step.undo.text}: {error}")
        return f", but for: {'; '.join(left)}" if left else ""

    async def _do(self, step: Step) -> None:
        match step:
            case transition.Update(_, new):
                await self._updates.give(self._roster.named(new.name), new)
            case transition.Reboot(old, new, image):
                await self._end(old.spec.name)
                await self._boot(new, image)
            case transition.Boot(new, image):
                await self._boot(new, image)
            case transition.Stop(old):
                await self._end(old.spec.name)
                self._roster.define(old.spec, old.image)
            case transition.Unload(old):
                await self._end(old.spec.name)
                kernel = self._roster.named(old.spec.name)
                if kernel.life.state in (KernelState.LOADED, KernelState.FAILED):
                    self._lives.handle(kernel, states.Unload())
                self._impairments.forget(old.spec.name)
                self._roster.forget(kernel)
            case transition.Keep(old):
                kernel = self._roster.define(old.spec, old.image)
                if old.loaded:
                    self._lives.handle(kernel, states.Load())
            case transition.Impair(way, _, new):
                await self._impairments.set([way], new)
            case _:
                assert_never(step)

    async def _end(self, name: str) -> None:
        """End a kernel in good order, if it runs."""
        kernel = self._roster.named(name)
        if kernel.incarnation is not None:
            await self._lives.stop(kernel)

    async def _boot(self, spec: KernelSpec, image: Image) -> None:
        """Boot a kernel as *spec* says. It was checked with the whole file, so not against the others again:
        they may still have what they are about to give."""
        kernel = self._roster.define(spec, image)
        if kernel.life.state is not KernelState.LOADED:
            self._lives.handle(kernel, states.Load())
        await self._lives.boot(kernel)


def _standing(kernel: Entry) -> Standing:
    state = kernel.life.state
    runs = state in (KernelState.STARTING, KernelState.ONLINE, KernelState.STOPPING)
    return Standing(kernel.spec, kernel.image, runs, runs or state is KernelState.LOADED)


def _shown(plan: _Plan) -> dict[str, Any]:
    rows = []
    for step in plan.steps:
        verb, _, rest = step.text.partition(" ")
        what, _, why = rest.partition(": ")
        rows.append({"step": verb, "what": what, "why": why, "text": step.text})
    return {"steps": rows, "token": plan.token}


def _check_token(given: object, found: str) -> None:
    if given is None or given == found:
        return
    text, _, _ = str(given).partition("-")
    what = "the machine" if text == found.partition("-")[0] else "the file"
    raise Refused(
        f"{what} has changed since the plan was made", "Look at the new plan: `popnet apply --dry-run`."
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
