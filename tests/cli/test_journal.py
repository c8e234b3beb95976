"""`events` and `dmesg`."""

import json
import os
import subprocess
import time

import pytest
import yaml
from click.testing import CliRunner

from popnet.cli.journal import event_line, log_line
from popnet.cli.main import cli
from tests.cli.conftest import Machine
from tests.cli.fake_machine import EVENTS, LOG


def test_events(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert CliRunner().invoke(cli, ["events"]).output.splitlines() == [
        "00:00:00.000  machine  machine-up       4 CPUs",
        "00:00:01.500  k1       kernel-online    40 ms",
    ]
    monkeypatch.undo()
    time.tzset()


def test_events_since(machine: Machine) -> None:
    output = CliRunner().invoke(cli, ["events", "--since", "1", "-o", "json"]).output
    assert json.loads(output) == {"apiVersion": "popnet/v1", "kind": "EventList", "items": EVENTS[1:]}


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_followed_events_are_records(machine: Machine, output: str) -> None:
    process = machine.popen("events", "-f", "-o", output, stdout=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.readline()
    machine.process.terminate()
    text = first + process.stdout.read()
    process.wait()
    process.stdout.close()
    parsed = map(json.loads, text.splitlines()) if output == "json" else yaml.safe_load_all(text)
    assert list(parsed) == EVENTS


def test_following_ends_with_the_machine(machine: Machine) -> None:
    process = machine.popen("dmesg", "-f", "k1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in LOG]
    machine.process.terminate()
    rest, errors = process.communicate()
    assert lines == [b"[    0.000000] popnet kernel k1\n", b"[    0.041250] no such device\n"]
    assert (rest, errors, process.returncode) == (b"", b"", 0)


def test_dmesg_of_no_kernel(machine: Machine) -> None:
    result = CliRunner().invoke(cli, ["dmesg", "k9"])
    assert result.exit_code == 1 and "k9" in result.stderr


def test_lines_in_colour() -> None:
    assert log_line(LOG[1], colours=True).endswith("\x1b[31mno such device\x1b[0m")
    assert event_line(EVENTS[0], colours=True).startswith("\x1b[2m")
    assert os.linesep not in event_line(EVENTS[0], colours=False)
