"""`console`: history, keys, the escape sequence, sizes, take-over; and our terminal as it was afterwards."""

import os
import signal
import subprocess
import termios

import pexpect
import pytest

from tests.cli.conftest import Machine, untouched

HELLO = "hello from k1 tty0"


def leave(child: "pexpect.spawn[str]") -> None:
    child.send("\x1d.")
    child.expect(r"\[detached\]")
    child.expect(pexpect.EOF)
    child.wait()


def pid(child: "pexpect.spawn[str]") -> int:
    assert child.pid is not None
    return child.pid


def test_attach_type_detach(machine: Machine) -> None:
    child = machine.spawn("console", "k1")
    child.expect(r"\[attached to k1 tty0; Ctrl-\] \. detaches, Ctrl-\] \? helps\]")
    child.expect(HELLO)
    child.send("x")
    child.expect(r"\[x\]")
    leave(child)
    assert child.exitstatus == 0


def test_terminal_is_raw_and_given_back(machine: Machine) -> None:
    child = machine.spawn("console", "k1")
    child.expect(HELLO)
    assert not termios.tcgetattr(child.child_fd)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    leave(child)
    assert termios.tcgetattr(child.child_fd) == untouched()


def test_every_key_is_sent_but_the_sequence(machine: Machine) -> None:
    child = machine.spawn("console", "k1")
    child.expect(HELLO)
    child.send("\x03")
    child.expect_exact("[\x03]")
    child.send("\x1d\x1d")
    child.expect_exact("[\x1d]")
    child.send("\x1dx")
    child.expect_exact("[\x1dx]")
    leave(child)


def test_help(machine: Machine) -> None:
    child = machine.spawn("console", "k1")
    child.expect(HELLO)
    child.send("\x1d?")
    child.expect_exact("Ctrl-] .  detach")
    leave(child)


def test_another_escape_key(machine: Machine) -> None:
    child = machine.spawn("console", "--escape", "^A", "k1")
    child.expect_exact("Ctrl-A . detaches")
    child.expect(HELLO)
    child.send("\x1d.")
    child.expect_exact("[\x1d.]")
    child.send("\x01.")
    child.expect(pexpect.EOF)
    child.close()
    assert machine.run("console", "--escape", "ctrl", "k1").returncode == 1


def test_other_terminals_and_kernels(machine: Machine) -> None:
    child = machine.spawn("console", "k2", "tty1")
    child.expect("hello from k2 tty1")
    leave(child)
    result = machine.run("console", "k1", "7")
    assert result.returncode == 1 and b"no tty7" in result.stderr
    assert machine.run("console", "k1", "x").returncode == 2
    assert machine.run("console", "k9").returncode == 1


def test_size_is_told_at_start_and_when_it_changes(machine: Machine) -> None:
    child = machine.spawn("console", "k1", dimensions=(33, 99))
    child.expect(r"\(size 99x33\)")
    child.setwinsize(41, 121)
    child.expect(r"\(size 121x41\)")
    leave(child)


def test_history_unless_not_wanted(machine: Machine) -> None:
    child = machine.spawn("console", "k1")
    child.expect(HELLO)
    child.send("first")
    child.expect_exact("[first]")
    leave(child)
    again = machine.spawn("console", "k1")
    again.expect(HELLO)
    again.expect_exact("[first]")
    leave(again)
    fresh = machine.spawn("console", "--no-history", "k1")
    fresh.expect(r"\[attached")
    fresh.send("second")
    fresh.expect_exact("[second]")
    leave(fresh)
    assert fresh.before is not None
    assert HELLO not in fresh.before


def test_one_writer_and_watchers(machine: Machine) -> None:
    writer = machine.spawn("console", "k1")
    writer.expect(HELLO)
    second = machine.run("console", "k1")
    assert second.returncode == 1
    assert b"hint: take over with --force, or watch with --ro" in second.stderr
    watcher = machine.spawn("console", "--ro", "k1")
    watcher.expect(r"\[watching k1 tty0")
    watcher.expect(HELLO)
    watcher.send("not sent")
    writer.send("w")
    watcher.expect_exact("[w]")
    assert watcher.before is not None and "not sent" not in watcher.before
    leave(watcher)
    leave(writer)


def test_watcher_leaves_with_interrupt_too(machine: Machine) -> None:
    watcher = machine.spawn("console", "--ro", "k1")
    watcher.expect(HELLO)
    watcher.send("\x03")
    watcher.expect(r"\[detached\]")
    watcher.expect(pexpect.EOF)
    assert termios.tcgetattr(watcher.child_fd) == untouched()


def test_taken_over(machine: Machine) -> None:
    loser = machine.spawn("console", "k1")
    loser.expect(HELLO)
    winner = machine.spawn("console", "--force", "k1")
    winner.expect(HELLO)
    loser.expect("took over")
    loser.send("lost")
    winner.send("won")
    loser.expect_exact("[won]")
    winner.expect_exact("[won]")
    assert winner.before is not None and "lost" not in winner.before
    leave(loser)
    leave(winner)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_signal_gives_the_terminal_back(machine: Machine, number: signal.Signals) -> None:
    child = machine.spawn("console", "k1")
    child.expect(HELLO)
    child.kill(number)
    child.expect(pexpect.EOF)
    assert termios.tcgetattr(child.child_fd) == untouched()
    child.wait()
    assert child.exitstatus == 128 + number


def test_machine_that_dies_gives_the_terminal_back(machine: Machine) -> None:
    child = machine.spawn("console", "k1")
    child.expect(HELLO)
    machine.process.kill()
    child.expect("popnet: machine 'demo' ended")
    child.expect(pexpect.EOF)
    assert termios.tcgetattr(child.child_fd) == untouched()
    child.wait()
    assert child.exitstatus == 1


def test_stopped_and_continued(machine: Machine) -> None:
    """SIGTSTP gives the terminal back for as long as the process is stopped."""
    child = machine.spawn("console", "k1")
    child.expect(HELLO)
    child.kill(signal.SIGTSTP)
    os.waitid(os.P_PID, pid(child), os.WSTOPPED | os.WNOWAIT)
    assert termios.tcgetattr(child.child_fd) == untouched()
    child.kill(signal.SIGCONT)
    child.send("x")
    child.expect_exact("[x]")
    assert not termios.tcgetattr(child.child_fd)[3] & termios.ICANON
    leave(child)


def test_window_that_is_closed(machine: Machine) -> None:
    child = machine.spawn("console", "k1")
    child.expect(HELLO)
    os.close(child.child_fd)
    _pid, status = os.waitpid(pid(child), 0)
    assert os.waitstatus_to_exitcode(status) in (0, 128 + signal.SIGHUP, 141)
    child.closed = True
    child.terminated = True


def test_script_without_a_terminal(machine: Machine) -> None:
    result = machine.run("console", "k1", stdin=b"ls\x1d.\n")
    assert result.stdout == b"hello from k1 tty0\r\n[ls\x1d.\n]"
    assert result.stderr == b"[attached to k1 tty0]\n"
    assert result.returncode == 0


def test_quiet(machine: Machine) -> None:
    assert machine.run("-q", "console", "k1").stderr == b""


def test_flood_comes_whole(machine: Machine) -> None:
    result = machine.run("console", "k1", "--linger", "2", stdin=b"flood\n")
    assert result.stdout.count(b"x") == 1 << 20
    assert result.stdout.endswith(b"flooded\r\n")


def test_detaching_while_output_is_stuck(machine: Machine) -> None:
    """Our terminal takes nothing, as after Ctrl-S; the escape sequence works all the same."""
    child = machine.spawn("console", "k1")
    child.expect(HELLO)
    child.send("flood\r")
    child.expect("xxxx")
    child.send("\x1d.")
    os.waitid(os.P_PID, pid(child), os.WEXITED | os.WNOWAIT)  # while nobody reads what it wrote
    assert termios.tcgetattr(child.child_fd) == untouched()
    child.expect(pexpect.EOF)


def test_reader_that_goes_away(machine: Machine) -> None:
    result = subprocess.run(
        ["bash", "-c", '"$@" | head -c 5; echo " ${PIPESTATUS[0]}"', "-", *machine.command("console", "k1")],
        capture_output=True,
        env=machine.env,
        input=b"flood\n",
        check=True,
    )
    assert result.stdout.endswith(b"hello 141\n") or result.stdout == b"hello 0\n"
    assert b"Traceback" not in result.stderr
