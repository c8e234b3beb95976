"""The daemon's share of a boot that fails in init: the reason must be init's."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

from popnet.kernel.cgroup import Group
from popnet.kernel.daemon import Daemon, Prepared
from popnet.transport.handover import create_handover, receive_packet


class GoneGroup(Group):
    """The group of a process that has ended."""

    def add(self, pid: int) -> None:
        raise ProcessLookupError(3, "No such process")


def _partition(channel: socket.socket, group: Group) -> list[str]:
    kernel = SimpleNamespace(cpus=(0,), memory_bytes=1 << 30, memory_nodes=(), isolated=False)
    daemon: Any = SimpleNamespace(config=SimpleNamespace(kernel=kernel))
    return Daemon._apply_partition(daemon, Prepared(1, channel, group, cast("Any", None), None))


async def test_init_is_told_to_go_on_and_limits_that_miss_are_named() -> None:
    ours, theirs = create_handover()
    assert await asyncio.to_thread(_partition, ours, Group({})) == ["cpuset", "memory"]
    assert receive_packet(theirs) == ({"op": "go", "cpuset": False}, [])
    ours.close()
    theirs.close()


async def test_an_init_that_has_ended_is_no_failure_of_the_control_group() -> None:
    ours, theirs = create_handover()
    theirs.close()
    assert _partition(ours, GoneGroup({})) == ["cpuset", "memory"]
    ours.close()
    assert _partition(ours, Group({})) == ["cpuset", "memory"]
