"""The service `partition` of every kernel's daemon: the primary gives the kernel another partition while it
runs.

Theory of operation. The control group is changed first: what cannot be fails there, and nothing else has
changed. Programs follow by it (a cpuset), or, where there is none, by the affinity of each. The daemon is in
no group: its threads follow by affinity. Then /proc and /sys show the new partition, and who watches the
registry is told by the primary."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from popnet.core.errors import Refused
from popnet.kernel.cgroup import Group
from popnet.kernel.devicemounts import DeviceMounts
from popnet.kernel.modes import Modes
from popnet.kernel.usage import descendants
from popnet.kernel.views import Partition, Views
from popnet.machine.units import approximate_size, format_cpus, format_size
from popnet.message.stream import Stream


class PartitionService:
    """`partition`: for the primary alone.

    Parameters: cpus, memory_bytes (or null), memory_nodes, devices, cores: all of the new partition. Result:
    {"missing": the limits that this host cannot set}. Refused if it cannot be; then nothing has changed.

    Args:
        init_pid: of the kernel's init, as the daemon sees it.
    """

    def __init__(
        self,
        group: Group,
        init_pid: int,
        views: Views,
        modes: Modes,
        devices: DeviceMounts,
        say: Callable[[str, str], None],
    ) -> None:
        self._group, self._init_pid = group, init_pid
        self._views, self._modes, self._devices = views, modes, devices
        self._say = say
        self._lock = asyncio.Lock()

    async def __call__(self, stream: Stream) -> None:
        if stream.peer != 0:
            raise Refused("partition: only the primary may")
        async with self._lock:
            await stream.close({"missing": await self._set(stream.params)})

    async def _set(self, wanted: dict[str, Any]) -> list[str]:
        before = self._views.tree.partition
        after = Partition(tuple(wanted["cpus"]), wanted["memory_bytes"])
        await self._devices.set(tuple(wanted["devices"]))
        nodes = format_cpus(wanted["memory_nodes"])
        missing = await asyncio.to_thread(self._move, before, after, nodes)
        await asyncio.to_thread(self._views.update, after)
        self._modes.set_cores(wanted["cores"])
        if before != after:
            limit = "no memory limit" if after.memory_bytes is None else format_size(after.memory_bytes)
            self._say("notice", f"partition: CPUs {format_cpus(after.cpus)}, {limit}")
        for name in missing:
            self._say("warning", f"{name}: no control group here, so the limit is not enforced")
        return missing

    def _move(self, before: Partition, after: Partition, nodes: str) -> list[str]:
        missing = self._group.limit(format_cpus(after.cpus), after.memory_bytes, nodes)
        if "memory" in missing and "memory" in self._group.directories:
            self._group.limit(format_cpus(before.cpus), before.memory_bytes, nodes)
            used = self._group.memory_used() or 0
            assert after.memory_bytes is not None
            wanted = approximate_size(after.memory_bytes)
            raise Refused(f"it uses {approximate_size(used)}, and cannot give back enough to have {wanted}")
        if after.memory_bytes is None:
            self._group.unlimit_memory()
        if before.cpus != after.cpus:
            own = [int(task.name) for task in Path("/proc/self/task").iterdir()]
            _run_on(own, after.cpus)
            if "cpuset" in missing:
                _run_on(_threads(self._init_pid), after.cpus)
        return missing


def _threads(init_pid: int) -> list[int]:
    """Of init, and of all that descends from it."""
    found = []
    for pid in descendants(init_pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found += [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return found


def _run_on(threads: list[int], cpus: tuple[int, ...]) -> None:
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.sched_setaffinity(thread, cpus)
