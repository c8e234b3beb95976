"""The few Linux calls that Python's standard library lacks (as of 3.11): namespaces, mounts and process
control, through libc.

Every call raises OSError with what was tried, so that a boot step can name its reason. None of them may be
used while
other threads run: `unshare` and `setns` change the calling thread only.
"""

import ctypes
import os
import signal
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36

_AT_FDCWD: Final = -100
_MOVE_MOUNT_FROM_DESCRIPTOR: Final = 4
_MOUNT_READ_ONLY: Final = 1 | 2 | 4 | 8  # and no set-user-id, no devices, no programs
_FSCONFIG_FLAG, _FSCONFIG_STRING, _FSCONFIG_CREATE = 0, 1, 6
_CLOSE_ON_EXEC: Final = 1
# Numbers of system calls from 424 on are the same on every architecture.
_OPEN_TREE, _OPEN_TREE_CLONE = 428, 1
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432

_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_lock = ctypes.PyDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def is_initial_user_namespace() -> bool:
    """Whether the caller is in the host's user namespace, or one that maps all ids as it does."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def unshare(flags: int) -> None:
    """unshare(2): move the caller into new namespaces (CLONE_NEWPID: its next child)."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int = 0) -> None:
    """setns(2): move the caller into the namespace that *fd* is open on; *kind* is its CLONE_NEW… flag, or 0
    for any."""
    _check(_libc.setns(fd, kind), f"setns({kind:#x})")


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), os.fsencode(data)
    )
    _check(result, f"mount {kind or source} on {target}")


def unmount(target: Path | str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), f"unmount {target}")


def detached_mount(
    kind: str, options: Mapping[str, str], flags: Collection[str] = (), *, read_only: bool = False
) -> int:
    """A new file system of *kind* (fsopen(2), fsmount(2)) that is mounted nowhere yet: a descriptor of its
    root, for `move_mount`."""
    context = _libc.syscall(_FSOPEN, kind.encode(), _CLOSE_ON_EXEC)
    _check(context, f"open a file system {kind}")
    try:
        for name, value in options.items():
            words = (name.encode(), value.encode())
            _check(_libc.syscall(_FSCONFIG, context, _FSCONFIG_STRING, *words, 0), f"{kind}: {name}={value}")
        for name in flags:
            _check(
                _libc.syscall(_FSCONFIG, context, _FSCONFIG_FLAG, name.encode(), None, 0), f"{kind}: {name}"
            )
        _check(_libc.syscall(_FSCONFIG, context, _FSCONFIG_CREATE, None, None, 0), f"make a {kind}")
        root = _libc.syscall(_FSMOUNT, context, _CLOSE_ON_EXEC, _MOUNT_READ_ONLY if read_only else 0)
        _check(root, f"mount a {kind}")
        return int(root)
    finally:
        os.close(context)


def clone_mount(path: Path | str) -> int:
    """open_tree(2): another mount of what is at *path*, mounted nowhere yet: a descriptor for
    `move_mount`."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    root = _libc.syscall(_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)
    _check(root, f"clone the mount of {path}")
    return int(root)


def move_mount(root: int, target: Path | str) -> None:
    """move_mount(2): mount what `detached_mount` made."""
    words = (root, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_FROM_DESCRIPTOR)
    _check(_libc.syscall(_MOVE_MOUNT, *words), f"move a mount to {target}")


def pivot_root(new_root: Path | str, put_old: Path | str) -> None:
    """pivot_root(2)."""
    number = {"x86_64": 155, "aarch64": 41, "riscv64": 41}[os.uname().machine]
    _check(_libc.syscall(number, os.fsencode(new_root), os.fsencode(put_old)), f"pivot_root to {new_root}")


def fork_into(flags: int) -> int:
    """As os.fork, but the child is in new namespaces (CLONE_NEW…) from its first instruction; the parent
    stays as it is.

    With CLONE_NEWPID this is the only way for a process that wants to be the parent of a pid 1 and to have
    threads: after
    unshare(CLONE_NEWPID) Linux refuses it every new thread. The caller must have one thread. Between the
    calls by which
    Python itself brackets fork(2), clone(2) is called directly, without giving up the interpreter's lock.
    """
    number = {"x86_64": 56, "aarch64": 220, "riscv64": 220}[os.uname().machine]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _libc_with_lock.syscall(number, ctypes.c_ulong(flags | signal.SIGCHLD), None, None, None, None)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone({flags:#x}): {os.strerror(error)}")
    return int(pid)


def set_host_name(name: str) -> None:
    """sethostname(2), in the caller's UTS namespace."""
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), f"set the host name {name!r}")


def die_with_parent(sig: int = signal.SIGKILL) -> None:
    """Have the kernel send *sig* to the caller when the thread that forked it ends. The caller checks for a
    parent already gone."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def set_process_name(name: str) -> None:
    """Name the calling thread as `ps` and `top` show it: 15 bytes at most."""
    _check(_libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0), "prctl(PR_SET_NAME)")


def set_dumpable() -> None:
    """Let the caller's /proc files belong to it again, after a change of user namespace took them away."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def become_subreaper() -> None:
    """Be the parent of the caller's orphaned descendants, in place of the host's pid 1."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl(PR_SET_CHILD_SUBREAPER)")


def close_descriptors(keep: Collection[int]) -> None:
    """Close every descriptor above 2 but those in *keep*: for a fork that goes on without execve."""
    limit = os.sysconf("SC_OPEN_MAX")
    start = 3
    for fd in (*sorted(fd for fd in keep if fd >= 3), limit):
        os.closerange(start, fd)
        start = fd + 1


def process_start_time(pid: int) -> int | None:
    """When *pid* started, in clock ticks since the host's boot (/proc/PID/stat field 22), or None if there is
    no such process.

    A pid and its start time together name one process for good; the pid alone does not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])
