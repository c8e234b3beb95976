"""The client's end of a ring of captured blocks in shared memory; `popnet.net.spool` has the theory."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import struct

from popnet.core.errors import LinkViolation

TYPE_CHECKING = False  # not from typing: that import alone would cost 3 ms
if TYPE_CHECKING:
    from typing import Final

CHANNEL: Final = 3
YES, NO = b"y", b"n"

_PLACE: Final = struct.Struct("<QII")
_DONE: Final = struct.Struct("<Q")
_NAME: Final = "/memfd:popnet-capture (deleted)"


class SpoolReader:
    """The ring of one capture, once the kernel has said where it is."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._asked = False

    def take(self, message: bytes) -> tuple[bytes, bytes]:
        """What the kernel said on CHANNEL: (blocks, if there are any; what to answer on CHANNEL).

        Raises LinkViolation for a place that is not in the ring.
        """
        if not self._asked:
            self._asked = True
            self._memory = _opened(message)
            return b"", NO if self._memory is None else YES
        try:
            produced, offset, size = _PLACE.unpack(message)
        except struct.error as error:
            raise LinkViolation("the kernel told of no place in the ring of its capture") from error
        if self._memory is None or offset + size > len(self._memory):
            raise LinkViolation("the kernel told of a place outside the ring of its capture")
        return self._memory[offset : offset + size], _DONE.pack(produced)

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()


def _opened(message: bytes) -> mmap.mmap | None:
    """The ring, mapped to read; None where that cannot be: in another pid namespace, or as another user."""
    try:
        place = json.loads(message)
        path = f"/proc/{int(place['pid'])}/fd/{int(place['fd'])}"
        if os.readlink(path) != _NAME:  # noqa: PTH115  a link that leads to no path
            return None
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        if not fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            return None  # a page that is not there any more would kill us
        return mmap.mmap(file, int(place["size"]), prot=mmap.PROT_READ)
    except (OSError, ValueError, OverflowError):
        return None
    finally:
        os.close(file)
