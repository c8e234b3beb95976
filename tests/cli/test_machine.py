"""`up` and `down`: what is told while a machine boots, and that `down` waits for its end."""

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from popnet.cli.machine import Progress
from popnet.cli.main import cli
from popnet.cli.settings import Settings
from popnet.control.launch import take_down
from popnet.core.errors import InvalidMachineFile
from tests.cli.conftest import Machine

EVENT = {
    "seq": 1,
    "time_s": 1.5,
    "kind": "kernel.state",
    "kernel": "k1",
    "text": "kernel 1: online (generation 1, 8 ms)",
}


@pytest.fixture
def launched(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """`launch` that finds the fake machine running already; what it was called with."""
    calls: list[tuple[Any, ...]] = []

    def launch(
        file: str,
        *,
        name: str | None,
        run_dir: Path | None,
        on_event: Callable[[Mapping[str, Any]], None],
        options: Sequence[str],
    ) -> dict[str, Any]:
        calls.append((file, name, run_dir, list(options)))
        if file == "wrong.yaml":
            raise InvalidMachineFile("wrong.yaml:1:1: no", "mend it")
        on_event(EVENT)
        return {"name": machine.name, "socket": "", "took_ms": 12.3}

    monkeypatch.setattr("popnet.control.launch.launch", launch)
    return calls


def test_up_prints_the_kernels_and_their_boots(launched: list[tuple[Any, ...]]) -> None:
    result = CliRunner().invoke(cli, ["up", "demo"])
    assert launched == [("demo", None, None, ["--log-format", "auto", "--log-level", "info"])]
    assert result.stdout.splitlines()[0].split()[:2] == ["NAME", "STATE"]
    first, *bars = result.stderr.splitlines()
    assert first == "machine demo: up, 4 kernels (12 ms)"
    assert [line.split()[0] for line in bars] == ["primary", "k1", "k2", "local"]
    assert "init 30 ms" in bars[0]
    assert result.exit_code == 1  # k2 is offline


def test_up_for_programs(launched: list[tuple[Any, ...]]) -> None:
    result = CliRunner().invoke(cli, ["-q", "up", "demo", "-o", "json"])
    assert json.loads(result.stdout)["kind"] == "KernelList"
    assert result.stderr == ""


@pytest.mark.parametrize("args", [["up", "f.yaml", "--name", "x"], ["-m", "x", "up", "f.yaml"]])
def test_up_under_another_name(launched: list[tuple[Any, ...]], args: list[str]) -> None:
    CliRunner().invoke(cli, args)
    assert launched[0][:2] == ("f.yaml", "x")


def test_up_logs_and_counts_as_asked(
    launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POPNET_LOG_FORMAT", "json")
    CliRunner().invoke(cli, ["up", "f.yaml", "--log-level", "err", "--metrics", "127.0.0.1:9464"])
    options = ["--log-format", "json", "--log-level", "err", "--metrics", "127.0.0.1:9464"]
    assert launched[0][3] == options


def test_up_says_every_event_if_asked(launched: list[tuple[Any, ...]]) -> None:
    result = CliRunner().invoke(cli, ["-v", "up", "demo"])
    assert "k1       kernel.state     kernel 1: online (generation 1, 8 ms)" in result.stderr


def test_up_of_a_wrong_file(launched: list[tuple[Any, ...]]) -> None:
    result = CliRunner().invoke(cli, ["up", "wrong.yaml"])
    assert result.exit_code == 1
    assert result.stderr == "popnet: wrong.yaml:1:1: no\n  hint: mend it\n"


def test_progress_on_a_terminal_is_one_line_that_goes_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(Settings())
    progress.event(EVENT)
    progress.end()
    assert capsys.readouterr().err == f"\r\x1b[K{EVENT['text']}\r\x1b[K"


def test_down_waits_for_the_end(machine: Machine) -> None:
    result = CliRunner().invoke(cli, ["down"])
    assert (result.exit_code, result.stderr) == (0, "machine demo: down\n")
    assert machine.process.poll() is not None or machine.process.wait(0) == 0


def test_down_by_name(machine: Machine) -> None:
    assert CliRunner().invoke(cli, ["down", "other"]).exit_code == 1
    assert CliRunner().invoke(cli, ["down", "demo"]).exit_code == 0


def test_down_of_a_machine_that_does_not_end(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("popnet.control.launch.take_down", partial(take_down, timeout_s=0.0))
    machine.process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr("popnet.control.client.Client.post", lambda *_: None)
    result = CliRunner().invoke(cli, ["down"])
    assert result.exit_code == 1 and "did not end within 0 s" in result.stderr


def test_down_without_a_machine(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["--run-dir", str(tmp_path), "down"])
    assert result.exit_code == 1 and "no machine is running" in result.stderr
