"""The namespaces of a kernel, owned by a user namespace of its own.

Theory of operation. A machine has the powers it needs to mount and to map ids: those of real root, or those
of root in a user
namespace that `enter_machine` makes for an ordinary user. Below it, each kernel gets a user namespace (same
ids, no powers
outside) that *owns* its network, UTS and IPC namespaces, so that root inside a kernel may configure its NIC
and nothing else.

One process cannot create these and keep the machine's powers, which are still needed for mounting; hence the
*anchor*: a short-lived child (`native/anchor.c`) that is born in all of them, has its ids mapped by the
daemon, and waits until the daemon has opened or joined them.

    daemon                           anchor (shares the daemon's memory, runs none of its code)
    anchor() --------------------->  in new user, net, uts, ipc namespaces
    write uid_map, gid_map
    join net, uts, ipc;
    keep a descriptor of user
    close its pipe, reap  -------->  exit

The daemon ends in the kernel's net, UTS and IPC namespaces but in the machine's user namespace. Init (forked
later) builds the
root file system with the machine's powers, then joins the kernel's user namespace for good and unshares its
mounts once more:
what was mounted before is then locked, so that not even root inside can uncover it.
"""

import os
from pathlib import Path

from popnet.kernel import linux
from popnet.transport._native import anchor

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
    try:
        pid, end = anchor(linux.CLONE_NEWUSER | linux.CLONE_NEWNET | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC)
    except OSError as error:
        what = f"make user, net, uts and ipc namespaces: {error.strerror}"
        raise OSError(error.errno, what) from None
    try:
        _map_ids(pid)
        user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        for name, kind in _JOINED:
            fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                linux.setns(fd, kind)
            finally:
                os.close(fd)
    finally:
        os.close(end)
        os.waitpid(pid, 0)
    return user


def _map_ids(pid: int) -> None:
    """Map every id of this user namespace to itself in that of *pid*."""
    if b"deny" in _read("/proc/self/setgroups"):
        _write(f"/proc/{pid}/setgroups", b"deny")
    for name in ("uid_map", "gid_map"):
        ranges = [line.split() for line in _read(f"/proc/self/{name}").splitlines()]
        _write(f"/proc/{pid}/{name}", b"".join(b"%b %b %b\n" % (first, first, n) for first, _, n in ranges))


def _read(path: str) -> bytes:
    """A small file of /proc, without the costs of a text file: every boot reads three."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
