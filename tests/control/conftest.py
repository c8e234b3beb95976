"""Asyncio tests of the control API run on both event loops: the machine has uvloop, most users do not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from tests.control.fakes import Served, serving


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A fake machine `m`, served on a socket in a run directory of its own."""
    async with serving(tmp_path) as machine:
        yield machine
