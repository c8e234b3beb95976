"""`exec`: the command's own bytes, status and signals; and a real terminal with -t."""

import os
import signal
import subprocess
import termios
from pathlib import Path

import pexpect
import pytest

from popnet.cli.execute import exec_verb, exit_status
from tests.cli.conftest import Machine, untouched

PROMPT = "ready> "
"""A shell says this when it may be typed to."""


@pytest.mark.parametrize(
    ("args", "options", "rest"),
    [
        (["k1", "ls"], [], ["k1", "ls"]),
        (["k1", "ls", "-l"], [], ["k1", "ls", "-l"]),
        (["k1", "--", "ls", "-l"], [], ["k1", "ls", "-l"]),
        (["-t", "k1", "ls"], ["-t"], ["k1", "ls"]),
        (["k1", "-t", "-e", "A=1", "--", "ls", "-t"], ["-t", "-e", "A=1"], ["k1", "ls", "-t"]),
        (["k1", "-e", "A=1", "ls", "-e"], ["-e", "A=1"], ["k1", "ls", "-e"]),
        (["k1", "-eA=1", "ls"], ["-eA=1"], ["k1", "ls"]),
        (["k1", "-tie", "A=1", "ls"], ["-tie", "A=1"], ["k1", "ls"]),
        (["k1", "--env", "A=1", "ls"], ["--env", "A=1"], ["k1", "ls"]),
        (["k1", "--env=A=1", "ls"], ["--env=A=1"], ["k1", "ls"]),
        (
            ["-m", "demo", "k1", "-w", "/tmp", "ls", "--", "x"],
            ["-m", "demo", "-w", "/tmp"],
            ["k1", "ls", "--", "x"],
        ),
        (["--", "k1", "ls"], [], ["k1", "ls"]),
        (["k1"], [], ["k1"]),
    ],
)
def test_whose_words_are_whose(args: list[str], options: list[str], rest: list[str]) -> None:
    assert exec_verb._split(args) == (options, rest)


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"status": 0}, 0),
        ({"status": 7}, 7),
        ({"signal": 15}, 143),
        ({"signal": 9}, 137),
        (None, 125),
        ({}, 125),
    ],
)
def test_exit_status(result: dict[str, int] | None, status: int) -> None:
    assert exit_status(result) == status


def test_output_and_status_are_the_commands(machine: Machine) -> None:
    result = machine.run("exec", "k1", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.stdout, result.stderr, result.returncode) == (b"out\n", b"err\n", 7)


def test_bytes_are_exact_both_ways(machine: Machine) -> None:
    data = os.urandom(3 << 20) + bytes(range(256))
    result = machine.run("exec", "k1", "cat", stdin=data)
    assert result.stdout == data and result.returncode == 0


def test_stdin_from_a_file(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"from a file\n")
    with open(tmp_path / "input") as file:
        process = machine.popen("exec", "k1", "cat", stdin=file, stdout=subprocess.PIPE)
        assert process.communicate()[0] == b"from a file\n"


def test_stdout_to_a_file_keeps_its_offset(machine: Machine, tmp_path: Path) -> None:
    with open(tmp_path / "output", "wb") as file:
        file.write(b"before\n")
        file.flush()
        machine.popen("exec", "k1", "echo", "after", stdin=subprocess.DEVNULL, stdout=file).wait()
    assert (tmp_path / "output").read_bytes() == b"before\nafter\n"


def test_command_that_does_not_read_its_input(machine: Machine) -> None:
    assert machine.run("exec", "k1", "true", stdin=bytes(8 << 20)).returncode == 0


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [("nosuchcommand", 127, b"nosuchcommand"), ("/etc/hostname", 126, b"/etc/hostname")],
)
def test_command_that_cannot_run(machine: Machine, command: str, status: int, message: bytes) -> None:
    result = machine.run("exec", "k1", command)
    assert result.returncode == status and message in result.stderr


def test_failure_of_popnet_is_125(machine: Machine) -> None:
    result = machine.run("exec", "k9", "true")
    assert result.returncode == 125
    assert b"no kernel 'k9' in machine 'demo'" in result.stderr and b"did you mean 'k1'?" in result.stderr
    assert machine.run("-m", "nosuch", "exec", "k1", "true").returncode == 125


def test_machine_that_dies_is_125(machine: Machine) -> None:
    process = machine.popen(
        "exec", "k1", "sh", "-c", "echo on; sleep 60", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == b"on\n"
    machine.process.kill()
    _out, err = process.communicate()
    assert process.returncode == 125 and b"popnet: machine 'demo' ended" in err


def test_usage(machine: Machine) -> None:
    assert machine.run("exec", "k1").returncode == 2
    assert machine.run("exec", "-t", "k1", "ls").returncode == 2
    assert machine.run("exec", "-e", "=x", "k1", "ls").returncode == 2


def test_environment_and_directory(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.env["INHERITED"] = "yes"
    result = machine.run(
        "exec", "k1", "-e", "A=1", "-e", "INHERITED", "-w", str(tmp_path), "--", "sh", "-c",
        "echo $A $INHERITED; pwd",
    )  # fmt: skip
    assert result.stdout == f"1 yes\n{tmp_path}\n".encode()


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_reach_the_command(machine: Machine, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 9' {number.name[3:]}; echo set; while :; do sleep 0.05; done"
    process = machine.popen("exec", "k1", "sh", "-c", script, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"set\n"
    process.send_signal(number)
    assert process.stdout.read() == b"got\n"
    assert process.wait() == 9
    process.communicate()


def test_a_command_ended_by_a_signal(machine: Machine) -> None:
    assert machine.run("exec", "k1", "sh", "-c", "kill -9 $$").returncode == 137


def test_closed_output_is_quiet(machine: Machine) -> None:
    result = subprocess.run(
        ["bash", "-c", '"$@" | head -1; echo ${PIPESTATUS[0]}', "-", *machine.command("exec", "k1", "yes")],
        capture_output=True,
        env=machine.env,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    assert (result.stdout, result.stderr) == (b"y\n141\n", b"")


def test_slow_reader_stops_the_command_and_loses_nothing(machine: Machine) -> None:
    """`yes` writes for ever: nothing but back-pressure keeps this process from filling the memory."""
    process = machine.popen(
        "exec", "k1", "sh", "-c", "yes | head -c 20000000", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert len(process.stdout.read()) == 20_000_000
    assert process.wait() == 0


# On a terminal


def test_terminal_of_the_command(machine: Machine) -> None:
    child = machine.spawn(
        "exec", "-t", "k1", "sh", "-c", "tty >&2; stty size; echo $TERM", dimensions=(33, 99)
    )
    child.expect("/dev/pts/")
    child.expect("33 99")
    child.expect("xterm")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_terminal_is_raw_and_given_back(machine: Machine) -> None:
    child = machine.spawn("exec", "-t", "k1", "sh", "-c", f"stty -echo; printf '{PROMPT}'; cat")
    child.expect(PROMPT)
    raw = termios.tcgetattr(child.child_fd)
    assert not raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    child.send("\x03")  # a key: the terminal in the kernel makes the signal of it
    child.expect(pexpect.EOF)
    assert termios.tcgetattr(child.child_fd) == untouched()
    child.wait()
    assert child.exitstatus == 130


def test_window_size_follows(machine: Machine) -> None:
    script = f"trap 'stty size' WINCH; printf '{PROMPT}'; while :; do sleep 0.05; done"
    child = machine.spawn("exec", "-t", "k1", "sh", "-c", script)
    child.expect(PROMPT)
    child.setwinsize(41, 121)
    child.expect("41 121")
    child.send("\x03")
    child.expect(pexpect.EOF)
    child.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_terminal_is_given_back_after_a_signal(machine: Machine, number: signal.Signals) -> None:
    child = machine.spawn("exec", "-t", "k1", "sh", "-c", f"printf '{PROMPT}'; exec sleep 60")
    child.expect(PROMPT)
    child.kill(number)
    child.expect(pexpect.EOF)
    assert termios.tcgetattr(child.child_fd) == untouched()
    child.wait()
    assert child.exitstatus == 128 + number


def test_stdin_that_is_a_terminal_is_left_alone(machine: Machine) -> None:
    child = machine.spawn("exec", "k1", "cat")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    interactive = machine.spawn("exec", "-i", "k1", "cat")
    interactive.sendline("hello")
    interactive.expect("hello\r\n")
    interactive.expect("hello\r\n")
    interactive.sendeof()
    interactive.expect(pexpect.EOF)
    interactive.close()
