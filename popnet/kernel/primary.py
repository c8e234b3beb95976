"""The primary: kernel 0, which boots, supervises and takes down the others, and answers for the machine.

Theory of operation. One process, one event loop. It is a kernel like the others (`Daemon`), and beside that
composed of parts, which its `__init__` shows:

- the *roster* knows what kernels there are; the *registry*, what they serve, who watches, who is in which
  group;
- their *lives*: each one's state, its boot by way of the loader (`LoaderClient`), its end, of which every
  kernel is told with the generation, so that nobody waits for it;
- the *switchboard* passes offers of links on, the only thing that needs descriptors; `Reports` takes what
  kernels tell by messages;
- *supervision*: the heartbeat in each kernel's window tells a hang, and policy, who is booted again;
- `Impairments`, `Answers` and `LinkCalls`: what its links suffer, and what the control API asks.

Here is the life of the machine itself, its events, and what a user does with its kernels.
"""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

from popnet.core import limits
from popnet.core.errors import IllegalState
from popnet.kernel import logs
from popnet.kernel.answers import Answers
from popnet.kernel.applying import Applying
from popnet.kernel.bootconfig import BootConfig
from popnet.kernel.cgroup import Tree
from popnet.kernel.credentials import Credentials
from popnet.kernel.daemon import Daemon, Prepared
from popnet.kernel.entry import Entry
from popnet.kernel.events import Journal
from popnet.kernel.imageroots import ImageRoots
from popnet.kernel.impairments import Impairments
from popnet.kernel.linkcalls import LinkCalls
from popnet.kernel.lives import Lives
from popnet.kernel.loaderclient import LoaderClient
from popnet.kernel.owner import Ownership
from popnet.kernel.reports import Reports
from popnet.kernel.roster import Roster
from popnet.kernel.secondary import GRACE_S
from popnet.kernel.supervision import Supervision
from popnet.kernel.switchboard import Switchboard
from popnet.kernel.timeline import Timeline
from popnet.kernel.updates import Updates
from popnet.machine import states
from popnet.machine.host import Host
from popnet.machine.image import Image
from popnet.machine.spec import MachineSpec
from popnet.machine.states import KernelState
from popnet.message.kinds import Kind
from popnet.message.registryshell import RegistryShell
from popnet.transport.directory import Directory


class Primary:
    """A running machine; implements the Service of the control API.

    Args:
        loader: the channel to the loader.
        prepared, config, timeline: of kernel 0, which is in this process.
        image_roots: has the roots of images ready; the caller closes it.
        host: what machine files are checked against that are applied; None: what this machine has of it.

    Attributes:
        on_event: called with each event as it happens.
        gateway: tells of the gateway that the machine started, as the control API does; None: it has none.
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
        image_roots: ImageRoots,
        host: Host | None = None,
    ) -> None:
        self._ownership = ownership
        self._tree = tree
        self._started_at_s = time.monotonic()
        self._events = Journal(limits.EVENTS_MAX)
        self._over = asyncio.Event()
        self._taking_down = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self.gateway: Callable[[], dict[str, Any] | None] = lambda: None
        self._roster = Roster(machine, images, credentials, tree.group(config.kernel.name))
        self._impairments = Impairments(
            self._roster.kids,
            self._roster.online,
            lambda kid, params: self._daemon.endpoint.open(kid, "impair", params),
            lambda kind, text, **more: self._event(kind, None, text, **more),
        )
        self._impairments.begin(machine.impairments)
        directory, directory_fd = Directory.create()
        self._loader = LoaderClient(loader, self._roster, tree, ownership, directory_fd, self._impairments)
        switchboard = Switchboard(self._roster)
        config = replace(config, impairments=self._impairments.at_boot(config.kernel.name))
        self._daemon = Daemon(config, prepared, timeline, switchboard.offer, self._log_own, self._init_exited)
        self._daemon.on_violation = self._violation  # type: ignore[method-assign]
        links, endpoint = self._daemon.links, self._daemon.endpoint
        switchboard.own = links
        registry = RegistryShell(endpoint, self._roster.names)
        self._reports = Reports(self._roster, self._event, self._came_online)
        self._lives = Lives(
            self._roster,
            self._loader,
            switchboard,
            directory,
            self._daemon,
            registry,
            image_roots,
            self._event,
        )
        self._supervision = Supervision(
            self._roster, directory, links.heartbeat, self._lives.boot, self._event
        )
        self._lives.on_change = self._supervision.state_changed
        self._updates = Updates(
            self._roster,
            lambda kid, params: endpoint.open(kid, "partition", params),
            registry.changed,
            self._event,
        )
        self.update = self._updates.update
        applying = Applying(
            self._roster,
            self._lives,
            self._updates,
            self._impairments,
            host,
            lambda kind, text: self._event(kind, None, text),
        )
        self.plan, self.apply = applying.plan, applying.apply
        # The rest of the Service is that of two parts.
        answers = Answers(self._roster, endpoint, registry)
        self.kernels, self.timeline, self.log = answers.kernels, answers.timeline, answers.log
        self.open, self.terminal, self.ssh_config = answers.open, answers.terminal, answers.ssh_config
        self.services, self.counters = answers.services, answers.counters
        self.images = answers.images
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
        self._loader.start(self._lives.reaped, self._loader_died)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: self._spawn(self.down()))
        self._daemon.beat()
        self._spawn(self._supervision.run())
        own = self._roster.own
        self._lives.handle(own, states.Load())
        self._lives.handle(own, states.Start())
        await self._daemon.start()
        own.timeline = self._daemon.timeline.rows()
        self._lives.handle(own, states.Online(own.life.generation))
        others = [kernel for kernel in self._roster if kernel is not own]
        results = await asyncio.gather(*map(self._lives.boot, others), return_exceptions=True)
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
        self._lives.boot_no_more()
        self._supervision.restart_no_more()
        self._event("machine.down", None, f"machine {self._roster.machine.name}: going down")
        self._impairments.stop()
        running = [kernel for kernel in self._roster if kernel.incarnation is not None]
        await asyncio.gather(*map(self._lives.stop, running))
        for kernel in self._roster:
            for terminal in kernel.terminals:
                terminal.close()
            kernel.log.close()
        own = self._roster.own
        if own.life.state is KernelState.ONLINE:
            self._lives.handle(own, states.Stop())
        await self._daemon.stop(GRACE_S)
        await self._lives.remove_groups()
        self._tree.remove()
        self._events.close()
        self._over.set()

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
            "gateway": self.gateway(),
            "checks": [check.row() for check in machine.checks],
        }

    def tell(self, kind: str, text: str) -> None:
        """Add an event of the machine as a whole."""
        self._event(kind, None, text)

    def events(self, since: int, follow: bool) -> AsyncIterator[dict[str, Any]]:
        return self._events.read(since, follow)

    # Its kernels

    async def boot(self, name: str) -> dict[str, Any]:
        kernel = self._roster.named(name)
        await self._lives.boot(kernel)
        return {**self._roster.row(kernel), "timeline": kernel.timeline}

    def load(self, name: str, image: str | None = None, append: str | None = None) -> dict[str, Any]:
        """Give a kernel its partition. With *image* or *append* it is what these say until it is
        unloaded, and may be new. The kernel's row. Raises IllegalState, Refused, NoSuchKernel."""
        kernel = self._roster.to_load(name, image, append)
        self._lives.handle(kernel, states.Load())
        return self._roster.row(kernel)

    def unload(self, name: str) -> dict[str, Any]:
        """Take a kernel's partition back; it is again what the machine file says, or not there. Its row.
        Raises IllegalState."""
        kernel = self._roster.named(name)
        self._lives.handle(kernel, states.Unload())
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
        await self._lives.stop(kernel)
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
        self._lives.handle(kernel, states.Stop("killed"))
        assert incarnation is not None
        await asyncio.shield(incarnation.gone)
        return self._roster.row(kernel)

    # What happens

    def _came_online(self, kernel: Entry, timeline: list[dict[str, Any]]) -> None:
        if self._lives.came_online(kernel, timeline):
            self._spawn(self._impairments.online(kernel.spec.name))

    def _loader_died(self) -> None:
        if not self._taking_down:
            self._event("machine.failed", None, "the loader died; the machine goes down")
            self._spawn(self.down())

    def _init_exited(self, reason: str) -> None:
        """Kernel 0's init ended: the machine cannot go on without it."""
        if not self._taking_down:
            self._event("kernel.failed", self._roster.own, f"kernel 0: {reason}; the machine goes down")
            self._spawn(self.down())

    def _violation(self, kid: int, reason: str) -> None:
        self._event("link.closed", self._roster.own, f"kernel 0: link to kernel {kid} closed: {reason}")
        self._lives.lost_link(self._roster.by_kid[kid], reason)

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
        logs.dmesg(self._roster.own.spec.name, 1, level, text)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
