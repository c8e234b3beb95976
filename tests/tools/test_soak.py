"""What tools/soak calls growth, and what it may be asked."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "tools" / "soak.py"


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("popnet_tools_soak", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def result(soak: ModuleType, *uses: tuple[int, int, int]) -> dict[str, Any]:
    samples = [{"k1": soak.Use(*use)} for use in uses]
    return {
        "seconds": 60.0,
        "samples": samples,
        "killed": 1,
        "captures": 2,
        "counters": {"k1": {"nic": {"rx_frames": 3, "tx_frames": 0}}},
        "cpu_s": 4.0,
    }


def test_a_daemon_that_holds_what_it_held_passes(
    soak: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    most = soak.RSS_MAY_GROW_KB
    assert soak.report(result(soak, (40, 50_000, 3), (45, 50_000, 3), (40, 50_000 + most, 3))) == 0
    said = capsys.readouterr().out
    assert "40 - 40 (45)" in said
    assert said.count("same") == 1
    assert "{'rx_frames': 3}" in said


@pytest.mark.parametrize(
    ("after", "what"),
    [
        ((41, 50_000, 3), "descriptors"),
        ((40, 50_000 + 4097, 3), "memory"),
        ((40, 50_000, 4), "threads"),
    ],
)
def test_one_that_holds_more_is_told(
    soak: ModuleType, capsys: pytest.CaptureFixture[str], after: tuple[int, int, int], what: str
) -> None:
    assert soak.report(result(soak, (40, 50_000, 3), after)) == 1
    assert f"GREW: {what}" in capsys.readouterr().out


def test_gentle_is_asked_for_and_short_soaks_are_refused(
    soak: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert soak.options_of(["600"]).pace == soak.FAST
    assert soak.options_of(["--gentle", "3600", "2"]).pace == soak.GENTLE
    with pytest.raises(SystemExit):
        soak.options_of(["--gentle", "70"])
    assert "at least 80 seconds" in capsys.readouterr().err
