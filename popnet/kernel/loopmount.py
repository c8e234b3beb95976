"""Mounting a file that holds a file system, read-only, by a loop device that goes away with the mount.

LOOP_CTL_GET_FREE only proposes a device: who configures it first has it, so a busy one means asking again.
(linux/Documentation/admin-guide/blockdev, man 4 loop; LOOP_CONFIGURE is of Linux 5.8)
"""

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from popnet.kernel import linux

_LOOP_CTL_GET_FREE: Final = 0x4C82
_LOOP_CONFIGURE: Final = 0x4C0A
_READ_ONLY: Final = 1
_AUTOCLEAR: Final = 4
_CONFIG_SIZE: Final = 304
_FLAGS_OFFSET: Final = 60
"""Of lo_flags in struct loop_config: fd and block_size, 8 bytes, then loop_info64, where it is at 52."""

_TRIES: Final = 32
_CONTROL: Final = Path("/dev/loop-control")


def can_mount(kind: str) -> bool:
    """Whether the caller may mount files with a file system of that *kind*."""
    if not os.access(_CONTROL, os.R_OK | os.W_OK):
        return False
    return any(line.split()[-1] == kind for line in Path("/proc/filesystems").read_text().splitlines())


def mount(file: Path, point: Path, kind: str) -> None:
    """Mount *file*, which holds a file system of that *kind*, on the directory *point*, read-only. Raises
    OSError."""
    backing = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device, path = _attach(backing)
        try:
            linux.mount(path, point, kind, linux.MS_RDONLY | linux.MS_NODEV)
        finally:
            os.close(device)  # the mount holds the device from here on; without one it is free again
    finally:
        os.close(backing)


def _attach(backing: int) -> tuple[int, str]:
    config = bytearray(_CONFIG_SIZE)
    struct.pack_into("<I", config, 0, backing)
    struct.pack_into("<I", config, _FLAGS_OFFSET, _READ_ONLY | _AUTOCLEAR)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, bytes(config))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return device, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device is free")
