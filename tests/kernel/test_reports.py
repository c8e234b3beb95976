"""Reports of kernels that may lie: each counts for whose link it came by, is cut, or costs that link."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from popnet.core import limits
from popnet.core.errors import NoSuchTerminal
from popnet.kernel.entry import Entry
from popnet.kernel.reports import Reports
from popnet.message.kinds import Kind
from tests.kernel.parts import Ends, Told, roster_of, until

ROW = {"step": "fork", "start_ms": 0, "took_ms": 1}
HERE = {"generation": 1, "pid": 1}


class Lab:
    """The reports of k1 and k2, whose endpoints the test has."""

    def __init__(self, tmp: Path) -> None:
        self.roster = roster_of(tmp)
        self.told = Told()
        self.online: list[tuple[str, list[dict[str, Any]]]] = []
        self.ends = Ends(1, 2)
        Reports(self.roster, self.told, self._online).start(self.ends.own)

    def _online(self, kernel: Entry, timeline: list[dict[str, Any]]) -> None:
        self.online.append((kernel.spec.name, timeline))

    async def log(self, name: str) -> list[dict[str, Any]]:
        return [line async for line in self.roster.named(name).log.read()]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    await lab.ends.close()


async def test_a_boot_is_reported(lab: Lab) -> None:
    lab.ends.post(1, Kind.CHECK_IN, HERE | {"kid": 1})
    lab.ends.post(1, Kind.EVENT, {"online": True, "timeline": [ROW]})
    await until(lambda: lab.online)
    assert lab.told.all == [("kernel.check-in", "k1", "kernel 1: checked in")]
    assert lab.online == [("k1", [ROW])]


async def test_a_link_that_was_closed_is_told_cut(lab: Lab) -> None:
    lab.ends.post(2, Kind.EVENT, {"violation": "x" * 10_000, "peer": 1})
    await until(lambda: lab.told.all)
    [(kind, kernel, text)] = lab.told.all
    assert (kind, kernel) == ("link.closed", "k2"), "whose link it came by, whatever it says"
    assert text == "kernel 2: link to kernel 1 closed: " + "x" * limits.REPORT_TEXT_MAX


async def test_lines_of_a_log_are_the_senders_and_cut(lab: Lab) -> None:
    lab.ends.post(1, Kind.LOG, {"time_s": 1.5, "level": "l" * 100, "text": "t" * 10_000, "kernel": "k2"})
    lab.ends.post(1, Kind.LOG, {"time_s": 2, "level": "info", "text": "whole"})
    await until(lambda: len(lab.roster.named("k1").log.last(9)) == 2)
    first, second = await lab.log("k1")
    assert (len(first["level"]), len(first["text"])) == (16, limits.REPORT_TEXT_MAX)
    assert set(first) == {"seq", "generation", "time_s", "level", "text"}
    assert (second["text"], second["generation"]) == ("whole", 0)
    assert await lab.log("k2") == []


@pytest.mark.parametrize("kind", [Kind.CHECK_IN, Kind.EVENT, Kind.LOG])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"kid": 2, "generation": 1, "pid": 1}',
        b'{"online": true}',
        b'{"online": true, "timeline": {}}',
        b'{"violation": 1, "peer": 1}',
        b'{"time_s": "1", "level": "info", "text": ""}',
        b'{"time_s": 1, "level": "info"}',
        b"[" * 5000,
    ],
)
async def test_a_report_that_is_none_costs_its_sender_the_link(lab: Lab, kind: Kind, body: bytes) -> None:
    lab.ends.post(1, kind, body)
    await until(lambda: lab.ends.violations)
    assert [kid for kid, _ in lab.ends.violations] == [1]
    assert lab.told.all == [] and lab.online == []
    lab.ends.post(2, Kind.CHECK_IN, HERE | {"kid": 2})
    await until(lambda: lab.told.all)
    assert lab.told.texts() == ["kernel 2: checked in"], "the other is heard"


@pytest.mark.parametrize("n", [None, -1, 1, "0", 1 << 70])
async def test_a_terminal_that_there_is_not_is_refused(lab: Lab, n: Any) -> None:
    with pytest.raises(NoSuchTerminal, match="kernel k2 has no terminal"):
        async with asyncio.timeout(20):
            await lab.ends.of[2].open(0, "tty", {"n": n, "generation": 1})


async def test_a_terminal_is_the_kernels_own(lab: Lab) -> None:
    stream = await lab.ends.of[2].open(0, "tty", {"n": 0, "generation": 1})
    await stream.send(b"from k2's console\r\n")
    async with asyncio.timeout(20):
        shown = b""
        viewer = lab.roster.named("k2").terminals[0].attach(write=False)
        while b"from k2's console" not in shown:
            shown += await viewer.read()
    assert lab.roster.named("k1").terminals[0].produced == 0
