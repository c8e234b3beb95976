"""The loader: the process that forks kernels' daemons, popnet's kexec.

Everything is imported before it is forked from the primary, and its garbage collector is frozen, so a boot
costs a fork and copies few
pages. It has one thread, no event loop and no secrets of its own. It dies with the primary, and every daemon
dies with it: each
link of the chain is a parent-death signal, so that nothing survives a primary killed by -9, hung daemons
included.

    primary -> loader   boot config group + the daemon's handover socket, the directory, a pipe for its steps
                        affinity cpus
    loader -> primary   forked kid generation pid + pidfd  |  refused kid generation reason
                        exited kid generation code
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from popnet.kernel import linux, secondary
from popnet.kernel.bootconfig import BootConfig
from popnet.kernel.cgroup import Group
from popnet.transport.handover import create_handover, receive_packet, send_packet
from popnet.tty.promptness import lead_session


def fork_loader() -> tuple[int, socket.socket]:
    """Fork the loader from the calling process, which has one thread; returns its pid and the channel to
    it."""
    ours, theirs = create_handover()
    gc.collect()
    gc.freeze()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _run(theirs)
    theirs.close()
    return pid, ours


def _run(channel: socket.socket) -> NoReturn:
    try:
        linux.set_process_name("popnet:loader")
        linux.die_with_parent()
        os.setsid()  # keys on a terminal that the primary runs on are no signals to kernels
        linux.become_subreaper()
        gc.disable()
        _Loader(channel).serve()
    except BaseException:  # noqa: BLE001  the process must not go on as a copy of the primary
        traceback.print_exc()
    finally:
        os._exit(0)


class _Loader:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._daemons: dict[int, tuple[int, int]] = {}  # pid -> kid, generation
        self._pid = os.getpid()

    def serve(self) -> None:
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._channel.fileno(), woken], [], [])
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
                self._reap()
            if self._channel.fileno() in ready:
                packet = receive_packet(self._channel)
                if packet is None:
                    return
                if packet[0]["op"] == "affinity":
                    os.sched_setaffinity(0, packet[0]["cpus"])
                else:
                    self._boot(*packet)

    def _boot(self, request: dict[str, Any], fds: list[int]) -> None:
        kid, generation = request["config"]["kernel"]["kid"], request["config"]["generation"]
        try:
            pid = os.fork()
        except OSError as error:  # no process is left, or no memory: this kernel fails, the loader goes on
            refused = {"op": "refused", "kid": kid, "generation": generation, "reason": str(error)}
            send_packet(self._channel, refused)
            return
        finally:
            if os.getpid() == self._pid:
                for fd in fds:
                    os.close(fd)
        if pid == 0:
            _become_daemon(request, fds)
        self._daemons[pid] = (kid, generation)
        pidfd = os.pidfd_open(pid)
        answer = {"op": "forked", "kid": kid, "generation": generation, "pid": pid}
        send_packet(self._channel, answer, (pidfd,))
        os.close(pidfd)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._daemons:
                kid, generation = self._daemons.pop(pid)
                code = os.waitstatus_to_exitcode(status)
                send_packet(
                    self._channel, {"op": "exited", "kid": kid, "generation": generation, "code": code}
                )


def _become_daemon(request: dict[str, Any], fds: list[int]) -> NoReturn:
    """The forked child: a secondary kernel's daemon from here on."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        linux.die_with_parent()
        os.setsid()
        lead_session()
        linux.close_descriptors(fds)
        handover, directory, told = fds
        gc.enable()
        group = Group({name: Path(path) for name, path in request["group"].items()})
        config = BootConfig.from_json(request["config"])
        code = secondary.run(config, group, socket.socket(fileno=handover), directory, told)
    except BaseException:  # noqa: BLE001  nothing above this frame belongs to this process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
