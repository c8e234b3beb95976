"""A directory of the host as the root of a kernel, copy-on-write: one overlay, whatever is in the directory.

The directory may come from an image that nobody vouches for, so nothing is written through it: where it has a
link called `etc`, say, a directory of the kernel's own hides it. Where the host lets nobody mount an overlay,
a small root is copied instead.
"""

import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from popnet.kernel import linux

COPY_MAX: Final = 64 << 20
"""Bytes of the largest root that is copied into a kernel's memory where there can be no overlay."""

_OWN: Final = ("proc", "sys", "dev", "run", "tmp", "mnt")
"""Directories that a root must have, because others are mounted there."""


def show(source: str, base: Path, root: Path, files: Mapping[str, str], options: str) -> None:
    """Mount *source* on *root*, with *files* (path inside -> text) in it; what is written goes below *base*.

    *options* are more of the overlay's. Raises OSError.
    """
    lower, upper, work = Path(source), base / "upper", base / "work"
    mode = stat.S_IMODE(lower.stat().st_mode) | 0o555
    for directory in (upper, work):
        directory.mkdir()
        directory.chmod(mode)
    _furnish(lower, upper, files)
    if any(mark in source for mark in ",:\\"):  # an overlay's options have no safe way to say these
        bound = base / "lower"
        bound.mkdir()
        linux.mount(source, bound, "", linux.MS_BIND)
        lower = bound
    layers = f"lowerdir={lower},upperdir={upper},workdir={work}{options}"
    try:
        linux.mount("overlay", root, "overlay", linux.MS_NODEV, layers)
    except OSError:
        _copy(lower, upper, root)


def _furnish(lower: Path, upper: Path, files: Mapping[str, str]) -> None:
    for name in _OWN:
        _make(lower / name, upper / name, 0o1777 if name == "tmp" else 0o755)
    _make(lower / "root", upper / "root", 0o700)
    for name, text in files.items():
        here = upper
        there: Path = lower
        for part in name.strip("/").split("/")[:-1]:
            here, there = here / part, there / part
            _make(there, here, 0o755)
        (here / name.rpartition("/")[2]).write_text(text)


def _make(like: Path, directory: Path, mode: int) -> None:
    """Make *directory* as the one it covers, or hide what is no directory. Whoever owns it in the image does
    here."""
    if directory.is_dir():
        return
    directory.mkdir()
    try:
        status = like.lstat()
    except OSError:
        directory.chmod(mode)
        return
    if not stat.S_ISDIR(status.st_mode):
        directory.chmod(mode)
        return
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(directory, status.st_uid, status.st_gid)
    directory.chmod(stat.S_IMODE(status.st_mode))


def _copy(lower: Path, upper: Path, root: Path) -> None:
    """Have *lower*, and *upper* over it, in *root* itself. Raises OSError if that is too much."""
    size = 0
    for place, _, names in os.walk(lower):
        size += sum((Path(place) / name).lstat().st_size for name in names)
        if size > COPY_MAX:
            text = f"this host mounts no overlay, and {lower} has more than {COPY_MAX >> 20} MiB to copy"
            raise OSError(text)
    shutil.copytree(lower, root, symlinks=True, dirs_exist_ok=True, ignore=_hidden_by(lower, upper))
    shutil.copytree(upper, root, symlinks=True, dirs_exist_ok=True)


def _hidden_by(lower: Path, upper: Path):  # type: ignore[no-untyped-def]
    """Names of *lower* that *upper* hides: files, and what is not a directory in both."""

    def ignore(place: str, names: list[str]) -> set[str]:
        above = upper / Path(place).relative_to(lower)
        return {
            name
            for name in names
            if (above / name).exists() and (not (above / name).is_dir() or (Path(place) / name).is_symlink())
        }

    return ignore
