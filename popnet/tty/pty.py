"""Pseudo-terminals, and programs started on them or on plain files: for a kernel's init and sshd.

Theory of operation. `spawn` forks. The child makes itself leader of a new session, takes its three files, on
request takes the terminal among them as its controlling terminal, and executes the program. Between the two
ends lies a pipe that closes on exec: end of file means that the program runs; anything else is the step that
failed and its errno, so that the caller can tell "not found" (127) from "cannot be executed" (126) as shells
do. The child inherits no other descriptor, no ignored or blocked signal, and nothing of an event loop.

Who spawns keeps the master and closes its copy of the slave: when the last copy closes, reading the master
fails with EIO, which is the end of a pty's file.
"""

import contextlib
import errno
import fcntl
import os
import signal
import termios
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

_STEPS: Final = ("set up", "change the directory", "execute")


class SpawnFailed(OSError):
    """A program that could not be started.

    Attributes:
        step: what failed, an infinitive.
        status: the exit status by which shells tell it: 127 not found, 126 found and not executable.
    """

    def __init__(self, step: str, number: int, what: str) -> None:
        super().__init__(number, f"cannot {step}: {os.strerror(number)}", what)
        self.step = step
        self.status = 127 if step == "execute" and number in (errno.ENOENT, errno.ENOTDIR) else 126


def open_pty(cols: int = 80, rows: int = 24) -> tuple[int, int]:
    """A new pty of this process's own /dev/pts: (master, slave), neither of them inheritable."""
    master, slave = os.openpty()
    set_size(master, cols, rows)
    return master, slave


def set_size(tty: int, cols: int, rows: int) -> None:
    """Tell a pty, by either end, how large its screen is. If that is new, the foreground gets SIGWINCH."""
    termios.tcsetwinsize(tty, (min(rows, 0xFFFF), min(cols, 0xFFFF)))


def get_size(tty: int) -> tuple[int, int]:
    """Columns and rows of a pty."""
    rows, cols = termios.tcgetwinsize(tty)
    return cols, rows


def become_session_leader(slave: int) -> None:
    """Leave the terminal this process has, lead a new session on *slave*, and take it for files 0 to 2.

    For a fresh child only: a process that leads a group already cannot (EPERM).
    """
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    _take_files((slave, slave, slave))


def spawn_on_pty(
    argv: Sequence[str],
    env: Mapping[str, str],
    slave: int | str,
    *,
    cwd: str | None = None,
    executable: str | None = None,
) -> int:
    """Start a program on a pty, given as a descriptor of its slave or a path; like `spawn` in all else."""
    if isinstance(slave, int):
        return spawn(argv, env, (slave, slave, slave), terminal=True, cwd=cwd, executable=executable)
    opened = os.open(slave, os.O_RDWR | os.O_NOCTTY)
    try:
        return spawn_on_pty(argv, env, opened, cwd=cwd, executable=executable)
    finally:
        os.close(opened)


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    files: tuple[int, int, int],
    *,
    terminal: bool = False,
    cwd: str | None = None,
    executable: str | None = None,
) -> int:
    """Start a program in a session of its own; returns its pid once it runs.

    Args:
        argv: its arguments; the first names it, along the PATH of *env*, unless *executable* does.
        files: descriptors for its files 0, 1 and 2.
        terminal: the files are a tty, which becomes its controlling terminal.
        cwd: its directory; None for this process's.

    Raises:
        SpawnFailed: it does not run, and no child is left.
    """
    report, reported = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _child(argv, env, files, terminal, cwd, executable or argv[0], reported)
    except BaseException:
        os.close(report)
        os.close(reported)
        raise
    os.close(reported)
    with open(report, "rb") as pipe:
        failure = pipe.read()
    if failure:
        os.waitpid(pid, 0)
        step, number = _STEPS[failure[0]], int(failure[1:])
        raise SpawnFailed(
            step, number, cwd or "" if step == "change the directory" else executable or argv[0]
        )
    return pid


def signal_group(leader: int, number: int) -> None:
    """Signal the process group that *leader* leads; none left of it is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


def foreground(master: int, leader: int) -> int:
    """The process group in the foreground of a pty; the session leader's where there is none."""
    try:
        return os.tcgetpgrp(master) or leader
    except OSError:
        return leader


def hang_up(leader: int) -> None:
    """Tell a session's first process group that nobody listens any more, the stopped ones too."""
    signal_group(leader, signal.SIGHUP)
    signal_group(leader, signal.SIGCONT)


def _child(
    argv: Sequence[str],
    env: Mapping[str, str],
    files: tuple[int, int, int],
    terminal: bool,
    cwd: str | None,
    executable: str,
    reported: int,
) -> NoReturn:
    """The fork's other side: becomes the program, or reports why not, and never returns."""
    step, number = 0, errno.EINVAL
    try:
        _forget_signals()
        reported = fcntl.fcntl(reported, fcntl.F_DUPFD_CLOEXEC, 3)
        if terminal:
            become_session_leader(files[0])
        else:
            os.setsid()
            _take_files(files)
        os.closerange(3, reported)
        os.closerange(reported + 1, os.sysconf("SC_OPEN_MAX"))
        step = 1
        if cwd is not None:
            os.chdir(cwd)
        step = 2
        os.execvpe(executable, list(argv), dict(env))
    except OSError as error:
        number = error.errno or number
    finally:  # whatever happened, this process must not go on as a copy of its parent
        try:
            os.write(reported, bytes((step,)) + str(number).encode())
        finally:
            os._exit(127)


def _take_files(files: tuple[int, int, int]) -> None:
    """Make *files* this process's files 0 to 2, whatever numbers they have."""
    held = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 3) for file in files]
    for number, file in enumerate(held):
        os.dup2(file, number)


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
