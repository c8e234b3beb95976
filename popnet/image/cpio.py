"""cpio archives of the format `newc`, which Linux's initramfs has: a reader and a writer. Pure: bytes in,
members out.

A member is a header of 14 numbers, eight hexadecimal digits each, its name and its data, both padded to four
bytes; the archive ends with a member called TRAILER!!!. An initramfs may be several archives in a row, with
zeros between them. (linux/Documentation/driver-api/early-userspace/buffer-format.rst)
"""

import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from popnet.core.errors import BrokenImage
from popnet.image.entry import Entry, Kind, Member, Members, clean_path

MAGICS: Final = (b"070701", b"070702")
TRAILER: Final = "TRAILER!!!"

_HEADER_SIZE: Final = 110
_NAME_MAX: Final = 4096
_LINK_MAX: Final = 4096
_CHUNK: Final = 1 << 18

_Waiting = dict[tuple[int, int, int], list[str]]
"""(device major, minor, inode) -> names of a file whose data has not come yet: it is with the last name."""


def read(file: BinaryIO) -> Members:
    """The members of the archives in *file*, one after the other. Raises BrokenImage."""
    found = False
    while True:
        start = _skip_zeros(file)
        if not start:
            break
        yield from _read_archive(file, start)
        found = True
    if not found:
        raise BrokenImage("this is no cpio archive: it is empty")


def _read_archive(file: BinaryIO, start: bytes) -> Members:
    waiting: _Waiting = {}
    while True:
        header = start + _take(file, _HEADER_SIZE - len(start), "a header")
        start = b""
        if header[:6] not in MAGICS:
            raise BrokenImage(f"not a cpio archive of the format newc: a header begins with {header[:6]!r}")
        try:
            fields = [int(header[6 + 8 * n : 14 + 8 * n], 16) for n in range(13)]
        except ValueError:
            raise BrokenImage(f"a cpio header has no numbers in it: {header[6:60]!r}...") from None
        name = _read_name(file, fields[11])
        if name == TRAILER:
            for names in waiting.values():  # files without data, with several names
                yield from _linked(Entry(names[0], Kind.FILE, 0o644), names[1:], ())
            return
        yield from _member(file, name, fields, waiting)


def _member(file: BinaryIO, name: str, fields: list[int], waiting: _Waiting) -> Members:
    inode, mode, uid, gid, links, mtime_s, size, major, minor = fields[:9]
    path, bits = clean_path(name), stat.S_IMODE(mode)
    if stat.S_ISREG(mode):
        key = (major, minor, inode)
        if links > 1 and size == 0:
            waiting.setdefault(key, []).append(path)
            return
        data = _Data(file, size, name)
        yield from _linked(Entry(path, Kind.FILE, bits, uid, gid, mtime_s), waiting.pop(key, []), data)
        data.drain()
    elif stat.S_ISLNK(mode):
        if not 0 < size <= _LINK_MAX:
            raise BrokenImage(f"the link {name!r} has a target of {size} bytes")
        target = _take(file, size, name).decode(errors="surrogateescape")
        yield Entry(path, Kind.SYMLINK, 0o777, uid, gid, mtime_s, target), ()
    else:
        kind = Kind.DIRECTORY if stat.S_ISDIR(mode) else Kind.SPECIAL
        _Data(file, size, name).drain()
        yield Entry(path, kind, bits, uid, gid, mtime_s), ()
        size = 0
    _take(file, -size % 4, name)


def _linked(entry: Entry, others: Iterable[str], data: Iterable[bytes]) -> Members:
    yield entry, data
    for other in others:
        yield Entry(other, Kind.HARDLINK, entry.mode, entry.uid, entry.gid, entry.mtime_s, entry.path), ()


def _read_name(file: BinaryIO, size: int) -> str:
    if not 1 < size <= _NAME_MAX:
        raise BrokenImage(f"a cpio header tells of a name of {size} bytes")
    raw = _take(file, size, "a name")
    _take(file, -(_HEADER_SIZE + size) % 4, "a name")
    if raw[-1]:
        raise BrokenImage(f"a cpio member's name does not end where its header says: {raw[:40]!r}")
    return raw[:-1].decode(errors="surrogateescape")


class _Data:
    """The bytes of a member, read from *file* as they are asked for."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self._file, self._left, self._name = file, size, name
        self._padding = -size % 4

    def __iter__(self) -> Iterator[bytes]:
        while self._left:
            data = self._file.read(min(_CHUNK, self._left))
            if not data:
                raise BrokenImage(f"the archive ends in the middle of {self._name!r}: it was cut off")
            self._left -= len(data)
            yield data

    def drain(self) -> None:
        """Read what nobody has asked for."""
        for _ in self:
            pass


def _take(file: BinaryIO, size: int, what: str) -> bytes:
    data = b""
    while len(data) < size:
        more = file.read(size - len(data))
        if not more:
            raise BrokenImage(f"the archive ends in the middle of {what}: it was cut off")
        data += more
    return data


def _skip_zeros(file: BinaryIO) -> bytes:
    """The first four bytes that are not all zero: archives start at a multiple of four. b"" at the end."""
    while (word := file.read(4)) == b"\0\0\0\0":
        pass
    return word


def write(file: BinaryIO, members: Iterable[Member]) -> None:
    """Write *members* as one archive. The same members give the same bytes: inodes are numbered in order."""
    for inode, (entry, data) in enumerate(members, start=1):
        body = entry.link.encode() if entry.kind is Kind.SYMLINK else b"".join(data)
        kinds = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}
        links = 2 if entry.kind is Kind.DIRECTORY else 1
        mode = kinds[entry.kind] | entry.mode
        fields = (inode, mode, entry.uid, entry.gid, links, entry.mtime_s, len(body), 0, 0, 0, 0)
        _write_member(file, entry.path or ".", fields, body)
    _write_member(file, TRAILER, (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0), b"")


def _write_member(file: BinaryIO, name: str, fields: tuple[int, ...], body: bytes) -> None:
    raw = name.encode(errors="surrogateescape") + b"\0"
    header = MAGICS[0] + b"".join(b"%08X" % number for number in (*fields, len(raw), 0))
    file.write(header + raw + bytes(-(len(header) + len(raw)) % 4))
    file.write(body + bytes(-len(body) % 4))
