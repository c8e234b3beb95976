"""An image is what a kernel runs: a directory whose `image.yaml` says how its root is made, and its init."""

from dataclasses import dataclass
from typing import Final

KINDS: Final = {"native": "the host's own Linux, seen from namespaces of its own"}
ROOTS: Final = {
    "host-overlay": "the host's files, copy-on-write: changes stay in the kernel and end with it",
    "ramdisk": "an empty file system in memory, with the programs listed",
    "directory": "a directory, copy-on-write",
    "tar": "a tar archive, unpacked once and kept, copy-on-write",
    "squashfs": "a squashfs image, copy-on-write",
    "cpio": "a cpio archive as Linux boots it, unpacked once and kept, copy-on-write",
}

FILES: Final = ("serve", "use")
"""What a kernel may do with the files of io kernels."""

SOURCED: Final = ("directory", "tar", "squashfs", "cpio")
"""Roots that come from a file or directory, which the manifest names."""

MANIFEST: Final = "image.yaml"
"""The file that makes a directory an image."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image.

    Attributes:
        name: of its directory too.
        kind: one of KINDS.
        root: one of ROOTS.
        init: absolute path of its init; None is popnet's own.
        ssh: whether it can run sshd, and does unless a kernel says no.
        ttys: how many terminals its kernels have unless they say otherwise.
        programs: programs of the host that a ramdisk gets; busybox brings its applets.
        append: boot parameters of all its kernels.
        path: its directory.
        source: absolute path of the file or directory that its root comes from; "" if there is none.
        sha256: what the digest of that file must be, in hexadecimal; None if nobody says.
        files: one of FILES: its kernels `serve` their /io to others, or `use` that of one; "" is neither.
        isolated: its kernels have their cores alone, and may have real-time priorities.
        origin, description: where it came from, and what it is, for people.
    """

    name: str
    kind: str
    root: str
    init: str | None
    ssh: bool
    ttys: int
    programs: tuple[str, ...]
    append: str
    path: str
    source: str = ""
    sha256: str | None = None
    origin: str = ""
    description: str = ""
    isolated: bool = False
    files: str = ""
