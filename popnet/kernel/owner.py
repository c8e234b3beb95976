"""The ownership record of a machine: the proof by which `popnet gc` tells what is popnet's from what is not.

A machine's directory holds `lock`, which the primary keeps locked as long as it lives (the kernel drops the
lock however the
primary ends), and `owner.json`, written before anything is made outside the directory: the processes started,
each by pid *and*
start time (a pid alone may belong to somebody else later), and the control groups. Nothing else of a machine
outlives its processes:
interfaces, mounts and windows belong to namespaces and descriptors.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any

from popnet.core.errors import Refused
from popnet.kernel import linux


class Ownership:
    """The lock and the record of a machine that this process runs.

    Raises:
        Refused: a machine of that name runs already.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(directory)
        if self._lock is None:
            raise Refused(
                f"a machine named {name!r} is running already",
                f"take it down with `popnet -m {name} down`, or give this one another name with --name",
            )
        self._record: dict[str, Any] = {
            "name": name,
            "boot_id": boot_id(),
            "processes": [],
            "cgroups": [],
        }
        self.add_process(os.getpid())

    def add_process(self, pid: int) -> None:
        self._record["processes"].append({"pid": pid, "start_time": linux.process_start_time(pid)})
        self._save()

    def drop_process(self, pid: int) -> None:
        self._record["processes"] = [p for p in self._record["processes"] if p["pid"] != pid]
        self._save()

    def add_cgroup(self, directory: Path) -> None:
        if str(directory) not in self._record["cgroups"]:
            self._record["cgroups"].append(str(directory))
            self._save()

    def release(self) -> None:
        """Remove the machine's directory; the lock goes with the process."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _save(self) -> None:
        temporary = self.directory / "owner.json.new"
        temporary.write_text(json.dumps(self._record))
        temporary.rename(self.directory / "owner.json")


def is_alive(directory: Path) -> bool:
    """Whether the machine of *directory* has a living primary."""
    fd = _lock(directory)
    if fd is None:
        return True
    os.close(fd)
    return False


def boot_id() -> str:
    """What tells this boot of the host from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _lock(directory: Path) -> int | None:
    """The descriptor that holds the directory's lock, or None if another process has it."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
