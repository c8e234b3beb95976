"""The primary's main, up to the moment at which it would start something."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from popnet.control import main
from popnet.kernel.owner import Ownership

MACHINE = "apiVersion: popnet/v1\nname: demo\nkernels:\n  k1: {image: full}\n"


def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status of main, and what it told on its progress pipe."""
    reading, writing = os.pipe()
    try:
        status = main.main([*arguments, "--progress-fd", str(writing)])
    finally:
        os.close(writing)
    with open(reading) as pipe:
        return status, [json.loads(line) for line in pipe]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "machine.yaml"
    path.write_text(MACHINE)
    return str(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    status, told = run("--file", str(tmp_path / "none.yaml"), "--run-dir", str(tmp_path / "run"))
    assert status == 1
    assert len(told) == 1
    assert "none.yaml" in told[0]["error"]["message"]
    assert not (tmp_path / "run").exists()


def test_a_file_with_errors_names_all_of_them(tmp_path: Path, file: str) -> None:
    Path(file).write_text(MACHINE.replace("full", "ful") + "  k2: {memroy: 1M}\n")
    status, told = run("--file", file, "--run-dir", str(tmp_path / "run"))
    assert (status, told[0]["error"]["code"]) == (1, "invalid-machine-file")
    assert "ful" in told[0]["error"]["message"]
    assert "memroy" in told[0]["error"]["message"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["Upper", "a b", "../x", "x" * 99])
def test_a_name_that_is_none(tmp_path: Path, file: str, name: str) -> None:
    status, told = run("--file", file, "--name", name, "--run-dir", str(tmp_path / "run"))
    assert (status, told[0]["error"]["code"]) == (1, "refused")
    assert told[0]["error"]["message"].startswith("--name: ")


def test_a_machine_that_runs_already(tmp_path: Path, file: str) -> None:
    running = Ownership(tmp_path / "run/other", "other")
    status, told = run("--file", file, "--name", "other", "--run-dir", str(tmp_path / "run"))
    assert (status, told[0]["error"]["code"]) == (1, "refused")
    assert "--name" in told[0]["error"]["hint"]
    assert (tmp_path / "run/other/owner.json").exists(), "the other's directory stays"
    running.release()


def test_nobody_reads_the_progress_any_more() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    main._progress(writing)({"event": {}})
    assert not os.get_inheritable(writing)
    os.close(writing)


def test_without_a_descriptor_errors_are_told_on_stderr(
    tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["--file", file, "--name", "Upper", "--run-dir", str(tmp_path / "run")]) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("popnet: --name: ")
