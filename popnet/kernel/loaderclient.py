"""The primary's end of the loader's channel: asks it to fork daemons, and hears what became of them.

A request is a packet with the configuration, the daemon's end of its handover channel and the directory; the
loader answers with the pid and a pidfd, and once more when it has reaped the daemon. Which processes there
are is recorded on the way, so that a clean-up after a crash of the primary finds them.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from popnet.kernel.cgroup import Tree
from popnet.kernel.configure import boot_config
from popnet.kernel.entry import Entry
from popnet.kernel.impairments import Impairments
from popnet.kernel.incarnation import Incarnation
from popnet.kernel.owner import Ownership
from popnet.kernel.roster import Roster
from popnet.transport.handover import create_handover, receive_packet, send_packet

OnReaped = Callable[[Entry, Incarnation], None]
"""Takes a kernel, and its incarnation that is gone and says why."""


class LoaderClient:
    """Has the loader at the other end of *channel* fork the daemons of the kernels of *roster*.

    Args:
        ownership: where the daemons' processes are recorded.
        directory_fd: of the directory that all kernels read.
        impairments: tells those that a kernel begins with.
    """

    def __init__(
        self,
        channel: socket.socket,
        roster: Roster,
        tree: Tree,
        ownership: Ownership,
        directory_fd: int,
        impairments: Impairments,
    ) -> None:
        self._channel = channel
        self._roster = roster
        self._tree = tree
        self._ownership = ownership
        self._directory_fd = directory_fd
        self._impairments = impairments

    def start(self, on_reaped: OnReaped, on_end: Callable[[], None]) -> None:
        """Listen from now on; *on_end* is called once, when the loader itself has died."""
        self._on_reaped = on_reaped
        self._on_end = on_end
        self._channel.setblocking(False)
        asyncio.get_running_loop().add_reader(self._channel, self._receive)

    def fork(
        self,
        kernel: Entry,
        on_packet: Callable[[Incarnation, dict[str, Any], list[int]], None],
        on_death: Callable[[Incarnation], None],
    ) -> Incarnation:
        """Ask for the daemon of *kernel*'s present generation; the rest of the boot is the daemon's. Raises
        OSError, ValueError, PopnetError, and nothing is left then."""
        started_at_s = time.monotonic()
        ours, theirs = create_handover()
        steps, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        generation = kernel.life.generation
        try:
            config = boot_config(
                self._roster.machine,
                kernel.spec,
                generation,
                self._roster.credentials,
                self._ownership.directory,
                kernel.root,
            )
            config = replace(config, impairments=self._impairments.at_boot(kernel.spec.name))
            group = self._tree.group(kernel.spec.name)
            packet = {
                "op": "boot",
                "config": {**config.to_json(), "started_at_s": started_at_s},
                "group": {name: str(path) for name, path in group.directories.items()},
            }
            if config.housekeeping:  # the loader too leaves the cores that this kernel has alone
                send_packet(self._channel, {"op": "affinity", "cpus": list(config.housekeeping)})
            send_packet(self._channel, packet, (theirs.fileno(), self._directory_fd, told))
        except BaseException:
            ours.close()
            os.close(steps)
            raise
        finally:
            theirs.close()
            os.close(told)
        return Incarnation(kernel.spec, generation, ours, group, on_packet, on_death, steps)

    def _receive(self) -> None:
        try:
            packet = receive_packet(self._channel)
        except BlockingIOError:
            return
        if packet is None:
            self._died()
            return
        message, fds = packet
        kernel = self._roster.by_kid[message["kid"]]
        incarnation = kernel.incarnation
        if incarnation is None or incarnation.generation != message["generation"]:
            raise AssertionError(f"the loader told of an unknown daemon: {message!r}")
        if message["op"] == "forked":
            self._ownership.add_process(message["pid"])
            incarnation.forked(message["pid"], fds[0])
        elif message["op"] == "refused":
            incarnation.failed(f"fork: {message['reason']}", "end something, or allow more processes")
            self._reaped(kernel, incarnation, 1)
        else:
            self._reaped(kernel, incarnation, message["code"])

    def _died(self) -> None:
        """Every daemon dies with it by parent-death signal, and nobody is left to reap them and tell how."""
        asyncio.get_running_loop().remove_reader(self._channel)
        self._on_end()
        for kernel in self._roster:
            if kernel.incarnation is not None:
                kernel.incarnation.kill()
                self._reaped(kernel, kernel.incarnation, -signal.SIGKILL)

    def _reaped(self, kernel: Entry, incarnation: Incarnation, code: int) -> None:
        incarnation.exited(code)
        self._ownership.drop_process(incarnation.pid)
        self._on_reaped(kernel, incarnation)
