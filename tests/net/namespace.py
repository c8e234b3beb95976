"""Runs a test's function in a network namespace of its own, that of a forked child, and gone with it."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from popnet.kernel.linux import CLONE_NEWNET, CLONE_NEWUSER, die_with_parent, unshare


def in_namespace(function: Callable[[], Any]) -> Any:
    """What *function* returned, as JSON carries it, in a child in a new network namespace; fails with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        die_with_parent()
        _run(function, writer)
    os.close(writer)
    try:
        with open(reader, "rb") as answer:
            text = answer.read()
    finally:
        os.kill(child, signal.SIGKILL)  # it has answered, or the test was interrupted
        os.waitpid(child, 0)
    assert text, "the child died without an answer"
    outcome = json.loads(text)
    assert "failure" not in outcome, outcome["failure"]
    return outcome["result"]


def _run(function: Callable[[], Any], writer: int) -> None:
    try:
        _enter()
        outcome = {"result": function()}
        text = json.dumps(outcome)
    except BaseException:  # noqa: BLE001 - reported to the parent, whose test fails with it
        text = json.dumps({"failure": traceback.format_exc()})
    with open(writer, "wb") as answer:
        answer.write(text.encode())
    sys.stdout.flush()
    os._exit(0)


def _enter() -> None:
    if os.geteuid() == 0:
        unshare(CLONE_NEWNET)
        return
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | CLONE_NEWNET)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
