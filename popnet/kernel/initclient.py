"""The daemon's end of the packet socket to its kernel's init: requests as awaitable calls, programs as
objects."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from popnet.core.errors import BootFailed, Refused, by_code
from popnet.kernel import realtime
from popnet.transport.handover import receive_packet, send_packet


class Program:
    """A program that runs inside the kernel.

    Attributes:
        pid: its process id inside.
        terminal: the master end of its pty, if it was started on a new one; the caller closes it.
        ended: a future of {"status": n} or {"signal": n}.
    """

    def __init__(self, number: int, pid: int, terminal: int | None) -> None:
        self.number = number
        self.pid = pid
        self.terminal = terminal
        self.ended: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()


class InitClient:
    """Talks to init over *channel*; `pid` is init's process id outside the kernel.

    Once init is ready, `programs_listener` is there: the listening socket of the kernel's programs, to be
    taken over; and so is `views`, if /proc and /sys show plain files: their directory; and `refused`: what
    the host did not let a kernel with its cores alone have. *on_exit* is called once, with a reason, when
    init ends, and so the kernel with it.
    """

    def __init__(self, channel: socket.socket, pid: int, on_exit: Callable[[str], None]) -> None:
        self.pid = pid
        self._channel = channel
        self._pidfd = os.pidfd_open(pid)
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._programs: dict[int, Program] = {}
        self._next = 1
        self._failure: str | None = None
        self.programs_listener: socket.socket | None = None
        self.views: int | None = None
        self.refused: list[str] = []
        self.exited: asyncio.Future[str] = self._loop.create_future()
        self._loop.add_reader(channel, self._receive)
        self._loop.add_reader(self._pidfd, self._reap)

    async def wait_ready(self) -> None:
        """Wait until init has built its root. Raises BootFailed with the step and the reason."""
        await self._ready

    async def spawn(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        cwd: str | None = None,
        streams: tuple[int, int, int] | None = None,
        terminal: tuple[int, int] | None = None,
        path: str | None = None,
        fifo: int | None = None,
    ) -> Program:
        """Start *argv* in the kernel: on the descriptors *streams*, on a new pty of *terminal* (columns,
        rows), or on the tty at *path*; with *fifo* at this priority of SCHED_FIFO.

        Raises:
            NoSuchProgram, NotExecutable, Refused: it could not be started.
        """
        request: dict[str, Any] = {"op": "spawn", "argv": list(argv), "env": dict(environ), "cwd": cwd}
        if terminal is not None:
            request["terminal"] = list(terminal)
        if path is not None:
            request["path"] = path
        return await self._start(request, streams or (), fifo)

    async def measure(self, settings: Mapping[str, Any], pipes: tuple[int, int], fifo: int | None) -> Program:
        """Start a measurement with `jitter.run`: *pipes* are where it is told to start, and answers."""
        return await self._start({"op": "measure", "settings": dict(settings)}, pipes, fifo)

    async def serve_files(self, channel: int) -> Program:
        """Start the worker of this kernel's files, with *channel* as its end of its socket."""
        return await self._start({"op": "files"}, (channel,), None)

    async def _start(self, request: dict[str, Any], fds: Sequence[int], fifo: int | None) -> Program:
        if fifo is not None:
            request["pidfd"] = True
        number = self._next
        answer, got = await self._ask(request, fds)
        if answer["op"] == "error":
            raise by_code(answer["code"], answer["message"])
        pidfd = got.pop() if fifo is not None else -1
        program = Program(number, answer["pid"], got[0] if got else None)
        self._programs[number] = program
        if fifo is not None:
            try:
                realtime.set_fifo(pidfd, fifo)
            except Refused:
                self.signal(program, signal.SIGKILL)
                if program.terminal is not None:
                    os.close(program.terminal)
                raise
            finally:
                os.close(pidfd)
        return program

    def signal(self, program: Program, number: int) -> None:
        """Send signal *number* to *program* and the rest of its process group."""
        self._send({"op": "signal", "id": program.number, "signal": number})

    async def open_pty(self, name: str) -> tuple[str, int, int]:
        """Make a pty in the kernel, known there as /dev/*name*; returns its path, master and slave
        descriptors."""
        answer, (master, slave) = await self._ask({"op": "pty", "name": name}, ())
        return answer["path"], master, slave

    async def mount_device(self, name: str, mount: int) -> None:
        """Have the device of the descriptor *mount* (`linux.clone_mount`) in the kernel's /dev. Raises
        Refused."""
        await self._ask_device({"op": "device", "name": name}, (mount,))

    async def unmount_device(self, name: str) -> None:
        """Take a device out of the kernel's /dev that `mount_device` put there. Raises Refused."""
        await self._ask_device({"op": "device", "name": name}, ())

    async def _ask_device(self, request: dict[str, Any], fds: Sequence[int]) -> None:
        answer, _ = await self._ask(request, fds)
        if answer["op"] == "error":
            raise by_code(answer["code"], answer["message"])

    def serve_ssh(
        self, listener: int, host_key: str, authorized_keys: str, shell: str, environ: Mapping[str, str]
    ) -> None:
        """Have init accept ssh connections on the listening socket *listener*, of which it gets a copy."""
        request = {
            "op": "sshd",
            "host_key": host_key,
            "authorized_keys": authorized_keys,
            "shell": shell,
            "environ": dict(environ),
        }
        self._send(request, (listener,))

    async def shut_down(self, grace_s: float) -> None:
        """Ask all programs to end, kill what is left after *grace_s* seconds, and wait for init's end."""
        self._send({"op": "shutdown", "grace_s": grace_s})
        try:
            await asyncio.wait_for(asyncio.shield(self.exited), grace_s + 0.2)
        except TimeoutError:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self.exited

    def memory_used(self) -> int:
        """Resident bytes of init alone, for hosts that count no groups."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    async def _ask(self, request: dict[str, Any], fds: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
        if self.exited.done():
            raise Refused(f"the kernel stopped: {self.exited.result()}")
        number = self._next
        self._next += 1
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = self._loop.create_future()
        self._answers[number] = future
        try:
            self._send({**request, "id": number}, fds)
        except ValueError:
            del self._answers[number]
            raise Refused("the arguments and the environment are too long together") from None
        return await future

    def _send(self, packet: dict[str, Any], fds: Sequence[int] = ()) -> None:
        if self.exited.done():
            return
        try:
            send_packet(self._channel, packet, fds)
        except (BrokenPipeError, ConnectionResetError):
            return  # init is ending: `exited` tells

    def _receive(self) -> None:
        try:
            packet = receive_packet(self._channel)
        except ConnectionResetError:
            packet = None
        if packet is None:
            self._loop.remove_reader(self._channel)
            return
        answer, fds = packet
        match answer["op"]:
            case "ready":
                self.programs_listener = socket.socket(fileno=fds[0])
                self.views = fds[1] if len(fds) > 1 else None
                self.refused = answer["refused"]
                if not self._ready.done():
                    self._ready.set_result(None)
            case "failed":
                self._failure = f"{answer['step']}: {answer['reason']}"
            case "exited":
                self._end_program(answer)
            case _:
                future = self._answers.pop(answer["id"])
                if not future.done():
                    future.set_result((answer, fds))
                else:
                    self._abandon(answer, fds)

    def _abandon(self, answer: dict[str, Any], fds: list[int]) -> None:
        """Nobody waits for this answer any more: end what it tells of."""
        for fd in fds:
            os.close(fd)
        if answer["op"] == "spawned":
            self._send({"op": "signal", "id": answer["id"], "signal": int(signal.SIGKILL)})

    def _end_program(self, answer: dict[str, Any]) -> None:
        program = self._programs.pop(answer["id"], None)
        if program is not None and not program.ended.done():
            outcome: dict[str, int] = {key: answer[key] for key in ("status", "signal") if key in answer}
            program.ended.set_result(outcome)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._loop.remove_reader(self._channel)
        while self._drain():
            continue
        _, status = os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self._channel.close()
        code = os.waitstatus_to_exitcode(status)
        how = f"with status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        reason = self._failure or (f"init exited {how}" if code >= 0 else f"init was killed {how}")
        self._fail_all(reason)
        self.exited.set_result(reason)
        self._on_exit(reason)

    def _drain(self) -> bool:
        """Handle one packet that init sent before it ended; False once there is none."""
        self._channel.setblocking(False)
        try:
            packet = receive_packet(self._channel)
        except (BlockingIOError, ConnectionResetError):
            return False
        if packet is None:
            return False
        answer, fds = packet
        for fd in fds:
            os.close(fd)
        if answer["op"] == "failed":
            self._failure = f"{answer['step']}: {answer['reason']}"
        elif answer["op"] == "exited":
            self._end_program(answer)
        return True

    def _fail_all(self, reason: str) -> None:
        if not self._ready.done():
            self._ready.set_exception(BootFailed(reason))
            self._ready.exception()  # seen: nobody may be waiting yet
        for future in self._answers.values():
            if not future.done():
                future.set_exception(Refused(f"the kernel stopped: {reason}"))
        for program in self._programs.values():
            if not program.ended.done():
                program.ended.set_result({"signal": int(signal.SIGKILL)})
        self._answers.clear()
        self._programs.clear()
