"""Killed at any instruction: of a put it loses at most its records; of a take it gives back all or none."""

import re
from pathlib import Path

import pytest

from tests.native.building import build, run

FLAGS = ("-O2", "-Wl,-z,now")  # as the extension is compiled; and no step goes into the dynamic linker

CASES = pytest.mark.parametrize(
    ("size", "records", "start"),
    [
        (0, 1, 0),
        (64, 1, 0),
        (64, 1, 2**64 - 64),  # the count wraps
        (500, 1, 65408),  # the record wraps
        (20, 3, 65408),  # published or released together: all or none
        (1500, 1, 0),  # above 2 KiB memcpy is one instruction of many steps
    ],
)


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("step") / "step", "step", *FLAGS)


@pytest.fixture(scope="module")
def step_take(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("step") / "step_take", "step_take", *FLAGS)


def killed_everywhere(program: Path, *arguments: int) -> None:
    done = run(program, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    told = re.fullmatch(r"(\d+) steps, there from (\d+) on, kicked from (\d+) on\n", done.stdout)
    assert told
    steps, there, kicked = map(int, told.groups())
    assert 20 < there < kicked < steps, "it was killed before, between and after"


@CASES
def test_a_producer_killed_at_every_instruction(step: Path, size: int, records: int, start: int) -> None:
    killed_everywhere(step, size, records, start, 1)


@CASES
def test_a_consumer_killed_at_every_instruction(step_take: Path, size: int, records: int, start: int) -> None:
    killed_everywhere(step_take, size, records, start)


def test_who_publishes_before_he_writes_is_found(tmp_path: Path) -> None:
    done = run(build(tmp_path / "hasty", "step", *FLAGS, "-DHASTY"), 64, 1, 0, 1)
    assert done.returncode == 5, done.stdout


def test_who_releases_before_he_reads_is_found(tmp_path: Path) -> None:
    done = run(build(tmp_path / "hasty", "step_take", *FLAGS, "-DHASTY"), 64, 1, 0)
    assert done.returncode == 5, done.stdout
    assert "before its record was read" in done.stdout
