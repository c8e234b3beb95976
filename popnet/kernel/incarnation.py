"""One incarnation of a secondary kernel as the primary sees it: from the fork of its daemon to the last trace
of it."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from popnet.core.errors import BootFailed, LinkViolation, PopnetError
from popnet.kernel.cgroup import Group
from popnet.kernel.timeline import last_begun
from popnet.machine.spec import KernelSpec
from popnet.transport.handover import receive_packet, send_packet


class Incarnation:
    """Generation *generation* of *kernel*.

    Args:
        steps: the pipe into which its daemon tells the steps of its boot (`timeline`); taken over.

    Attributes:
        pid: of its daemon; 0 until it is forked.
        online: a future of its boot timeline; BootFailed if it did not come up.
        gone: a future of the reason of its end, set by the primary once it has done what a death entails.
        reason: why it ended, once it did.
        stopping: its end was asked for.
        heartbeat, looks: what the primary last saw, and how often it has looked since without a new one.
    """

    def __init__(
        self,
        kernel: KernelSpec,
        generation: int,
        handover: socket.socket,
        group: Group,
        on_packet: Callable[["Incarnation", dict[str, Any], list[int]], None],
        on_death: Callable[["Incarnation"], None],
        steps: int = -1,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.kernel = kernel
        self.generation = generation
        self.group = group
        self.pid = 0
        self.online: asyncio.Future[list[dict[str, Any]]] = loop.create_future()
        self.gone: asyncio.Future[str] = loop.create_future()
        self.heartbeat = 0
        self.looks = 0
        self.stopping = False
        self.reason = ""
        self.failure: BootFailed | None = None
        self._pidfd = -1
        self._to_kill = False
        self._handover = handover
        self._steps = steps
        self._on_packet = on_packet
        self._on_death = on_death
        handover.setblocking(False)
        loop.add_reader(handover, self._receive)

    def forked(self, pid: int, pidfd: int) -> None:
        """The loader forked the daemon."""
        self.pid, self._pidfd = pid, pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._died)
        if self._to_kill:
            self.kill()

    def send(self, packet: dict[str, Any], fds: Sequence[int] = ()) -> bool:
        """Hand *packet* and descriptors over to the daemon; False if it is dead, or has stopped reading."""
        try:
            send_packet(self._handover, packet, fds)
        except (BrokenPipeError, ConnectionResetError, BlockingIOError):
            return False  # its pidfd or its heartbeat tells
        return True

    def kill(self) -> None:
        """SIGKILL to the daemon, as soon as it is forked; init and all programs follow by parent-death
        signal."""
        self._to_kill = True
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def came_online(self, timeline: list[dict[str, Any]]) -> None:
        """Its boot is over; *timeline* tells how it went."""
        self._close_steps()
        self.online.set_result(timeline)

    def failed(self, reason: str, hint: str) -> None:
        """The daemon said why it must end."""
        self.failure = BootFailed(reason, hint)
        if not self.online.done():
            self.online.set_exception(self.failure)
            self.online.exception()  # seen: nobody may be waiting

    def exited(self, code: int) -> None:
        """The loader reaped the daemon with exit status *code* (negative: by a signal); sets `reason`."""
        self._drain()
        self.reason = self._reason(code)
        if not self.online.done():
            if not self.stopping and self._steps >= 0:
                self.reason = f"{last_begun(self._steps)}: {self.reason}"
                self.failure = BootFailed(self.reason)
            self.online.set_exception(BootFailed(self.reason))
            self.online.exception()  # seen: nobody may be waiting
        asyncio.get_running_loop().remove_reader(self._handover)
        self._handover.close()
        self._close_steps()
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _close_steps(self) -> None:
        if self._steps >= 0:
            os.close(self._steps)
            self._steps = -1

    def _reason(self, code: int) -> str:
        if self.failure is not None:
            return str(self.failure)
        if self.stopping and code == 0:
            return "stopped"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"daemon exited with status {code}"

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._drain()
        self._on_death(self)

    def _drain(self) -> None:
        """Take what the daemon handed over before it died."""
        while self._receive():
            continue

    def _receive(self) -> bool:
        try:
            packet = receive_packet(self._handover)
        except (BlockingIOError, OSError):
            return False
        except LinkViolation as error:
            self.failed(str(error), "")
            self.kill()
            return False
        if packet is None:
            asyncio.get_running_loop().remove_reader(self._handover)
            return False
        message, fds = packet
        try:
            self._on_packet(self, message, fds)
        except PopnetError as error:
            self.failed(str(error), error.hint)
            self.kill()
        return True
