"""One incarnation of a kernel as the primary sees it; the daemon is a process that sleeps, or the test."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from popnet.core.errors import BootFailed, PeerDied
from popnet.kernel.cgroup import Group
from popnet.kernel.incarnation import Incarnation
from popnet.transport.handover import create_handover, receive_packet, send_packet


@dataclass
class Lab:
    """An incarnation, the daemon's end of its handover socket, and what the primary was told."""

    incarnation: Incarnation
    daemon: socket.socket
    process: "subprocess.Popen[bytes]"
    packets: list[tuple[dict[str, Any], list[int]]] = field(default_factory=list)
    dead: asyncio.Event = field(default_factory=asyncio.Event)

    def fork(self) -> None:
        self.incarnation.forked(self.process.pid, os.pidfd_open(self.process.pid))

    def reap(self) -> None:
        self.incarnation.exited(self.process.wait())


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    ours, theirs = create_handover()

    def on_packet(_: Incarnation, packet: dict[str, Any], fds: list[int]) -> None:
        lab.packets.append((packet, fds))
        if packet.get("op") == "lie":
            raise PeerDied("it lied", "boot it again")

    incarnation = Incarnation(None, 3, ours, Group({}), on_packet, lambda _: lab.dead.set())  # type: ignore[arg-type]
    lab = Lab(incarnation, theirs, subprocess.Popen(["sleep", "1000"]))  # noqa: ASYNC220
    async with asyncio.timeout(30):
        yield lab
    lab.process.kill()
    if ours.fileno() >= 0:
        lab.reap()
    theirs.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


async def test_packets_go_both_ways(lab: Lab) -> None:
    assert lab.incarnation.send({"op": "hello"})
    assert receive_packet(lab.daemon) == ({"op": "hello"}, [])
    for n in range(3):
        send_packet(lab.daemon, {"n": n})
    while len(lab.packets) < 3:  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0)
    assert [packet["n"] for packet, _ in lab.packets] == [0, 1, 2]


async def test_a_socket_that_nobody_reads_takes_no_more_and_a_dead_one_nothing(lab: Lab) -> None:
    while lab.incarnation.send({"op": "x" * 1000}):
        pass
    lab.daemon.close()
    assert not lab.incarnation.send({"op": "hello"})


async def test_a_death_is_seen_and_what_was_handed_over_before_still_counts(lab: Lab) -> None:
    lab.fork()
    send_packet(lab.daemon, {"op": "last words"})
    lab.process.kill()
    await lab.dead.wait()
    assert lab.packets[-1][0] == {"op": "last words"}
    lab.reap()
    assert lab.incarnation.reason == "killed by SIGKILL"
    with pytest.raises(BootFailed, match="SIGKILL"):
        await lab.incarnation.online
    lab.incarnation.kill()  # of one that is gone: nothing


async def test_a_kill_before_the_fork_is_told_comes_with_it(lab: Lab) -> None:
    lab.incarnation.kill()
    assert lab.process.poll() is None
    lab.fork()
    await lab.dead.wait()
    assert lab.process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("data", [b"no json", b"[]", b"\xff", b"[" * 50_000])
async def test_what_is_no_packet_ends_it(lab: Lab, data: bytes) -> None:
    lab.fork()
    lab.daemon.send(data)
    await lab.dead.wait()
    lab.reap()
    assert "JSON" in lab.incarnation.reason


async def test_what_the_primary_does_not_take_ends_it_with_the_reason_and_the_hint(lab: Lab) -> None:
    lab.fork()
    send_packet(lab.daemon, {"op": "lie"})
    await lab.dead.wait()
    lab.reap()
    with pytest.raises(BootFailed, match="it lied") as caught:
        await lab.incarnation.online
    assert caught.value.hint == "boot it again"


@pytest.mark.parametrize(
    ("stopping", "code", "reason"),
    [
        (True, 0, "stopped"),
        (False, 0, "daemon exited with status 0"),
        (False, 7, "daemon exited with status 7"),
        (True, -9, "killed by SIGKILL"),
    ],
)
async def test_reasons(lab: Lab, stopping: bool, code: int, reason: str) -> None:
    lab.incarnation.stopping = stopping
    lab.incarnation.exited(code)
    assert lab.incarnation.reason == reason
