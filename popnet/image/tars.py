"""tar archives as members, read as a stream: gzip, bzip2, xz, and zstd where Python has it.

Python's tarfile takes an archive that ends between two members for a whole one. Every tar ends with a block
of zeros, so one without was cut off.
"""

import tarfile
from collections.abc import Iterator
from typing import IO, BinaryIO, Final

from popnet.core.errors import BrokenImage
from popnet.image.entry import Entry, Kind, Member, Members, clean_path

_CHUNK: Final = 1 << 18


def read(file: BinaryIO) -> Members:
    """The members of the plain tar archive in *file*. Raises BrokenImage."""
    ended = False

    class Info(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Info":
            nonlocal ended
            ended = len(buf) == tarfile.BLOCKSIZE and not any(buf)
            return super().frombuf(buf, encoding, errors)

    try:
        with tarfile.open(fileobj=file, mode="r|", tarinfo=Info) as archive:
            for info in archive:
                yield _member(archive, info)
    except tarfile.ReadError as error:
        reason = "it was cut off" if "end of data" in str(error) else str(error)
        raise BrokenImage(f"the tar archive cannot be read: {reason}") from None
    except tarfile.TarError as error:
        raise BrokenImage(f"the tar archive cannot be read: {error}") from None
    if not ended:
        raise BrokenImage("the tar archive ends without its end mark: it was cut off")


def _member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if info.isreg():
        kind = Kind.FILE
    elif info.isdir():
        kind = Kind.DIRECTORY
    elif info.issym():
        kind = Kind.SYMLINK
    elif info.islnk():
        kind = Kind.HARDLINK
    else:
        kind = Kind.SPECIAL
    link = clean_path(info.linkname) if kind is Kind.HARDLINK else info.linkname
    mtime_s = max(0, int(info.mtime))
    entry = Entry(clean_path(info.name), kind, info.mode & 0o7777, info.uid, info.gid, mtime_s, link)
    file = archive.extractfile(info) if kind is Kind.FILE else None
    return entry, _chunks(file, info) if file is not None else ()


def _chunks(file: IO[bytes], info: tarfile.TarInfo) -> Iterator[bytes]:
    left = info.size
    while left:
        try:
            data = file.read(min(_CHUNK, left))
        except tarfile.ReadError:
            data = b""
        if not data:
            raise BrokenImage(f"the archive ends in the middle of {info.name!r}: it was cut off")
        left -= len(data)
        yield data
