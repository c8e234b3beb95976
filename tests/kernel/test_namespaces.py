"""A kernel's namespaces: its own, owned by a user namespace of its own; the host's stay as they were."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from popnet.kernel import linux, namespaces
from popnet.transport._native import anchor
from tests.kernel.inside import in_child

KINDS = ("user", "mnt", "net", "uts", "ipc", "pid")


def spaces() -> dict[str, str]:
    return {kind: str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in KINDS}


def test_a_daemon_joins_net_uts_and_ipc_and_keeps_the_machines_user_namespace() -> None:
    def child() -> Any:
        outside = spaces()
        namespaces.enter_machine()
        machine = spaces()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        user = namespaces.enter_kernel()
        daemon = spaces()
        opened = len(os.listdir("/proc/self/fd")) - before  # noqa: PTH208
        interfaces = sorted(os.listdir("/proc/self/net/dev_snmp6"))  # noqa: PTH208
        linux.set_host_name("inside")
        return outside, machine, daemon, opened, interfaces, os.readlink(f"/proc/self/fd/{user}")  # noqa: PTH115

    before, name = spaces(), os.uname().nodename
    outside, machine, daemon, opened, interfaces, user = in_child(child)
    assert outside == before == spaces()
    assert os.uname().nodename == name
    assert {kind for kind in KINDS if machine[kind] != outside[kind]} - {"user"} == {"mnt"}
    assert {kind for kind in KINDS if daemon[kind] != machine[kind]} == {"net", "uts", "ipc"}
    assert opened == 1
    assert interfaces == ["lo"]
    assert user not in (outside["user"], machine["user"])


def test_ids_are_the_same_inside() -> None:
    def child() -> Any:
        namespaces.enter_machine()
        maps = Path("/proc/self/uid_map").read_text().split()
        linux.setns(namespaces.enter_kernel(), linux.CLONE_NEWUSER)
        return maps, Path("/proc/self/uid_map").read_text().split(), os.geteuid()

    outside, inside, uid = in_child(child)
    assert inside == [outside[0], outside[0], outside[2]]
    assert uid == 0


def test_nothing_is_left_of_the_anchor() -> None:
    def child() -> Any:
        namespaces.enter_machine()
        os.close(namespaces.enter_kernel())
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        return False

    assert in_child(child) is True


def test_an_anchor_ends_with_its_maker() -> None:
    """A maker that is killed before it has let go of its anchor leaves none."""

    def child() -> int:
        pid, _ = anchor(linux.CLONE_NEWUSER)
        return os.pidfd_open(pid) and pid

    pid = in_child(child)  # has exited, and with it the pipe's writing end
    deadline = time.monotonic() + 20
    while linux.process_start_time(pid) is not None and _state(pid) != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_the_host_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        anchor(linux.CLONE_NEWUSER | 0x0000_0200)  # CLONE_FS: no namespace, and forbidden with CLONE_NEWUSER


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
