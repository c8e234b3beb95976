"""The primary: kernel 0, which boots, supervises and takes down the others, and answers for the machine.

Theory of operation. One process, one event loop. It is a kernel like the others (`Daemon`), and beside that:

- *boots* through the loader: a packet with the configuration goes there, the pid comes back, the rest comes
  from the new kernel itself
  (check-in, timeline, online) as messages on the link that it offers first of all;
- *switches* offers of links between kernels, the only thing that needs descriptors;
- *supervises*: a pidfd tells a death at once, the heartbeat in each kernel's window a hang. Every death is
  told to every kernel, with
  its generation, so that nobody waits for it;
- keeps the *registry*: what each kernel serves, who watches, who is in which group;
- *remembers*: state and generation of each kernel, its log, its terminals' histories, its last boot, and the
  machine's events.

State changes go through `popnet.machine.states`, which knows the legal ones; nothing else sets a state.
"""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final, assert_never

from popnet.core import limits
from popnet.core.errors import (
    BootFailed,
    IllegalState,
    LinkViolation,
    NoSuchTerminal,
    PeerDied,
    PopnetError,
    Refused,
)
from popnet.kernel.bootconfig import BootConfig
from popnet.kernel.cgroup import Group, Tree
from popnet.kernel.configure import boot_config
from popnet.kernel.credentials import Credentials
from popnet.kernel.daemon import Daemon, Prepared
from popnet.kernel.entry import Entry
from popnet.kernel.events import Journal
from popnet.kernel.impairments import Impairments
from popnet.kernel.incarnation import Incarnation
from popnet.kernel.owner import Ownership
from popnet.kernel.secondary import GRACE_S
from popnet.kernel.timeline import Timeline, checked_rows
from popnet.kernel.usage import measure
from popnet.machine import names, restart, states
from popnet.machine.faults import Way
from popnet.machine.file import load_image
from popnet.machine.image import Image
from popnet.machine.impairment import Impairment
from popnet.machine.loading import check_load, loaded_spec
from popnet.machine.problems import suggestion
from popnet.machine.search import find_images, image_search_path
from popnet.machine.spec import KernelSpec, MachineSpec
from popnet.machine.states import KernelState
from popnet.machine.wires import read_flap, read_impairment, read_plan, read_ways
from popnet.message import codec
from popnet.message.kinds import Kind
from popnet.message.registryshell import RegistryShell
from popnet.message.stream import Stream
from popnet.net.filter import match_problem
from popnet.transport.directory import Directory
from popnet.transport.handover import create_handover, receive_packet, send_packet
from popnet.tty.hub import Terminal

BOOT_TIMEOUT_S: Final = 30.0
"""Seconds after which a boot that neither came online nor failed is given up."""

COUNTERS_TIMEOUT_S: Final = 1.0
"""Seconds a kernel may take to tell its counters."""

_DOWN_TIMEOUT_S: Final = GRACE_S + 2.0

_TEXT_MAX: Final = 4096
"""Letters kept of a text that a kernel sent for its log or the events: it fills no memory but its own."""

_LEVEL_MAX: Final = 16
"""Letters kept of the level of a line of a log."""


class Primary:
    """A running machine; implements the Service of the control API.

    Args:
        prepared: of kernel 0, in this process.
        loader: the channel to the loader.
        groups: kernel name -> control group of kernel 0 and factory for the rest.
    """

    def __init__(
        self,
        machine: MachineSpec,
        images: dict[str, Image],
        ownership: Ownership,
        credentials: Credentials,
        tree: Tree,
        loader: socket.socket,
        prepared: Prepared,
        config: BootConfig,
        timeline: Timeline,
    ) -> None:
        self.spec = machine
        self._ownership = ownership
        self._credentials = credentials
        self._tree = tree
        self._loader = loader
        self._started_at_s = time.monotonic()
        self._events = Journal(limits.EVENTS_MAX)
        self._directory, self._directory_fd = Directory.create()
        self._kernels = {
            spec.name: Entry(
                spec,
                images[spec.image],
                Journal(limits.LOG_LINES_MAX),
                [Terminal(spec.name) for _ in range(spec.ttys)],
                states.Life(spec.name),
                origin=(spec, images[spec.image]),
            )
            for spec in machine.kernels
        }
        self._by_kid = {kernel.spec.kid: kernel for kernel in self._kernels.values()}
        self._own_group = tree.group(config.kernel.name)
        self._over = asyncio.Event()
        self._taking_down = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._removals: set[asyncio.Task[Any]] = set()
        self._kids = {kernel.name: kernel.kid for kernel in machine.kernels}
        self._impairments = Impairments(
            self._kids,
            lambda name: self._kernels[name].life.state is KernelState.ONLINE,
            lambda kid, params: self._daemon.endpoint.open(kid, "impair", params),
            lambda kind, text, **more: self._event(kind, None, text, **more),
        )
        self._impairments.begin(machine.impairments)
        config = replace(config, impairments=self._impairments.at_boot(config.kernel.name))
        self._daemon = Daemon(config, prepared, timeline, self._send_offer, self._log_own, self._init_exited)
        self._daemon.on_violation = self._violation  # type: ignore[method-assign]
        self._names = {kid: kernel.spec.name for kid, kernel in self._by_kid.items()}
        self._registry = RegistryShell(self._daemon.endpoint, self._names)
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None

    # Life of the machine

    async def start(self) -> None:
        """Bring kernel 0 online, then boot all others at once. Raises BootFailed with the first that failed;
        the rest may be up."""
        endpoint = self._daemon.endpoint
        endpoint.on(Kind.CHECK_IN, self._check_in)
        endpoint.on(Kind.EVENT, self._kernel_event)
        endpoint.on(Kind.LOG, self._kernel_log)
        endpoint.serve("tty", self._serve_tty)
        endpoint.start()
        loop = asyncio.get_running_loop()
        self._loader.setblocking(False)
        loop.add_reader(self._loader, self._loader_packet)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: self._spawn(self.down()))
        self._daemon.beat()
        self._spawn(self._supervise())
        own = self._by_kid[0]
        self._handle(own, states.Load())
        self._handle(own, states.Start())
        await self._daemon.start()
        own.timeline = self._daemon.timeline.rows()
        self._handle(own, states.Online(own.life.generation))
        others = [kernel for kernel in self._kernels.values() if kernel is not own]
        results = await asyncio.gather(*map(self._boot, others), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._event("machine.up", None, f"machine {self.spec.name}: up")
        if self.spec.faults:
            self._impairments.run(self.spec.faults, "the machine's plan")

    async def wait(self) -> None:
        """Wait until the machine is down."""
        await self._over.wait()

    async def down(self) -> None:
        """Take all kernels down, kernel 0 last, and end the machine. Idempotent."""
        if self._taking_down:
            await self._over.wait()
            return
        self._taking_down = True
        self._event("machine.down", None, f"machine {self.spec.name}: going down")
        self._impairments.stop()
        running = [kernel for kernel in self._kernels.values() if kernel.incarnation is not None]
        await asyncio.gather(*map(self._stop, running))
        for kernel in self._kernels.values():
            for terminal in kernel.terminals:
                terminal.close()
            kernel.log.close()
        own = self._by_kid[0]
        if own.life.state is KernelState.ONLINE:
            self._handle(own, states.Stop())
        await self._daemon.stop(GRACE_S)
        await self._remove_group(own, self._own_group)
        await asyncio.gather(*self._removals)
        self._tree.remove()
        self._events.close()
        self._over.set()

    async def _stop(self, kernel: Entry) -> None:
        """Have a kernel end in good order, or by force if it does not."""
        incarnation = kernel.incarnation
        assert incarnation is not None
        if kernel.life.state is KernelState.ONLINE:
            self._daemon.endpoint.post(kernel.spec.kid, Kind.CONTROL, b'{"op": "shutdown"}', high=True)
            incarnation.stopping = True
            await asyncio.wait([incarnation.gone], timeout=_DOWN_TIMEOUT_S)
        if kernel.life.state in (KernelState.STARTING, KernelState.ONLINE):
            self._handle(kernel, states.Stop("killed" if incarnation.stopping else "stopped"))
        await asyncio.shield(incarnation.gone)
        await self._remove_group(kernel, incarnation.group)

    # Boot and kill

    async def boot(self, name: str) -> dict[str, Any]:
        kernel = self._kernel(name)
        await self._boot(kernel)
        return {**kernel.row(self.spec, self._own_group), "timeline": kernel.timeline}

    def load(self, name: str, image: str | None = None, append: str | None = None) -> dict[str, Any]:
        """Give a kernel its partition. With *image* or *append* it is what these say until it is
        unloaded, and may be new. The kernel's row. Raises IllegalState, Refused, NoSuchKernel."""
        known = self._kernels.get(name)
        if known is None and image is None and append is None:
            self.spec.by_name(name)  # raises, and says what there is
        if known is not None:
            states.handle(known.life, states.Load(), 0.0)  # whether it may be loaded at all comes first
        if image is None and append is None:
            assert known is not None
            kernel = known
            check_load(self.spec, kernel.spec, self._holders())
        else:
            kernel = self._redefine(name, known, image, append)
        self._handle(kernel, states.Load())
        return kernel.row(self.spec, self._own_group)

    def unload(self, name: str) -> dict[str, Any]:
        """Take a kernel's partition back; it is again what the machine file says, or not there. Its row.
        Raises IllegalState."""
        kernel = self._kernel(name)
        self._handle(kernel, states.Unload())
        row = kernel.row(self.spec, self._own_group)
        if kernel.origin is not None:
            kernel.spec, kernel.image = kernel.origin
            self._place(kernel)
            return row
        for terminal in kernel.terminals:
            terminal.close()
        kernel.log.close()
        self._impairments.forget(name)
        del self._kernels[name], self._kids[name]
        del self._by_kid[kernel.spec.kid], self._names[kernel.spec.kid]
        self.spec = replace(self.spec, kernels=tuple(k for k in self.spec.kernels if k.name != name))
        return row

    def _redefine(self, name: str, known: Entry | None, image: str | None, append: str | None) -> Entry:
        """The kernel *name* with another image or command line; a new one if it is not *known*."""
        try:
            names.kernel_name(name)
        except ValueError as error:
            raise Refused(f"not a kernel's name: {error}") from None
        chosen = self._image(image) if image is not None else known.image if known else self._image("full")
        words = known.spec.append if append is None and known is not None else append or ""
        spec = loaded_spec(self.spec, name, chosen, words, self._holders())
        if known is None:
            log = Journal(limits.LOG_LINES_MAX)
            known = Entry(spec, chosen, log, [], states.Life(name))
            self._kernels[name] = self._by_kid[spec.kid] = known
            self._names[spec.kid], self._kids[name] = name, spec.kid
        known.spec, known.image = spec, chosen
        self._place(known)
        return known

    def _place(self, kernel: Entry) -> None:
        """Have the machine's description and the kernel's terminals agree with its spec."""
        spec = kernel.spec
        others = (other for other in self.spec.kernels if other.kid != spec.kid)
        kernels = tuple(sorted([*others, spec], key=lambda one: one.kid))
        self.spec = replace(self.spec, kernels=kernels)
        while len(kernel.terminals) < spec.ttys:
            kernel.terminals.append(Terminal(spec.name))
        for terminal in kernel.terminals[spec.ttys :]:
            terminal.close()
        del kernel.terminals[spec.ttys :]
        self._credentials = self._credentials.having(self.spec, spec.name)

    def _image(self, name: str) -> Image:
        """The image of that name, as the machine file would find it; or the one in the directory *name*."""
        if os.sep in name:
            return load_image(name.rstrip(os.sep))
        found = find_images(image_search_path(os.environ, self.spec.file))
        if name not in found:
            raise Refused(f"no image {name!r}{suggestion(name, found)}", "Or give the path of its directory.")
        return load_image(found[name])

    def _holders(self) -> list[KernelSpec]:
        """Those that have a partition now."""
        without = (KernelState.OFFLINE, KernelState.FAILED)
        return [kernel.spec for kernel in self._kernels.values() if kernel.life.state not in without]

    async def reboot(self, name: str) -> dict[str, Any]:
        """End a kernel in good order, and boot its next generation; as `boot`. Raises IllegalState."""
        kernel = self._secondary(name, "rebooted")
        if kernel.life.state is not KernelState.ONLINE:
            hint = f"`popnet -m {self.spec.name} boot {name}` boots it"
            raise IllegalState(f"cannot reboot kernel {name}: it is {kernel.life.state.value}", hint)
        await self._stop(kernel)
        return await self.boot(name)

    async def panic(self, name: str) -> dict[str, Any]:
        """Have a kernel panic, and wait until it has. Its row. Raises IllegalState."""
        kernel = self._order(name, "panic")
        if kernel.incarnation is not None:
            await asyncio.shield(kernel.incarnation.gone)
        return kernel.row(self.spec, self._own_group)

    def hang(self, name: str) -> dict[str, Any]:
        """Have a kernel's daemon do nothing any more. Its row. Raises IllegalState."""
        return self._order(name, "hang").row(self.spec, self._own_group)

    def _order(self, name: str, op: str) -> Entry:
        kernel = self._secondary(name, f"made to {op}")
        if kernel.life.state is not KernelState.ONLINE:
            hint = f"`popnet -m {self.spec.name} boot {name}` boots it"
            raise IllegalState(f"cannot make kernel {name} {op}: it is {kernel.life.state.value}", hint)
        body = json.dumps({"op": op}).encode()
        self._daemon.endpoint.post(kernel.spec.kid, Kind.CONTROL, body, high=True)
        return kernel

    def _secondary(self, name: str, done: str) -> Entry:
        kernel = self._kernel(name)
        if kernel.spec.kid == 0:
            raise IllegalState(f"the primary cannot be {done}", "`popnet down` takes the machine down")
        return kernel

    async def kill(self, name: str) -> dict[str, Any]:
        kernel = self._secondary(name, "killed by itself")
        incarnation = kernel.incarnation
        self._handle(kernel, states.Stop("killed"))
        assert incarnation is not None
        await asyncio.shield(incarnation.gone)
        return kernel.row(self.spec, self._own_group)

    async def _boot(self, kernel: Entry) -> None:
        if self._taking_down:
            raise IllegalState(f"cannot boot kernel {kernel.spec.name}: the machine goes down")
        if kernel.life.state is not KernelState.LOADED:
            states.handle(kernel.life, states.Load(), 0.0)  # whether it may be loaded at all comes first
            check_load(self.spec, kernel.spec, self._holders())
            self._handle(kernel, states.Load())
        self._handle(kernel, states.Start())
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

    def _load(self, kernel: Entry) -> None:
        """Have the loader fork the kernel's daemon; the rest of the boot is the daemon's."""
        started_at_s = time.monotonic()
        ours, theirs = create_handover()
        generation = kernel.life.generation
        try:
            config = boot_config(
                self.spec, kernel.spec, kernel.image, generation, self._credentials, self._ownership.directory
            )
            config = replace(config, impairments=self._impairments.at_boot(kernel.spec.name))
            group = self._tree.group(kernel.spec.name)
            packet = {
                "op": "boot",
                "config": {**config.to_json(), "started_at_s": started_at_s},
                "group": {name: str(path) for name, path in group.directories.items()},
            }
            send_packet(self._loader, packet, (theirs.fileno(), self._directory_fd))
        except (OSError, ValueError, PopnetError) as error:
            ours.close()
            kernel.hint = getattr(error, "hint", "")
            self._handle(kernel, states.StepFailed(generation, "partition", str(error)))
        else:
            kernel.incarnation = Incarnation(
                kernel.spec, generation, ours, group, self._handover_packet, self._daemon_died
            )
        finally:
            theirs.close()

    def _loader_packet(self) -> None:
        try:
            packet = receive_packet(self._loader)
        except BlockingIOError:
            return
        if packet is None:
            self._loader_died()
            return
        message, fds = packet
        kernel = self._by_kid[message["kid"]]
        incarnation = kernel.incarnation
        if incarnation is None or incarnation.generation != message["generation"]:
            raise AssertionError(f"the loader told of an unknown daemon: {message!r}")
        if message["op"] == "forked":
            self._ownership.add_process(message["pid"])
            incarnation.forked(message["pid"], fds[0])
        else:
            self._reaped(kernel, incarnation, message["code"])

    def _loader_died(self) -> None:
        """Every daemon dies with it by parent-death signal, and nobody is left to reap them and tell how."""
        asyncio.get_running_loop().remove_reader(self._loader)
        if not self._taking_down:
            self._event("machine.failed", None, "the loader died; the machine goes down")
            self._spawn(self.down())
        for kernel in self._kernels.values():
            if kernel.incarnation is not None:
                kernel.incarnation.kill()
                self._reaped(kernel, kernel.incarnation, -signal.SIGKILL)

    def _daemon_died(self, incarnation: Incarnation) -> None:
        """The pidfd told: end everybody's waiting now; the loader will say how it died."""
        self._tell_down(incarnation, "killed" if incarnation.stopping else "its daemon ended")

    def _reaped(self, kernel: Entry, incarnation: Incarnation, code: int) -> None:
        incarnation.exited(code)
        reason = incarnation.reason
        self._ownership.drop_process(incarnation.pid)
        if incarnation.failure is not None and kernel.life.state is KernelState.STARTING:
            step, _, why = reason.partition(": ")
            self._handle(kernel, states.StepFailed(incarnation.generation, step, why))
        else:
            if incarnation.stopping and kernel.life.state is KernelState.ONLINE:
                self._handle(kernel, states.Stop())
            self._handle(kernel, states.Died(incarnation.generation, reason))
        kernel.incarnation = None
        kernel.hung = False
        incarnation.gone.set_result(reason)

    def _tell_down(self, incarnation: Incarnation, reason: str) -> None:
        """Tell every kernel, this one first, that *incarnation* is dead."""
        kid, generation = incarnation.kernel.kid, incarnation.generation
        self._daemon.links.peer_down(kid, generation, f"{incarnation.kernel.name}: {reason}")
        body = json.dumps({"down": kid, "generation": generation, "reason": reason}).encode()
        for peer in list(self._daemon.links.linked):
            self._daemon.endpoint.post(peer, Kind.NOTIFY, body, high=True)
        self._registry.down(kid, generation, reason)

    @staticmethod
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

    # Switchboard

    def _send_offer(self, peer: int, packet: dict[str, Any], fds: Sequence[int]) -> None:
        """Kernel 0's own offers go straight to the peer."""
        kernel = self._by_kid.get(peer)
        if kernel is None or kernel.incarnation is None or not kernel.incarnation.send(packet, fds):
            asyncio.get_running_loop().call_soon(self._daemon.links.refused, peer, self._why_not(peer))

    def _handover_packet(self, sender: Incarnation, packet: dict[str, Any], fds: list[int]) -> None:
        match packet:
            case {"op": "offer", "to": 0}:
                self._daemon.links.receive_offer(sender.kernel.kid, sender.generation, fds)
            case {"op": "offer", "to": int(peer)}:
                self._switch(sender, peer, fds)
            case {"op": "failed", "reason": str(reason), "hint": str(hint)} if not fds:
                sender.failed(reason[:_TEXT_MAX], hint[:_TEXT_MAX])
            case unknown:
                for fd in fds:
                    os.close(fd)
                raise PeerDied(f"handed over what nobody asked for: {str(unknown)[:80]}")

    def _switch(self, sender: Incarnation, peer: int, fds: list[int]) -> None:
        """Pass an offer on, in the sender's true name; or say that its peer does not run."""
        kernel = self._by_kid.get(peer)
        packet = {"op": "offer", "from": sender.kernel.kid, "to": peer, "generation": sender.generation}
        if kernel is None or kernel.incarnation is None or not kernel.incarnation.send(packet, fds):
            sender.send({"op": "refused", "to": peer, "reason": self._why_not(peer)})
        for fd in fds:
            os.close(fd)

    def _why_not(self, kid: int) -> str:
        kernel = self._by_kid.get(kid)
        if kernel is None:
            return f"there is no kernel {kid}"
        answers = kernel.incarnation is not None and kernel.life.state is KernelState.ONLINE
        return f"kernel {kernel.spec.name} does not {'take offers of links' if answers else 'run'}"

    # Messages from kernels

    def _check_in(self, kid: int, body: bytes) -> None:
        self._event("kernel.check-in", self._by_kid[kid], f"kernel {kid}: checked in")

    def _kernel_event(self, kid: int, body: bytes) -> None:
        kernel = self._by_kid[kid]
        match codec.json_object(body):
            case {"online": True, "timeline": list(timeline)}:
                incarnation = kernel.incarnation
                starting = kernel.life.state is KernelState.STARTING
                if incarnation is not None and starting and not incarnation.online.done():
                    kernel.timeline = checked_rows(timeline)
                    self._handle(kernel, states.Online(incarnation.generation))
                    incarnation.online.set_result(kernel.timeline)
                    self._spawn(self._impairments.online(kernel.spec.name))
            case {"violation": str(reason), "peer": int(peer)}:
                text = f"kernel {kid}: link to kernel {peer} closed: {reason[:_TEXT_MAX]}"
                self._event("link.closed", kernel, text)
            case unknown:
                raise LinkViolation(f"kernel {kid} told an event that is none: {str(unknown)[:80]}")

    def _kernel_log(self, kid: int, body: bytes) -> None:
        match codec.json_object(body):
            case {"time_s": int() | float() as time_s, "level": str(level), "text": str(text)}:
                kernel = self._by_kid[kid]
                line = {"time_s": time_s, "level": level[:_LEVEL_MAX], "text": text[:_TEXT_MAX]}
                kernel.log.append({"generation": kernel.life.generation, **line})
            case unknown:
                raise LinkViolation(f"kernel {kid} logged what is no line: {str(unknown)[:80]}")

    async def _serve_tty(self, stream: Stream) -> None:
        kernel, n = self._by_kid[stream.peer], stream.params.get("n")
        if not isinstance(n, int) or not 0 <= n < len(kernel.terminals):
            raise NoSuchTerminal(f"kernel {kernel.spec.name} has no terminal {n!r}")
        await kernel.terminals[n].run(stream, stream.params.get("generation"))

    # Supervision

    async def _supervise(self) -> None:
        """Look at every heartbeat; after HEARTBEAT_LOOKS_MAX looks without a new one a kernel counts as
        hung."""
        while True:
            await asyncio.sleep(limits.HEARTBEAT_LOOK_S)
            for kernel in self._kernels.values():
                if kernel.incarnation is not None and kernel.life.state is KernelState.ONLINE:
                    self._look_at(kernel, kernel.incarnation)

    def _look_at(self, kernel: Entry, incarnation: Incarnation) -> None:
        beats = self._daemon.links.heartbeat(kernel.spec.kid)
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
            self._event(
                "kernel.hung", kernel, f"kernel {kernel.spec.kid}: hung (no heartbeat for {silent_s:g} s)"
            )
            if kernel.spec.restart != "never":
                incarnation.failed(f"hung (no heartbeat for {silent_s:g} s)", "")
                incarnation.kill()

    def _init_exited(self, reason: str) -> None:
        """Kernel 0's init ended: the machine cannot go on without it."""
        if not self._taking_down:
            self._event("kernel.failed", self._by_kid[0], f"kernel 0: {reason}; the machine goes down")
            self._spawn(self.down())

    def _violation(self, kid: int, reason: str) -> None:
        self._event("link.closed", self._by_kid[0], f"kernel 0: link to kernel {kid} closed: {reason}")

    # Bookkeeping

    def _handle(self, kernel: Entry, event: states.Event) -> None:
        """The only place where a kernel's state changes, and where what a change entails is done. Raises
        IllegalState."""
        before = kernel.life
        kernel.life, commands = states.handle(before, event, time.monotonic())
        life = kernel.life
        if life.state is not before.state:
            self._directory.set(kernel.spec.kid, list(KernelState).index(life.state) + 1, life.generation)
            self._event("kernel.state", kernel, kernel.state_text(), state=life.state.value)
            self._consider_restart(kernel)
        if kernel.spec.kid == 0:
            return  # kernel 0 is this process: its boot and its end are `start` and `down`
        for command in commands:
            match command:
                case states.Boot():
                    self._load(kernel)
                case states.Terminate():
                    if kernel.incarnation is not None:
                        kernel.incarnation.stopping = True
                        kernel.incarnation.kill()
                case states.CleanUp(_, reason):
                    if kernel.incarnation is not None:
                        self._tell_down(kernel.incarnation, reason)
                        removal = self._spawn(self._remove_group(kernel, kernel.incarnation.group))
                        self._removals.add(removal)
                        removal.add_done_callback(self._removals.discard)
                case _:
                    assert_never(command)

    def _consider_restart(self, kernel: Entry) -> None:
        """Its state has changed: boot it again, in a while, if its policy says so."""
        state, now_s = kernel.life.state, time.monotonic()
        if state is KernelState.ONLINE:
            kernel.restarts = restart.online(kernel.restarts, now_s)
        elif state is KernelState.OFFLINE:
            kernel.restarts = restart.Record()
        elif state is KernelState.FAILED and kernel.spec.kid != 0 and not self._taking_down:
            policy, reason = kernel.spec.restart, kernel.life.reason
            kernel.restarts, decision = restart.failed(kernel.restarts, policy, reason, now_s)
            match decision:
                case restart.RestartIn(pause_s, text):
                    self._event("kernel.restart", kernel, f"kernel {kernel.spec.kid}: {text}")
                    self._spawn(self._restart(kernel, kernel.life.generation, pause_s))
                case restart.GiveUp(text):
                    self._event("kernel.given-up", kernel, f"kernel {kernel.spec.kid}: {text}")
                case None:
                    return

    async def _restart(self, kernel: Entry, generation: int, pause_s: float) -> None:
        """Boot *kernel* after a pause, unless somebody else has done something with it meanwhile. A boot that
        fails is considered like any other failure."""
        await asyncio.sleep(pause_s)
        same = kernel.life.state is KernelState.FAILED and kernel.life.generation == generation
        if same and not self._taking_down:
            try:
                await self._boot(kernel)
            except PopnetError as error:
                self._event("kernel.failed", kernel, f"kernel {kernel.spec.kid}: not restarted: {error}")

    def _event(self, kind: str, kernel: Entry | None, text: str, **more: Any) -> None:
        entry: dict[str, Any] = {"time_s": round(time.time(), 6), "kind": kind}
        if kernel is not None:
            entry |= {
                "kernel": kernel.spec.name,
                "kid": kernel.spec.kid,
                "generation": kernel.life.generation,
            }
        self.on_event(self._events.append({**entry, **more, "text": text}))

    def _log_own(self, level: str, text: str) -> None:
        time_s = time.monotonic() - self._started_at_s
        self._by_kid[0].log.append({"generation": 1, "time_s": time_s, "level": level, "text": text})

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _kernel(self, name: str) -> Entry:
        return self._kernels[self.spec.by_name(name).name]

    # The rest of the Service

    def machine(self) -> dict[str, Any]:
        return {
            "name": self.spec.name,
            "file": self.spec.file,
            "state": "stopping" if self._taking_down else "up",
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started_at_s, 3),
            "subnet": str(self.spec.subnet),
            "subnet6": str(self.spec.subnet6),
            "run_dir": str(self._ownership.directory.parent),
            "cgroup_controllers": list(self._tree.controllers),
        }

    def kernels(self) -> list[dict[str, Any]]:
        return [kernel.row(self.spec, self._own_group) for kernel in self._by_kid.values()]

    def timeline(self, name: str) -> list[dict[str, Any]]:
        return self._kernel(name).timeline

    def events(self, since: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        return self._events.read(since, follow)

    def log(self, name: str, follow: bool, previous: bool = False) -> AsyncIterator[dict[str, Any]]:
        kernel = self._kernel(name)
        if not previous:
            return kernel.log.read(0, follow)
        running = kernel.life.state in (KernelState.STARTING, KernelState.ONLINE, KernelState.STOPPING)
        return _of_generation(kernel.log, kernel.life.generation - running)

    async def open(self, name: str, service: str, params: dict[str, Any]) -> Stream:
        kernel = self._kernel(name)
        if kernel.life.state is not KernelState.ONLINE:
            hint = f"`popnet -m {self.spec.name} boot {name}` boots it"
            raise IllegalState(f"kernel {name} is {kernel.life.state.value}", hint)
        return await self._daemon.endpoint.open(kernel.spec.kid, service, params)

    def terminal(self, name: str, n: int) -> Terminal:
        kernel = self._kernel(name)
        if not 0 <= n < len(kernel.terminals):
            last = len(kernel.terminals) - 1
            raise NoSuchTerminal(f"kernel {name} has no tty{n}", f"it has tty0 to tty{last}")
        return kernel.terminals[n]

    def ssh_config(self) -> str:
        return self._credentials.ssh_config

    async def links(self) -> list[dict[str, Any]]:
        return await self._impairments.rows()

    async def link(self, op: str, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Impair, clear, cut, mend or flap; the rows of these that are not perfect then. Raises Refused."""
        where = read_ways(
            request.get("kernel"), request.get("peer"), request.get("direction"), list(self._kernels)
        )
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
        if plan is None and not self.spec.faults:
            raise Refused(f"{self.spec.file} has no plan of faults", "write one under 'faults:', or give one")
        own = plan is None
        faults = self.spec.faults if own else read_plan(plan, list(self._kernels), match_problem)
        self._impairments.run(faults, "the machine's plan" if own else "plan")
        return self._impairments.plan()

    def stop_faults(self) -> dict[str, Any]:
        self._impairments.stop()
        return self._impairments.plan()

    def services(self) -> list[dict[str, Any]]:
        """What is registered, by kernel and name."""
        return [
            {
                "service": notice.name,
                "kernel": self._by_kid[notice.kid].spec.name,
                "kid": notice.kid,
                "generation": notice.generation,
                "version": notice.version,
                "port": notice.port,
            }
            for notice in self._registry.services()
        ]

    async def counters(self) -> dict[str, Any]:
        """Of every kernel that is online; one that does not answer has an `error` instead."""
        online = [k for k in self._kernels.values() if k.life.state is KernelState.ONLINE]
        answers = await asyncio.gather(*map(self._counters_of, online))
        pids = {k.spec.name: k.incarnation.pid if k.incarnation else os.getpid() for k in online}
        used = await asyncio.to_thread(measure, pids)
        for kernel, answer in zip(online, answers, strict=True):
            if kernel.spec.name in used:
                cpu_s, resident = used[kernel.spec.name]
                group = kernel.incarnation.group if kernel.incarnation else self._own_group
                memory = group.memory_used()
                answer["usage"] = {"cpu_s": cpu_s, "memory_bytes": resident if memory is None else memory}
        return {"kernels": dict(zip((k.spec.name for k in online), answers, strict=True))}

    async def _counters_of(self, kernel: Entry) -> dict[str, Any]:
        try:
            answer = await self._daemon.endpoint.call(kernel.spec.kid, Kind.COUNTERS, b"", COUNTERS_TIMEOUT_S)
        except PopnetError as error:
            return {"error": str(error)}
        try:
            counters = json.loads(answer)
        except (ValueError, RecursionError):
            counters = None
        if not isinstance(counters, dict):
            return {"error": f"kernel {kernel.spec.name} answered with what are no counters"}
        counters["ttys"] = {f"tty{n}": tty.counters() for n, tty in enumerate(kernel.terminals)}
        return counters


async def _of_generation(log: Journal, generation: int) -> AsyncIterator[dict[str, Any]]:
    async for line in log.read():
        if line.get("generation") == generation:
            yield line
