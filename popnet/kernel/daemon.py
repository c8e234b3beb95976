"""The daemon of one kernel: what the primary and every secondary have in common.

Boot has two halves. `prepare` runs before any thread or event loop exists: namespaces, and the fork of init,
which builds the root file system while the daemon goes on. `Daemon.start` runs on the loop.

    prepare            namespaces -> cgroup (its limits) -> init (forked; it builds the root from here on)
    secondary          windows -> check-in
    Daemon.start       nic -> join (the control group) -> root (init is ready) -> ttys -> services -> online

One process then runs: the event loop with messages, terminals and services; one native thread, the pump, with
the frames; and
init, a child. A failure at any step ends this process, and with it everything that the kernel had: its
namespaces hold the rest.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from popnet import __version__
from popnet.core import addresses, limits
from popnet.core.errors import BootFailed, PeerDied, PopnetError
from popnet.kernel import fuse, init, linux, namespaces, realtime
from popnet.kernel.bootconfig import BootConfig
from popnet.kernel.cgroup import Group
from popnet.kernel.console import Console
from popnet.kernel.devicemounts import DeviceMounts
from popnet.kernel.fileservice import FileService
from popnet.kernel.impairservice import ImpairService, apply_all
from popnet.kernel.initclient import InitClient
from popnet.kernel.jitter import JitterService
from popnet.kernel.links import Links, SendOffer
from popnet.kernel.modes import Modes
from popnet.kernel.outofmemory import OutOfMemory
from popnet.kernel.partitionservice import PartitionService
from popnet.kernel.programs import Programs
from popnet.kernel.remotefiles import RemoteFiles
from popnet.kernel.services import ExecService, WatchService, serve_dial
from popnet.kernel.timeline import Timeline
from popnet.kernel.trace import TraceService
from popnet.kernel.views import REFRESH_S, Partition, PartitionTree, Views
from popnet.machine import cmdline
from popnet.machine.devices import SHARED
from popnet.machine.units import approximate_size, format_cpus
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import Kind
from popnet.message.stream import Stream
from popnet.net import capture, nic, tap
from popnet.net.carrier import Carrier
from popnet.net.linkwatch import LinkWatch
from popnet.program.greeting import Greeting
from popnet.transport import doorbell
from popnet.transport._native import Pump, look, looks
from popnet.transport.handover import create_handover, send_packet

_SSH_PORT: Final = 22

_LEVELS: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""Names of Linux's log levels 0 to 7; a console shows those below its `loglevel=`."""

OUT_OF_MEMORY: Final = "out of memory"
"""The reason of the end of a kernel that used up its memory."""

_INIT_WATCH_S: Final = 0.1
"""Seconds that an init program of an image's own must last before its kernel counts as online."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` made.

    Attributes:
        init_pid, channel: init, and the daemon's end of its channel.
        group: that of init and all programs.
        moves: whether the daemon is to move init into it; else init enters by itself.
        missing: the limits that could not be set.
        refused, latency: of a kernel with its cores alone, what the host refuses, and a descriptor that holds
            its CPUs awake.
        files: where Linux asks for the files of an io kernel, in one that uses them.
        tree, views: what the kernel shows of its partition, and where Linux asks for it; without, init makes
            plain files.
    """

    init_pid: int
    channel: socket.socket
    group: Group
    tree: PartitionTree
    views: int | None
    moves: bool
    missing: list[str]
    refused: tuple[str, ...] = ()
    latency: int | None = None
    files: int | None = None


def prepare(config: BootConfig, group: Group, timeline: Timeline) -> Prepared:
    """Make the kernel's namespaces, join those a daemon belongs in, and fork init. The caller has one thread.

    Raises:
        BootFailed: names the step and the reason.
    """
    step = timeline.begin("namespaces")
    try:
        user_namespace = namespaces.enter_kernel()
        timeline.done(step)
        step = timeline.begin("cgroup")
        kernel = config.kernel
        missing = group.limit(format_cpus(kernel.cpus), kernel.memory_bytes, format_cpus(kernel.memory_nodes))
        refused: list[str] = []
        latency = None
        if kernel.isolated:
            latency = realtime.hold_latency()
            if latency is None:
                refused.append("/dev/cpu_dma_latency, so idle CPUs take longer to wake")
            if reason := realtime.isolate(group.directories.get("cpuset")):
                refused.append(reason)
        doors = group.doors()
        timeline.done(step)
        step = timeline.begin("init")
        ours, theirs = create_handover()
        if config.housekeeping:
            os.sched_setaffinity(0, config.housekeeping)
        parameters = cmdline.parse(config.kernel.cmdline)
        booted_s = int(time.clock_gettime(time.CLOCK_BOOTTIME))
        partition = Partition(config.kernel.cpus, config.kernel.memory_bytes)
        tree = PartitionTree(partition, group, booted_s)
        views, file_system = _file_system()
        files, remote_files = fuse.mount(read_only=False) if config.kernel.files == "use" else (None, None)
        plan = init.InitPlan(
            # The others come when the mounts are locked, so that they can go again.
            root=replace(config.root, devices=tuple(name for name in config.root.devices if name in SHARED)),
            mount_point=config.mount_point,
            user_namespace=user_namespace,
            hostname=config.kernel.hostname,
            program=(config.kernel.init, *parameters.init_arguments) if config.kernel.init else (),
            environ=config.environment(),
            booted_s=booted_s,
            file_system=file_system,
            views=True,
            alone=config.kernel.cpus if config.kernel.isolated else (),
            shares_files=config.kernel.files == "serve",
            remote_files=remote_files,
            doors=doors,
            cpus=kernel.cpus if "cpuset" in missing else None,
        )
        pid = linux.fork_into(linux.CLONE_NEWPID)
        if pid == 0:
            ours.close()
            init.run(theirs, plan)
        for fd in (theirs.detach(), user_namespace, *(doors or ()), file_system, remote_files):
            if fd is not None:
                os.close(fd)
        timeline.done(step)
    except OSError as error:
        raise BootFailed(f"{step}: {error}", "`popnet doctor` tells what this host allows") from error
    return Prepared(pid, ours, group, tree, views, doors is None, missing, tuple(refused), latency, files)


def _file_system() -> tuple[int | None, int | None]:
    """The ends of a file system for what the kernel shows of its partition; None where there is no FUSE."""
    try:
        return fuse.mount()
    except OSError:
        return None, None


class Daemon:
    """One running kernel.

    Args:
        prepared: from `prepare`, in this process.
        send_offer: sends an offer of a link towards a peer.
        log: takes (level, text) of the kernel's log.
        on_exit: called once with the reason when init ends.
    """

    def __init__(
        self,
        config: BootConfig,
        prepared: Prepared,
        timeline: Timeline,
        send_offer: SendOffer,
        log: Callable[[str, str], None],
        on_exit: Callable[[str], None],
    ) -> None:
        self.config = config
        self.timeline = timeline
        self._log = log
        self._message_bell = doorbell.create_doorbell()
        self._frame_bell = doorbell.create_doorbell()
        self._upcall = doorbell.create_doorbell()
        bells = (self._message_bell, self._frame_bell)
        self.links = Links(config.kid, config.generation, bells, send_offer, self._violated)
        self.endpoint = Endpoint(config.kid, config.generation, self._message_bell, self.links.connect)
        self.endpoint.on_violation = self.links.violated
        self.links.endpoint = self.endpoint
        self.modes = Modes(config.kernel.cores, lambda: self.links.linked, self.endpoint.poll)
        self.links.on_link = self.modes.apply
        self.endpoint.look, self.endpoint.looks = self._look, self._looks
        self.init = InitClient(prepared.channel, prepared.init_pid, self._init_exited)
        self.devices = DeviceMounts(self.init, config.root.devices)
        self._on_exit = on_exit
        self._group = prepared.group
        self._memory: OutOfMemory | None = None
        self.programs: Programs | None = None
        self.consoles: list[Console] = []
        self.pump: Pump | None = None
        self._tap: tap.Tap | None = None
        self._link_watch: LinkWatch | None = None
        self._mtu = config.kernel.mtu
        self._pump_thread: threading.Thread | None = None
        self._next_beat: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._parameters = cmdline.parse(config.kernel.cmdline)
        self._console_lines: list[str] = []
        self.views = Views(prepared.tree, prepared.views)
        self._next_refresh: asyncio.TimerHandle | None = None
        self._refused = prepared.refused
        self._latency = prepared.latency
        self._files = prepared.files
        self._file_service: FileService | None = None
        self._missing = prepared.missing
        # Moving init into its control group can take 20 ms, so it goes on beside the rest.
        self._join = asyncio.create_task(asyncio.to_thread(_join, prepared)) if prepared.moves else None

    async def start(self) -> None:
        """Bring the kernel online. Raises BootFailed, which names the step and the reason."""
        kernel = self.config.kernel
        where = f"kernel {kernel.kid} ({kernel.name}), generation {self.config.generation}"
        self.say("notice", f"popnet {__version__}: {where}, image {kernel.image}")
        self.say("info", f"Command line: {kernel.cmdline}")
        if kernel.init is None and self._parameters.init_arguments:
            words = " ".join(self._parameters.init_arguments)
            self.say("notice", f"Unknown boot parameters {words!r} would be arguments of an init of your own")
        step = self.timeline.begin("nic")
        try:
            self._start_nic()
            self.timeline.done(step)
            for missing in self._missing:
                self.say("warning", f"{missing}: no control group here, so the limit is not enforced")
            self._memory = OutOfMemory(self._group, self._out_of_memory)
            if self._join is not None:
                step = self.timeline.begin("join")
                await self._join
                self.timeline.done(step)
            step = self.timeline.begin("root")
            await self.init.wait_ready()
            await self._show_views()
            await self.devices.set(kernel.devices)
            self.timeline.done(step)
            for refused in (*self.init.refused, *self._refused):
                self.say("warning", f"cores alone, but this host refuses: {refused}")
            self.say("info", f"init: {kernel.init or 'pid 1'}, root is up, CPUs {format_cpus(kernel.cpus)}")
            step = self.timeline.begin("ttys")
            for n in range(kernel.ttys):
                console = Console(n, self.init, self.config.shell, self.config.environment)
                await console.start(self.endpoint, self.config.generation)
                self.consoles.append(console)
            await self._print_lines()
            self.timeline.done(step)
            step = self.timeline.begin("services")
            self._start_services()
            if kernel.files == "serve":
                await self._share_files()
            self.timeline.done(step)
            if kernel.init is not None:
                step = self.timeline.begin("init")
                await self._watch_program()
                self.timeline.done(step)
        except BootFailed:
            raise
        except (OSError, PopnetError) as error:
            raise BootFailed(f"{step}: {error}", getattr(error, "hint", "")) from error

    def _init_exited(self, reason: str) -> None:
        if self._memory is not None and self._memory.happened():
            self._out_of_memory()
        else:
            self._on_exit(reason)

    def _out_of_memory(self) -> None:
        """Linux killed programs for want of memory: what is left of the kernel is worth nothing, so it
        ends."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()
            limit = self.views.tree.partition.memory_bytes
            amount = f"all of its {approximate_size(limit)}" if limit else "all that there is"
            self.say("emerg", f"Out of memory: it has used {amount}")
            self._on_exit(OUT_OF_MEMORY)

    async def _show_views(self) -> None:
        """Where the views of the partition are plain files, write them, and again from time to time."""
        if self.init.views is not None:
            await asyncio.to_thread(self.views.show_in, self.init.views)
            self._refresh_views()

    def _refresh_views(self) -> None:
        later = asyncio.get_running_loop().call_later
        self._next_refresh = later(REFRESH_S, self._refresh_views)
        self.views.refresh()

    async def _watch_program(self) -> None:
        """An image's own init that ends at once fails the boot, not a kernel called online."""
        await asyncio.wait([self.init.exited], timeout=_INIT_WATCH_S)
        if self.init.exited.done():
            raise BootFailed(self.init.exited.result())

    def say(self, level: str, text: str) -> None:
        """Put a line into the kernel's log, and on its console if it matters enough for `loglevel=`."""
        self._log(level, text)
        if _LEVELS.index(level) >= self._parameters.console_level:
            return
        since_s = time.monotonic() - self.config.started_at_s
        self._console_lines.append(f"[{since_s:12.6f}] {text}\n")
        if self.consoles:
            self._spawn(self._print_lines())

    async def _print_lines(self) -> None:
        """Show on the console what was said before it was there, and since."""
        lines, self._console_lines = self._console_lines, []
        await self.consoles[0].print("".join(lines))

    def _start_nic(self) -> None:
        config = self.config
        kernel = config.kernel
        # Until here the daemon may use any CPU, so that it does not wait for init, which builds the root.
        for task in Path("/proc/self/task").iterdir():  # one of the pool may have begun already, or end now
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(task.name), config.housekeeping or kernel.cpus)
        self._tap = tap.open_tap("eth0", offload=kernel.offload)
        networks, mtu = (config.subnet, config.subnet6), kernel.mtu
        configured = nic.configure("eth0", config.kid, *networks, mtu, IPv4Address(config.address))
        # A kernel that shares its core must not spin on it while others could run.
        poll_us = limits.POLL_US if self.modes.spin_max_us else 0
        self.pump = Pump(
            self._tap.fd,
            self._frame_bell,
            self._upcall,
            config.kid,
            config.kid == 0,
            limits.BUDGET,
            poll_us,
            kernel.mtu,
            not kernel.offload,
        )
        self._wire = Carrier(self.pump, self._tap.set_carrier)
        apply_all(self._wire, self.config.impairments)
        self.modes.pump = self.pump
        loop = asyncio.get_running_loop()
        loop.add_reader(self._upcall, self._pump_calls)
        self._link_watch = LinkWatch(configured.index)
        loop.add_reader(self._link_watch.fd, self._link_changed)
        self.links.start_frames(self.pump)
        thread = threading.Thread(target=self.pump.run, name="pump", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # how Python says that Linux gives no more threads
            raise OSError(errno.EAGAIN, f"cannot start the pump's thread: {error}") from None
        self._pump_thread = thread
        self.say("info", f"eth0: {addresses.mac_text(config.kid)}, {configured.ipv4}, mtu {configured.mtu}")

    def _start_services(self) -> None:
        name = f"{self.config.kernel.name}/eth0"
        pump = self.pump
        assert pump is not None

        async def serve_capture(stream: Stream) -> None:
            await capture.serve_capture(stream, pump, name, self.config.kid)

        async def serve_inject(stream: Stream) -> None:
            await capture.serve_inject(stream, pump)

        self.endpoint.answer(Kind.COUNTERS, self._answer_counters)
        kernel = self.config.kernel
        self.endpoint.serve("exec", ExecService(self.init, self.config.environment, kernel.isolated))
        self.endpoint.serve("jitter", JitterService(self.init, kernel.cpus, kernel.isolated))
        self.endpoint.serve("dial", serve_dial)
        self.endpoint.serve("capture", serve_capture)
        self.endpoint.serve("inject", serve_inject)
        self.endpoint.serve("modes", self.modes.serve)
        self.endpoint.serve("impair", ImpairService(self._wire))
        partition = PartitionService(
            self._group, self.init.pid, self.views, self.modes, self.devices, self.say
        )
        self.endpoint.serve("partition", partition)
        self.endpoint.serve("watch", WatchService(self.endpoint))
        self.endpoint.serve("trace", TraceService(self.endpoint))
        if self._files is not None:
            RemoteFiles(self.endpoint, self._files)
        self._start_programs()
        if self.config.kernel.ssh:
            self._start_sshd()

    async def _share_files(self) -> None:
        """Serve the kernel's /io to other kernels, by a worker that its init forks."""
        ours, theirs = socket.socketpair()
        try:
            await self.init.serve_files(theirs.fileno())
        finally:
            theirs.close()
        ours.setblocking(False)
        self._file_service = FileService(self.endpoint, ours)
        await self._file_service.start()

    def _start_programs(self) -> None:
        """Let the kernel's programs talk to other kernels, by the socket that init made for them."""
        config, listener = self.config, self.init.programs_listener
        assert listener is not None, "init is ready"
        whoami = Greeting(config.machine, config.kernel.name, config.kid, config.generation, 0, config.kids)
        kernel = config.kernel
        self.programs = Programs(
            self.endpoint, self.links.connect, whoami, kernel.services, kernel.groups, self.say
        )
        self.programs.start(listener)

    def _start_sshd(self) -> None:
        """Listen in the kernel's network namespace, which this process is in; init accepts."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(
            ("", _SSH_PORT), family=family, dualstack_ipv6=dual, backlog=64
        ) as listener:
            self.init.serve_ssh(
                listener.fileno(),
                self.config.host_key,
                self.config.authorized_keys,
                self.config.shell,
                self.config.environment(),
            )
        self.say("info", f"sshd: listening on {self.config.address} port {_SSH_PORT}")

    def _pump_calls(self) -> None:
        """The pump wants something: direct links, or a link closed because of nonsense in it."""
        doorbell.drain(self._upcall)
        assert self.pump is not None
        for kid in self.pump.wanted():
            self._spawn(self._connect(kid))
        for kid in self.pump.violations():
            link = self.links.linked.get(kid)
            self.links.violated(kid, (link and link.violation) or "nonsense in its frames")

    def _link_changed(self) -> None:
        """The guest changed its interface: peers are to know what it takes now."""
        assert self._link_watch is not None and self.pump is not None
        told = self._link_watch.read()
        if told is not None and told.mtu != self._mtu:
            self._mtu = told.mtu
            self.pump.set_mtu(told.mtu)
            self.say("info", f"eth0: mtu {told.mtu}")

    async def _connect(self, kid: int) -> None:
        """Make a direct link for frames; without one they go on through the primary, which counts what it
        drops."""
        try:
            await self.links.connect(kid)
        except PeerDied:
            return

    def _violated(self, kid: int, reason: str) -> None:
        self.say("err", f"link to kernel {kid} closed: {reason}")
        self.on_violation(kid, reason)

    def on_violation(self, kid: int, reason: str) -> None:
        """A peer's nonsense closed its link; composition that must tell others overrides this."""

    def _look(self) -> bool:
        """Spin for as long as the rings of messages have learnt that it pays; True: something came."""
        spin_max_us = self.modes.spin_max_us
        return bool(spin_max_us) and look(list(self.links.linked.values()), spin_max_us)

    def _looks(self) -> bool:
        """Whether that would spin at all."""
        return bool(self.modes.spin_max_us) and looks(list(self.links.linked.values()))

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def beat(self) -> None:
        """Count heartbeats, from now on until `stop` has ended.

        A bare timer, because a task that sleeps wakes the loop twice and makes a future each time: it is most
        of what an idle kernel does.
        """
        self.links.beat()
        self._next_beat = asyncio.get_running_loop().call_later(limits.HEARTBEAT_S, self.beat)

    async def _answer_counters(self, kid: int, body: bytes) -> bytes:
        return json.dumps(self.counters()).encode()

    def counters(self) -> dict[str, Any]:
        """Counters of the kernel's NIC, links, messages and programs."""
        return {
            "nic": self.pump.counters() if self.pump is not None else {},
            "links": {str(kid): counters for kid, counters in self.links.counters().items()},
            "modes": self.modes.table(),
            "messages": self.endpoint.counters(),
            "programs": self.programs.counters() if self.programs is not None else {},
        }

    async def stop(self, grace_s: float) -> None:
        """End the kernel's programs and all that the daemon runs; the process may exit afterwards."""
        for console in self.consoles:
            console.stop()
        if not self.init.exited.done():
            await self.init.shut_down(grace_s)
        if self.programs is not None:
            await self.programs.stop()
        await self.endpoint.stop()
        if self.pump is not None and self._pump_thread is not None:
            self.pump.stop()
            await asyncio.to_thread(self._pump_thread.join)
        if self._link_watch is not None:
            asyncio.get_running_loop().remove_reader(self._link_watch.fd)
            self._link_watch.close()
        if self._tap is not None:
            self._tap.close()
        if self._file_service is not None:
            self._file_service.stop()
        if self._latency is not None:
            os.close(self._latency)
        if self._memory is not None:
            self._memory.close()
        for timer in (self._next_beat, self._next_refresh):
            if timer is not None:
                timer.cancel()
        self.views.close()


def _join(prepared: Prepared) -> None:
    """Put init into its control group and let it go on."""
    # Either fails only if init has ended, and then `wait_ready` tells why.
    with contextlib.suppress(ProcessLookupError):
        prepared.group.add(prepared.init_pid)
    with contextlib.suppress(OSError):
        send_packet(prepared.channel, {"op": "go"})


def name_process(name: str) -> None:
    """Show a kernel's daemon under its name in the host's `ps` and `top`."""
    linux.set_process_name(f"popnet:{name}")
