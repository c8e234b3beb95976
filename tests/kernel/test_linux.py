"""The few system calls of our own."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from popnet.kernel import linux

_CHILD = """
import os, sys, threading
from popnet.kernel import linux
if os.geteuid():
    linux.unshare(linux.CLONE_NEWUSER)
pid = linux.fork_into(linux.CLONE_NEWPID)
if pid == 0:
    import asyncio, subprocess
    assert os.getpid() == 1, os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert subprocess.run(["sh", "-c", "exit 4"]).returncode == 4
    os._exit(asyncio.run(asyncio.to_thread(lambda: 7)))
thread = threading.Thread(target=lambda: print("threads still start"))
thread.start()
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_fork_into_makes_a_pid_1_and_leaves_the_parent_able_to_start_threads() -> None:
    result = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (7, "threads still start"), result.stderr


def test_errors_say_what_was_tried(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(OSError, match="mount nosuchfs on"):
        linux.mount("none", tmp_path, "nosuchfs")
    with pytest.raises(OSError, match="unmount"):
        linux.unmount(tmp_path)


def test_close_descriptors_keeps_what_it_is_told() -> None:
    script = (
        "import os; from popnet.kernel import linux; fds = [os.open('/dev/null', 0) for _ in range(6)];"
        "keep = (fds[1], fds[4]); linux.close_descriptors(keep);"
        "left = [fd for fd in fds if os.path.exists(f'/proc/self/fd/{fd}')]; print(left == list(keep))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "True", result.stderr


def test_process_name_shows() -> None:
    def rename() -> None:
        linux.set_process_name("popnet:a-very-long-name")
        names.append(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip())

    names: list[str] = []
    thread = threading.Thread(target=rename)
    thread.start()
    thread.join()
    assert names == ["popnet:a-very-l"]
    assert os.getpid() > 0
