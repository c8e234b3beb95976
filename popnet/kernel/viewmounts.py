"""Init's part of what /proc and /sys show of a partition: puts it into place, before they are locked."""

import os
from pathlib import Path
from typing import Final

from popnet.kernel import linux
from popnet.kernel.views import DIRECTORIES, PROC_FILES

_SAFE: Final = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def show(root: Path, base: Path, file_system: int | None) -> int | None:
    """Put the views over /proc and /sys of *root*.

    Args:
        base: a directory where they may be kept.
        file_system: of the daemon, as `fuse.mount` made it; None: plain files, which the daemon writes.

    Returns a descriptor of the directory of plain files, if that is what they are.
    """
    views = base / "views"
    views.mkdir(mode=0o755)
    names = PROC_FILES
    directory = None
    if file_system is not None:
        linux.move_mount(file_system, views)
        os.close(file_system)
    else:
        names = tuple(name for name in PROC_FILES if name != "uptime")  # each clock of its own would be late
        (views / "proc").mkdir()
        for name in names:
            (views / "proc" / name).touch(0o444)
        for name in DIRECTORIES:
            (views / name).mkdir()
        directory = os.open(views, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in names:
        linux.mount(str(views / "proc" / name), root / "proc" / name, "", linux.MS_BIND)
    for name in DIRECTORIES:
        target = root / "sys/devices/system" / name
        if target.is_dir():
            _bind_read_only(views / name, target)
    return directory


def _bind_read_only(source: Path, target: Path) -> None:
    linux.mount(str(source), target, "", linux.MS_BIND)
    linux.mount("none", target, "", linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | _SAFE)


def enter_time(booted_s: int) -> None:
    """Have the boot clock begin at *booted_s* of the host's: `uptime`, and when processes started, are as in
    a machine that booted then. The caller has one thread. Where Linux has no such namespaces (before 5.6), or
    we are root in a container without CAP_SYS_TIME, nothing changes."""
    if not Path("/proc/self/timens_offsets").exists():
        return
    linux.unshare(linux.CLONE_NEWTIME)
    try:
        Path("/proc/self/timens_offsets").write_text(f"boottime -{booted_s} 0\n")
    except PermissionError:
        return
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(fd, linux.CLONE_NEWTIME)
    finally:
        os.close(fd)
