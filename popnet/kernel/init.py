"""Init: pid 1 of a kernel. It builds the root file system, gives up the machine's powers, starts programs on
request and reaps.

Theory of operation. Init is forked from the kernel's daemon, so nothing is imported or executed to become it,
and it has one thread.
The daemon asks over a packet socket (the only channel between the two; both ends belong to one kernel); each
request has an `id`:

    daemon -> init                                        init -> daemon
    go      (first, once; unless init joins its group)    ready refused + programs' listener (+ views)
                                                          | failed step reason
    spawn   id argv env cwd [path] + stdin stdout stderr  spawned id pid           | error id code message
    spawn   ... pidfd=true                                spawned id pid + pidfd, last
    spawn   id argv env cwd terminal=[cols, rows]         spawned id pid + pty     | error ...
    measure id settings + start answer                    spawned id pid (+ pidfd) | error ...
    files   id + the worker's end of its channel          spawned id pid           | error ...
    pty     id name                                       pty id path + master slave
    device  id name + mount                               device id                | error ...
    device  id name (without: take it away)               device id                | error ...
    signal  id signal                                     (none: the process may be gone)
    sshd    host_key authorized_keys environ + listener   (none)
    shutdown grace_s                                      (init exits when all processes have)
                                                          exited id status|signal

An image with an init program of its own gets that program as pid 1, and this loop runs as its child, pid 2.
When the daemon dies,
init is killed by its parent-death signal and everything in the kernel goes with pid 1.

The ssh server is started like a service of inetd: init listens, and forks it on the first connection.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from popnet.core import limits
from popnet.kernel import cgroup, filewire, filework, jitter, linux, realtime, rootfs, viewmounts
from popnet.program.greeting import SOCKET_PATH
from popnet.transport.handover import receive_packet, send_packet
from popnet.tty import pty, sshd

_SSHD_RETRY_S = 0.05
"""Seconds init pauses when no process is left for sshd: the connection that waits would make it spin."""

_PROGRAMS_BACKLOG = 64
"""Programs whose connections may wait to be accepted."""

_SHUTDOWN_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class InitPlan:
    """What init needs to know, all decided by the primary.

    Attributes:
        program: argument vector of the image's own init, or () for this one.
        booted_s: seconds of the host's boot clock at which the kernel boots; None: it has the host's clock.
        file_system: shows its partition in /proc and /sys (`viewmounts`); None with *views*: by plain files.
        views: whether they show it at all.
        alone: the CPUs that the kernel has alone, if it does.
        shares_files: whether it has a /io for others.
        remote_files: the file system to mount on /io.
        doors: of its control group, to enter once the root is built; None if the daemon moves it.
        cpus: what it may run on, if its group does not say so.
    """

    root: rootfs.RootPlan
    mount_point: str
    user_namespace: int
    hostname: str
    program: tuple[str, ...]
    environ: dict[str, str]
    booted_s: int | None = None
    file_system: int | None = None
    views: bool = False
    alone: tuple[int, ...] = ()
    shares_files: bool = False
    remote_files: int | None = None
    doors: tuple[int, ...] | None = None
    cpus: tuple[int, ...] | None = None


def run(channel: socket.socket, plan: InitPlan) -> NoReturn:
    """Be init; never returns."""
    try:
        kept = (channel.fileno(), plan.user_namespace, plan.file_system, plan.remote_files)
        linux.close_descriptors([fd for fd in (*kept, *(plan.doors or ())) if fd is not None])
        _become_init(channel, plan)
        if plan.program:
            _become_program(channel, plan)
        _Init(channel).serve()
    finally:
        os._exit(0)


def _become_init(channel: socket.socket, plan: InitPlan) -> None:
    linux.set_process_name("init")
    linux.die_with_parent()
    step = "root"
    refused: list[str] = []
    try:
        if plan.booted_s is not None:
            viewmounts.enter_time(plan.booted_s)
        if plan.alone:
            os.sched_setaffinity(0, plan.alone)
            refused = realtime.allow_in_process()
        views = rootfs.build(plan.root, plan.mount_point, partial(_show, plan))
        step = "init"
        if plan.doors is not None:
            cgroup.enter(plan.doors)
        elif receive_packet(channel) is None:  # "go": the daemon has put this process into its control group
            os._exit(0)
        # If the group says where it may run, it does so alone: a mask of its own would outlive an update.
        os.sched_setaffinity(0, range(limits.CPUS_MAX) if plan.cpus is None else plan.cpus)
        linux.setns(plan.user_namespace, linux.CLONE_NEWUSER)
        os.close(plan.user_namespace)
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWCGROUP)
        linux.set_dumpable()
        linux.die_with_parent()  # a change of credentials clears it
        linux.set_host_name(plan.hostname)
        os.setsid()
        os.umask(0o022)
        with _listen_for_programs() as listener:
            fds = (listener.fileno(),) if views is None else (listener.fileno(), views)
            send_packet(channel, {"op": "ready", "refused": refused}, fds)
        if views is not None:
            os.close(views)
    except OSError as error:
        send_packet(channel, {"op": "failed", "step": step, "reason": str(error)})
        os._exit(1)


def _show(plan: InitPlan, root: Path, base: Path) -> int | None:
    """Put into place what the daemon shows in the root: files of an io kernel, and the partition."""
    place = root / filewire.SHARED.lstrip("/")
    if plan.shares_files or plan.remote_files is not None:
        if place.is_symlink():
            raise OSError(errno.ENOTDIR, f"{filewire.SHARED} of the image is a link, not a directory")
        place.mkdir(mode=0o777, exist_ok=True)
    if plan.shares_files:
        place.chmod(0o1777)
    if plan.remote_files is not None:
        linux.move_mount(plan.remote_files, place)
        safe = linux.MS_NOSUID | linux.MS_NODEV  # the io kernel is not trusted with either
        linux.mount("none", place, "", linux.MS_BIND | linux.MS_REMOUNT | safe)
        os.close(plan.remote_files)
    return viewmounts.show(root, base, plan.file_system) if plan.views else None


def _listen_for_programs() -> socket.socket:
    """The socket by which programs in here reach the daemon, which accepts; every user's, as the daemon knows
    who is who."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(SOCKET_PATH)
    Path(SOCKET_PATH).chmod(0o666)
    listener.listen(_PROGRAMS_BACKLOG)
    return listener


def _become_program(channel: socket.socket, plan: InitPlan) -> None:
    """Leave pid 1 to the image's own init program; the caller goes on as its child, which serves the
    daemon."""
    if os.fork() == 0:
        linux.die_with_parent()
        return
    with open("/dev/null", "r+b", buffering=0) as null:
        for fd in (0, 1, 2):
            os.dup2(null.fileno(), fd)
    try:
        os.execvpe(plan.program[0], plan.program, plan.environ)
    except OSError as error:
        send_packet(
            channel, {"op": "failed", "step": "init", "reason": f"{plan.program[0]}: {error.strerror}"}
        )
        os._exit(127)


class _Init:
    """The loop that serves the daemon's requests."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._ids: dict[int, int] = {}  # pid -> the daemon's id of it
        self._pids: dict[int, int] = {}
        self._listeners: dict[int, dict[str, Any]] = {}  # listening descriptor -> what its server needs
        self._servers: dict[int, int] = {}  # pid of a running ssh server -> its listening descriptor
        self._poll = select.poll()
        self._deadline: float | None = None

    def serve(self) -> None:
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            signal.signal(ignored, signal.SIG_IGN)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(woken, select.POLLIN)
        while self._deadline is None or (self._others() and time.monotonic() < self._deadline):
            for fd, _ in self._poll.poll(20 if self._deadline else None):
                if fd == woken:
                    with contextlib.suppress(BlockingIOError):
                        os.read(woken, 4096)
                elif fd == self._channel.fileno():
                    self._request()
                else:
                    self._start_sshd(fd)
            self._reap()

    def _request(self) -> None:
        packet = receive_packet(self._channel)
        if packet is None:
            os._exit(0)  # the daemon is gone, and the kernel with it
        request, fds = packet
        try:
            match request["op"]:
                case "spawn":
                    self._spawn(request, fds)
                case "measure":
                    self._measure(request, fds)
                case "files":
                    self._serve_files(request, fds)
                case "pty":
                    self._open_pty(request)
                case "device":
                    self._device(request, fds)
                case "signal":
                    self._signal(request)
                case "sshd":
                    self._listen(request, fds)
                    fds = []
                case "shutdown":
                    self._shut_down(request["grace_s"])
                case unknown:
                    raise AssertionError(f"init does not know the request {unknown!r}")
        finally:
            for fd in fds:
                os.close(fd)

    def _spawn(self, request: dict[str, Any], fds: list[int]) -> None:
        master = None
        try:
            argv, environ, cwd = request["argv"], request["env"], request["cwd"]
            if size := request.get("terminal"):
                master, slave = pty.open_pty(*size)
                try:
                    pid = pty.spawn_on_pty(argv, environ, slave, cwd=cwd)
                finally:
                    os.close(slave)
            elif path := request.get("path"):
                pid = pty.spawn_on_pty(argv, environ, path, cwd=cwd)
            else:
                pid = pty.spawn(argv, environ, (fds[0], fds[1], fds[2]), cwd=cwd)
        except pty.SpawnFailed as error:
            code = "not-found" if error.status == 127 else "not-executable"
            self._tell({"op": "error", "id": request["id"], "code": code, "message": str(error)})
        except OSError as error:
            self._tell({"op": "error", "id": request["id"], "code": "refused", "message": str(error)})
        else:
            self._spawned(request, pid, () if master is None else (master,))
        finally:
            if master is not None:
                os.close(master)

    def _spawned(self, request: dict[str, Any], pid: int, fds: tuple[int, ...]) -> None:
        self._ids[pid] = request["id"]
        self._pids[request["id"]] = pid
        answer = {"op": "spawned", "id": request["id"], "pid": pid}
        if not request.get("pidfd"):
            self._tell(answer, fds)
            return
        pidfd = os.pidfd_open(pid)  # by which the daemon, outside, knows which process it is
        self._tell(answer, (*fds, pidfd))
        os.close(pidfd)

    def _measure(self, request: dict[str, Any], fds: list[int]) -> None:
        """Fork a child that measures this kernel's CPUs; no program of the root is needed for it."""
        self._fork(request, "jitter", lambda: jitter.run(request["settings"], *fds))

    def _serve_files(self, request: dict[str, Any], fds: list[int]) -> None:
        """Fork the worker that does what other kernels ask of this one's files."""

        def work() -> None:
            with socket.socket(fileno=fds[0]) as channel:
                filework.run(channel, filewire.SHARED)

        self._fork(request, "io files", work)

    def _fork(self, request: dict[str, Any], name: str, work: Callable[[], None]) -> None:
        """Fork a child that does *work* and ends, and knows no channel of init's."""
        try:
            pid = os.fork()
        except OSError as error:
            self._tell({"op": "error", "id": request["id"], "code": "refused", "message": str(error)})
            return
        if pid == 0:
            try:
                linux.set_process_name(name)
                self._channel.close()
                linux.die_with_parent()
                os.setsid()
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGCHLD, *_SHUTDOWN_SIGNALS, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                work()
            finally:
                os._exit(0)
        self._spawned(request, pid, ())

    def _open_pty(self, request: dict[str, Any]) -> None:
        master, slave = pty.open_pty()
        path = os.ttyname(slave)
        for name in (request["name"], *(("console",) if request["name"] == "tty0" else ())):
            link = Path("/dev", name)
            link.unlink(missing_ok=True)
            link.symlink_to(path.removeprefix("/dev/"))
        self._tell({"op": "pty", "id": request["id"], "path": path}, (master, slave))
        os.close(master)
        os.close(slave)

    def _device(self, request: dict[str, Any], fds: list[int]) -> None:
        path = Path("/dev", request["name"])
        try:
            if fds:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(0o444)
                linux.move_mount(fds[0], path)
            else:
                linux.unmount(path, linux.MNT_DETACH)
                path.unlink()
        except OSError as error:
            self._tell({"op": "error", "id": request["id"], "code": "refused", "message": str(error)})
        else:
            self._tell({"op": "device", "id": request["id"]})

    def _signal(self, request: dict[str, Any]) -> None:
        """Signal a program and what it started: its process group. What cannot be done is left alone."""
        pid = self._pids.get(request["id"])
        if pid is not None:
            with contextlib.suppress(OSError):
                pty.signal_group(pid, request["signal"])

    def _listen(self, request: dict[str, Any], fds: list[int]) -> None:
        self._listeners[fds[0]] = request
        self._poll.register(fds[0], select.POLLIN)

    def _start_sshd(self, listener: int) -> None:
        request = self._listeners[listener]
        try:
            pid = os.fork()
        except OSError as error:  # out of processes or memory: the client waits, and is looked at again
            print(f"sshd: cannot start: {error}", file=sys.stderr, flush=True)
            time.sleep(_SSHD_RETRY_S)
            return
        if pid == 0:
            self._run_sshd(listener, request)
        self._poll.unregister(listener)
        self._servers[pid] = listener

    def _run_sshd(self, listener: int, request: dict[str, Any]) -> NoReturn:
        try:
            linux.set_process_name("sshd")
            linux.die_with_parent()
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, *_SHUTDOWN_SIGNALS, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._channel.close()
            with socket.socket(fileno=listener) as accepting:
                sshd.run(
                    accepting,
                    request["host_key"].encode(),
                    request["authorized_keys"],
                    shell=request["shell"],
                    environ=request["environ"],
                    on_log=lambda text: print(f"sshd: {text}", file=sys.stderr, flush=True),
                )
        finally:
            os._exit(0)

    def _reap(self) -> None:
        """Collect every child that ended: programs the daemon knows, ssh servers, and orphans that came to
        pid 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._servers:
                self._poll.register(self._servers.pop(pid), select.POLLIN)
            elif pid in self._ids:
                number = self._ids.pop(pid)
                del self._pids[number]
                code = os.waitstatus_to_exitcode(status)
                outcome = {"status": code} if code >= 0 else {"signal": -code}
                self._tell({"op": "exited", "id": number, **outcome})

    def _tell(self, packet: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        try:
            send_packet(self._channel, packet, fds)
        except BrokenPipeError:
            os._exit(0)

    def _shut_down(self, grace_s: float) -> None:
        self._deadline = time.monotonic() + grace_s
        for number in _SHUTDOWN_SIGNALS:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(-1, number)

    @staticmethod
    def _others() -> bool:
        """Whether processes other than this one are left in the kernel (zombies count until reaped)."""
        own = {"1", str(os.getpid())}
        return any(path.name.isdigit() and path.name not in own for path in Path("/proc").iterdir())
