"""The parts of the pytest plugin; the whole, with machines, in tests/live/test_pytest_plugin.py."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from popnet import pytest_plugin
from popnet.machine import file as machine_file
from popnet.machine.host import Host
from popnet.machine.search import image_search_path
from tests.control.fakes import Served, serving


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path) as machine:
        yield machine


def test_a_machine_file_of_any_number_of_kernels(tmp_path: Path) -> None:
    path = pytest_plugin.machine_file(tmp_path, 3, "light", "t-1", {"memory": "64M"})
    host = Host(cpus=(0, 1), memory_bytes=8 << 30)
    machine = machine_file.load(str(path), host, image_search_path({}, path))
    assert machine.name == "t-1"
    assert [(kernel.name, kernel.image, kernel.memory_bytes) for kernel in machine.kernels[1:]] == [
        (f"k{kid}", "light", 64 << 20) for kid in (1, 2, 3)
    ]


async def test_evidence(served: Served) -> None:
    await served.service.happen("it broke")
    served.service.terminals["k1", 0].marker("on the console")
    texts = await asyncio.to_thread(pytest_plugin.evidence, "m", served.run_dir)
    assert texts["kernels"].splitlines()[1] == "k1: online (generation 1)"
    assert texts["events"] == "0.000000 it broke\n"
    assert texts["k1 dmesg"] == "0.000000 it broke\n"
    assert "[popnet: on the console]\n" in texts["k1 tty0"]
    assert "k1 tty1" in texts
    assert texts["k2 tty0"] == "not to be had: k2 has no terminal 0"


async def test_evidence_of_a_machine_that_is_gone(served: Served) -> None:
    await served.server.close()
    texts = await asyncio.to_thread(pytest_plugin.evidence, "m", served.run_dir)
    assert list(texts) == ["machine"]
    assert texts["machine"].startswith("not to be asked: no machine 'm' is running")


def test_long_logs_are_cut_in_the_report() -> None:
    text = "\n".join(str(number) for number in range(100))
    assert pytest_plugin._tail(text).splitlines()[:2] == ["... 40 lines before", "40"]
    assert pytest_plugin._tail("short") == "short"


def test_loading_the_plugin_loads_no_more_of_popnet() -> None:
    script = "import sys, popnet.pytest_plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = {name for name in done.stdout.split() if name.startswith("popnet")}
    assert loaded == {"popnet", "popnet.pytest_plugin"}
