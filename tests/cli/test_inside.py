"""Visits to kernels: run and collect, look at a terminal, capture."""

import pytest

from popnet.cli import inside
from popnet.cli.blocks import Blocks
from popnet.cli.inside import Visitor
from popnet.control.client import Client
from popnet.control.running import CommandTimeout
from popnet.core.errors import NoSuchKernel
from tests.cli.conftest import Machine


@pytest.fixture
def visitor(machine: Machine) -> Visitor:
    return Visitor(Client("demo").socket)


async def test_run(visitor: Visitor) -> None:
    outcome = await visitor.run("k1", ["sh", "-c", "echo out; echo err >&2; cat; exit 7"])
    assert (outcome.status, outcome.output, outcome.errors) == (7, "out\n", "err\n")


async def test_run_in_no_kernel(visitor: Visitor) -> None:
    with pytest.raises(NoSuchKernel):
        await visitor.run("k9", ["true"])


async def test_visit_that_takes_too_long(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "VISIT_S", 0.2)
    with pytest.raises(CommandTimeout, match="k1: sleep 60 took more than"):
        await visitor.run("k1", ["sleep", "60"])


async def test_screen(visitor: Visitor) -> None:
    assert await visitor.screen("k1") == ["hello from k1 tty0"]


async def test_capture(visitor: Visitor) -> None:
    pcapng, outcome = await visitor.capture_while("k1", "icmp", ["echo", "done"])
    assert outcome.output == "done\n"
    blocks = Blocks()
    assert blocks.feed(pcapng) == pcapng and blocks.packets >= 0
