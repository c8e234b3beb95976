"""The files of an io kernel, as other kernels use them: a child of its init, which sees what the kernel sees.

Theory of operation. One process and one thread: a request is read, done and answered, one after the other.
Who asks is another kernel, which is not trusted: a path is walked component by component from the shared
directory, and no link is followed, so nothing outside of it is reached; only files, directories and links are
opened. Requests and answers are `filewire`'s, each behind its length and the number of its request.
"""

import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from popnet.core.errors import LinkViolation
from popnet.kernel import filewire

HEADER: Final = struct.Struct("<IQ")
"""Bytes that follow, and the number of the request."""

REQUEST_MAX: Final = filewire.DATA_MAX + 16384
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NAMES_MAX: Final = 65536


def run(channel: socket.socket, directory: str) -> None:
    """Answer what comes over *channel* about *directory*, until its end."""
    os.umask(0)
    files = Files(directory)
    with channel.makefile("rb") as incoming:
        while header := incoming.read(HEADER.size):
            if len(header) < HEADER.size:
                return
            length, number = HEADER.unpack(header)
            body = incoming.read(length)
            answer = files.handle(body)
            channel.sendall(HEADER.pack(len(answer), number) + answer)


class Files:
    """The files below *directory*."""

    def __init__(self, directory: str) -> None:
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._operations: dict[str, Callable[..., dict[str, Any]]] = {
            "stat": self._stat,
            "list": self._list,
            "write": self._write,
            "create": self._create,
            "mkdir": self._mkdir,
            "symlink": self._symlink,
            "readlink": lambda path, _: {"target": self._at(os.readlink, path)},
            "set": self._set,
            "unlink": lambda path, _: self._at(os.unlink, path) or {},
            "rmdir": lambda path, _: self._at(os.rmdir, path) or {},
            "rename": self._rename,
            "space": self._space,
        }

    def close(self) -> None:
        os.close(self._root)

    def handle(self, body: bytes) -> bytes:
        """The answer to a request."""
        try:
            head, data = filewire.unpack(body)
            op, path = head.get("op"), head.get("path", "")
            if not isinstance(path, str) or "\0" in path or ".." in path.split("/"):
                raise OSError(errno.EINVAL, "a path that leads out")
            if op == "read":
                return filewire.pack({}, self._read(path, head))
            operation = self._operations.get(op) if isinstance(op, str) else None
            if operation is None:
                raise OSError(errno.ENOSYS, "an unknown request")
            if op == "write":
                head["data"] = data
            return filewire.pack(operation(path, head))
        except OSError as error:
            return filewire.failure(error)
        except (LinkViolation, KeyError, TypeError, ValueError, OverflowError):
            return filewire.pack({"errno": errno.EINVAL})

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The directory that *path* is in, open, and its name there; "." for the shared directory itself."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        fd = os.dup(self._root)
        try:
            for part in parts[:-1]:
                inner = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd, parts[-1] if parts else "."
        finally:
            os.close(fd)

    def _at(self, function: Callable[..., Any], path: str) -> Any:
        with self._parent(path) as (fd, name):
            return function(name, dir_fd=fd)

    @contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        with self._parent(path) as (parent, name):
            fd = os.open(name, flags | _FILE, dir_fd=parent)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EPERM, "not a regular file")
            yield fd
        finally:
            os.close(fd)

    def _stat(self, path: str, head: dict[str, Any]) -> dict[str, Any]:
        with self._parent(path) as (fd, name):
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        values = (found.st_mode, found.st_size, found.st_blocks, found.st_atime_ns, found.st_mtime_ns)
        more = (found.st_ctime_ns, found.st_nlink, found.st_uid, found.st_gid, found.st_ino)
        return dict(zip(filewire.ATTRIBUTES, (*values, *more), strict=True))

    def _list(self, path: str, head: dict[str, Any]) -> dict[str, Any]:
        with self._parent(path) as (parent, name):
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        found: list[tuple[str, int]] = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if len(found) == _NAMES_MAX:
                        raise OSError(errno.EOVERFLOW, "too many names")
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_mode))
        finally:
            os.close(fd)
        return {"names": sorted(found)}

    def _read(self, path: str, head: dict[str, Any]) -> bytes:
        with self._opened(path, os.O_RDONLY) as fd:
            return os.pread(fd, min(int(head["size"]), filewire.DATA_MAX), int(head["offset"]))

    def _write(self, path: str, head: dict[str, Any]) -> dict[str, Any]:
        with self._opened(path, os.O_WRONLY) as fd:
            return {"size": os.pwrite(fd, head["data"], int(head["offset"]))}

    def _create(self, path: str, head: dict[str, Any]) -> dict[str, Any]:
        flags = os.O_WRONLY | os.O_CREAT | _FILE | (os.O_EXCL if head.get("exclusive") else 0)
        with self._parent(path) as (parent, name):
            fresh = not _exists(name, parent)
            os.close(os.open(name, flags, int(head["mode"]) & 0o777, dir_fd=parent))
            if fresh:
                _give(name, parent, head)
        return self._stat(path, head)

    def _mkdir(self, path: str, head: dict[str, Any]) -> dict[str, Any]:
        with self._parent(path) as (parent, name):
            os.mkdir(name, int(head["mode"]) & 0o777, dir_fd=parent)
            _give(name, parent, head)
        return self._stat(path, head)

    def _symlink(self, path: str, head: dict[str, Any]) -> dict[str, Any]:
        with self._parent(path) as (parent, name):
            os.symlink(str(head["target"]), name, dir_fd=parent)
            _give(name, parent, head)
        return self._stat(path, head)

    def _set(self, path: str, head: dict[str, Any]) -> dict[str, Any]:
        if "size" in head:
            with self._opened(path, os.O_WRONLY) as fd:
                os.ftruncate(fd, int(head["size"]))
        with self._parent(path) as (parent, name):
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if "mode" in head and not stat.S_ISLNK(found.st_mode):
                # Linux has no fchmodat that follows no link, so it goes by a descriptor of the file itself.
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
                try:
                    os.chmod(f"/proc/self/fd/{fd}", int(head["mode"]) & 0o777)  # noqa: PTH101
                finally:
                    os.close(fd)
            if "uid" in head or "gid" in head:
                _give(name, parent, head)
            if "atime_ns" in head or "mtime_ns" in head:
                times = (
                    int(head.get("atime_ns", found.st_atime_ns)),
                    int(head.get("mtime_ns", found.st_mtime_ns)),
                )
                os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
        return self._stat(path, head)

    def _rename(self, path: str, head: dict[str, Any]) -> dict[str, Any]:
        to = str(head["to"])
        if ".." in to.split("/") or "\0" in to:
            raise OSError(errno.EINVAL, "a path that leads out")
        with self._parent(path) as (here, name), self._parent(to) as (there, other):
            os.rename(name, other, src_dir_fd=here, dst_dir_fd=there)
        return {}

    def _space(self, path: str, head: dict[str, Any]) -> dict[str, Any]:
        found = os.fstatvfs(self._root)
        return {
            "size": found.f_frsize,
            "blocks": found.f_blocks,
            "free": found.f_bfree,
            "available": found.f_bavail,
            "files": found.f_files,
            "files_free": found.f_ffree,
        }


def _exists(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _give(name: str, parent: int, head: dict[str, Any]) -> None:
    """Give a file to whom the request names, if that is somebody else."""
    uid, gid = int(head.get("uid", -1)), int(head.get("gid", -1))
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if (uid, gid) != (found.st_uid, found.st_gid) and (uid, gid) != (-1, -1):
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
