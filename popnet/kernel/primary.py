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
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, assert_never

from popnet.core import limits
from popnet.core.errors import (
    BootFailed,
    IllegalState,
    PopnetError,
)
from popnet.kernel.answers import Answers
from popnet.kernel.bootconfig import BootConfig
from popnet.kernel.cgroup import Group, Tree
from popnet.kernel.configure import boot_config
from popnet.kernel.credentials import Credentials
from popnet.kernel.daemon import Daemon, Prepared
from popnet.kernel.entry import Entry
from popnet.kernel.events import Journal
from popnet.kernel.impairments import Impairments
from popnet.kernel.incarnation import Incarnation
from popnet.kernel.linkcalls import LinkCalls
from popnet.kernel.owner import Ownership
from popnet.kernel.reports import Reports
from popnet.kernel.roster import Roster
from popnet.kernel.secondary import GRACE_S
from popnet.kernel.supervision import Supervision
from popnet.kernel.switchboard import Switchboard
from popnet.kernel.timeline import Timeline, checked_rows
from popnet.machine import states
from popnet.machine.image import Image
from popnet.machine.spec import MachineSpec
from popnet.machine.states import KernelState
from popnet.message.kinds import Kind
from popnet.message.registryshell import RegistryShell
from popnet.transport.directory import Directory
from popnet.transport.handover import create_handover, receive_packet, send_packet

BOOT_TIMEOUT_S: Final = 30.0
"""Seconds after which a boot that neither came online nor failed is given up."""

_DOWN_TIMEOUT_S: Final = GRACE_S + 2.0


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
        self._ownership = ownership
        self._tree = tree
        self._loader = loader
        self._started_at_s = time.monotonic()
        self._events = Journal(limits.EVENTS_MAX)
        self._directory, self._directory_fd = Directory.create()
        self._over = asyncio.Event()
        self._taking_down = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._removals: set[asyncio.Task[Any]] = set()
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self._roster = Roster(machine, images, credentials, tree.group(config.kernel.name))
        self._impairments = Impairments(
            self._roster.kids,
            self._roster.online,
            lambda kid, params: self._daemon.endpoint.open(kid, "impair", params),
            lambda kind, text, **more: self._event(kind, None, text, **more),
        )
        self._impairments.begin(machine.impairments)
        self._switchboard = Switchboard(self._roster)
        config = replace(config, impairments=self._impairments.at_boot(config.kernel.name))
        self._daemon = Daemon(
            config, prepared, timeline, self._switchboard.offer, self._log_own, self._init_exited
        )
        self._daemon.on_violation = self._violation  # type: ignore[method-assign]
        links, endpoint = self._daemon.links, self._daemon.endpoint
        self._switchboard.own = links
        self._registry = RegistryShell(endpoint, self._roster.names)
        self._reports = Reports(self._roster, self._event, self._came_online)
        self._supervision = Supervision(
            self._roster, self._directory, links.heartbeat, self._boot, self._event
        )
        # The rest of the Service is that of two parts.
        answers = Answers(self._roster, endpoint, self._registry)
        self.kernels, self.timeline, self.log = answers.kernels, answers.timeline, answers.log
        self.open, self.terminal, self.ssh_config = answers.open, answers.terminal, answers.ssh_config
        self.services, self.counters = answers.services, answers.counters
        calls = LinkCalls(self._roster, self._impairments)
        self.links, self.link = calls.links, calls.link
        self.faults, self.run_faults, self.stop_faults = calls.faults, calls.run_faults, calls.stop_faults

    # Life of the machine

    async def start(self) -> None:
        """Bring kernel 0 online, then boot all others at once. Raises BootFailed with the first that failed;
        the rest may be up."""
        endpoint = self._daemon.endpoint
        self._reports.start(endpoint)
        endpoint.start()
        loop = asyncio.get_running_loop()
        self._loader.setblocking(False)
        loop.add_reader(self._loader, self._loader_packet)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: self._spawn(self.down()))
        self._daemon.beat()
        self._spawn(self._supervision.run())
        own = self._roster.own
        self._handle(own, states.Load())
        self._handle(own, states.Start())
        await self._daemon.start()
        own.timeline = self._daemon.timeline.rows()
        self._handle(own, states.Online(own.life.generation))
        others = [kernel for kernel in self._roster if kernel is not own]
        results = await asyncio.gather(*map(self._boot, others), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        machine = self._roster.machine
        self._event("machine.up", None, f"machine {machine.name}: up")
        if machine.faults:
            self._impairments.run(machine.faults, "the machine's plan")

    async def wait(self) -> None:
        """Wait until the machine is down."""
        await self._over.wait()

    async def down(self) -> None:
        """Take all kernels down, kernel 0 last, and end the machine. Idempotent."""
        if self._taking_down:
            await self._over.wait()
            return
        self._taking_down = True
        self._supervision.restart_no_more()
        self._event("machine.down", None, f"machine {self._roster.machine.name}: going down")
        self._impairments.stop()
        running = [kernel for kernel in self._roster if kernel.incarnation is not None]
        await asyncio.gather(*map(self._stop, running))
        for kernel in self._roster:
            for terminal in kernel.terminals:
                terminal.close()
            kernel.log.close()
        own = self._roster.own
        if own.life.state is KernelState.ONLINE:
            self._handle(own, states.Stop())
        await self._daemon.stop(GRACE_S)
        await self._remove_group(own, self._roster.own_group)
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

    def machine(self) -> dict[str, Any]:
        machine = self._roster.machine
        return {
            "name": machine.name,
            "file": machine.file,
            "state": "stopping" if self._taking_down else "up",
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started_at_s, 3),
            "subnet": str(machine.subnet),
            "subnet6": str(machine.subnet6),
            "run_dir": str(self._ownership.directory.parent),
            "cgroup_controllers": list(self._tree.controllers),
        }

    def events(self, since: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        return self._events.read(since, follow)

    # Boot and kill

    async def boot(self, name: str) -> dict[str, Any]:
        kernel = self._roster.named(name)
        await self._boot(kernel)
        return {**self._roster.row(kernel), "timeline": kernel.timeline}

    def load(self, name: str, image: str | None = None, append: str | None = None) -> dict[str, Any]:
        """Give a kernel its partition. With *image* or *append* it is what these say until it is
        unloaded, and may be new. The kernel's row. Raises IllegalState, Refused, NoSuchKernel."""
        kernel = self._roster.to_load(name, image, append)
        self._handle(kernel, states.Load())
        return self._roster.row(kernel)

    def unload(self, name: str) -> dict[str, Any]:
        """Take a kernel's partition back; it is again what the machine file says, or not there. Its row.
        Raises IllegalState."""
        kernel = self._roster.named(name)
        self._handle(kernel, states.Unload())
        row = self._roster.row(kernel)
        if kernel.origin is None:
            self._impairments.forget(name)
        self._roster.restore(kernel)
        return row

    async def reboot(self, name: str) -> dict[str, Any]:
        """End a kernel in good order, and boot its next generation; as `boot`. Raises IllegalState."""
        kernel = self._secondary(name, "rebooted")
        if kernel.life.state is not KernelState.ONLINE:
            hint = f"`popnet -m {self._roster.machine.name} boot {name}` boots it"
            raise IllegalState(f"cannot reboot kernel {name}: it is {kernel.life.state.value}", hint)
        await self._stop(kernel)
        return await self.boot(name)

    async def panic(self, name: str) -> dict[str, Any]:
        """Have a kernel panic, and wait until it has. Its row. Raises IllegalState."""
        kernel = self._order(name, "panic")
        if kernel.incarnation is not None:
            await asyncio.shield(kernel.incarnation.gone)
        return self._roster.row(kernel)

    def hang(self, name: str) -> dict[str, Any]:
        """Have a kernel's daemon do nothing any more. Its row. Raises IllegalState."""
        return self._roster.row(self._order(name, "hang"))

    def _order(self, name: str, op: str) -> Entry:
        kernel = self._secondary(name, f"made to {op}")
        if kernel.life.state is not KernelState.ONLINE:
            hint = f"`popnet -m {self._roster.machine.name} boot {name}` boots it"
            raise IllegalState(f"cannot make kernel {name} {op}: it is {kernel.life.state.value}", hint)
        body = json.dumps({"op": op}).encode()
        self._daemon.endpoint.post(kernel.spec.kid, Kind.CONTROL, body, high=True)
        return kernel

    def _secondary(self, name: str, done: str) -> Entry:
        kernel = self._roster.named(name)
        if kernel.spec.kid == 0:
            raise IllegalState(f"the primary cannot be {done}", "`popnet down` takes the machine down")
        return kernel

    async def kill(self, name: str) -> dict[str, Any]:
        kernel = self._secondary(name, "killed by itself")
        incarnation = kernel.incarnation
        self._handle(kernel, states.Stop("killed"))
        assert incarnation is not None
        await asyncio.shield(incarnation.gone)
        return self._roster.row(kernel)

    async def _boot(self, kernel: Entry) -> None:
        if self._taking_down:
            raise IllegalState(f"cannot boot kernel {kernel.spec.name}: the machine goes down")
        if kernel.life.state is not KernelState.LOADED:
            self._roster.check(kernel)
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
                self._roster.machine,
                kernel.spec,
                kernel.image,
                generation,
                self._roster.credentials,
                self._ownership.directory,
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
                kernel.spec, generation, ours, group, self._switchboard.take, self._daemon_died
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
        kernel = self._roster.by_kid[message["kid"]]
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
        for kernel in self._roster:
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

    # Bookkeeping

    def _came_online(self, kernel: Entry, timeline: list[dict[str, Any]]) -> None:
        """A kernel says that it is online; that counts once, and only while it boots."""
        incarnation = kernel.incarnation
        starting = kernel.life.state is KernelState.STARTING
        if incarnation is not None and starting and not incarnation.online.done():
            kernel.timeline = checked_rows(timeline)
            self._handle(kernel, states.Online(incarnation.generation))
            incarnation.online.set_result(kernel.timeline)
            self._spawn(self._impairments.online(kernel.spec.name))

    def _init_exited(self, reason: str) -> None:
        """Kernel 0's init ended: the machine cannot go on without it."""
        if not self._taking_down:
            self._event("kernel.failed", self._roster.own, f"kernel 0: {reason}; the machine goes down")
            self._spawn(self.down())

    def _violation(self, kid: int, reason: str) -> None:
        self._event("link.closed", self._roster.own, f"kernel 0: link to kernel {kid} closed: {reason}")

    def _handle(self, kernel: Entry, event: states.Event) -> None:
        """The only place where a kernel's state changes, and where what a change entails is done. Raises
        IllegalState."""
        before = kernel.life
        kernel.life, commands = states.handle(before, event, time.monotonic())
        life = kernel.life
        if life.state is not before.state:
            self._directory.set(kernel.spec.kid, list(KernelState).index(life.state) + 1, life.generation)
            self._event("kernel.state", kernel, kernel.state_text(), state=life.state.value)
            self._supervision.state_changed(kernel)
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
        self._roster.own.log.append({"generation": 1, "time_s": time_s, "level": level, "text": text})

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
