"""Notices that a kernel has used up its memory: Linux then kills a program of it, or all of them.

Theory of operation. Linux wakes us when something happened to the memory of the kernel's group. With version
1 of control groups it does so before it kills, and also when a group above ran out; so what counts is that
the group's number of kills has grown, and for LOOKS_S we look again. Whoever hears of init's end may ask
`happened`: that news can come first."""

import asyncio
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Final

from popnet.kernel.cgroup import Group

_LOOK_AGAIN_S: Final = 0.05

LOOKS_S: Final = 10.0
"""Seconds after Linux woke us in which it has killed, if it kills here."""


class OutOfMemory:
    """Watches the memory of *group*; *on_event* is called once. Where the host does not count memory,
    never."""

    def __init__(self, group: Group, on_event: Callable[[], None]) -> None:
        self._directory = group.directories.get("memory")
        self._on_event: Callable[[], None] | None = on_event
        self._timer: asyncio.TimerHandle | None = None
        self._looks = 0
        self._before = self._counts().get("oom_kill", 0)
        self._fds = _watch(self._directory) if self._directory is not None else ()
        if self._fds:
            asyncio.get_running_loop().add_reader(self._fds[0], self._woken)

    def happened(self) -> bool:
        """Whether Linux has killed for want of memory."""
        return self._counts().get("oom_kill", 0) > self._before

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._fds:
            asyncio.get_running_loop().remove_reader(self._fds[0])
        for fd in self._fds:
            os.close(fd)
        self._fds = ()

    def _woken(self) -> None:
        _clear(self._fds)
        self._looks = round(LOOKS_S / _LOOK_AGAIN_S)
        if self._timer is None:
            self._look()

    def _look(self) -> None:
        self._timer = None
        if self.happened():
            if self._on_event is not None:
                tell, self._on_event = self._on_event, None
                tell()
        elif self._looks > 0:
            self._looks -= 1
            self._timer = asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._look)

    def _counts(self) -> dict[str, int]:
        """What the group tells of it; nothing once it is gone."""
        found: dict[str, int] = {}
        for name in ("memory.events", "memory.oom_control"):
            try:
                lines = (self._directory / name).read_text().splitlines() if self._directory else []
            except OSError:
                continue
            found |= {key: int(number) for key, _, number in (line.partition(" ") for line in lines)}
        return found


def _watch(directory: Path) -> tuple[int, ...]:
    """Descriptors, the first of which becomes readable when something happened; none where that cannot be."""
    try:
        if (directory / "memory.events").exists():  # version 2: the file itself has an exceptional condition
            file = os.open(directory / "memory.events", os.O_RDONLY | os.O_CLOEXEC)
            with select.epoll() as waiting:
                waiting.register(file, select.EPOLLPRI)
                os.pread(file, 4096, 0)  # from now on
                return (os.dup(waiting.fileno()), file)
        file = os.open(directory / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            (directory / "cgroup.event_control").write_text(f"{bell} {file}")
        except OSError:
            os.close(bell)
            os.close(file)
            return ()
        return (bell, file)
    except OSError:
        return ()


def _clear(fds: tuple[int, ...]) -> None:
    """Have the first of *fds* no longer readable, until the next time."""
    bell, file = fds
    try:
        os.eventfd_read(bell)
    except BlockingIOError:
        return
    except OSError:  # not an eventfd: version 2, whose condition ends by reading the file
        os.pread(file, 4096, 0)
