"""The user's own terminal, borrowed: raw while a stream is attached, and always given back as it was.

Theory of operation. `RawTerminal` is a context manager around the terminal's settings. Whatever ends the
block — return, exception, cancellation — puts them back; signals that would end the process are turned into
the end of the block by whoever runs the event loop. SIGTSTP gives the terminal back for the time the process
is stopped. Settings change at once (TCSANOW): draining could wait forever for a terminal that shows nothing
any more. SIGKILL cannot be handled: `reset` mends the terminal then, as with every program.

`Input` and `Output` move bytes between descriptors and the event loop. Neither ever sets O_NONBLOCK on a
descriptor that was inherited: the flag would belong to the shell and to everybody else who shares it.
"""

import asyncio
import os
import select
import signal
import stat
import termios
import tty
from collections.abc import Callable
from errno import EIO, ENOTTY
from types import TracebackType
from typing import Any, Final

CHUNK: Final = 64 << 10
"""Bytes read or written at once: what a pipe holds."""


class RawTerminal:
    """`with RawTerminal(fd):` raw mode inside the block; nothing for None, or if *fd* is no terminal."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = -1 if descriptor is None else descriptor
        self._saved: list[Any] | None = None

    def __enter__(self) -> "RawTerminal":
        if os.isatty(self._descriptor):
            self._saved = termios.tcgetattr(self._descriptor)
            self._enter_raw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        self._saved = None

    def suspend(self) -> None:
        """Give the terminal back, stop this process, and take the terminal again once it continues."""
        self._restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter_raw()

    def _enter_raw(self) -> None:
        if self._saved is not None:
            tty.setraw(self._descriptor, termios.TCSANOW)

    def _restore(self) -> None:
        if self._saved is None:
            return
        try:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._saved)
        except termios.error as error:
            if error.args[0] not in _TERMINAL_GONE:
                raise


_TERMINAL_GONE: Final = frozenset({EIO, ENOTTY})
"""The window was closed: there is nothing to give back, nor to read."""


def size(*descriptors: int) -> tuple[int, int] | None:
    """(columns, rows) of the first of *descriptors* that is a terminal with a size, or None."""
    for descriptor in descriptors:
        try:
            found = os.get_terminal_size(descriptor)
        except OSError:  # no terminal: look at the next
            continue
        if found.columns and found.lines:
            return found.columns, found.lines
    return None


class Input:
    """Reads a descriptor when asked to, so that a stream which does not take more stops the reading."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        self._waits = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)

    async def read(self) -> bytes:
        """The next bytes; b"" at the end of the input, or when the terminal is gone."""
        if self._waits and not _ready(self._descriptor, select.POLLIN):
            await _until(self._descriptor, reading=True)
        try:
            return os.read(self._descriptor, CHUNK)
        except OSError as error:
            if error.errno in _TERMINAL_GONE:
                return b""
            raise


class Output:
    """Writes a descriptor; waits while the other side takes nothing, and the event loop runs on meanwhile.

    A terminal or a pipe is opened a second time through /proc, which makes an open file of our own that may
    be non-blocking. Where this cannot be (regular files must keep their offset; a terminal may belong to
    another user) writes block.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._own = -1
        self._socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            try:
                self._own = os.open(f"/proc/self/fd/{descriptor}", flags)
            except OSError:  # not ours to open again: write to what we were given
                self._own = -1

    async def write(self, data: bytes | memoryview) -> None:
        """Write all of *data*. Raises BrokenPipeError if nobody reads any more."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._some(rest) :]
            except BlockingIOError:
                await _until(self._descriptor if self._own < 0 else self._own, reading=False)

    async def until_closed(self) -> None:
        """Returns once nobody reads what is written any more; never for a file, which is always there."""
        watcher = select.epoll()
        try:
            watcher.register(self._descriptor, 0)  # EPOLLERR and EPOLLHUP need not be asked for
            await _until(watcher.fileno(), reading=True)
        except PermissionError:  # a regular file cannot be watched
            await asyncio.Event().wait()
        finally:
            watcher.close()

    def remark(self, data: bytes) -> None:
        """Write *data* if that can be done at once: not worth waiting for, nor failing."""
        try:
            if _ready(self._descriptor, select.POLLOUT):
                self._some(memoryview(data))
        except OSError:  # nobody is there to read remarks
            return

    def _some(self, data: memoryview) -> int:
        """Write a part of *data*; returns its length. Raises BlockingIOError, BrokenPipeError."""
        if self._socket:
            import socket

            with socket.socket(fileno=os.dup(self._descriptor)) as pipe:
                return pipe.send(data, socket.MSG_DONTWAIT)
        try:
            return os.write(self._descriptor if self._own < 0 else self._own, data)
        except OSError as error:
            if error.errno == EIO:  # the window of this terminal was closed
                raise BrokenPipeError from error
            raise

    def close(self) -> None:
        """Close what was opened here; the descriptor itself stays open."""
        if self._own >= 0:
            os.close(self._own)
            self._own = -1


def _ready(descriptor: int, event: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(0))


async def _until(descriptor: int, reading: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    (loop.add_reader if reading else loop.add_writer)(descriptor, wake)
    try:
        await ready
    finally:
        (loop.remove_reader if reading else loop.remove_writer)(descriptor)


class Signals:
    """`with Signals({signal: function}):` the event loop calls *function* for each, inside the block."""

    def __init__(self, actions: dict[int, Callable[[], None]]) -> None:
        self._actions = actions

    def __enter__(self) -> "Signals":
        loop = asyncio.get_running_loop()
        for number, action in self._actions.items():
            loop.add_signal_handler(number, action)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in self._actions:
            loop.remove_signal_handler(number)
