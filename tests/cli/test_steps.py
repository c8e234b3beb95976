"""Steps say what became of them, and a failed one ends the show."""

import re

import pytest

from popnet.cli.steps import Skipped, StepFailed, Steps
from popnet.core.errors import PopnetError


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed, without the times."""
    return [re.sub(r" \([^)]*\)", "", line) for line in capsys.readouterr().out.splitlines()]


def test_done_and_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    with steps.step("boot"):
        steps.detail("k1", "k2")
    with steps.step("log in"):
        raise Skipped("no ssh here")
    assert [line[1:] for line in lines(capsys) if not line.startswith("    ")] == [
        " boot",
        " log in: skipped: no ssh here",
    ]
    assert (steps.done, steps.skipped) == (1, 1)


@pytest.mark.parametrize("error", [PopnetError("it is dark", "make light"), OSError(5, "it is dark")])
def test_failed(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    steps = Steps()
    with pytest.raises(StepFailed, match=r"boot: .*it is dark"), steps.step("boot"):
        steps.detail("so far")
        raise error
    first, second = lines(capsys)
    assert first.endswith("it is dark") and " boot: failed: " in first
    assert second == "    so far"
    assert steps.done == 0


def test_bugs_are_not_steps_that_failed() -> None:
    with pytest.raises(ZeroDivisionError), Steps().step("boot"):
        raise ZeroDivisionError
