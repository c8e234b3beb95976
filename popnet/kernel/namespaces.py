"""The namespaces of a kernel, owned by a user namespace of its own.

Theory of operation. A machine has the powers it needs to mount and to map ids: those of real root, or those
of root in a user
namespace that `enter_machine` makes for an ordinary user. Below it, each kernel gets a user namespace (same
ids, no powers
outside) that *owns* its network, UTS and IPC namespaces, so that root inside a kernel may configure its NIC
and nothing else.

One process cannot create these and keep the machine's powers, which are still needed for mounting; hence the
*anchor*: a
short-lived child that enters a new user namespace, has its ids mapped by the daemon, makes the namespaces
there and waits
until the daemon has opened or joined them.

    daemon                           anchor (forked)
    fork ------------------------->  unshare(user)
    write uid_map, gid_map  <------  "unshared"
    "mapped" --------------------->  unshare(net, uts, ipc)
    join net, uts, ipc;     <------  "made"
    keep a descriptor of user
    reap                    ------>  exit

The daemon ends in the kernel's net, UTS and IPC namespaces but in the machine's user namespace. Init (forked
later) builds the
root file system with the machine's powers, then joins the kernel's user namespace for good and unshares its
mounts once more:
what was mounted before is then locked, so that not even root inside can uncover it.
"""

import os
from pathlib import Path

from popnet.kernel import linux

_JOINED = (("net", linux.CLONE_NEWNET), ("uts", linux.CLONE_NEWUTS), ("ipc", linux.CLONE_NEWIPC))


def enter_machine() -> None:
    """Give the calling process a mount namespace of its own, and, unless it is root, a user namespace in
    which it is root.

    Raises:
        OSError: the host forbids user namespaces or mounts; `popnet doctor` tells how to allow them.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        linux.unshare(linux.CLONE_NEWNS)
    else:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)


def enter_kernel() -> int:
    """Make a kernel's namespaces and join its net, UTS and IPC ones; returns a descriptor of its user
    namespace.

    The caller must have one thread only. Init is to be forked with `linux.fork_into(linux.CLONE_NEWPID)`.
    """
    anchor = _Anchor()
    try:
        _map_ids(anchor.pid)
        anchor.proceed()
        user = os.open(f"/proc/{anchor.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        for name, kind in _JOINED:
            fd = os.open(f"/proc/{anchor.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                linux.setns(fd, kind)
            finally:
                os.close(fd)
    finally:
        anchor.end()
    return user


def _map_ids(pid: int) -> None:
    """Map every id of this user namespace to itself in that of *pid*."""
    if "deny" in Path("/proc/self/setgroups").read_text():
        Path(f"/proc/{pid}/setgroups").write_text("deny")
    for name in ("uid_map", "gid_map"):
        ranges = [line.split() for line in Path(f"/proc/self/{name}").read_text().splitlines()]
        Path(f"/proc/{pid}/{name}").write_text("".join(f"{first} {first} {n}\n" for first, _, n in ranges))


class _Anchor:
    """The short-lived child in which a kernel's namespaces are made; see the module's theory of operation."""

    def __init__(self) -> None:
        self._told, child_tells = os.pipe()
        child_told, self._tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._told)
            os.close(self._tell)
            self._run(child_told, child_tells)
        os.close(child_tells)
        os.close(child_told)
        self._wait("make a user namespace")

    @staticmethod
    def _run(told: int, tells: int) -> None:
        try:
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(tells, b"+")
            os.read(told, 1)
            linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC)
            os.write(tells, b"+")
            os.read(told, 1)
        except OSError as error:
            os.write(tells, str(error).encode())
        finally:
            os._exit(0)

    def _wait(self, what: str) -> None:
        answer = os.read(self._told, 256)
        if answer != b"+":
            raise OSError(f"{what}: {answer.decode() or 'the process that does it died'}")

    def proceed(self) -> None:
        os.write(self._tell, b"+")
        self._wait("make net, uts and ipc namespaces")

    def end(self) -> None:
        os.close(self._tell)
        os.close(self._told)
        os.waitpid(self.pid, 0)
