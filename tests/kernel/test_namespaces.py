"""A kernel's namespaces: its own, owned by a user namespace of its own; the host's stay as they were."""

import os
from pathlib import Path
from typing import Any

from popnet.kernel import linux, namespaces
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
