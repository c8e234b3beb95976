"""A small read-only file system of the daemon's own, which Linux shows inside its kernel: FUSE's protocol.

Theory of operation. `mount` makes a file system that is mounted nowhere yet, and the descriptor by which
Linux asks what is in it. `Server.handle` is pure protocol: the bytes of a request in, those of the answer
out; what the files are is a `Tree`'s business. `serve` is the thread that reads, has it handled, and writes,
for as long as the file system exists: it sleeps in read(2), so nothing is spent while nobody asks, and an
event loop that hangs does not hang those who read. When the daemon dies Linux ends the connection, and
readers get an error.

Nothing is cached by Linux (names and attributes are valid for 0 s, files are read directly), so what a file
says is true when it is read. The text of a file is made when it is read from its start, and kept until it is
closed: who reads in pieces reads one text. Numbers and layouts: include/uapi/linux/fuse.h of Linux, version
7.31."""

import errno
import os
import stat
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from popnet.kernel import linux

DEVICE: Final = Path("/dev/fuse")

_LOOKUP, _FORGET, _GETATTR, _READLINK, _OPEN, _READ = 1, 2, 3, 5, 14, 15
_STATFS, _RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR = 17, 18, 25, 26, 27, 28, 29
_INTERRUPT, _DESTROY, _BATCH_FORGET = 36, 38, 42
_SILENT: Final = (_FORGET, _INTERRUPT, _BATCH_FORGET)
"""Requests that get no answer."""

_ROOT: Final = 1
_DIRECT_IO: Final = 1
_REQUEST_MAX: Final = 64 << 10
"""Bytes of the largest request: FUSE wants room for 8 KiB at least."""

HEADER: Final = struct.Struct("<IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
_OUT: Final = struct.Struct("<IiQ")  # length, error, unique
ATTRIBUTES: Final = struct.Struct("<6Q10I")
INIT_OUT: Final = struct.Struct("<IIIIHHIIHHI28x")


@dataclass(frozen=True, slots=True)
class Attributes:
    """What `stat` says of a file: type and permissions, and its size in bytes (a link's, else 0 as in
    /proc)."""

    mode: int
    size: int = 0


class Tree(Protocol):
    """What is in a file system. Paths are relative to its root, which is "". Each raises OSError, and its
    errno is what readers get."""

    def attributes(self, path: str) -> Attributes: ...

    def names(self, path: str) -> Sequence[str]:
        """The names in a directory."""

    def text(self, path: str) -> bytes:
        """What a file says now."""

    def target(self, path: str) -> str:
        """Where a link leads."""


def mount(read_only: bool = True) -> tuple[int, int]:
    """Make a file system; returns the descriptors of its server's end, and of its root, to be moved into
    place.

    Raises OSError: this host has no FUSE, or not for this user.
    """
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        options = {
            "source": "popnet",
            "fd": str(device),
            "rootmode": "40000",
            "user_id": "0",
            "group_id": "0",
        }
        flags = ("allow_other", "default_permissions")
        return device, linux.detached_mount("fuse", options, flags, read_only=read_only)
    except BaseException:
        os.close(device)
        raise


def serve(device: int, tree: Tree) -> None:
    """Answer what Linux asks at *device* until the file system is gone; closes it then. A thread's whole
    work."""
    serve_by(device, Server(tree))


def serve_by(device: int, server: "Server") -> None:
    """As `serve`, by a *server* of the caller's."""
    try:
        while True:
            try:
                request = os.read(device, _REQUEST_MAX)
                answer = server.handle(request)
                if answer is not None:
                    os.write(device, answer)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return  # unmounted
                if error.errno not in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    raise  # ENOENT: the one who asked gave up meanwhile
    finally:
        os.close(device)


def refuse(unique: int, number: int) -> bytes:
    """The answer to request *unique* that it failed with error *number*."""
    return _OUT.pack(_OUT.size, -number, unique)


class Server:
    """Answers requests about *tree*."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._paths: dict[int, str] = {_ROOT: ""}
        self._nodes: dict[str, int] = {"": _ROOT}
        self._lookups: dict[int, int] = {_ROOT: 1}
        self._texts: dict[int, bytes] = {}  # of open files
        self._lists: dict[int, list[str]] = {}  # of open directories
        self._next_node = _ROOT + 1
        self._next_handle = 1
        self._handlers: dict[int, Callable[[int, bytes], bytes]] = {
            _INIT: self._init,
            _LOOKUP: self._lookup,
            _GETATTR: lambda node, body: struct.pack("<QII", 0, 0, 0) + self._attributes(node),
            _READLINK: lambda node, body: os.fsencode(self._tree.target(self._paths[node])),
            _OPEN: self._open,
            _READ: self._read,
            _RELEASE: self._release,
            _OPENDIR: self._open_directory,
            _READDIR: self._read_directory,
            _RELEASEDIR: self._release,
            _STATFS: lambda node, body: struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0),
            _FLUSH: lambda node, body: b"",
            _DESTROY: lambda node, body: b"",
        }

    def handle(self, request: bytes) -> bytes | None:
        """The answer to *request*, if it gets one."""
        _, opcode, unique, node, *_ = HEADER.unpack_from(request)
        body = request[HEADER.size :]
        if opcode in _SILENT:
            self._forget(opcode, node, body)
            return None
        try:
            handler = self._handlers.get(opcode)
            if handler is None:
                return _OUT.pack(_OUT.size, -errno.ENOSYS, unique)
            answer = handler(node, body)
        except OSError as error:
            return _OUT.pack(_OUT.size, -(error.errno or errno.EIO), unique)
        return _OUT.pack(_OUT.size + len(answer), 0, unique) + answer

    def _init(self, node: int, body: bytes) -> bytes:
        major, minor, read_ahead, _ = struct.unpack_from("<4I", body)
        if major != 7:
            raise OSError(errno.EPROTO, "an unknown version of FUSE")
        return INIT_OUT.pack(7, min(minor, 31), read_ahead, 0, 8, 6, 4096, 1, 0, 0, 0)

    def _lookup(self, node: int, body: bytes) -> bytes:
        name = os.fsdecode(body.rstrip(b"\0"))
        path = f"{self._paths[node]}/{name}".lstrip("/")
        self._tree.attributes(path)  # whether there is one
        found = self._nodes.get(path)
        if found is None:
            found = self._nodes[path] = self._next_node
            self._paths[found] = path
            self._next_node += 1
        self._lookups[found] = self._lookups.get(found, 0) + 1
        return struct.pack("<4Q2I", found, 0, 0, 0, 0, 0) + self._attributes(found)

    def _forget(self, opcode: int, node: int, body: bytes) -> None:
        """Linux knows nodes that many times less; one that it does not know any more goes."""
        if opcode == _FORGET:
            gone = [(node, *struct.unpack_from("<Q", body))]
        elif opcode == _BATCH_FORGET:
            (count,) = struct.unpack_from("<I4x", body)
            gone = [struct.unpack_from("<QQ", body, 8 + 16 * at) for at in range(count)]
        else:
            return
        for number, times in gone:
            left = self._lookups.get(number, 0) - times
            if left <= 0 and number != _ROOT:
                self._lookups.pop(number, None)
                self._nodes.pop(self._paths.pop(number, ""), None)
            else:
                self._lookups[number] = left

    def _attributes(self, node: int) -> bytes:
        found = self._tree.attributes(self._paths[node])
        links = 2 if stat.S_ISDIR(found.mode) else 1
        return ATTRIBUTES.pack(node, found.size, 0, 0, 0, 0, 0, 0, 0, found.mode, links, 0, 0, 0, 4096, 0)

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def _open(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", self._handle(), _DIRECT_IO, 0)

    def _read(self, node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        if offset == 0 or handle not in self._texts:
            self._texts[handle] = self._tree.text(self._paths[node])
        return self._texts[handle][offset : offset + size]

    def _open_directory(self, node: int, body: bytes) -> bytes:
        handle = self._handle()
        self._lists[handle] = [".", "..", *self._tree.names(self._paths[node])]
        return struct.pack("<QII", handle, 0, 0)

    def _read_directory(self, node: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        answer = b""
        for at, name in enumerate(self._lists[handle][offset:], offset + 1):
            raw = os.fsencode(name)
            entry = struct.pack("<QQII", 0xFFFFFFFF, at, len(raw), self._kind(node, name)) + raw
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer

    def _kind(self, node: int, name: str) -> int:
        """The type of a name in a directory, as readdir(3) tells it; 0 if it is gone again."""
        if name in (".", ".."):
            return stat.S_IFDIR >> 12
        try:
            return self._tree.attributes(f"{self._paths[node]}/{name}".lstrip("/")).mode >> 12
        except OSError:
            return 0

    def _release(self, node: int, body: bytes) -> bytes:
        (handle,) = struct.unpack_from("<Q", body)
        self._texts.pop(handle, None)
        self._lists.pop(handle, None)
        return b""
