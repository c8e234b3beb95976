"""What each kernel uses of this host: CPU time and memory of its daemon and all below it, from /proc.

Needs no control groups, so it works for every user. Time of programs that have ended is in their parent's
account, and so still counts. A process whose child is a daemon (the loader) is the exception: what ended
there were kernels, not its own work.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its parent, seconds of CPU time of its own and of its ended children, bytes resident."""

    pid: int
    parent: int
    own_s: float
    children_s: float
    resident_bytes: int


def parse(pid: int, stat: str) -> Process:
    """A process from the text of /proc/PID/stat; its name may hold anything, also brackets."""
    fields = stat.rpartition(")")[2].split()
    times = [int(fields[at]) / _TICKS_A_SECOND for at in range(11, 15)]
    return Process(pid, int(fields[1]), times[0] + times[1], times[2] + times[3], int(fields[21]) * _PAGE)


def processes() -> Iterator[Process]:
    """All that this process may see; those that end meanwhile are left out."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - a Path each would double the cost
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", errors="replace") as file:
                    yield parse(int(name), file.read())
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue


def usage(daemons: Mapping[str, int], found: Mapping[int, Process]) -> dict[str, tuple[float, int]]:
    """(seconds of CPU time, bytes resident) of each kernel: its daemon and what descends from it, but for
    other kernels' daemons. A kernel without a process has none."""
    owners = {pid: name for name, pid in daemons.items()}
    parents_of_daemons = {found[pid].parent for pid in owners if pid in found}
    totals = {name: (0.0, 0) for name, pid in daemons.items() if pid in found}
    for process in found.values():
        owner = _owner(process, owners, found)
        if owner is not None:
            children_s = 0.0 if process.pid in parents_of_daemons else process.children_s
            cpu_s, resident = totals[owner]
            totals[owner] = (cpu_s + process.own_s + children_s, resident + process.resident_bytes)
    return totals


def _owner(process: Process, owners: Mapping[int, str], found: Mapping[int, Process]) -> str | None:
    at: Process | None = process
    for _ in range(1000):  # a table read while processes come and go could hold a circle
        if at is None:
            return None
        if at.pid in owners:
            return owners[at.pid]
        at = found.get(at.parent)
    return None


def descendants(pid: int) -> list[int]:
    """*pid*, and all processes that descend from it now."""
    found = {process.pid: process for process in processes()}
    return [other for other in found if _owner(found[other], {pid: ""}, found) is not None]


def measure(daemons: Mapping[str, int]) -> dict[str, tuple[float, int]]:
    """`usage` of the processes that there are now."""
    return usage(daemons, {process.pid: process for process in processes()})
