"""How a process asks for its turn: seen by what the host says of it, in a child of the test's own."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from popnet.tty import promptness

CHILD = """
import ctypes, json, os, struct, threading
from popnet.tty.promptness import TURN_NS, take_short_turns
def turn():
    room = ctypes.create_string_buffer(64)
    sched_getattr = {"x86_64": 315, "aarch64": 275, "riscv64": 275}[os.uname().machine]
    assert ctypes.CDLL(None).syscall(sched_getattr, 0, room, 56, 0) == 0
    _size, policy, flags, nice, _priority, runtime = struct.unpack_from("=IIQiIQ", room)
    return [policy, nice, runtime]
os.nice(3)
told = {"before": turn(), "took": take_short_turns(), "after": turn()}
def other():
    told["thread"] = turn()
thread = threading.Thread(target=other)
thread.start()
thread.join()
print(json.dumps(told))
"""


def child(source: str) -> Any:
    command = [sys.executable, "-c", source]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)


def test_turns_get_shorter_for_this_thread_alone() -> None:
    told = child(CHILD)
    assert told["took"]
    assert (
        told["before"][:2]
        == told["after"][:2]
        == told["thread"][:2]
        == [os.SCHED_OTHER, min(19, os.nice(0) + 3)]
    )
    if told["before"][2] == 0:
        pytest.skip("this host's scheduler knows no turns")
    assert told["after"][2] == promptness.TURN_NS
    assert told["thread"][2] == told["before"][2] > promptness.TURN_NS


def test_a_policy_that_somebody_chose_stays() -> None:
    source = "import os; from popnet.tty.promptness import take_short_turns as take\n"
    source += "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n"
    source += "import json; print(json.dumps([take(), os.sched_getscheduler(0) == os.SCHED_BATCH]))"
    assert child(source) == [False, True]


def test_a_machine_we_do_not_know_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promptness, "_NUMBER", {})
    assert not promptness.take_short_turns()


def test_a_session_of_somebody_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getsid", lambda pid: os.getpid() + 1)
    monkeypatch.setattr(Path, "write_text", lambda path, text: pytest.fail("it was written to"))
    assert not promptness.lead_session()


def test_the_sessions_share_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(os, "getsid", lambda pid: os.getpid())
    monkeypatch.setattr(Path, "write_text", lambda path, text: written.append((str(path), text)))
    assert promptness.lead_session()
    assert written == [("/proc/self/autogroup", "-5")]


def test_a_host_that_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "getsid", lambda pid: os.getpid())
    monkeypatch.setattr(Path, "write_text", refuse)
    assert not promptness.lead_session()


def test_the_layout_is_the_kernels() -> None:
    assert promptness._ATTRIBUTES.size == 48  # SCHED_ATTR_SIZE_VER0
    assert struct.calcsize("=IIQiI") == 24
