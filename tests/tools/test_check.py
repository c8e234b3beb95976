"""The one command before a change is shared: its order, its `--fast`, its stop at the first failure."""

import shutil
import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose programs only write down how they were called."""
    (tmp_path / "tools").mkdir()
    shutil.copy(TOOL, tmp_path / "tools" / "check")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("ruff", "mypy", "python"):
        note, fail = f'echo {name} "$@" >>calls', f"[ ! -e fail-{name} ] || {{ echo why; exit 3; }}"
        (programs / name).write_text(f"#!/bin/sh\n{note}\n{fail}\n")
        (programs / name).chmod(0o755)
    return tmp_path


def check(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(checkout / "tools" / "check"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines()


STEPS = [
    "ruff format --check .",
    "ruff check .",
    "mypy",
    "mypy --strict tools/layers.py",
    "python tools/layers.py",
]


def test_order(checkout: Path) -> None:
    run = check(checkout, "-k", "one")
    assert run.returncode == 0
    assert calls(checkout) == [*STEPS, "python -m pytest -k one"]
    assert [line.split()[1] for line in run.stdout.splitlines()] == ["ok"] * len(STEPS)


def test_fast_has_no_tests(checkout: Path) -> None:
    assert check(checkout, "--fast").returncode == 0
    assert calls(checkout) == STEPS


@pytest.mark.parametrize(("name", "count"), [("ruff", 1), ("mypy", 3), ("python", 5)])
def test_first_failure_is_shown_and_ends_it(checkout: Path, name: str, count: int) -> None:
    (checkout / f"fail-{name}").touch()
    run = check(checkout)
    assert run.returncode == 1
    assert calls(checkout) == STEPS[:count]
    assert run.stdout.endswith("\nwhy\n")


def test_tests_give_the_exit_status(checkout: Path) -> None:
    (checkout / ".venv/bin/python").write_text("#!/bin/sh\n[ $1 != -m ] || exit 5\n")
    assert check(checkout).returncode == 5
