"""What an archive holds, one member at a time, whatever its format. Pure."""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from popnet.core.errors import BrokenImage


class Kind(enum.Enum):
    """What a member is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARDLINK = "hard link"
    SPECIAL = "device, pipe or socket"


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of an archive.

    Attributes:
        path: below the root, clean: `etc/hosts`, or "" for the root itself.
        mode: permission bits, with set-uid, set-gid and sticky.
        mtime_s: seconds since 1970.
        link: target of a symbolic link, as it stands; of a hard link, the clean path of the other name.
    """

    path: str
    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_s: int = 0
    link: str = ""


Member = tuple[Entry, Iterable[bytes]]
"""A member and its data, to be read before the next one is asked for."""

Members = Iterator[Member]


def clean_path(name: str) -> str:
    """*name* as a path below the root. Raises BrokenImage for one that leads out of it, or is none.

    A leading slash is dropped, as tar does it: `/etc/hosts` is `etc/hosts`.
    """
    if "\0" in name:
        raise BrokenImage(f"the name {name!r} has a NUL character in it")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BrokenImage(f"the name {name!r} leads out of the root file system")
    return "/".join(parts)
