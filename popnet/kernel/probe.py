"""Try something on the host without changing it: in a forked child with namespaces of its own.

What a probe does (a mount, an interface, a new user) lives in the child's namespaces and goes with them. A
child that hangs is killed.
"""

import json
import os
import resource
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from popnet.core.errors import PopnetError
from popnet.kernel import fuse, linux, namespaces
from popnet.net.tap import open_tap

_TIMEOUT_S: Final = 3.0
"""A probe takes milliseconds; one that waits this long is stuck in the host."""

_NOBODY: Final = 65534

KINDS: Final = {
    "mnt": linux.CLONE_NEWNS,
    "net": linux.CLONE_NEWNET,
    "uts": linux.CLONE_NEWUTS,
    "ipc": linux.CLONE_NEWIPC,
    "pid": linux.CLONE_NEWPID,
    "cgroup": linux.CLONE_NEWCGROUP,
}
"""The namespaces of a kernel, beside its user namespace."""


class ProbeFailed(Exception):
    """The host did not let the child do it; the text is the host's reason."""


def in_child(action: Callable[[], str]) -> str:
    """What *action* returns in a forked child; an OSError or PopnetError in it becomes ProbeFailed here.

    The caller must have one thread only, as a fork copies no other.
    """
    answers, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(answers)
        _act(action, tells)
    os.close(tells)
    try:
        raw = _read_all(answers)
    finally:
        os.close(answers)
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
        os.waitpid(pid, 0)
    if not raw:
        raise ProbeFailed("the trial ended without an answer, or took too long")
    answer = json.loads(raw)
    if "reason" in answer:
        raise ProbeFailed(answer["reason"])
    return str(answer["result"])


def _act(action: Callable[[], str], tells: int) -> NoReturn:
    """The child: any other exception is our bug, and leaves no answer."""
    try:
        try:
            answer = {"result": action()}
        except OSError as error:
            answer = {"reason": error.strerror or str(error)}
        except PopnetError as error:
            answer = {"reason": str(error)}
        os.write(tells, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _read_all(fd: int) -> bytes:
    """What the child tells until it ends; nothing if it hangs."""
    raw = b""
    while select.select([fd], [], [], _TIMEOUT_S)[0]:
        part = os.read(fd, 4096)
        if not part:
            return raw
        raw += part
    return b""


def user_namespace() -> str:
    linux.unshare(linux.CLONE_NEWUSER)
    return ""


def user_namespace_of_nobody() -> str:
    """As `user_namespace`, for an ordinary user; only root can try."""
    os.setgroups([])
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)
    return user_namespace()


def kinds_of_namespaces() -> str:
    """The kinds that the host has not, with reasons, joined by commas."""
    namespaces.enter_machine()
    missing = []
    for name, flag in KINDS.items():
        try:
            linux.unshare(flag)
        except OSError as error:
            missing.append(f"{name} ({os.strerror(error.errno or 0)})")
    return ", ".join(missing)


def fuse_file_system() -> str:
    """Makes a file system such as shows a kernel its partition."""
    namespaces.enter_machine()
    for fd in fuse.mount():
        os.close(fd)
    return ""


def tap() -> str:
    """Names of the offloads that a TAP takes, joined by blanks."""
    namespaces.enter_machine()
    _enter_user_namespace(linux.CLONE_NEWNET)  # a kernel's network belongs to a user namespace of its own
    return " ".join(open_tap("probe0").offloads)


def overlay() -> str:
    """Mounts an overlay as a machine of the calling user would, and writes a file through it."""
    initial = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    namespaces.enter_machine()
    _try_overlay("" if initial else ",userxattr")
    return ""


def overlay_of_user() -> str:
    """As `overlay`, but for an ordinary user: in a user namespace in which only one id is mapped."""
    _enter_user_namespace(linux.CLONE_NEWNS)
    _try_overlay(",userxattr")
    return ""


def proc() -> str:
    """Mounts /proc for a pid namespace of its own, as each kernel does."""
    namespaces.enter_machine()
    pid = linux.fork_into(linux.CLONE_NEWPID)
    if pid == 0:
        try:
            linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        except OSError as error:
            os._exit(error.errno or 255)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise OSError(status, os.strerror(status))
    return ""


def host_name() -> str:
    """Names a host, in a namespace for it."""
    namespaces.enter_machine()
    _enter_user_namespace(linux.CLONE_NEWUTS)
    linux.set_host_name("doctor")
    return ""


def _enter_user_namespace(more: int) -> None:
    """A user namespace in which the caller is root and nobody else is known, and *more* namespaces in it."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | more)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _try_overlay(options: str) -> None:
    base = Path("/tmp")
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("popnet", base, "tmpfs")
    lower, upper, work, merged = (base / name for name in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged):
        directory.mkdir()
    (lower / "file").write_text("below")
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}{options}"
    linux.mount("overlay", merged, "overlay", 0, layers)
    (merged / "file").write_text("above")
    if (lower / "file").read_text() != "below":
        raise OSError("an overlay changed the directory below it")


def real_time() -> str:
    """Take SCHED_FIFO; what cannot be passed on to programs inside. Raises OSError."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    _, hard = resource.getrlimit(resource.RLIMIT_RTPRIO)
    if hard > 0:
        return ""
    try:
        resource.setrlimit(resource.RLIMIT_RTPRIO, (99, 99))
    except (ValueError, OSError):
        return "limit of rtprio"
    return ""
