"""Whether a directory can be the root of a kernel: that its init or its shell is there, and runs here.

Paths are followed as a kernel with this root would follow them: links stay below it.
"""

import os
import stat
import struct
from pathlib import Path
from typing import Final

from popnet.core.errors import BrokenImage

SHELLS: Final = ("/bin/bash", "/bin/sh", "/usr/bin/sh")

_LINKS_MAX: Final = 40
_MACHINES: Final = {
    3: "i386",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    21: "ppc64",
    22: "s390x",
}
"""e_machine of ELF -> what `uname -m` says (elf(5), linux/include/uapi/linux/elf-em.h)."""

_RUNS_ALSO: Final = {"x86_64": ("i386",), "aarch64": ("arm",)}


def resolve(root: Path, path: str) -> Path | None:
    """The file that *path* names in a kernel whose root is *root*; None if there is none."""
    waiting = [part for part in path.split("/") if part]
    waiting.reverse()
    done: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop()
        if part in (".", ""):
            continue
        if part == "..":
            del done[-1:]
            continue
        here = root.joinpath(*done, part)
        try:
            mode = here.lstat().st_mode
        except OSError:
            return None
        if not stat.S_ISLNK(mode):
            done.append(part)
            continue
        links += 1
        if links > _LINKS_MAX:
            return None
        target = str(here.readlink())
        if target.startswith("/"):
            done = []
        waiting += reversed(target.split("/"))
    return root.joinpath(*done)


def shell_of(root: Path) -> str | None:
    """The shell of the kernels whose root is *root*."""
    return next((shell for shell in SHELLS if resolve(root, shell) is not None), None)


def check_root(root: Path, init: str | None, machine: str) -> None:
    """Raises BrokenImage unless *root* has the program *init* (or without one, a shell), for processors of
    the kind *machine*, as `uname -m` says it."""
    program = init or shell_of(root)
    if program is None:
        hint = "Name its init in the manifest, or add a shell; busybox-static is one."
        raise BrokenImage("the root has neither an init of its own nor a shell: no /bin/sh", hint)
    check_program(root, program, machine, "init" if init else "shell")


def check_program(root: Path, program: str, machine: str, what: str) -> None:
    """Raises BrokenImage unless *program* is in *root*, may be executed, and can be, with its interpreter."""
    file = resolve(root, program)
    if file is None:
        raise BrokenImage(f"{what} {program} is not in the root")
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode) or not mode & 0o111:
        raise BrokenImage(f"{what} {program} is no file that may be executed (mode {stat.S_IMODE(mode):o})")
    with file.open("rb") as opened:
        start = opened.read(4096)
    if start[:2] == b"#!":
        words = start[2:].split(b"\n")[0].split()
        interpreter = os.fsdecode(words[0]) if words else ""
        if not interpreter or resolve(root, interpreter) is None:
            raise BrokenImage(f"{what} {program} is a script of {interpreter!r}, which is not in the root")
        return
    if start[:4] != b"\x7fELF":
        raise BrokenImage(f"{what} {program} is neither a program nor a script with a #! line")
    found = elf_machine(start)
    if found != machine and found not in _RUNS_ALSO.get(machine, ()):
        raise BrokenImage(f"{what} {program} is a program for {found}; this host is {machine}")
    loader = elf_interpreter(file)
    if loader is not None and resolve(root, loader) is None:
        raise BrokenImage(f"{what} {program} needs {loader}, which is not in the root")


def elf_machine(header: bytes) -> str:
    """What an ELF *header* of at least 20 bytes says its program is for."""
    order = ">" if header[5:6] == b"\x02" else "<"
    if len(header) < 20:
        return "nothing: it is cut off"
    (number,) = struct.unpack_from(f"{order}H", header, 18)
    return _MACHINES.get(number, f"ELF machine {number}")


def elf_interpreter(path: Path) -> str | None:
    """The dynamic loader that the 64-bit ELF file at *path* asks for (program header PT_INTERP, elf(5)); None
    for a static program, and for one that is not a 64-bit program of this byte order."""
    with path.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return None
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(offset)
        table = file.read(size * count)
        if size < 56 or len(table) < size * count:
            return None
        for start in range(0, size * count, size):
            kind, _, at, _, _, length = struct.unpack_from("<IIQQQQ", table, start)
            if kind == 3:
                file.seek(at)
                return os.fsdecode(file.read(min(length, 4096)).rstrip(b"\0"))
    return None
