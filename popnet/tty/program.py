"""A program on a pty or on pipes, pumped by an event loop: bytes in, bytes out, its end.

Theory of operation. Everything runs in callbacks of one loop; nothing blocks but the start (see pty.spawn).

- Input: `feed` writes what the program takes at once; the rest is held, `room(False)` asks the owner to
  feed no more, and `room(True)` follows when it is written.
- Output goes to `output` in the order it was written, piece by piece, until the owner pauses it; a paused
  program fills its pipe or pty and waits.
- The end is told once, by `ended`, after all output: on pipes when the program is gone and every copy of
  their ends is closed (as with OpenSSH's sshd, a background job that holds them holds the session as well);
  on a pty when the program is gone and what it had written is read, whatever background jobs still hold
  that pty.
- `hang_up` lets go of everything: the session gets SIGHUP, nothing is told any more; the program is still
  reaped when it goes.
"""

import asyncio
import contextlib
import fcntl
import os
import termios
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from popnet.tty import modes, pty

_READ_SIZE: Final = 256 << 10

_PIPE_SIZE: Final = 256 << 10
"""Bytes a pipe holds, four times the default: fewer turns of the loop for the same bytes."""

_AFTERWARDS_MAX: Final = 128 << 10
"""Bytes read from a pty after its program ended: a pty holds 64 KiB and a line; more is not the program's."""

STDOUT: Final = 1
STDERR: Final = 2


class Program:
    """A running program.

    Args:
        argv, env, cwd, executable: as of `pty.spawn`.
        output: called with STDOUT or STDERR, and bytes.
        room: called with False when input backs up, with True when it may go on.
        ended: called with the exit status, or the negative number of the signal that ended it.
        size: columns and rows of its pty; None: on pipes.
        tty_modes: for its pty, see modes.

    Raises:
        SpawnFailed: it does not run.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        output: Callable[[int, bytes], None],
        room: Callable[[bool], None],
        ended: Callable[[int], None],
        cwd: str | None = None,
        executable: str | None = None,
        size: tuple[int, int] | None = None,
        tty_modes: Mapping[int, int] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._output = output
        self._room = room
        self._ended = ended
        self._pending = bytearray()
        self._input_ends = False
        self._paused = False
        self._status: int | None = None
        self._afterwards = 0
        self._gone = False
        if size is None:
            self._start_on_pipes(argv, env, cwd, executable)
        else:
            self._start_on_pty(argv, env, cwd, executable, size, tty_modes or {})
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._exited)
        for file in self._outputs:
            self._loop.add_reader(file, self._readable, file)

    def _start_on_pty(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        executable: str | None,
        size: tuple[int, int],
        tty_modes: Mapping[int, int],
    ) -> None:
        master, slave = pty.open_pty(*size)
        try:
            termios.tcsetattr(slave, termios.TCSANOW, modes.apply(termios.tcgetattr(slave), tty_modes))
            with contextlib.suppress(OSError):  # a root without /dev/pts has ptys without names
                env = {**env, "SSH_TTY": os.ttyname(slave)}
            self.pid = pty.spawn_on_pty(argv, env, slave, cwd=cwd, executable=executable)
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        os.set_blocking(master, False)
        self._master: int | None = master
        self._input: int | None = master
        self._outputs = {master: STDOUT}

    def _start_on_pipes(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str | None, executable: str | None
    ) -> None:
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            ends = []
            for writes in (True, False, False):
                reading, writing = os.pipe()
                our, their = (writing, reading) if writes else (reading, writing)
                ours.callback(os.close, our)
                theirs.callback(os.close, their)
                with contextlib.suppress(OSError):  # over this user's share of pipe memory: smaller pipes do
                    fcntl.fcntl(our, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
                os.set_blocking(our, False)
                ends.append((our, their))
            (stdin, in_), (stdout, out), (stderr, err) = ends
            self.pid = pty.spawn(argv, env, (in_, out, err), cwd=cwd, executable=executable)
            ours.pop_all()
        self._master = None
        self._input = stdin
        self._outputs = {stdout: STDOUT, stderr: STDERR}

    # Input

    def feed(self, data: bytes) -> None:
        """Give the program *data* to read; dropped when it does not read any more."""
        if self._input is None or self._input_ends:
            return
        idle = not self._pending
        self._pending += data
        if idle:
            self._writable()
            if self._pending:
                self._room(False)
                self._loop.add_writer(self._input, self._drained)
            elif self._input_ends:
                self._close_input()

    def feed_eof(self) -> None:
        """Nothing more comes: behind what was fed, close the pipe, or type the key for an end of file."""
        if self._input is None or self._input_ends:
            return
        if self._master is not None:
            self.feed(modes.ends_input(termios.tcgetattr(self._master)))
        self._input_ends = True
        if not self._pending:
            self._close_input()

    def _writable(self) -> None:
        assert self._input is not None
        try:
            while self._pending:
                written = os.write(self._input, memoryview(self._pending)[:_READ_SIZE])
                del self._pending[:written]
        except BlockingIOError:
            return
        except OSError:  # EPIPE, EIO: nobody reads this any more
            self._pending.clear()
            self._input_ends = True

    def _drained(self) -> None:
        assert self._input is not None
        self._writable()
        if not self._pending:
            self._loop.remove_writer(self._input)
            if self._input_ends:
                self._close_input()
            self._room(True)

    def _close_input(self) -> None:
        if self._input is not None and self._input != self._master:
            self._loop.remove_writer(self._input)
            os.close(self._input)
        self._input = None

    # Output

    def pause(self) -> None:
        """Take no output for now."""
        if not self._paused:
            self._paused = True
            for file in self._outputs:
                self._loop.remove_reader(file)

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            for file in list(self._outputs):
                self._loop.add_reader(file, self._readable, file)
                self._loop.call_soon(self._readable, file)

    def _readable(self, file: int) -> None:
        if self._paused or file not in self._outputs:
            return
        try:
            data = os.read(file, _READ_SIZE)
        except BlockingIOError:
            over = self._status is not None and file == self._master
            data = b""
        except OSError:  # EIO: the pty has no user left
            over, data = True, b""
        else:
            over = not data
        if data:
            if self._status is not None and file == self._master:
                self._afterwards += len(data)
                over = self._afterwards > _AFTERWARDS_MAX
                self._loop.call_soon(self._readable, file)
            self._output(self._outputs[file], data)
        if over:
            self._output_over(file)

    def _output_over(self, file: int) -> None:
        if self._outputs.pop(file, None) is None:
            return
        self._loop.remove_reader(file)
        if file != self._master:
            os.close(file)
        self._check_end()

    # The end

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        for file in list(self._outputs):
            self._loop.call_soon(self._readable, file)
        self._check_end()

    def _check_end(self) -> None:
        if self._status is not None and not self._outputs and not self._gone:
            self._let_go()
            self._ended(self._status)

    def _let_go(self) -> None:
        self._gone = True
        self._pending.clear()
        for file in self._outputs:
            self._loop.remove_reader(file)
            if file != self._master:
                os.close(file)
        self._outputs = {}
        self._close_input()
        if self._master is not None:
            self._loop.remove_writer(self._master)
            os.close(self._master)
            self._master = None

    def hang_up(self) -> None:
        """Nobody listens any more. Harmless after the end."""
        if not self._gone:
            self._let_go()
            if self._status is None:
                pty.hang_up(self.pid)

    # Control

    def resize(self, cols: int, rows: int) -> None:
        if self._master is not None:
            pty.set_size(self._master, cols, rows)

    def signal(self, number: int) -> None:
        """Signal the foreground of its pty, or its process group."""
        if self._master is not None:
            pty.signal_group(pty.foreground(self._master, self.pid), number)
        elif self._status is None:
            pty.signal_group(self.pid, number)
