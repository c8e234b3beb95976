"""Ramdisks: a few static programs of this host, and the files that a small system needs, as members of an
archive. The same programs give the same bytes, wherever and whenever it is made."""

import gzip
import hashlib
import io
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from popnet.core.errors import Unavailable
from popnet.image import cpio
from popnet.image.check import elf_interpreter
from popnet.image.entry import Entry, Kind, Member

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORIES: Final = ("bin", "dev", "etc", "mnt", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var")
_MODES: Final = {"root": 0o700, "tmp": 0o1777}
_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/profile": "export PS1='\\u@\\h:\\w\\$ '\n",
    "etc/nsswitch.conf": "hosts: files\n",
}


def find_program(name: str, image: str) -> Path:
    """The static program *name* of this host, which *image* needs. Raises Unavailable."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        hint = f"install it (Debian, Ubuntu: apt install {name}{'-static' * (name == 'busybox')})"
        raise Unavailable(f"image {image} needs the program {name!r}, which this host does not have", hint)
    real = Path(path).resolve()
    if not is_static(real):
        hint = f"install a static one (Debian, Ubuntu: apt install {name}-static)"
        raise Unavailable(f"image {image} needs a statically linked {name!r}; {real} is not", hint)
    return real


def is_static(path: Path) -> bool:
    """Whether the file at *path* is a 64-bit ELF program that names no dynamic loader."""
    with path.open("rb") as file:
        header = file.read(64)
    return len(header) == 64 and header[:5] == b"\x7fELF\x02" and elf_interpreter(path) is None


def members(programs: Iterable[Path], files: Mapping[str, bytes] | None = None) -> list[Member]:
    """A ramdisk of *programs*, and *files* by their path inside; busybox brings links for all it can do."""
    found: dict[str, Member] = {"": (Entry("", Kind.DIRECTORY, 0o755), ())}
    for name in _DIRECTORIES:
        found[name] = (Entry(name, Kind.DIRECTORY, _MODES.get(name, 0o755)), ())
    for path, text in _FILES.items():
        found[path] = _file(path, text.encode(), 0o644)
    for program in programs:
        inside = f"bin/{program.name}"
        found[inside] = _file(inside, program.read_bytes(), 0o755)
        if program.name == "busybox":
            for applet in _applets(program):
                link = Entry(f"bin/{applet}", Kind.SYMLINK, 0o777, link="busybox")
                found.setdefault(link.path, (link, ()))
    for path, data in (files or {}).items():
        above = path.split("/")[:-1]
        for depth in range(1, len(above) + 1):
            parent = "/".join(above[:depth])
            found.setdefault(parent, (Entry(parent, Kind.DIRECTORY, 0o755), ()))
        executable = data[:4] == b"\x7fELF" or data[:2] == b"#!"
        found[path] = _file(path, data, 0o755 if executable else 0o644)
    return list(found.values())


def _file(path: str, data: bytes, mode: int) -> Member:
    return Entry(path, Kind.FILE, mode), (data,)


def _applets(busybox: Path) -> Sequence[str]:
    """The names that this busybox answers to."""
    result = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    return [name for name in result.stdout.split() if name != "busybox"]


def archive(found: Iterable[Member], compress: bool) -> bytes:
    """The ramdisk *found* as a cpio archive, which Linux could boot too."""
    plain = io.BytesIO()
    cpio.write(plain, found)
    return gzip.compress(plain.getvalue(), 9, mtime=0) if compress else plain.getvalue()


def digest(found: Iterable[Member]) -> str:
    """The SHA-256 of the ramdisk *found*, as an archive that is not compressed."""
    return hashlib.sha256(archive(found, compress=False)).hexdigest()
