"""The daemon's share of a boot where it has to move init into its control group, and init may have ended."""

import asyncio
import socket
from typing import Any, cast

from popnet.kernel.cgroup import Group
from popnet.kernel.daemon import Prepared, _join
from popnet.transport.handover import create_handover, receive_packet


class GoneGroup(Group):
    """The group of a process that has ended."""

    def add(self, pid: int) -> None:
        raise ProcessLookupError(3, "No such process")


def _move(channel: socket.socket, group: Group) -> None:
    _join(Prepared(1, channel, group, cast("Any", None), None, True, []))


async def test_init_is_told_to_go_on() -> None:
    ours, theirs = create_handover()
    await asyncio.to_thread(_move, ours, Group({}))
    assert receive_packet(theirs) == ({"op": "go"}, [])
    ours.close()
    theirs.close()


async def test_an_init_that_has_ended_is_no_failure_of_the_control_group() -> None:
    ours, theirs = create_handover()
    theirs.close()
    _move(ours, GoneGroup({}))
    ours.close()
    _move(ours, Group({}))
