"""The command as a whole: what help loads, exit statuses, errors, completion, quiet ends of pipes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from popnet.cli.main import VERBS, VerbGroup, cli
from tests.cli.conftest import ROOT, Machine

NAMES = [name for section in VERBS.values() for name in section]


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_loads_and_says_what_the_table_says(name: str) -> None:
    context = click.Context(cli)
    assert isinstance(cli, VerbGroup)
    command = cli.get_command(context, name)
    assert command is not None and command.name == name
    summary = next(section[name][1] for section in VERBS.values() if name in section)
    assert command.get_short_help_str(200) == summary


@pytest.mark.parametrize("name", NAMES)
def test_help_of_every_verb(name: str) -> None:
    context = click.Context(cli)
    command = cli.get_command(context, name)
    assert command is not None
    verbs = [[name, verb] for verb in command.commands] if isinstance(command, click.Group) else [[name]]
    for words in verbs:
        result = CliRunner().invoke(cli, [*words, "--help"])
        assert result.exit_code == 0
        assert f"Usage: popnet {' '.join(words)}" in result.output
        assert "--machine" in result.output


def test_help_loads_no_verb_and_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from popnet.cli.main import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    loaded = _run_python(script).stderr.split()
    verbs = {module for section in VERBS.values() for module, _ in section.values()}
    heavy = {"asyncio", "rich", "yaml", "pydantic", "aiohttp", "asyncssh", "scapy", "http.client", "uvloop"}
    assert not (verbs | heavy) & set(loaded)


def test_ps_loads_nothing_heavy(machine: Machine) -> None:
    script = (
        "import sys\n"
        "from popnet.cli.main import cli\n"
        "try: cli.main(['ps'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    heavy = {
        "asyncio",
        "rich",
        "yaml",
        "pydantic",
        "aiohttp",
        "asyncssh",
        "scapy",
        "http.client",
        "subprocess",
    }
    assert not heavy & set(_run_python(script).stderr.split())


def test_speed_of_help_is_shown() -> None:
    """Printed, not asserted: a busy machine is not a slow program."""
    started = time.process_time_ns(), time.perf_counter()
    before = os.times()
    subprocess.run(
        [sys.executable, "-m", "popnet.cli.main", "--help"], capture_output=True, check=True, cwd=ROOT
    )
    after = os.times()
    cpu_ms = (
        after.children_user + after.children_system - before.children_user - before.children_system
    ) * 1e3
    print(f"popnet --help: {cpu_ms:.0f} ms of CPU, {(time.perf_counter() - started[1]) * 1e3:.0f} ms in all")


def test_unknown_verb_suggests_one() -> None:
    result = CliRunner().invoke(cli, ["consle"])
    assert result.exit_code == 2
    assert "no verb 'consle'; did you mean 'console'?" in result.output


def test_no_machine(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["--run-dir", str(tmp_path), "ps"])
    assert result.exit_code == 1
    assert "popnet: no machine is running" in result.stderr
    assert "hint: start one: popnet up FILE" in result.stderr
    assert result.stdout == ""


def test_error_has_no_traceback_but_with_verbose(machine: Machine) -> None:
    plain = CliRunner().invoke(cli, ["timeline", "k4"])
    assert plain.exit_code == 1
    assert plain.stderr == "popnet: no kernel 'k4' in machine 'demo'\n  hint: did you mean 'k1'?\n"
    verbose = CliRunner().invoke(cli, ["-v", "timeline", "k4"])
    assert "Traceback" in verbose.stderr and verbose.stderr.endswith(plain.stderr)


def test_bug_looks_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("popnet.control.rundir.machines", broken)
    result = CliRunner().invoke(cli, ["--run-dir", "/nonexistent", "ps"])
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("place", ["before", "after"])
def test_common_options_before_and_after_the_verb(machine: Machine, place: str) -> None:
    options = ["-m", "demo", "-o", "json"]
    args = [*options, "ps"] if place == "before" else ["ps", *options]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0 and '"KernelList"' in result.output


def test_the_later_option_wins(machine: Machine) -> None:
    assert CliRunner().invoke(cli, ["-m", "other", "ps", "-m", "demo"]).exit_code == 0
    assert CliRunner().invoke(cli, ["-m", "demo", "ps", "-m", "other"]).exit_code == 1


def test_interrupt_is_quiet(machine: Machine) -> None:
    process = machine.popen("events", "-f", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate()
    assert process.returncode == 130
    assert err.strip() == b""


def test_broken_pipe_is_quiet(machine: Machine) -> None:
    process = machine.popen("events", "-f", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.stderr.read().strip() == b""
    process.wait()
    full = subprocess.run(
        ["bash", "-c", '"$@" | head -0; echo ${PIPESTATUS[0]}', "-", *machine.command("schema")],
        capture_output=True,
        env=machine.env,
        check=True,
    )
    assert full.stderr == b""
    assert full.stdout.strip() in (b"0", b"141")


def test_closed_standard_descriptors(machine: Machine) -> None:
    """A socket of ours must not become stdin, stdout or stderr."""
    result = subprocess.run(
        ["bash", "-c", '"$@" <&- 2>&-', "-", *machine.command("exec", "k1", "--", "echo", "fine")],
        capture_output=True,
        env=machine.env,
        check=True,
    )
    assert result.stdout == b"fine\n"


def test_no_colour_where_none_belongs(machine: Machine) -> None:
    assert b"\x1b" not in machine.run("ps").stdout


def test_version() -> None:
    result = CliRunner().invoke(cli, ["--version"])
    assert re.fullmatch(r"popnet \d+\.\d+\.\d+\n", result.output)
    assert CliRunner().invoke(cli, ["version"]).output.startswith(result.output)


# Completion


def complete(machine: Machine, line: str) -> list[str]:
    """What bash would be offered for *line*; the word under the cursor is its last."""
    words = line.split(" ")
    env = {
        **machine.env,
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_POPNET_COMPLETE": "bash_complete",
    }
    result = subprocess.run(machine.command(), capture_output=True, text=True, env=env, check=True)
    assert result.stderr == ""
    return [entry.partition(",")[2] for entry in result.stdout.splitlines() if entry]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("popnet cons", ["console"]),
        ("popnet exec ", ["primary", "k1", "k2", "local"]),
        ("popnet exec k", ["k1", "k2"]),
        ("popnet -m demo kill k", ["k1", "k2"]),
        ("popnet console k1 ", ["0", "1"]),
        ("popnet ps -m ", ["demo"]),
        ("popnet down d", ["demo"]),
        ("popnet -m nosuch exec ", []),
        ("popnet ps -o ", ["table", "json", "yaml"]),
        ("popnet completion z", ["zsh"]),
    ],
)
def test_completion(machine: Machine, line: str, expected: list[str]) -> None:
    assert complete(machine, line) == expected


def test_completion_without_a_machine_is_silent(machine: Machine) -> None:
    machine.process.terminate()
    machine.process.wait()
    assert complete(machine, "popnet exec ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_POPNET_COMPLETE" in result.stdout


def test_bash_accepts_its_script() -> None:
    script = CliRunner().invoke(cli, ["completion", "bash"]).stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def _run_python(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=dict(os.environ),
    )
