"""A kernel's end of a tty: its pty, its shell and its stream, beside a fake init."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from popnet.core.errors import NoSuchProgram
from popnet.kernel import console as module
from popnet.kernel.console import Console
from popnet.kernel.initclient import Program
from popnet.message.stream import Stream, pair
from popnet.tty import pty


class FakeInit:
    """Makes a pty, and pretends to start shells on it."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[Program] = asyncio.Queue()
        self.calls: list[tuple[list[str], dict[str, Any]]] = []
        self.missing = False

    async def open_pty(self, name: str) -> tuple[str, int, int]:
        master, slave = pty.open_pty()
        return f"/dev/{name}", master, slave

    async def spawn(self, argv: list[str], environ: dict[str, str], **more: Any) -> Program:
        self.calls.append((argv, {**environ, **more}))
        program = Program(len(self.calls), 100, None)
        self.started.put_nowait(program)
        if self.missing:
            raise NoSuchProgram("there is no shell")
        return program


class FakeEndpoint:
    def __init__(self) -> None:
        self.opened: list[tuple[int, str, dict[str, Any]]] = []

    async def open(self, kid: int, service: str, params: dict[str, Any]) -> Stream:
        self.opened.append((kid, service, params))
        self.primary, stream = pair(service, params)
        return stream


class Lab:
    def __init__(self) -> None:
        self.init, self.endpoint = FakeInit(), FakeEndpoint()
        self.console = Console(1, self.init, "/bin/sh", lambda **more: more)  # type: ignore[arg-type]

    async def control(self, message: Any) -> None:
        await self.endpoint.primary.send(json.dumps(message).encode(), 2)

    async def shown(self, count: int) -> bytes:
        """The next *count* bytes that the primary gets."""
        said = b""
        while len(said) < count:
            received = await self.endpoint.primary.receive()
            assert received is not None
            said += received[1]
        return said


@pytest.fixture
async def lab(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    monkeypatch.setattr(module, "_RESPAWN_S", 0.0)
    lab = Lab()
    await lab.console.start(lab.endpoint, 4)  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        yield lab
    lab.console.stop()
    await asyncio.gather(*lab.console._tasks, return_exceptions=True)
    os.close(lab.console._master)
    os.close(lab.console._slave)


async def test_it_opens_the_primarys_terminal_of_its_number(lab: Lab) -> None:
    assert lab.endpoint.opened == [(0, "tty", {"n": 1, "generation": 4})]


async def test_the_shell_starts_when_somebody_looks_and_again_when_it_ends(lab: Lab) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    assert lab.init.calls == []
    await lab.control({"attached": True})
    for _ in range(3):
        program = await lab.init.started.get()
        program.ended.set_result({"status": 0})
    assert lab.init.calls[0] == (
        ["/bin/sh", "-l"],
        {"TERM": "xterm-256color", "cwd": "/root", "path": "/dev/tty1"},
    )


async def test_a_shell_that_cannot_start_is_told_on_the_terminal(lab: Lab) -> None:
    lab.init.missing = True
    await lab.control({"attached": True})
    line = b"[popnet] cannot start /bin/sh: there is no shell\r\n"
    assert (await lab.shown(len(line)))[: len(line)] == line
    await lab.init.started.get()
    await lab.init.started.get()


async def test_bytes_go_both_ways_and_the_size_arrives(lab: Lab) -> None:
    os.write(lab.console._slave, b"prompt$ ")
    assert await lab.shown(8) == b"prompt$ "
    await lab.control({"resize": [132, 43]})
    await lab.control({"of a later version": 1})
    await lab.endpoint.primary.send(b"typed\n")
    assert await lab.shown(7) == b"typed\r\n"
    assert os.read(lab.console._slave, 100) == b"typed\n"
    assert pty.get_size(lab.console._slave) == (132, 43)


async def test_lines_of_the_kernels_own(lab: Lab) -> None:
    await lab.console.print("one\ntwo\n")
    assert await lab.shown(10) == b"one\r\ntwo\r\n"


async def test_a_primary_that_goes_away_ends_it_quietly(lab: Lab) -> None:
    lab.endpoint.primary.abort()
    os.write(lab.console._slave, b"to nobody")
    output, receiving, shell = lab.console._tasks
    await asyncio.gather(output, receiving)
    assert not shell.done()
    await lab.console.print("to nobody either\n")
