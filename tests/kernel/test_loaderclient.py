"""The loader's client: what a request has, what becomes of what the loader tells, and the loader's death."""

import gc
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from popnet.kernel.cgroup import Tree
from popnet.kernel.entry import Entry
from popnet.kernel.incarnation import Incarnation
from popnet.kernel.loaderclient import LoaderClient
from popnet.kernel.owner import Ownership
from popnet.machine import states
from popnet.transport.handover import create_handover, receive_packet, send_packet
from tests.kernel.parts import move, roster_of, until


class Impairments:
    def at_boot(self, name: str) -> tuple[dict[str, Any], ...]:
        return ({"place": 0, "kid": 1, "name": name, "impairment": None, "down": True},)


class Lab:
    """The client, and the loader's end of its channel in the test's hands."""

    def __init__(self, tmp: Path) -> None:
        self.roster = roster_of(tmp)
        self.k1 = self.roster.named("k1")
        self.ownership = Ownership(tmp / "run", "test")
        ours, self.loader = create_handover()
        self.directory = os.eventfd(0)
        tree = Tree("test", lambda path: None, tmp / "no-cgroups", "")
        impairments: Any = Impairments()
        self.client = LoaderClient(ours, self.roster, tree, self.ownership, self.directory, impairments)
        self.channel = ours
        self.reaped: list[tuple[str, str]] = []
        self.ended = 0
        self.handed: list[dict[str, Any]] = []
        self.client.start(self._on_reaped, self._on_end)

    def _on_reaped(self, kernel: Entry, incarnation: Incarnation) -> None:
        self.reaped.append((kernel.spec.name, incarnation.reason))
        kernel.incarnation = None

    def _on_end(self) -> None:
        self.ended += 1

    def fork(self) -> tuple[dict[str, Any], list[int]]:
        """Have k1 forked; the request, as the loader has it."""
        move(self.k1, states.Load(), states.Start())
        self.k1.incarnation = self.client.fork(
            self.k1, lambda _, packet, fds: self.handed.append(packet), lambda incarnation: None
        )
        packet = receive_packet(self.loader)
        assert packet is not None
        return packet

    def tell(self, op: str, fds: tuple[int, ...] = (), **more: Any) -> None:
        send_packet(self.loader, {"op": op, "kid": 1, "generation": 1, **more}, fds)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.loader.close()
    await until(lambda: lab.ended)
    lab.channel.close()
    lab.ownership.release()
    os.close(lab.directory)


async def test_a_request_has_what_a_daemon_needs(lab: Lab) -> None:
    request, fds = lab.fork()
    config = request["config"]
    assert request["op"] == "boot" and request["group"] == {}
    assert (config["kernel"]["name"], config["generation"]) == ("k1", 1)
    assert config["impairments"][0]["name"] == "k1"
    assert config["started_at_s"] > 0
    assert len(fds) == 3, "its end of the handover channel, the directory, where it tells its steps"
    for fd in fds:
        os.close(fd)


async def test_a_fork_and_an_end_are_told_and_recorded(lab: Lab) -> None:
    _, fds = lab.fork()
    incarnation = lab.k1.incarnation
    assert incarnation is not None
    process = subprocess.Popen(["sleep", "1000"])  # noqa: ASYNC220
    pidfd = os.pidfd_open(process.pid)
    lab.tell("forked", (pidfd,), pid=process.pid)
    os.close(pidfd)
    await until(lambda: incarnation.pid)
    assert incarnation.pid == process.pid
    owner = next(lab.ownership.directory.glob("owner.json"))
    assert str(process.pid) in owner.read_text()
    process.kill()
    process.wait()
    lab.tell("exited", code=-signal.SIGKILL)
    await until(lambda: lab.reaped)
    assert lab.reaped == [("k1", "fork: killed by SIGKILL")], "the step that it was in"
    assert str(process.pid) not in owner.read_text()
    for fd in fds:
        os.close(fd)


async def test_the_loaders_death_is_that_of_all(lab: Lab) -> None:
    _, fds = lab.fork()
    incarnation = lab.k1.incarnation
    assert incarnation is not None
    lab.loader.close()
    await until(lambda: lab.ended)
    assert lab.reaped == [("k1", "fork: killed by SIGKILL")], "the step that it was in"
    assert incarnation.online.done()
    for fd in fds:
        os.close(fd)


async def test_a_request_that_cannot_be_made_leaves_nothing(lab: Lab) -> None:
    gc.collect()  # those of earlier tests
    before = len(list(Path("/proc/self/fd").iterdir()))
    move(lab.k1, states.Load(), states.Start())
    lab.k1.spec = replace(lab.k1.spec, name="no-such-kernel")
    with pytest.raises(Exception, match="no-such-kernel"):
        lab.client.fork(lab.k1, lambda *_: None, lambda _: None)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
