"""A compute kernel's end of `io.files`: a file system whose every operation is a call to the io kernel.

Theory of operation. What a program does below /io becomes a FUSE request (popnet.kernel.fuse); a thread of
the daemon reads it, asks the io kernel by a call through the message layer, and answers. It waits for one at
a time. Paths are this kernel's business and each call stands for itself, so the io kernel may die and boot
again: meanwhile programs get ENOTCONN, at once or when the call they wait for has lost its peer, and go on
afterwards. Nothing is cached.
"""

import asyncio
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from popnet.core.errors import DeadlineExceeded, LinkViolation, PopnetError
from popnet.kernel import filewire, fuse
from popnet.kernel.fuse import Attributes
from popnet.message.endpoint import Endpoint
from popnet.message.notice import Change, Notice

CALL_TIMEOUT_S: Final = 10.0
"""Seconds that an io kernel may take for one operation."""

_WAIT_S: Final = 1.0
"""Seconds to wait for an io kernel before there is none: both may be booting."""

_SETATTR, _SYMLINK, _MKNOD, _MKDIR, _UNLINK, _RMDIR, _RENAME = 4, 6, 8, 9, 10, 11, 12
_WRITE, _FSYNC, _CREATE = 16, 20, 35
_BIG_WRITES: Final = 1 << 5
_DIRECT_IO: Final = 1

_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _ATIME_NOW, _MTIME_NOW = 1, 2, 4, 8, 16, 32, 128, 256

Ask = Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]
"""Has a request answered: (head, data). Raises OSError."""


class RemoteFiles:
    """Calls `io.files`, wherever in the machine it is, for the thread that serves *device*."""

    def __init__(self, endpoint: Endpoint, device: int) -> None:
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._servers: list[int] = []
        self._there = asyncio.Event()
        endpoint.watch(f"service/{filewire.SERVICE}", self._noticed)
        server = RemoteServer(self._ask)
        work = threading.Thread(target=fuse.serve_by, args=(device, server), name="io files", daemon=True)
        work.start()

    def _noticed(self, notice: Notice) -> None:
        if notice.change is Change.SERVICE_UP:
            self._servers.append(notice.kid)
            self._there.set()
        elif notice.kid in self._servers:
            self._servers.remove(notice.kid)
            if not self._servers:
                self._there.clear()

    def _ask(self, head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        asking = asyncio.run_coroutine_threadsafe(self._call(filewire.pack(head, data)), self._loop)
        answer, found = filewire.unpack(asking.result())
        if "errno" in answer:
            raise OSError(int(answer["errno"]), os.strerror(int(answer["errno"])))
        return answer, found

    async def _call(self, body: bytes) -> bytes:
        try:
            await asyncio.wait_for(self._there.wait(), _WAIT_S)
            kid = self._servers[0]
            return await self._endpoint.call_service(kid, filewire.SERVICE, body, CALL_TIMEOUT_S)
        except DeadlineExceeded:
            return filewire.pack({"errno": errno.ETIMEDOUT})
        except (PopnetError, TimeoutError, IndexError):
            return filewire.pack({"errno": errno.ENOTCONN})


class _RemoteTree:
    """What `fuse.Server` asks for reading, asked of the io kernel."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def stat(self, path: str) -> dict[str, Any]:
        return self._ask({"op": "stat", "path": path}, b"")[0]

    def attributes(self, path: str) -> Attributes:
        found = self.stat(path)
        return Attributes(found["mode"], found["size"])

    def names(self, path: str) -> Sequence[str]:
        return [name for name, _ in self.kinds(path)]

    def kinds(self, path: str) -> list[tuple[str, int]]:
        return [
            (str(name), int(mode)) for name, mode in self._ask({"op": "list", "path": path}, b"")[0]["names"]
        ]

    def text(self, path: str) -> bytes:
        raise OSError(errno.EIO, "files are read in parts")

    def target(self, path: str) -> str:
        return str(self._ask({"op": "readlink", "path": path}, b"")[0]["target"])


class RemoteServer(fuse.Server):
    """FUSE's protocol, reading and writing, by requests that *ask* has answered."""

    def __init__(self, ask: Ask) -> None:
        self._remote = _RemoteTree(ask)
        super().__init__(self._remote)
        self._ask = ask
        self._owner = (0, 0)
        self._modes: dict[int, dict[str, int]] = {}  # of open directories: name -> type
        self._handlers |= {
            _SETATTR: self._set,
            _SYMLINK: self._symlink,
            _MKNOD: self._make_node,
            _MKDIR: self._make_directory,
            _UNLINK: lambda node, body: self._remove("unlink", node, body),
            _RMDIR: lambda node, body: self._remove("rmdir", node, body),
            _RENAME: self._rename,
            _WRITE: self._write,
            _CREATE: self._create,
            _FSYNC: lambda node, body: b"",
            17: self._space,
        }

    def handle(self, request: bytes) -> bytes | None:
        """As its base; a peer's nonsense is an error of input and output."""
        _, _, unique, _, uid, gid, *_ = fuse.HEADER.unpack_from(request)
        self._owner = (uid, gid)
        try:
            return super().handle(request)
        except (KeyError, TypeError, ValueError, struct.error, LinkViolation):
            return fuse.refuse(unique, errno.EIO)

    def _init(self, node: int, body: bytes) -> bytes:
        major, minor, read_ahead, _ = struct.unpack_from("<4I", body)
        if major != 7:
            raise OSError(errno.EPROTO, "an unknown version of FUSE")
        return fuse.INIT_OUT.pack(
            7, min(minor, 31), read_ahead, _BIG_WRITES, 8, 6, filewire.DATA_MAX, 1, 0, 0, 0
        )

    def _attributes(self, node: int) -> bytes:
        return self._packed(node, self._remote.stat(self._paths[node]))

    @staticmethod
    def _packed(node: int, found: dict[str, Any]) -> bytes:
        times = [divmod(int(found[f"{name}_ns"]), 10**9) for name in ("atime", "mtime", "ctime")]
        return fuse.ATTRIBUTES.pack(
            node,
            found["size"],
            found["blocks"],
            *(max(0, seconds) for seconds, _ in times),
            *(nanoseconds for _, nanoseconds in times),
            found["mode"],
            found["links"],
            found["uid"],
            found["gid"],
            0,
            4096,
            0,
        )

    def _child(self, node: int, raw: bytes) -> str:
        return f"{self._paths[node]}/{os.fsdecode(raw)}".lstrip("/")

    def _made(self, node: int, raw: bytes) -> bytes:
        return self._lookup(node, raw + b"\0")

    def _new(self, op: str, node: int, raw: bytes, **more: Any) -> bytes:
        uid, gid = self._owner
        self._ask({"op": op, "path": self._child(node, raw), "uid": uid, "gid": gid, **more}, b"")
        return self._made(node, raw)

    def _make_node(self, node: int, body: bytes) -> bytes:
        mode, _, umask, _ = struct.unpack_from("<4I", body)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EPERM, "files only")
        return self._new("create", node, _name(body[16:]), mode=mode & ~umask, exclusive=True)

    def _make_directory(self, node: int, body: bytes) -> bytes:
        mode, umask = struct.unpack_from("<2I", body)
        return self._new("mkdir", node, _name(body[8:]), mode=mode & ~umask)

    def _symlink(self, node: int, body: bytes) -> bytes:
        name, target = body.split(b"\0")[:2]
        return self._new("symlink", node, name, target=os.fsdecode(target))

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode, umask, _ = struct.unpack_from("<4I", body)
        exclusive = bool(flags & os.O_EXCL)
        entry = self._new("create", node, _name(body[16:]), mode=mode & ~umask, exclusive=exclusive)
        if flags & os.O_TRUNC:
            self._ask({"op": "set", "path": self._child(node, _name(body[16:])), "size": 0}, b"")
        return entry + struct.pack("<QII", self._handle(), _DIRECT_IO, 0)

    def _remove(self, op: str, node: int, body: bytes) -> bytes:
        self._ask({"op": op, "path": self._child(node, _name(body))}, b"")
        return b""

    def _rename(self, node: int, body: bytes) -> bytes:
        (directory,) = struct.unpack_from("<Q", body)
        name, other = body[8:].split(b"\0")[:2]
        old, new = self._child(node, name), self._child(directory, other)
        self._ask({"op": "rename", "path": old, "to": new}, b"")
        self._moved(old, new)
        return b""

    def _moved(self, old: str, new: str) -> None:
        """Nodes follow their files to another path; what was there before is no more."""
        for path in [path for path in self._nodes if path == new or path.startswith(f"{new}/")]:
            del self._nodes[path]
        for path in [path for path in self._nodes if path == old or path.startswith(f"{old}/")]:
            number = self._nodes.pop(path)
            self._nodes[new + path[len(old) :]] = number
            self._paths[number] = new + path[len(old) :]

    def _set(self, node: int, body: bytes) -> bytes:
        valid, _, _, size, _, atime, mtime = struct.unpack_from("<2I5Q", body)
        atime_ns, mtime_ns, _, mode, _, uid, gid = struct.unpack_from("<7I", body, 56)
        head: dict[str, Any] = {"op": "set", "path": self._paths[node]}
        wanted = (
            (_MODE, "mode", mode),
            (_UID, "uid", uid),
            (_GID, "gid", gid),
            (_SIZE, "size", size),
            (_ATIME, "atime_ns", atime * 10**9 + atime_ns),
            (_MTIME, "mtime_ns", mtime * 10**9 + mtime_ns),
        )
        head |= {name: value for bit, name, value in wanted if valid & bit}
        found, _ = self._ask(head, b"")
        return struct.pack("<QII", 0, 0, 0) + self._packed(node, found)

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        data = b""
        while len(data) < size:  # one request for each part that a message carries
            want = min(size - len(data), filewire.DATA_MAX)
            head = {"op": "read", "path": self._paths[node], "offset": offset + len(data), "size": want}
            part = self._ask(head, b"")[1]
            data += part
            if len(part) < want:
                break
        return data

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        head = {"op": "write", "path": self._paths[node], "offset": offset}
        answer, _ = self._ask(head, body[40 : 40 + size])
        return struct.pack("<II", int(answer["size"]), 0)

    def _open_directory(self, node: int, body: bytes) -> bytes:
        handle = self._handle()
        kinds = dict(self._remote.kinds(self._paths[node]))
        self._lists[handle] = [".", "..", *kinds]
        self._modes[node] = kinds
        return struct.pack("<QII", handle, 0, 0)

    def _kind(self, node: int, name: str) -> int:
        return (stat.S_IFDIR if name in (".", "..") else self._modes.get(node, {}).get(name, 0)) >> 12

    def _space(self, node: int, body: bytes) -> bytes:
        found, _ = self._ask({"op": "space"}, b"")
        five = ("blocks", "free", "available", "files", "files_free")
        return struct.pack("<5Q4I24x", *(found[name] for name in five), found["size"], 255, found["size"], 0)


def _name(body: bytes) -> bytes:
    return body.split(b"\0")[0]
