"""squashfs images: what their superblock says, and unpacking by `unsquashfs` where they cannot be mounted."""

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from popnet.core.errors import BrokenImage, Unavailable

MAGIC: Final = b"hsqs"
SUPERBLOCK_SIZE: Final = 96

_COMPRESSIONS: Final = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_UNPACK_TIMEOUT_S: Final = 600


@dataclass(frozen=True, slots=True)
class Superblock:
    """Of an image: its compression, and the bytes it takes."""

    compression: str
    bytes_used: int


def superblock(raw: bytes, size_bytes: int) -> Superblock:
    """The superblock in *raw*, the start of an image of *size_bytes*. Raises BrokenImage.

    Layout: linux/fs/squashfs/squashfs_fs.h, struct squashfs_super_block, little endian.
    """
    if raw[:4] != MAGIC:
        raise BrokenImage("not a squashfs image: its first bytes are not those of one")
    if len(raw) < SUPERBLOCK_SIZE:
        raise BrokenImage("the squashfs image ends in its superblock: it was cut off")
    compression, major, minor = struct.unpack_from("<H6xHH", raw, 20)
    (bytes_used,) = struct.unpack_from("<Q", raw, 40)
    if major != 4:
        raise BrokenImage(f"squashfs of version {major}.{minor}; Linux reads version 4")
    if size_bytes < bytes_used:
        text = f"the squashfs image has {size_bytes} bytes of {bytes_used}: it was cut off"
        raise BrokenImage(text)
    return Superblock(_COMPRESSIONS.get(compression, f"number {compression}"), bytes_used)


def check(path: Path) -> Superblock:
    """As `superblock`, of a file. Raises OSError too."""
    with path.open("rb") as file:
        return superblock(file.read(SUPERBLOCK_SIZE), path.stat().st_size)


def unpack(path: Path, directory: Path) -> None:
    """Unpack the image at *path* as *directory*, which is not there yet; devices are left out for those who
    may not make them. Raises BrokenImage, Unavailable."""
    program = shutil.which("unsquashfs", path="/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin")
    if program is None:
        hint = "Install squashfs-tools (apt install squashfs-tools), or use a tar; root mounts it instead."
        raise Unavailable(f"{path}: an ordinary user needs unsquashfs to read it", hint)
    command = [program, "-quiet", "-no-progress", "-no-xattrs", "-ignore-errors", "-dest", str(directory)]
    try:
        result = subprocess.run(
            [*command, str(path)], capture_output=True, timeout=_UNPACK_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise BrokenImage(f"unsquashfs did not end in {_UNPACK_TIMEOUT_S} s") from None
    # 2: some files (devices, say) could not be made, and the rest is there.
    if result.returncode not in (0, 2) or not directory.is_dir():
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        raise BrokenImage(f"unsquashfs: {lines[-1] if lines else f'status {result.returncode}'}")
