"""The lives of kernels: each one's state, its boot, and its end, from the first move to the last trace.

Theory of operation. `popnet.machine.states` knows the legal moves, and what each entails; `handle` is the
only place where a state changes, and where that is done. A boot is a request to the loader; the kernel itself
says when it is online. Of an end three things are told: by the daemon's pidfd that it is dead, at once, so
that nobody waits for it any longer; by the loader how it died (only then is the incarnation over, and the
next can begin); and by us to every kernel which generation is dead.

Kernel 0 is this process: it has a state as the others have, but no incarnation.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final, assert_never

from popnet.core.errors import BootFailed, IllegalState, PopnetError
from popnet.kernel.cgroup import Group
from popnet.kernel.daemon import Daemon
from popnet.kernel.entry import Entry
from popnet.kernel.imageroots import ImageRoots
from popnet.kernel.incarnation import Incarnation
from popnet.kernel.loaderclient import LoaderClient
from popnet.kernel.roster import Roster
from popnet.kernel.secondary import GRACE_S
from popnet.kernel.switchboard import Switchboard
from popnet.machine import states
from popnet.machine.states import KernelState
from popnet.message.kinds import Kind
from popnet.message.registryshell import RegistryShell
from popnet.transport.directory import Directory

BOOT_TIMEOUT_S: Final = 30.0
"""Seconds after which a boot that neither came online nor failed is given up."""

_DOWN_TIMEOUT_S: Final = GRACE_S + 2.0


class Lives:
    """The lives of the kernels of *roster*.

    Args:
        directory: shows every kernel's state to all.
        daemon: of kernel 0, by whose links the others are told.
        registry: forgets what the dead had registered.
        image_roots: has the roots of images ready.
        event: takes (kind, kernel, text, **more).

    Attributes:
        on_change: called with each kernel whose state has changed.
    """

    def __init__(
        self,
        roster: Roster,
        loader: LoaderClient,
        switchboard: Switchboard,
        directory: Directory,
        daemon: Daemon,
        registry: RegistryShell,
        image_roots: ImageRoots,
        event: Callable[..., None],
    ) -> None:
        self._roster = roster
        self._loader = loader
        self._switchboard = switchboard
        self._directory = directory
        self._links, self._endpoint = daemon.links, daemon.endpoint
        self._registry = registry
        self._image_roots = image_roots
        self._remarks: set[str] = set()
        self._event = event
        self._removals: set[asyncio.Task[None]] = set()
        self._boots_wanted = True
        self.on_change: Callable[[Entry], None] = lambda kernel: None

    def handle(self, kernel: Entry, event: states.Event) -> None:
        """Change a kernel's state, and do what that entails. Raises IllegalState."""
        before = kernel.life
        kernel.life, commands = states.handle(before, event, time.monotonic())
        life = kernel.life
        if life.state is not before.state:
            self._directory.set(kernel.spec.kid, list(KernelState).index(life.state) + 1, life.generation)
            self._event("kernel.state", kernel, kernel.state_text(), state=life.state.value)
            self.on_change(kernel)
        if kernel.spec.kid == 0:
            return  # its boot and its end are the machine's
        for command in commands:
            match command:
                case states.Boot():
                    self._fork(kernel)
                case states.Terminate():
                    if kernel.incarnation is not None:
                        kernel.incarnation.stopping = True
                        kernel.incarnation.kill()
                case states.CleanUp(_, reason):
                    if kernel.incarnation is not None:
                        self._tell_down(kernel.incarnation, reason)
                        removal = asyncio.create_task(_remove_group(kernel, kernel.incarnation.group))
                        self._removals.add(removal)
                        removal.add_done_callback(self._removals.discard)
                case _:
                    assert_never(command)

    # Beginnings

    async def boot(self, kernel: Entry) -> None:
        """Boot *kernel*, loading it first if it is not, until it is online. Raises IllegalState, Refused,
        BootFailed."""
        if not self._boots_wanted:
            raise IllegalState(f"cannot boot kernel {kernel.spec.name}: the machine goes down")
        if kernel.life.state is not KernelState.LOADED:
            self._roster.check(kernel)
            self.handle(kernel, states.Load())
        await self._ready(kernel)
        self.handle(kernel, states.Start())
        incarnation = kernel.incarnation
        if incarnation is None:
            raise BootFailed(f"kernel {kernel.spec.name}: {kernel.life.reason}", kernel.hint)
        try:
            await asyncio.wait_for(asyncio.shield(incarnation.online), BOOT_TIMEOUT_S)
        except TimeoutError:
            incarnation.failed(
                f"online: not reached in {BOOT_TIMEOUT_S:.0f} s", "`popnet dmesg` may tell why"
            )
            incarnation.kill()
            await asyncio.shield(incarnation.gone)
            raise BootFailed(f"kernel {kernel.spec.name}: {kernel.life.reason}") from None
        except BootFailed as error:
            await asyncio.shield(incarnation.gone)
            raise BootFailed(f"kernel {kernel.spec.name}: {error}", error.hint) from None

    async def _ready(self, kernel: Entry) -> None:
        """Have the root of *kernel* ready; what is wrong with it is for the boot to tell."""
        kernel.broken = None
        try:
            ready = await self._image_roots.ready(kernel.image)
        except PopnetError as error:
            kernel.broken = error
            return
        kernel.root = ready.path if ready else None
        if ready and ready.remark and ready.remark not in self._remarks:
            self._remarks.add(ready.remark)
            self._event("image.unpacked", kernel, f"kernel {kernel.spec.kid}: {ready.remark}")

    def came_online(self, kernel: Entry, timeline: list[dict[str, Any]]) -> bool:
        """A kernel says that it is online; that counts once, and only while it boots. Whether it did."""
        incarnation = kernel.incarnation
        starting = kernel.life.state is KernelState.STARTING
        if incarnation is None or not starting or incarnation.online.done():
            return False
        kernel.timeline = timeline
        self.handle(kernel, states.Online(incarnation.generation))
        incarnation.came_online(kernel.timeline)
        return True

    def lost_link(self, kernel: Entry, reason: str) -> None:
        """The link to *kernel* was closed for nonsense: if it boots, it can never tell that it is online."""
        incarnation = kernel.incarnation
        if incarnation is not None and kernel.life.state is KernelState.STARTING:
            incarnation.failed(f"its link to the primary was closed: {reason}", "`popnet dmesg` may tell why")
            incarnation.kill()

    def boot_no_more(self) -> None:
        """The machine goes down."""
        self._boots_wanted = False

    def _fork(self, kernel: Entry) -> None:
        generation = kernel.life.generation
        try:
            if kernel.broken is not None:
                raise kernel.broken
            kernel.incarnation = self._loader.fork(kernel, self._switchboard.take, self._daemon_died)
        except (OSError, ValueError, PopnetError) as error:
            kernel.hint = getattr(error, "hint", "")
            self.handle(
                kernel, states.StepFailed(generation, getattr(error, "step", "partition"), str(error))
            )

    # Ends

    async def stop(self, kernel: Entry) -> None:
        """Have a kernel that runs end in good order, or by force if it does not."""
        incarnation = kernel.incarnation
        assert incarnation is not None
        if kernel.life.state is KernelState.ONLINE:
            self._endpoint.post(kernel.spec.kid, Kind.CONTROL, b'{"op": "shutdown"}', high=True)
            incarnation.stopping = True
            await asyncio.wait([incarnation.gone], timeout=_DOWN_TIMEOUT_S)
        if kernel.life.state in (KernelState.STARTING, KernelState.ONLINE):
            self.handle(kernel, states.Stop("killed" if incarnation.stopping else "stopped"))
        await asyncio.shield(incarnation.gone)
        await _remove_group(kernel, incarnation.group)

    def reaped(self, kernel: Entry, incarnation: Incarnation) -> None:
        """*incarnation*, which says why, is over."""
        reason = incarnation.reason
        if incarnation.failure is not None and kernel.life.state is KernelState.STARTING:
            step, _, why = reason.partition(": ")
            self.handle(kernel, states.StepFailed(incarnation.generation, step, why))
        else:
            if incarnation.stopping and kernel.life.state is KernelState.ONLINE:
                self.handle(kernel, states.Stop())
            self.handle(kernel, states.Died(incarnation.generation, reason))
        kernel.incarnation = None
        kernel.hung = False
        incarnation.gone.set_result(reason)

    async def remove_groups(self) -> None:
        """Remove the control group of kernel 0, the last; the others' are being removed already."""
        await _remove_group(self._roster.own, self._roster.own_group)
        await asyncio.gather(*self._removals)

    def _daemon_died(self, incarnation: Incarnation) -> None:
        """The pidfd told: end everybody's waiting now; the loader will say how it died."""
        self._tell_down(incarnation, "killed" if incarnation.stopping else "its daemon ended")

    def _tell_down(self, incarnation: Incarnation, reason: str) -> None:
        """Tell every kernel, this one first, that *incarnation* is dead."""
        kid, generation = incarnation.kernel.kid, incarnation.generation
        self._links.peer_down(kid, generation, f"{incarnation.kernel.name}: {reason}")
        body = json.dumps({"down": kid, "generation": generation, "reason": reason}).encode()
        for peer in list(self._links.linked):
            self._endpoint.post(peer, Kind.NOTIFY, body, high=True)
        self._registry.down(kid, generation, reason)


async def _remove_group(kernel: Entry, group: Group) -> None:
    """Remove a dead kernel's control group, unless its next generation has it already; the last processes
    may take a moment to leave it."""
    for _ in range(400):
        if kernel.incarnation is not None:
            return
        try:
            group.remove()
        except OSError:
            await asyncio.sleep(0.005)
        else:
            return
