"""The pytest plugin as a user's test suite meets it: pytest in a process of its own, with real machines."""

from pathlib import Path

import pytest

from popnet.cli import residue
from popnet.pytest_plugin import machine_file
from tests.live.lab import nothing_left

pytest_plugins = "pytester"

SUITE = """
import pytest

names = set()

@pytest.mark.popnet(kernels=2)
async def test_ping(machine):
    names.add(machine.name)
    assert (await machine["k1"].run(["ping", "-c1", "-W30", "k2"])).ok
    assert [row["name"] for row in await machine.kernels()] == ["primary", "k1", "k2"]

@pytest.mark.popnet(kernels=1, image="light")
async def test_that_fails(machine):
    names.add(machine.name)
    await machine["k1"].run(["sh", "-c", "echo spoken on the console > /dev/console"])
    assert False, "on purpose"

@pytest.mark.popnet(file="mine.yaml")
async def test_a_file(machine):
    names.add(machine.name)
    assert [row["name"] for row in await machine.kernels()] == ["primary", "k1", "k2", "k3"]

@pytest.mark.popnet(file="wrong.yaml")
async def test_a_wrong_file(machine):
    assert False, "never run"

def test_each_had_its_own():
    assert len(names) == 3
"""


def test_a_suite(pytester: pytest.Pytester, tmp_path: Path) -> None:
    before = residue.take(tmp_path / "none")
    pytester.makeini("[pytest]\nasyncio_mode = auto\n")
    pytester.makepyfile(test_suite=SUITE)
    machine_file(pytester.path, 3, "light", "mine")
    (pytester.path / "wrong.yaml").write_text("apiVersion: popnet/v1\nname: x\nkernels: {k1: {memroy: 1}}\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", f"--basetemp={tmp_path / 'inner'}")
    result.assert_outcomes(passed=3, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*test_that_fails*", "*on purpose*"])
    result.stdout.fnmatch_lines(["*popnet: kernels*", "k1: online (generation 1)"])
    result.stdout.fnmatch_lines(["*popnet: events*", "*kernel 1: online*"])
    result.stdout.fnmatch_lines(["*popnet: k1 dmesg*"])
    result.stdout.fnmatch_lines(["*InvalidMachineFile*memroy*memory*"])
    saved = {path.name for path in (tmp_path / "inner").glob("test_that_fails*/popnet/*")}
    assert {"events.txt", "kernels.txt", "k1-dmesg.txt", "k1-tty0.txt"} <= saved
    nothing_left(before, before, tmp_path / "none")
    assert [str(path) for path in (tmp_path / "inner").glob("*/run/*")] == []
