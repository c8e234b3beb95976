"""The control groups of a machine: one group for each kernel, which holds its init and all that it starts.

Two trees exist on hosts: v2 (one tree) and v1 (one tree a controller). Both are driven through one small
interface, `Group`. Where neither can be written, a kernel still has its CPU affinity, and `popnet doctor`
says that memory is not limited.

Groups are made below the group that the machine itself runs in, so that whoever limits the machine limits its
kernels. A v2 group that has processes hands no controllers on; so in one that was delegated to us (systemd's
Delegate=yes marks it) the primary first moves into a group below it. Names start with `popnet-` and end with
the primary's pid, since two users' machines may have one name; every path made is told to the machine's
ownership record before it is made.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from popnet.machine.views import memory_parts

ROOT: Final = Path("/sys/fs/cgroup")
SETTLED: Final = "popnet-primary"
"""Where the primary moves in a group that was delegated to it."""

_CONTROLLERS: Final = ("cpuset", "memory", "pids")


@dataclass(frozen=True, slots=True)
class Group:
    """The control group of one kernel: one directory in v2, one a controller in v1.

    Attributes:
        directories: controller name -> directory. In v2 all controllers share one directory.
    """

    directories: dict[str, Path]

    def limit(self, cpus: str, memory_bytes: int | None, nodes: str = "") -> list[str]:
        """Apply the partition: *cpus* as a CPU list, memory in bytes (None: no limit), the NUMA *nodes* it
        comes from (empty: all). Returns what could not be applied."""
        missing = []
        if not self._set_cpus(cpus):
            missing.append("cpuset")
        elif nodes and not _write(self.directories["cpuset"] / "cpuset.mems", nodes):
            missing.append("memory nodes")
        if memory_bytes is not None and not self._set_memory(memory_bytes):
            missing.append("memory")
        return missing

    def unlimit_memory(self) -> None:
        """Let it have as much memory as there is."""
        directory = self.directories.get("memory")
        if directory is not None:
            names = ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes")
            for name, text in (("memory.max", "max"), *((name, "-1") for name in names)):
                if (directory / name).exists():
                    _write(directory / name, text)

    def add(self, pid: int) -> None:
        """Move process *pid*, and so all that it will start, into the group."""
        for directory in set(self.directories.values()):
            (directory / "cgroup.procs").write_text(str(pid))

    def doors(self) -> tuple[int, ...] | None:
        """Descriptors by each of which a process with one thread joins the group at once (`enter`), also from
        where the directories cannot be seen; None if the host has no such way.

        Moving another process, or a whole one, waits until every CPU has seen it: 5 to 20 ms. A thread that
        moves itself does not; version 1 allows that by the file `tasks`.
        """
        opened: list[int] = []
        try:
            opened += (  # one at a time, so that a failure leaves those before it in the list
                os.open(directory / "tasks", os.O_WRONLY | os.O_CLOEXEC)
                for directory in dict.fromkeys(self.directories.values())
            )
        except OSError:
            for fd in opened:
                os.close(fd)
            return None
        return tuple(opened)

    def memory_used(self) -> int | None:
        """Bytes of memory in use, or None if the host does not count it."""
        directory = self.directories.get("memory")
        for name in ("memory.current", "memory.usage_in_bytes"):
            if directory is not None and (directory / name).exists():
                return int((directory / name).read_text())
        return None

    def memory_held(self) -> int | None:
        """Bytes of it that it cannot give back at once: what Linux caches of files goes. None: not
        counted."""
        used, text = self.memory_used(), self.memory_stat()
        if used is None or text is None:
            return None
        parts = memory_parts(text)
        return max(0, used - parts.get("inactive_file", 0) - parts.get("active_file", 0))

    def memory_stat(self) -> str | None:
        """What that memory is made of (`memory.stat`), or None if the host does not count it."""
        try:
            return (self.directories["memory"] / "memory.stat").read_text()
        except (KeyError, OSError):
            return None

    def remove(self) -> None:
        """Remove the group's directories; processes in it must have ended."""
        for directory in set(self.directories.values()):
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()

    def _set_cpus(self, cpus: str) -> bool:
        directory = self.directories.get("cpuset")
        if directory is None:
            return False
        # v1 wants the memory nodes too, before a process may join.
        mems = directory / "cpuset.mems"
        if (directory / "cpuset.effective_mems").exists() and not mems.read_text().strip():
            mems.write_text((directory.parent / "cpuset.effective_mems").read_text().strip())
        return _write(directory / "cpuset.cpus", cpus)

    def _set_memory(self, limit: int) -> bool:
        directory = self.directories.get("memory")
        if directory is None:
            return False
        if (directory / "memory.max").exists():
            _write(directory / "memory.swap.max", "0")
            _write(directory / "memory.oom.group", "1")
            return _write(directory / "memory.max", str(limit))
        # Memory and swap together may never be less than memory alone, so before when it grows, behind when
        # not.
        with_swap = directory / "memory.memsw.limit_in_bytes"
        _write(with_swap, str(limit))
        done = _write(directory / "memory.limit_in_bytes", str(limit))
        _write(with_swap, str(limit))
        return done


def enter(doors: tuple[int, ...]) -> None:
    """Move the caller, which has one thread, through the *doors* of a group, and close them."""
    for door in doors:
        os.write(door, b"0")
        os.close(door)


class Tree:
    """The control groups of a machine, on whatever the host offers.

    Args:
        machine: the machine's name.
        record: told every directory before it is made.
        root, memberships: where the trees are mounted, and the text of /proc/self/cgroup (for tests).
    """

    def __init__(
        self,
        machine: str,
        record: Callable[[Path], None],
        root: Path = ROOT,
        memberships: str | None = None,
    ) -> None:
        text = Path("/proc/self/cgroup").read_text() if memberships is None else memberships
        self._record = record
        self._made: dict[Path, None] = {}
        self._settle(root, text)
        self._bases = {
            controller: base / f"popnet-{machine}-{os.getpid()}"
            for controller, base in _bases(root, text).items()
        }
        for directory in dict.fromkeys(self._bases.values()):
            if self._make(directory):
                self._enable(directory)
        self._bases = {c: d for c, d in self._bases.items() if d in self._made}

    @property
    def controllers(self) -> tuple[str, ...]:
        """The controllers that can be used here; empty where groups cannot be made."""
        return tuple(self._bases)

    def group(self, kernel: str) -> Group:
        """Make the group of *kernel*; it has no directories where the host offers none."""
        directories = {}
        for controller, base in self._bases.items():
            directory = base / kernel
            if directory.is_dir() or self._make(directory):
                directories[controller] = directory
        return Group(directories)

    def remove(self) -> None:
        """Remove every directory made, kernels first."""
        for directory in reversed(self._made):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def _settle(self, root: Path, memberships: str) -> None:
        """Move this process out of the way, if its group was delegated to it and it is alone there."""
        for line in memberships.splitlines():
            _, controllers, path = line.split(":", 2)
            group = _existing(_unified(root), path.lstrip("/"))
            alone = _read_words(group / "cgroup.procs") == {str(os.getpid())}
            offers = not _read_words(group / "cgroup.controllers").isdisjoint(_CONTROLLERS)
            if not controllers and alone and offers and is_delegated(group) and self._make(group / SETTLED):
                _write(group / SETTLED / "cgroup.procs", str(os.getpid()))

    def _make(self, directory: Path) -> bool:
        if not os.access(directory.parent, os.W_OK):
            return False
        self._record(directory)
        try:
            directory.mkdir(exist_ok=True)
        except OSError:
            return False
        self._made[directory] = None
        return True

    def _enable(self, directory: Path) -> None:
        """Prepare a machine's directory so that its kernels' groups have working controllers."""
        if (directory / "cgroup.controllers").exists():
            for controller in _CONTROLLERS:
                _write(directory / "cgroup.subtree_control", f"+{controller}")
        elif (directory / "cpuset.cpus").exists():
            for name in ("cpus", "mems"):
                inherited = (directory.parent / f"cpuset.effective_{name}").read_text().strip()
                _write(directory / f"cpuset.{name}", inherited)


def _bases(root: Path, memberships: str) -> dict[str, Path]:
    """Controller -> directory of the group that this process is in, for the controllers found below
    *root*."""
    bases: dict[str, Path] = {}
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        relative = path.lstrip("/")
        for controller in _CONTROLLERS:
            if controller in controllers.split(","):
                bases[controller] = _existing(root / controller, relative)
        if controllers == "":
            unified = _unified(root)
            base = _existing(unified, relative)
            for group in (base, unified):
                offered = _handed_on(group, change=group != unified)
                found: dict[str, Path] = {c: group for c in _CONTROLLERS if c in offered and c not in bases}
                if found:
                    bases |= found
                    break
    return bases


def is_delegated(group: Path) -> bool:
    """Whether systemd gave the v2 *group* away, to whoever runs in it (systemd.io/CGROUP_DELEGATION)."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(group, name) == b"1"
    return False


def _unified(root: Path) -> Path:
    """Where the v2 tree is mounted: beside v1 controllers, or alone."""
    return root / "unified" if (root / "unified/cgroup.controllers").exists() else root


def _handed_on(group: Path, change: bool) -> set[str]:
    """The controllers that children of the v2 *group* have.

    With *change*, what can be is handed on first: a group that has processes cannot. The root group is the
    host's business; it is used, never changed.
    """
    file = group / "cgroup.subtree_control"
    handed_on = _read_words(file)
    if change and not _read_words(group / "cgroup.procs"):
        handed_on |= {controller for controller in _CONTROLLERS if _write(file, f"+{controller}")}
    return handed_on


def _existing(root: Path, relative: str) -> Path:
    """The directory of a group; in a container the path of /proc/self/cgroup may not exist below the mount,
    which then is it."""
    return root / relative if (root / relative).is_dir() else root


def _read_words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False
    return True
