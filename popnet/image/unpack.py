"""Unpacking members below a directory, from an archive that nobody vouches for.

Nothing is ever written outside of the directory: each component of a path is opened by itself, from the one
before it, and not followed if it is a symbolic link; links are made as they stand, and never gone through.
Devices are left out: a kernel has a /dev of its own.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from popnet.core.errors import BrokenImage
from popnet.image.entry import Entry, Kind, Members

BYTES_MAX: Final = 64 << 30
"""Bytes that an archive may hold: more is no root file system, but something that fills disks."""

ENTRIES_MAX: Final = 1 << 22

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Unpacker:
    """Writes members below *directory*, which is there and empty.

    Args:
        owners: keep the members' owners; only root may. Otherwise all is the caller's, and readable to it.

    Attributes:
        size_bytes, entries, left_out: of files so far; of all members; of devices.
    """

    def __init__(self, directory: Path, owners: bool, bytes_max: int = BYTES_MAX) -> None:
        self._root = os.open(directory, _OPEN_DIRECTORY)
        self._owners = owners
        self._bytes_max = bytes_max
        self._parent = ("", os.dup(self._root))  # the directory used last, and a descriptor of it
        self._directories: dict[str, Entry] = {}
        self.size_bytes = 0
        self.entries = 0
        self.left_out = 0

    def close(self) -> None:
        os.close(self._root)
        os.close(self._parent[1])

    def unpack(self, members: Members) -> None:
        """Write all *members*. Raises BrokenImage for what cannot be part of a root, OSError for what the
        disk refuses."""
        for entry, data in members:
            self.entries += 1
            if self.entries > ENTRIES_MAX:
                raise BrokenImage(f"more than {ENTRIES_MAX} members")
            self._write(entry, data)
        for path, entry in reversed(self._directories.items()):  # the deepest came last
            self._finish_directory(path, entry)

    def _write(self, entry: Entry, data: Iterable[bytes]) -> None:
        if entry.kind is Kind.SPECIAL:
            self.left_out += 1
            return
        if entry.kind is Kind.DIRECTORY:
            os.close(self._open_directory(entry.path))
            self._directories[entry.path] = entry
            return
        above, _, name = entry.path.rpartition("/")
        if not name:
            raise BrokenImage(f"the root itself is a {entry.kind.value}")
        parent = self._parent_of(above)
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except OSError:
            raise BrokenImage(f"{entry.path!r} is a directory, and a {entry.kind.value} as well") from None
        if entry.kind is Kind.HARDLINK:
            self._link(entry, name)
        elif entry.kind is Kind.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
            if self._owners:
                os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        else:
            self._write_file(entry, name, parent, data)

    def _write_file(self, entry: Entry, name: str, parent: int, data: Iterable[bytes]) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            for chunk in data:
                self.size_bytes += len(chunk)
                if self.size_bytes > self._bytes_max:
                    raise BrokenImage(f"more than {self._bytes_max} bytes")
                view = memoryview(chunk)
                while view:
                    view = view[os.write(fd, view) :]
            if self._owners:
                os.fchown(fd, entry.uid, entry.gid)  # takes set-uid away, so the mode comes after it
            os.fchmod(fd, entry.mode if self._owners else entry.mode | 0o400)
            os.utime(fd, (entry.mtime_s, entry.mtime_s))
        finally:
            os.close(fd)

    def _link(self, entry: Entry, name: str) -> None:
        above, _, other = entry.link.rpartition("/")
        here = os.dup(self._parent[1])
        try:
            there = self._parent_of(above)
            os.link(other, name, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
        except OSError as error:
            why = (error.strerror or "").lower()
            raise BrokenImage(f"{entry.path!r} is another name of {entry.link!r}: {why}") from None
        finally:
            os.close(here)

    def _parent_of(self, path: str) -> int:
        """A descriptor of the directory *path*, kept until the next one is asked for."""
        if self._parent[0] != path:
            fd = self._open_directory(path)
            os.close(self._parent[1])
            self._parent = (path, fd)
        return self._parent[1]

    def _open_directory(self, path: str) -> int:
        """A descriptor of the directory *path*, made if it is not there."""
        fd = os.dup(self._root)
        done: list[str] = []
        for name in path.split("/") if path else ():
            done.append(name)
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=fd)
                inner = os.open(name, _OPEN_DIRECTORY, dir_fd=fd)
            except OSError:
                reached = "/".join(done)
                text = f"{path!r} is to be a directory, but {reached!r} is a file or a link"
                raise BrokenImage(text) from None
            finally:
                os.close(fd)
            fd = inner
        return fd

    def _finish_directory(self, path: str, entry: Entry) -> None:
        """Set owner, mode and time, which writing into it would have changed or forbidden."""
        fd = self._open_directory(path)
        try:
            if self._owners:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode if self._owners else entry.mode | 0o700)
            os.utime(fd, (entry.mtime_s, entry.mtime_s))
        finally:
            os.close(fd)
