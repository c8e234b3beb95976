"""What a kernel shows of the host in /proc and /sys: its partition, as the daemon serves it.

Theory of operation. `Partition` is what the kernel has now; an update replaces it, whole, and whoever reads
next sees that. `PartitionTree` makes each text when it is read, from the host's files and the kernel's
control group. Where FUSE is to be had, `prepare` makes a file system of it, init moves it into place
(`viewmounts`), and a thread of the daemon serves it (`fuse.serve`). Where it is not, init makes plain files
instead, hands the directory over, and the daemon writes them again every REFRESH_S and at each update."""

import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from popnet.kernel import fuse
from popnet.kernel.cgroup import Group
from popnet.machine import views
from popnet.machine.views import MemoryUse, Ticks

PROC_FILES: Final[tuple[str, ...]] = ("cpuinfo", "meminfo", "stat", "uptime")
"""Files of /proc that show the partition."""

SYSTEM: Final = Path("/sys/devices/system")
DIRECTORIES: Final = ("cpu", "node")
"""Directories of /sys/devices/system that do."""

REFRESH_S: Final = 5.0
"""Seconds after which plain files are written again: a kernel's memory and CPU time then are that old."""

_OWN_LISTS: Final = {"online", "present", "possible"}
_MASKS: Final = {"thread_siblings", "core_siblings", "shared_cpu_map", "cpumap"}
_FILE: Final = stat.S_IFREG | 0o444
_DIRECTORY: Final = stat.S_IFDIR | 0o555

_COPIED: Final = ("topology", "cache")
"""What of each CPU plain files show."""


@dataclass(frozen=True, slots=True)
class Partition:
    """What a kernel has.

    Attributes:
        memory_bytes: most it may use; None is no limit.
    """

    cpus: tuple[int, ...]
    memory_bytes: int | None


class PartitionTree:
    """The files: `proc/NAME`, and `cpu` and `node` of /sys/devices/system. A `fuse.Tree`.

    Args:
        partition: the kernel's, at boot.
        group: its control group.
        booted_s: seconds of the boot clock at which it booted.
        proc, system: where the host's are.
    """

    def __init__(
        self,
        partition: Partition,
        group: Group,
        booted_s: int,
        proc: Path = Path("/proc"),
        system: Path = SYSTEM,
    ) -> None:
        self._group = group
        self._booted_s = booted_s
        self._proc, self._system = proc, system
        self._since: dict[int, Ticks] = {}
        self.partition = partition
        self._counted_from_now(partition.cpus)

    def update(self, partition: Partition) -> None:
        """The kernel has *partition* from now on; a CPU that is new to it begins to count."""
        self._counted_from_now(tuple(set(partition.cpus) - set(self.partition.cpus)))
        self.partition = partition

    def _counted_from_now(self, cpus: Sequence[int]) -> None:
        ticks = views.cpu_ticks(self._read("stat"))
        self._since = {**self._since, **{cpu: ticks[cpu] for cpu in cpus if cpu in ticks}}

    # As a tree

    def attributes(self, path: str) -> fuse.Attributes:
        if path in ("", "proc"):
            return fuse.Attributes(_DIRECTORY)
        if path.startswith("proc/"):
            if path[5:] not in PROC_FILES:
                raise FileNotFoundError(2, "no such file", path)
            return fuse.Attributes(_FILE)
        found = self._host(path).lstat()
        return fuse.Attributes(found.st_mode & ~0o222, found.st_size if stat.S_ISLNK(found.st_mode) else 0)

    def names(self, path: str) -> Sequence[str]:
        if path == "":
            return ("proc", *DIRECTORIES)
        if path == "proc":
            return PROC_FILES
        found = (one.name for one in self._host(path).iterdir())
        return [name for name in found if self._is_shown(f"{path}/{name}")]

    def text(self, path: str) -> bytes:
        if path.startswith("proc/"):
            return self._proc_text(path[5:]).encode()
        raw = self._host(path).read_bytes()
        return self._cut(path, raw.decode("latin-1")).encode("latin-1")

    def target(self, path: str) -> str:
        return str(self._host(path).readlink())

    # What they say

    def _proc_text(self, name: str) -> str:
        partition, since = self.partition, self._since
        match name:
            case "cpuinfo":
                return views.cpuinfo(self._read(name), partition.cpus)
            case "meminfo":
                return views.meminfo(self._read(name), partition.memory_bytes, self._memory_use())
            case "stat":
                booted_at_s = round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)) + self._booted_s
                return views.stat(self._read(name), partition.cpus, since, booted_at_s)
            case "uptime":
                up_s = time.clock_gettime(time.CLOCK_BOOTTIME) - self._booted_s
                return views.uptime(up_s, self._read("stat"), partition.cpus, since)
        raise FileNotFoundError(2, "no such file", name)

    def _memory_use(self) -> MemoryUse | None:
        used, text = self._group.memory_used(), self._group.memory_stat()
        return None if used is None or text is None else MemoryUse(used, views.memory_parts(text))

    def _cut(self, path: str, text: str) -> str:
        """A file of /sys with the kernel's CPUs only, if it tells of CPUs."""
        name = path.rpartition("/")[2]
        cpus = self.partition.cpus
        if name in _OWN_LISTS and path.count("/") == 1 and path.startswith("cpu/"):
            return views.cpu_list(",".join(map(str, cpus)), cpus)
        if name.endswith("cpulist") or (name.endswith("_list") and "/cpu" in f"/{path}"):
            return views.cpu_list(text, cpus)
        if name in _MASKS or (name.endswith("_cpus") and "/topology/" in path):
            return views.cpu_mask(text, cpus)
        return text

    def _host(self, path: str) -> Path:
        if path.partition("/")[0] not in DIRECTORIES or not self._is_shown(path):
            raise FileNotFoundError(2, "no such file", path)
        return self._system / path

    def _is_shown(self, path: str) -> bool:
        """Whether no part of *path* is a CPU that the kernel has not."""
        return not any(_cpu(part) not in (None, *self.partition.cpus) for part in path.split("/")[1:])

    def _read(self, name: str) -> str:
        return (self._proc / name).read_text()


def _cpu(name: str) -> int | None:
    """The number in `cpu7`, which also may be a link to one."""
    return int(name[3:]) if name.startswith("cpu") and name[3:].isdecimal() else None


class Views:
    """What serves a kernel's tree, in its daemon.

    Args:
        device: the server's end of the file system that init moves into place; None: init makes plain files.
    """

    def __init__(self, tree: PartitionTree, device: int | None) -> None:
        self.tree = tree
        self._files: int | None = None
        self._written: set[str] = set()
        if device is not None:
            arguments = (device, tree)
            threading.Thread(target=fuse.serve, args=arguments, name="views", daemon=True).start()

    @property
    def plain(self) -> bool:
        """Whether they are files that `refresh` must write."""
        return self._files is not None

    def show_in(self, directory: int) -> None:
        """Write the files into *directory*, a descriptor, which becomes this object's."""
        self._files = directory
        self.refresh(whole=True)

    def update(self, partition: Partition) -> None:
        """Show *partition* from now on."""
        self.tree.update(partition)
        if self._files is not None:
            self.refresh(whole=True)

    def refresh(self, whole: bool = False) -> None:
        """Write plain files again: those that change by themselves, or the *whole* of them."""
        assert self._files is not None
        paths = list(_files_of(self.tree) if whole else ())
        for path in (*(f"proc/{name}" for name in PROC_FILES if name != "uptime"), *paths):
            _write(self._files, path, self.tree.text(path))
        if whole:
            for path in self._written - set(paths):
                _remove(self._files, path)
            self._written = set(paths)

    def close(self) -> None:
        if self._files is not None:
            os.close(self._files)
            self._files = None


def _files_of(tree: PartitionTree) -> Iterator[str]:
    """The files of /sys that are copied: what tells which CPUs there are, and what they are made of."""
    for directory in DIRECTORIES:
        try:
            names = tree.names(directory)
        except FileNotFoundError:
            continue  # this host has no such directory
        for name in names:
            path = f"{directory}/{name}"
            mode = tree.attributes(path).mode
            if stat.S_ISREG(mode):
                yield from _readable(tree, path)
            elif stat.S_ISDIR(mode) and _cpu(name) is not None:
                for part in tree.names(path):
                    if part in _COPIED:
                        yield from _below(tree, f"{path}/{part}")
            elif stat.S_ISDIR(mode) and directory == "node" and name.startswith("node"):
                yield from _readable(tree, f"{path}/cpulist")
                yield from _readable(tree, f"{path}/cpumap")


def _below(tree: PartitionTree, path: str) -> Iterator[str]:
    for name in tree.names(path):
        mode = tree.attributes(f"{path}/{name}").mode
        if stat.S_ISDIR(mode):
            yield from _below(tree, f"{path}/{name}")
        elif stat.S_ISREG(mode):
            yield from _readable(tree, f"{path}/{name}")


def _readable(tree: PartitionTree, path: str) -> Iterator[str]:
    """*path*, if the user may read it and there is such a file."""
    try:
        tree.text(path)
    except OSError:
        return
    yield path


def _write(directory: int, path: str, text: bytes) -> None:
    """Replace what the file says, in place: it may be mounted somewhere."""
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth])
        if not _exists(directory, name):
            os.mkdir(name, 0o755, dir_fd=directory)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444, dir_fd=directory)
    try:
        os.pwrite(fd, text, 0)
        os.ftruncate(fd, len(text))
    finally:
        os.close(fd)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def _remove(directory: int, path: str) -> None:
    """Remove a file, and the directories that become empty."""
    os.unlink(path, dir_fd=directory)
    while "/" in (path := path.rpartition("/")[0]):
        try:
            os.rmdir(path, dir_fd=directory)
        except OSError:
            return
