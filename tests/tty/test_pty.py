"""Programs on ptys and on pipes: what they inherit, what is told when they do not start."""

import gc
import os
import signal
import sys
from pathlib import Path

import pytest

from popnet.tty import pty
from tests.children import Forks

ENV = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def read_to_the_end(file: int) -> bytes:
    data = b""
    while True:
        try:
            piece = os.read(file, 65536)
        except OSError:  # EIO: the last slave closed
            return data
        if not piece:
            return data
        data += piece


def run_on_pty(*argv: str, by_path: bool = False, **options: str) -> tuple[bytes, int]:
    master, slave = pty.open_pty(100, 30)
    try:
        pid = pty.spawn_on_pty(argv, ENV, os.ttyname(slave) if by_path else slave, **options)
        os.close(slave)
        output = read_to_the_end(master)
        return output, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(master)


def open_files() -> set[str]:
    gc.collect()  # those of earlier tests
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def run_on_pipe(*argv: str) -> tuple[bytes, int]:
    reading, writing = os.pipe()
    with open(os.devnull, "rb") as nothing:
        pid = pty.spawn(argv, ENV, (nothing.fileno(), writing, writing))
    os.close(writing)
    with open(reading, "rb") as output:
        return output.read(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("by_path", [False, True])
def test_a_program_on_a_pty_has_it_as_its_controlling_terminal(by_path: bool) -> None:
    output, status = run_on_pty("sh", "-c", "stty size; echo typed >/dev/tty; exit 7", by_path=by_path)
    assert output == b"30 100\r\ntyped\r\n"
    assert status == 7


def test_a_program_on_a_pty_leads_its_session_in_the_foreground() -> None:
    output, _ = run_on_pty("sh", "-c", "ps -o pid=,sid=,pgid=,tpgid= -p $$")
    assert len(set(output.split())) == 1


def test_a_size_can_change_while_the_program_runs() -> None:
    master, slave = pty.open_pty(80, 24)
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do read line; done"
    pid = pty.spawn_on_pty(("sh", "-c", script), ENV, slave)
    os.close(slave)
    assert b"ready" in os.read(master, 100)
    pty.set_size(master, 132, 43)
    assert pty.get_size(master) == (132, 43)
    os.write(master, b"\n")
    assert b"43 132" in read_to_the_end(master)
    os.waitpid(pid, 0)
    os.close(master)


def test_the_program_gets_its_environment_directory_and_name(tmp_path: Path) -> None:
    output, _ = run_on_pty("-login", "-c", "echo $0; pwd; env", cwd=str(tmp_path), executable="/bin/sh")
    lines = output.decode().split("\r\n")
    assert lines[:2] == ["-login", str(tmp_path)]
    assert "LC_ALL=C" in lines


def test_the_program_inherits_three_files_and_no_ignored_or_blocked_signal() -> None:
    leak = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leak, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        probe = "import os; print(os.listdir('/proc/self/fd'), open('/proc/self/status').read())"
        output, _ = run_on_pipe(sys.executable, "-S", "-E", "-c", probe)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        os.close(leak)
    files, _, status = output.decode().partition("] ")
    assert files == "['0', '1', '2', '3'"  # 3 is the listing itself
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(fields["SigBlk"], 16) == 0
    assert int(fields["SigIgn"], 16) & ~(1 << signal.SIGPIPE - 1) & ~(1 << signal.SIGXFSZ - 1) == 0


def test_a_broken_pipe_ends_the_program_quietly() -> None:
    """Python ignores SIGPIPE; a program that inherited that would complain instead."""
    output, status = run_on_pipe("bash", "-c", "yes | head -1; exit ${PIPESTATUS[0]}")
    assert (output, status) == (b"y\n", 128 + signal.SIGPIPE)


def test_files_may_be_the_standard_ones_in_any_order() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writing, 0)  # the pipe as file 0, to become files 1 and 2
        child = pty.spawn(("sh", "-c", "echo out; echo err >&2"), ENV, (1, 0, 0))
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os.close(writing)
    with open(reading, "rb") as output:
        assert output.read() == b"out\nerr\n"
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize(
    ("argv", "cwd", "step", "status"),
    [
        (("/no/such/program",), None, "execute", 127),
        (("no-such-program-anywhere",), None, "execute", 127),
        (("/etc/passwd",), None, "execute", 126),
        (("/etc",), None, "execute", 126),
        (("sh",), "/no/such/directory", "change the directory", 126),
        (("sh\0",), None, "execute", 126),
    ],
)
def test_a_program_that_cannot_start_says_why(
    argv: tuple[str, ...], cwd: str | None, step: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    forks = Forks(monkeypatch)
    with open(os.devnull, "rb") as nothing:
        files = (nothing.fileno(),) * 3
        before = open_files()
        with pytest.raises(pty.SpawnFailed) as failed:
            pty.spawn(argv, ENV, files, cwd=cwd)
        assert open_files() == before
    assert (failed.value.step, failed.value.status) == (step, status)
    forks.assert_reaped()


def test_hanging_up_ends_the_whole_process_group_even_a_stopped_one() -> None:
    reading, writing = os.pipe()
    with open(os.devnull, "rb") as nothing:
        script = "sleep 1000 & echo started; kill -STOP $$"
        pid = pty.spawn(("sh", "-c", script), ENV, (nothing.fileno(), writing, writing))
    os.close(writing)
    os.waitpid(pid, os.WUNTRACED)
    pty.hang_up(pid)
    with open(reading, "rb") as output:
        assert output.read() == b"started\n"  # and the end: the background one is gone as well
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP
    pty.hang_up(pid)


def test_the_foreground_group_is_known_by_the_master() -> None:
    master, slave = pty.open_pty()
    assert pty.foreground(master, 42) == 42
    pid = pty.spawn_on_pty(("cat",), ENV, slave)
    assert pty.foreground(master, 42) == pid
    pty.signal_group(pty.foreground(master, pid), signal.SIGTERM)
    os.close(slave)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
    os.close(master)
