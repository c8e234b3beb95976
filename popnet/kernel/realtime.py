"""What a kernel that has its cores alone gets beside them: real-time priorities, memory that stays, CPUs that
wake at once, and, where the host can, that nobody else's processes run there.

Each of these may be refused by the host; what is refused is told in the kernel's log, and by `popnet doctor`.
"""

import contextlib
import os
import resource
import struct
from pathlib import Path
from typing import Final

from popnet.core.errors import Refused

FIFO_MAX: Final = 99
_LATENCY: Final = Path("/dev/cpu_dma_latency")


def hold_latency(path: Path = _LATENCY) -> int | None:
    """Have idle CPUs of the host wake at once, as long as the descriptor is open; None if that is not ours.

    (linux/Documentation/power/pm_qos_interface.rst: the largest wake-up latency wanted, in microseconds)
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.write(fd, struct.pack("=i", 0))
    except OSError:
        os.close(fd)
        return None
    return fd


def allow_in_process() -> list[str]:
    """Let the caller and what it starts take real-time priorities and lock memory; what was refused."""
    refused = []
    for name, number, wanted in (
        ("SCHED_FIFO for its programs (RLIMIT_RTPRIO)", resource.RLIMIT_RTPRIO, FIFO_MAX),
        ("locked memory (RLIMIT_MEMLOCK)", resource.RLIMIT_MEMLOCK, resource.RLIM_INFINITY),
    ):
        try:
            resource.setrlimit(number, (wanted, wanted))
        except (ValueError, OSError):
            _, hard = resource.getrlimit(number)
            resource.setrlimit(number, (hard, hard))
            if number == resource.RLIMIT_RTPRIO and hard > 0:
                continue  # some is allowed: it is for the programs to ask for no more
            refused.append(name)
    return refused


def isolate(directory: Path | None) -> str | None:
    """Have nobody else run on the CPUs of a control group of version 2: why not, or None.

    A partition of CPUs needs the cpuset controller of version 2, and groups above that hand their CPUs on
    (linux/Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus.partition).
    """
    if directory is None or not (directory / "cpuset.cpus.partition").exists():
        return "to keep its other processes off them (no cpuset of control groups version 2)"
    cpus = (directory / "cpuset.cpus").read_text().strip()
    for group in (directory.parent, directory):
        # Before Linux 6.7 there is none, and the partition may be had all the same: it says so itself.
        with contextlib.suppress(OSError):
            (group / "cpuset.cpus.exclusive").write_text(cpus)
    partition = directory / "cpuset.cpus.partition"
    try:
        partition.write_text("isolated")
        told = partition.read_text().strip()
    except OSError as error:
        told = error.strerror or str(error)
    if told == "isolated":
        return None
    try:
        partition.write_text("member")
    except OSError as error:
        told += f", {error.strerror}"
    return f"to keep its other processes off them (cpuset.cpus.partition: {told})"


def set_fifo(pidfd: int, priority: int) -> None:
    """Give the process that *pidfd* is of the policy SCHED_FIFO. Raises Refused."""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    pid = next((int(line.split()[1]) for line in lines if line.startswith("Pid:")), -1)
    if pid <= 0:
        return  # it has ended already
    try:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))
    except ProcessLookupError:
        return
    except PermissionError:
        hint = "be root, or be given a limit of rtprio (limits.conf); `popnet doctor` tells"
        raise Refused("this host lets this user have no real-time priorities", hint) from None


def check_priority(value: object, isolated: bool) -> int | None:
    """The priority that *value*, a parameter, asks for; None for none. Raises Refused."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= FIFO_MAX:
        raise Refused(f"fifo: got {value!r}; allowed: a priority from 1 to {FIFO_MAX}")
    if not isolated:
        hint = "its image needs `isolated: true`, as rt has it"
        raise Refused("fifo: this kernel does not have its cores alone, so it may starve others", hint)
    return value
