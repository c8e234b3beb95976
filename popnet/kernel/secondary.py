"""A secondary kernel: its daemon, forked by the loader, from the first instruction to the last.

Two channels lead to the primary. The *handover* socket carries descriptors and nothing else: offers of links,
and the reason of a boot
that failed before there was a link. All the rest (check-in, log, steps, orders, terminals) are messages on
the link to kernel 0.
The end of the handover socket is the primary's death, and ends this process at once.
"""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, Final

from popnet.core.errors import BootFailed, LinkViolation
from popnet.kernel import logs, loop
from popnet.kernel.bootconfig import BootConfig
from popnet.kernel.cgroup import Group
from popnet.kernel.daemon import OUT_OF_MEMORY, Daemon, name_process, prepare
from popnet.kernel.timeline import Timeline
from popnet.message import codec
from popnet.message.kinds import Kind
from popnet.transport.handover import receive_packet, send_packet

HANG_AFTER_S: Final = 0.05
"""Seconds between the order to hang and the hang, so that the log still tells of it."""

GRACE_S: Final = 0.5
"""Seconds that programs have to end after SIGTERM when a kernel is shut down."""


DIE_IN: Final = "POPNET_DIE_IN"
"""Environment variable, for tests: `KERNEL:STEP,…`: the daemons of these kernels kill themselves there."""


def run(config: BootConfig, group: Group, handover: socket.socket, directory: int, told: int) -> int:
    """Be the daemon of the kernel that *config* describes; returns its exit status."""
    name_process(config.kernel.name)
    logs.identify(config.kernel.name, config.generation)
    victims = dict(one.partition(":")[::2] for one in os.environ.get(DIE_IN, "").split(","))
    timeline = Timeline(config.started_at_s, told, victims.get(config.kernel.name, ""))
    timeline.begin("fork")
    timeline.done("fork")
    os.close(directory)
    secondary = _Secondary(config, handover, timeline)
    try:
        prepared = prepare(config, group, timeline)
    except BootFailed as error:
        secondary.tell_failure(error)
        return 1
    try:
        loop.run(secondary.main(prepared))
    except (
        OSError,
        RuntimeError,
    ) as error:  # no more threads, descriptors, memory: the primary must know why
        secondary.tell_failure(BootFailed(f"{timeline.step}: {error}"))
        raise
    return secondary.code


class _Secondary:
    def __init__(self, config: BootConfig, handover: socket.socket, timeline: Timeline) -> None:
        self.code = 0
        self._config = config
        self._handover = handover
        self._timeline = timeline
        self._daemon: Daemon
        self._end = asyncio.Event()
        self._early_log: list[dict[str, Any]] = []
        self._checked_in = False
        self._grace_s = GRACE_S

    def tell_failure(self, error: BootFailed) -> None:
        """Say over the handover socket why the boot failed: there may be no link yet."""
        send_packet(self._handover, {"op": "failed", "reason": str(error), "hint": error.hint})

    async def main(self, prepared: Any) -> None:
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self._end.set)
        daemon = self._daemon = Daemon(
            self._config, prepared, self._timeline, self._send_offer, self._log, self._init_exited
        )
        daemon.on_violation = self._tell_violation  # type: ignore[method-assign]
        daemon.endpoint.on(Kind.CONTROL, self._control)
        daemon.endpoint.on(Kind.NOTIFY, self._notify)
        daemon.endpoint.start()
        running.add_reader(self._handover, self._receive_packet)
        daemon.beat()
        try:
            self._timeline.begin("windows")
            await daemon.links.connect(0)
            self._timeline.done("windows")
            self._timeline.begin("check-in")
            self._check_in()
            self._timeline.done("check-in")
            await daemon.start()
            self._timeline.over()
            self._tell({"online": True, "timeline": self._timeline.rows()})
        except BootFailed as error:
            self.tell_failure(error)
            self.code = 1
            self._end.set()
        await self._end.wait()
        await daemon.stop(self._grace_s)

    def _check_in(self) -> None:
        self._checked_in = True
        body = {"kid": self._config.kid, "generation": self._config.generation, "pid": os.getpid()}
        self._daemon.endpoint.post(0, Kind.CHECK_IN, json.dumps(body).encode(), high=True)
        for line in self._early_log:
            self._daemon.endpoint.post(0, Kind.LOG, json.dumps(line).encode())

    def _send_offer(self, peer: int, packet: dict[str, Any], fds: Sequence[int]) -> None:
        send_packet(self._handover, packet, fds)

    def _receive_packet(self) -> None:
        packet = receive_packet(self._handover)
        if packet is None:
            os._exit(0)  # the primary is gone; init follows by its parent-death signal
        message, fds = packet
        match message:
            case {"op": "offer", "from": int(kid), "generation": int(generation)}:
                try:
                    self._daemon.links.receive_offer(kid, generation, fds)
                except LinkViolation as error:
                    self._tell_violation(kid, str(error))
            case {"op": "refused", "to": int(kid), "reason": str(reason)}:
                self._daemon.links.refused(kid, reason)
            case unknown:
                raise AssertionError(f"the primary handed over {unknown!r}")

    def _control(self, kid: int, body: bytes) -> None:
        """An order of the primary; from anybody else it is nonsense."""
        match _of_the_primary(kid, body):
            case {"op": "shutdown"}:
                self._end.set()
            case {"op": "panic"}:
                self._init_exited("panic was asked for")
            case {"op": "hang"}:
                self._log("crit", "hang was asked for")
                asyncio.get_running_loop().call_later(HANG_AFTER_S, _hang)
            case unknown:
                raise LinkViolation(f"an order that is none: {str(unknown)[:80]}")

    def _notify(self, kid: int, body: bytes) -> None:
        match _of_the_primary(kid, body):
            case {"down": int(peer), "generation": int(generation), "reason": str(reason)}:
                self._daemon.links.peer_down(peer, generation, reason)
            case unknown:
                raise LinkViolation(f"news that are none: {str(unknown)[:80]}")

    def _init_exited(self, reason: str) -> None:
        """Init is gone: unless this was asked for, the kernel has panicked."""
        if not self._end.is_set():
            self._log("emerg", f"Kernel panic: {reason}")
            if reason == OUT_OF_MEMORY:
                self._tell({"out_of_memory": True})
                self._grace_s = 0  # its programs cannot end in good order, and hold the memory
            self.tell_failure(BootFailed(reason))
            self.code = 1
            self._end.set()

    def _tell_violation(self, kid: int, reason: str) -> None:
        self._tell({"violation": reason, "peer": kid})

    def _tell(self, event: dict[str, Any]) -> None:
        self._daemon.endpoint.post(0, Kind.EVENT, json.dumps(event).encode(), high=True)

    def _log(self, level: str, text: str) -> None:
        line = {"time_s": time.monotonic() - self._config.started_at_s, "level": level, "text": text}
        if self._checked_in:
            self._daemon.endpoint.post(0, Kind.LOG, json.dumps(line).encode())
        else:
            self._early_log.append(line)


def _of_the_primary(kid: int, body: bytes) -> dict[str, Any]:
    """The object in *body*, which nobody but the primary may send. Raises LinkViolation."""
    if kid != 0:
        raise LinkViolation("what only the primary says")
    return codec.json_object(body)


def _hang() -> None:
    """Do nothing more, for ever: the process lives, its event loop does not."""
    while True:
        signal.pause()
