"""What a machine could leave behind on its host, as snapshots to compare: proof that it left nothing.

A snapshot holds the interfaces and routes of this network namespace, the mounts of this mount namespace,
the control groups of machines whose primary has ended, shared memory named after popnet, the machine's
entries in the run directory, and its processes. Processes need help: programs in a kernel have any name. So
the snapshot taken while the machine runs lists every descendant of its primary by (pid, start time), and
`left` asks which of those still live.
Only reading, of /proc and /sys; no privileges.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from a later one with the same pid by its start time (clock ticks since boot)."""

    pid: int
    started: int
    name: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is at one moment; sets of texts that need no further explanation."""

    interfaces: frozenset[str]
    routes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    shared_memory: frozenset[str]
    run_files: frozenset[str]
    processes: frozenset[Process]


def take(run_dir: Path, primary: int | None = None) -> Snapshot:
    """A snapshot of this host.

    Args:
        run_dir: the run directory of the machines; it need not exist.
        primary: pid of the machine's primary; its family goes into `processes` (without it, that set is
            empty).
    """
    return Snapshot(
        interfaces=frozenset(_names("/sys/class/net")),
        routes=frozenset(_routes()),
        mounts=frozenset(_mounts()),
        cgroups=frozenset(cgroups()),
        shared_memory=frozenset(f"/dev/shm/{name}" for name in _names("/dev/shm") if "popnet" in name),
        run_files=frozenset(str(path) for path in run_dir.rglob("*")),
        processes=frozenset(family(primary)) if primary is not None else frozenset(),
    )


def left(before: Snapshot, running: Snapshot, after: Snapshot) -> list[str]:
    """What is there *after* a machine and was not *before* it, one sentence each; empty: nothing is left.

    Args:
        running: taken while the machine was up, with its primary's pid.
    """
    sentences = []
    for what in ("interfaces", "routes", "mounts", "cgroups", "shared_memory", "run_files"):
        extra = sorted(getattr(after, what) - getattr(before, what))
        sentences += [f"{_SINGULAR[what]} {text}" for text in extra]
    return sentences + [f"process {process.pid} ({process.name})" for process in alive(running.processes)]


_SINGULAR = {
    "interfaces": "interface",
    "routes": "route",
    "mounts": "mount",
    "cgroups": "cgroup",
    "shared_memory": "shared memory",
    "run_files": "file",
}


def alive(processes: Iterable[Process]) -> list[Process]:
    """Those of *processes* that still run, by pid. A zombie runs no more: it waits for its parent to look."""
    return sorted(
        (process for process in processes if _stat(process.pid, zombies=False) == process),
        key=lambda process: process.pid,
    )


def cgroups(root: Path = Path("/sys/fs/cgroup")) -> Iterable[str]:
    """Groups of machines, but not of those that run: a group's name ends with its primary's pid, and what a
    primary that lives has is in use, by whomever."""
    for directory, names, _files in os.walk(root):
        for name in names:
            owner = name.rpartition("-")[2]
            if name.startswith("popnet") and not (owner.isdigit() and _stat(int(owner), zombies=False)):
                yield f"{directory}/{name}"


def family(pid: int) -> list[Process]:
    """Process *pid* and all its descendants, as of now; empty if there is no such process."""
    children: dict[int, list[int]] = {}
    for name in _names("/proc"):
        if name.isdigit():
            fields = _stat_fields(int(name))
            if fields is not None:
                children.setdefault(int(fields[2]), []).append(int(name))
    found: list[Process] = []
    todo = [pid]
    while todo:
        process = _stat(todo.pop())
        if process is not None:
            found.append(process)
            todo += children.get(process.pid, ())
    return found


def _stat_fields(pid: int) -> list[str] | None:
    """[name, state, parent, …] of /proc/<pid>/stat (proc(5)), or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    opening, closing = text.index("("), text.rindex(")")
    return [text[opening + 1 : closing], *text[closing + 2 :].split()]


def _stat(pid: int, zombies: bool = True) -> Process | None:
    fields = _stat_fields(pid)
    if fields is None or (fields[1] in "ZX" and not zombies):
        return None
    return Process(pid, int(fields[20]), fields[0])


def _mounts() -> Iterable[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        yield f"{fields[4]} ({fields[fields.index('-') + 1]})"


def _routes() -> Iterable[str]:
    path = Path("/proc/self/net/route")
    for line in path.read_text().splitlines()[1:] if path.exists() else ():
        interface, destination, gateway, *_rest = line.split()
        yield f"{interface} {destination} via {gateway}"


def _names(directory: str) -> list[str]:
    try:
        return [path.name for path in Path(directory).iterdir()]
    except FileNotFoundError:
        return []
