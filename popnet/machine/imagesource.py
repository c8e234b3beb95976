"""Whether a file can be what an image's manifest says it is, by its first bytes.

With `file`, `imagelist` and `search`, what of the package reads the disk.

It is a look, cheap enough for every `up`; whether an archive is whole shows when it is read.
"""

from pathlib import Path
from typing import Final

_START: Final = 512
_COMPRESSED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_CPIO: Final = (b"070701", b"070702")
_OTHERS: Final = {
    b"070707": "an old cpio archive; make it with `cpio -H newc`",
    b"\xc7\x71": "an old cpio archive; make it with `cpio -H newc`",
    b"PK\x03\x04": "a zip file; pack it as a tar",
    b"\x7fELF": "a program",
    b"QFI\xfb": "a disk of a virtual machine; pack its files as a tar",
}


def kind_of(start: bytes) -> str:
    """What a file that begins with *start* is: tar, cpio, squashfs, "compressed" (a tar or a cpio), or ""."""
    if start[257:262] == b"ustar":
        return "tar"
    if start.startswith(_CPIO):
        return "cpio"
    if start.startswith(b"hsqs"):
        return "squashfs"
    return "compressed" if start.startswith(_COMPRESSED) else ""


def source_problem(root: str, path: Path) -> str | None:
    """Why *path* cannot be the source of a root of the kind *root*; None if it may be."""
    try:
        if root == "directory":
            return None if path.is_dir() else _missing(path, "a directory")
        if not path.is_file():
            return _missing(path, "a file")
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    found = kind_of(start)
    if found == root or (found == "compressed" and root in ("tar", "cpio")):
        return None
    if found == "compressed":
        return f"this file is compressed, and no {root}; squashfs compresses by itself"
    if found:
        return f"this is a {found}; write 'root: {found}'"
    if not start:
        return "this file is empty"
    if root == "tar" and len(start) == _START and not any(start[257:265]):
        return None  # a tar of before POSIX has no mark
    other = next((text for magic, text in _OTHERS.items() if start.startswith(magic)), "nothing we know")
    return f"this is no {root} but {other}"


def _missing(path: Path, what: str) -> str:
    return f"this is not {what}" if path.exists() else f"there is no such {what.removeprefix('a ')}"
