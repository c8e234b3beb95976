"""Consoles: complete terminals that work with the network down, and outlive their kernel."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pexpect
import pytest

from tests.live.lab import Lab, wait_until

DETACH = "\x1d."


@contextmanager
def console(lab: Lab, *words: str, size: tuple[int, int] = (24, 80)) -> Iterator["pexpect.spawn[str]"]:
    command = lab.command("console", *words)
    child = pexpect.spawn(
        command[0],
        command[1:],
        env=lab.env(),
        timeout=20,
        dimensions=size,
        encoding="utf-8",
        codec_errors="replace",
    )
    try:
        yield child
    finally:
        child.close(force=True)


def at_shell(child: Any, marker: str = "ready") -> None:
    """Wait until the shell on the console answers."""
    child.sendline(f"echo {marker}-$((40+2))")
    child.expect(f"{marker}-42")


def resized(size: str) -> str:
    """A command that waits until its terminal has *size* (rows and columns), and then says `it is-42`."""
    return f'until [ "$(stty size)" = "{size}" ]; do sleep 0.05; done; echo it is-$((40+2))'


def in_foreground(lab: Lab, kernel: str, program: str) -> bool:
    """Whether `program` owns its terminal and is not stopped, as /proc/PID/stat tells: see proc(5)."""
    for line in lab.sh(kernel, "cat /proc/[0-9]*/stat 2>/dev/null || true").splitlines():
        name, _, rest = line.rpartition(")")
        state, _parent, group, _session, _tty, foreground = rest.split()[:6]
        if name.endswith(f"({program}") and state != "T" and group == foreground:
            return True
    return False


def test_boot_log_then_a_shell_with_job_control(pair: Lab) -> None:
    with console(pair, "k1") as child:
        child.expect("sshd: listening on 10.1.2.2 port 22")
        at_shell(child)
        child.sendline("tty; echo $TERM; uname -n")
        child.expect("/dev/pts/0")
        child.expect("k1")
        # Each step waits for what only the step before can print: a key that comes early is type-ahead,
        # which Ctrl-Z and Ctrl-C throw away as on any terminal.
        child.sendline("sleep 1000")
        wait_until(lambda: in_foreground(pair, "k1", "sleep"), "sleep runs")
        child.send("\x1a")
        child.expect(r"Stopped +[^\n]*\r\n")
        at_shell(child, "stopped")
        child.sendline("jobs; bg; echo resumed-$((40+2)); fg")
        child.expect(r"Stopped +[^\n]*sleep 1000")
        child.expect("resumed-42\r\n")
        wait_until(lambda: in_foreground(pair, "k1", "sleep"), "sleep runs again")
        child.sendintr()
        at_shell(child, "interrupted")
        child.send(DETACH)
        child.expect(pexpect.EOF)
    assert child.exitstatus == 0


def test_history_on_attach_and_none_if_not_wanted(pair: Lab) -> None:
    with console(pair, "k1", "1") as child:
        at_shell(child)
        child.sendline("echo remember-$((1000+1))")
        child.expect("remember-1001")
    with console(pair, "k1", "1") as child:
        child.expect("remember-1001")
    with console(pair, "--no-history", "k1", "1") as child:
        at_shell(child, "fresh")
        assert "remember-1001" not in child.before


def test_the_shell_comes_back_after_exit(pair: Lab) -> None:
    with console(pair, "k2", "1") as child:
        at_shell(child)
        child.sendline("exit")
        at_shell(child, "again")


def test_resize_is_seen_by_programs(pair: Lab) -> None:
    with console(pair, "k2", size=(33, 101)) as child:
        at_shell(child)
        child.sendline("stty size")
        child.expect("33 101")
        child.setwinsize(44, 111)
        child.sendline(resized("44 111"))
        child.expect("it is-42")


def test_full_screen_programs_work(pair: Lab) -> None:
    with console(pair, "k2", size=(24, 80)) as child:
        at_shell(child)
        child.sendline("vi /tmp/note")
        child.expect("/tmp/note")
        child.send("ihello from popnet\x1b:wq\r")
        child.expect("written")
        child.expect("k2:")
        at_shell(child, "vi")
        child.sendline("cat /tmp/note; htop")
        child.expect("hello from popnet")
        child.expect("PID")
        child.send("q")
        child.expect("k2:")
        at_shell(child, "htop")


def test_one_writer_many_readers_and_taking_over(pair: Lab) -> None:
    with console(pair, "k1") as writer:
        at_shell(writer)
        refused = pair.popnet("console", "k1", check=False)
        assert refused.returncode == 1
        assert "--force" in refused.stderr
        assert "--ro" in refused.stderr
        with console(pair, "--ro", "k1") as reader, console(pair, "--ro", "k1") as second:
            writer.sendline("echo seen-by-all-$((6*7))")
            for each in (writer, reader, second):
                each.expect("seen-by-all-42")
            reader.sendline("echo must-not-$((1+1))")
            at_shell(writer, "still")
            assert "must-not-2" not in writer.before
        with console(pair, "--force", "k1") as taker:
            writer.expect("took over")
            at_shell(taker, "mine")
            writer.expect("mine-42")


def test_it_works_with_the_network_down(pair: Lab) -> None:
    pair.sh("k2", "ip link set eth0 down")
    try:
        with console(pair, "k2") as child:
            at_shell(child, "no-network")
            child.sendline("ip link set eth0 up")
            at_shell(child, "up")
    finally:
        pair.sh("k2", "ip link set eth0 up")
    pair.ping("k1", "k2", "-4")


def test_a_client_that_stops_reading_stalls_its_terminal_only(pair: Lab) -> None:
    command = pair.command("console", "k1")
    stuck = pexpect.spawn(command[0], command[1:], env=pair.env(), timeout=20, encoding="utf-8")
    try:
        at_shell(stuck)
        stuck.sendline(
            "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); echo line $i of a flood; done; echo over-$i"
        )
        # Nobody reads now: the loop in the kernel has to wait, on this terminal alone.
        with console(pair, "k1", "1") as other:
            at_shell(other, "other")
        assert pair.exec("k1", "echo", "exec works").returncode == 0
        count = "cat /proc/[0-9]*/comm | grep -c . "
        assert int(pair.sh("k1", count)) > 1
        # Reading again, everything arrives, in order, nothing lost.
        stuck.expect("line 199999 of a flood", timeout=60)
        stuck.expect("over-200000", timeout=60)
    finally:
        stuck.close(force=True)


def test_bad_terminals_are_refused(pair: Lab) -> None:
    result = pair.popnet("console", "k1", "7", check=False)
    assert result.returncode == 1
    assert "tty0 to tty1" in result.stderr
    result = pair.popnet("console", "k9", check=False)
    assert result.returncode == 1
    assert "k9" in result.stderr


@pytest.mark.timeout(120)
def test_a_console_says_that_its_kernel_died_and_goes_on_after_boot(lab: Lab) -> None:
    lab.up()
    with console(lab, "k1") as child:
        at_shell(child)
        lab.popnet("kill", "k1")
        child.expect(r"\[popnet: k1 died .*waiting for boot\]")
        lab.popnet("boot", "k1")
        child.expect(r"\[popnet: k1 is back, generation 2\]")
        wait_until(lambda: lab.kernels()["k1"]["state"] == "online", "k1 is back")
        at_shell(child, "reborn")
