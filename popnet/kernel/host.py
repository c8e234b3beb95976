"""What this host has for a machine: CPUs, memory and control groups, as /proc and /sys tell."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from popnet.machine.host import Host
from popnet.machine.memory import Memory, Range, union
from popnet.machine.units import parse_cpus

PROC: Final = Path("/proc")
CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
SYSTEM: Final = Path("/sys/devices/system")

_UNLIMITED_V1: Final = 1 << 62
"""Version 1 says "no limit" with the largest multiple of a page below 2**63."""


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """The control groups that this process is in.

    Attributes:
        version: 2 for one tree, 1 for one tree a controller, 0 if none is mounted. A host may have both;
        then a
            controller of version 1 counts as such, and `version` is 1.
        directories: controller -> directory of this process's group.
        delegated: the controllers with which this process may limit groups of its own.
    """

    version: int
    directories: dict[str, Path]
    delegated: frozenset[str]


def read_host(proc: Path = PROC, cgroup_root: Path = CGROUP_ROOT, system: Path = SYSTEM) -> Host:
    """The CPUs that this process may run on, and the memory that it may use, in bytes."""
    memory_bytes = _total_memory(proc)
    directory = control_groups(proc, cgroup_root).directories.get("memory")
    while directory is not None and directory.is_relative_to(cgroup_root):
        memory_bytes = min(memory_bytes, _memory_limit(directory) or memory_bytes)
        directory = directory.parent
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    nodes, cores = memory_nodes(system), hardware_threads(cpus, system)
    return Host(cpus=cpus, memory_bytes=memory_bytes, nodes=nodes, cores=cores)


def hardware_threads(cpus: Iterable[int], system: Path = SYSTEM) -> tuple[tuple[int, ...], ...]:
    """The CPUs that are threads of one core, for each core of *cpus* that has several."""
    found: set[tuple[int, ...]] = set()
    for cpu in cpus:
        topology = system / f"cpu/cpu{cpu}/topology"
        lines = _lines(topology / "core_cpus_list") or _lines(topology / "thread_siblings_list")
        threads = parse_cpus(lines[0]) if lines and lines[0].strip() else ()
        if len(threads) > 1:
            found.add(threads)
    return tuple(sorted(found))


def memory_nodes(system: Path = SYSTEM) -> dict[int, Memory]:
    """The memory of each NUMA node by address, as far as Linux tells: it is cut into blocks of one size, each
    with a directory. Empty where there are none, as in some containers."""
    size = _lines(system / "memory/block_size_bytes")
    if not size:
        return {}
    block_bytes = int(size[0], 16)
    nodes = {int(path.name[4:]): path for path in (system / "node").glob("node[0-9]*")}
    memory: dict[int, Memory] = {}
    for number, directory in sorted((nodes or {0: system / "memory"}).items()):
        blocks = [int(block.name[6:]) for block in directory.glob("memory[0-9]*") if _is_online(block)]
        memory[number] = union(Range(n * block_bytes, (n + 1) * block_bytes) for n in blocks)
    return memory


def _is_online(block: Path) -> bool:
    return "offline" not in _words(block / "state")


def control_groups(proc: Path = PROC, root: Path = CGROUP_ROOT) -> ControlGroups:
    """The groups named in /proc/self/cgroup, as far as they are mounted below *root*."""
    directories: dict[str, Path] = {}
    delegated: set[str] = set()
    version = 0
    for line in _lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        mounts = [root / controllers, root] if controllers else [root, root / "unified"]
        mounts = [mount for mount in mounts if _is_tree(mount, controllers)]
        if not mounts or "=" in controllers:
            continue
        # In a container the path is the host's, and the mount is the group itself.
        group = mounts[0] / path.lstrip("/")
        group = group if group.is_dir() else mounts[0]
        if controllers:
            version = 1
            directories |= dict.fromkeys(controllers.split(","), group)
            if os.access(group, os.W_OK):
                delegated.update(controllers.split(","))
            continue
        version = version or 2
        offered = _words(group / "cgroup.controllers")
        directories = dict.fromkeys(offered, group) | directories
        delegated |= _delegated(group) or _delegated(mounts[0])
    return ControlGroups(version, directories, frozenset(delegated))


def _delegated(group: Path) -> set[str]:
    """The controllers that a new group below *group*, of version 2, would have.

    A group that holds processes cannot hand controllers on, unless it does so already or is the root.
    """
    control = group / "cgroup.subtree_control"
    if not (os.access(group, os.W_OK) and os.access(control, os.W_OK)):
        return set()
    is_root = not (group / "cgroup.type").exists()
    free = is_root or not _words(group / "cgroup.procs")
    return _words(control) | (_words(group / "cgroup.controllers") if free else set())


def _is_tree(mount: Path, controllers: str) -> bool:
    """Whether a tree of version 1 for *controllers*, or of version 2 for "", is mounted at *mount*."""
    if not controllers:
        return (mount / "cgroup.controllers").is_file()
    return (mount / "cgroup.procs").is_file() and not (mount / "cgroup.controllers").exists()


def _total_memory(proc: Path) -> int:
    for line in _lines(proc / "meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_limit(group: Path) -> int | None:
    """The bytes that *group* itself may use, or None if it does not say or has no limit."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        for word in _words(group / name):
            if word.isdecimal() and int(word) < _UNLIMITED_V1:
                return int(word)
    return None


def _lines(path: Path) -> list[str]:
    """The lines of *path*, none if it cannot be read: the host has no such thing."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _words(path: Path) -> set[str]:
    return {word for line in _lines(path) for word in line.split()}
