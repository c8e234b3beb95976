"""`popnet exec`: streams apart, exit status, signals, terminals; docker's 125, 126 and 127."""

import hashlib
import os
import signal
import subprocess

import pexpect
import pytest

from tests.live.lab import Lab, wait_until
from tests.live.test_console import resized


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_exit_status_is_the_commands(pair: Lab, status: int) -> None:
    assert pair.exec("k1", "sh", "-c", f"exit {status}", check=False).returncode == status


def test_death_by_a_signal_is_128_and_the_signal(pair: Lab) -> None:
    assert pair.exec("k1", "sh", "-c", "kill -9 $$", check=False).returncode == 137


def test_stdout_and_stderr_stay_apart(pair: Lab) -> None:
    result = pair.exec("k1", "sh", "-c", "echo out; echo err >&2; echo out2")
    assert (result.stdout, result.stderr) == ("out\nout2\n", "err\n")


def test_stdin_is_forwarded_byte_exactly_and_ends(pair: Lab) -> None:
    data = os.urandom(5_000_000)
    result = subprocess.run(
        pair.command("exec", "k1", "--", "sh", "-c", "cat; echo end >&2"),
        input=data,
        env=pair.env(),
        capture_output=True,
        timeout=60,
    )
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()
    assert result.stderr == b"end\n"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("k1", "--", "/no/such/program"), 127),
        (("k1", "--", "no-such-program"), 127),
        (("k1", "--", "/etc/passwd"), 126),
        (("k1", "--", "/etc"), 126),
        (("nobody", "--", "true"), 125),
    ],
)
def test_what_cannot_run_says_so_as_docker_does(pair: Lab, words: tuple[str, ...], status: int) -> None:
    result = pair.popnet("exec", *words, check=False)
    assert result.returncode == status
    assert result.stderr
    assert "Traceback" not in result.stderr


def test_environment_and_directory(pair: Lab) -> None:
    result = pair.popnet(
        "exec", "-e", "COLOUR=blue sky", "-w", "/usr", "k1", "--", "sh", "-c", "echo $COLOUR; pwd; echo $HOME"
    )
    assert result.stdout == "blue sky\n/usr\n/root\n"


def test_signals_are_passed_on(pair: Lab) -> None:
    process = pair.start(
        "exec",
        "k1",
        "--",
        "sh",
        "-c",
        "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == (b"got it\n", 3)


def test_a_client_that_goes_away_ends_its_program(pair: Lab) -> None:
    process = pair.start("exec", "k1", "--", "sh", "-c", "echo $$; exec sleep 12345")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    wait_until(
        lambda: "12345" not in pair.sh("k1", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true"),
        "the program of a client that was killed ends",
    )


def test_with_a_terminal_it_has_a_size_and_job_control(pair: Lab) -> None:
    child = pexpect.spawn(
        pair.command("exec", "-t", "k1", "--", "sh", "-i")[0],
        pair.command("exec", "-t", "k1", "--", "sh", "-i")[1:],
        env=pair.env(),
        timeout=60,
        dimensions=(31, 97),
    )
    try:
        child.sendline("stty size; echo done-$((1+1))")
        child.expect("31 97")
        child.expect("done-2")
        child.sendline("sh -c 'echo asleep; exec sleep 100'")
        child.expect("asleep\r\n")
        child.sendintr()
        child.sendline("echo after-$((2+2))")
        child.expect("after-4")
        child.setwinsize(40, 120)
        child.sendline(resized("40 120"))
        child.expect("it is-42")
        child.sendline("exit 9")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 9
    finally:
        child.close(force=True)


def test_in_the_primary_too(pair: Lab) -> None:
    assert pair.exec("primary", "uname", "-n").stdout == "primary\n"
