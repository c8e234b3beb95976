"""What a compute kernel asks of an io kernel's files, and how that travels: a line of JSON, then data.

    stat path                              -> attributes
    list path                              -> names: [[name, mode], ...]
    read path offset size                  -> data
    write path offset + data               -> size
    create path mode uid gid exclusive     -> attributes
    mkdir path mode uid gid                -> attributes
    symlink path target uid gid            -> attributes
    readlink path                          -> target
    set path [mode] [uid gid] [size] [atime_ns mtime_ns]  -> attributes
    unlink path | rmdir path | rename path to
    space                                  -> blocks free available files files_free

An answer may be {"errno": n} instead. Paths are below the directory that is shared, without a slash first.
Each request stands for itself: nothing is open between two of them, so an io kernel may boot again meanwhile.
"""

import errno
import json
from typing import Any, Final

from popnet.core.errors import LinkViolation

SERVICE: Final = "io.files"
VERSION: Final = 1
SHARED: Final = "/io"
"""The directory that an io kernel shares, and where compute kernels see it."""

DATA_MAX: Final = 32 << 10
"""Bytes that one request reads or writes at most."""

ATTRIBUTES: Final = (
    "mode",
    "size",
    "blocks",
    "atime_ns",
    "mtime_ns",
    "ctime_ns",
    "links",
    "uid",
    "gid",
    "node",
)


def pack(head: dict[str, Any], data: bytes = b"") -> bytes:
    return json.dumps(head).encode() + b"\n" + data


def unpack(body: bytes) -> tuple[dict[str, Any], bytes]:
    """The head and the data of *body*. Raises LinkViolation: a peer sent nonsense."""
    line, newline, data = body.partition(b"\n")
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    if not newline or not isinstance(head, dict):
        raise LinkViolation(f"no request of {SERVICE}: {body[:40]!r}")
    return head, data


def failure(error: OSError) -> bytes:
    return pack({"errno": error.errno or errno.EIO})
