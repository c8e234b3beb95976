"""Devices of the host that a kernel has: `devices=` for its /dev, `pci_dev_flags=` for the PCI it sees.

    devices=loop0,fuse:b                  /dev/loop0 beside the usual ones, and no /dev/fuse
    pci_dev_flags=0x8086:0x10c9:b         no PCI device of this vendor and kind: Popcorn's blacklist

Every kernel has /dev/null, zero, full, random, urandom and tty. Those in `SHARED` any number of kernels may
have; any other belongs to one kernel.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SHARED: Final = ("net/tun", "fuse")
"""Devices that kernels have unless they say `:b`: each opening of one is separate from all others."""

DEVICES_ALLOWED: Final = "names below /dev, with :b for one it must not have, such as loop0,fuse:b"
PCI_ALLOWED: Final = "VENDOR:DEVICE:b in hexadecimal, such as 0x8086:0x10c9:b"

_DEVICE = re.compile(r"([A-Za-z0-9_.+-]+(?:/[A-Za-z0-9_.+-]+)*)(:b)?")
_PCI = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,4}):(?:0[xX])?([0-9a-fA-F]{1,4}):b")


@dataclass(frozen=True, slots=True)
class Device:
    """A device below /dev that a kernel has, or, *blocked*, has not."""

    name: str
    blocked: bool = False

    def __str__(self) -> str:
        return f"{self.name}:b" if self.blocked else self.name


@dataclass(frozen=True, slots=True)
class PciFlag:
    """PCI devices that a kernel does not see: all of one *vendor* and *device* number."""

    vendor: int
    device: int

    def __str__(self) -> str:
        return f"{self.vendor:#06x}:{self.device:#06x}:b"


def parse_devices(text: str) -> tuple[Device, ...]:
    """The devices of one `devices=`; raises ValueError saying what is allowed."""
    devices = []
    for part in text.split(","):
        match = _DEVICE.fullmatch(part.strip().removeprefix("/dev/"))
        if not match or {".", ".."} & set(match[1].split("/")):
            raise ValueError(f"got {part.strip()!r}; allowed: {DEVICES_ALLOWED}")
        devices.append(Device(match[1], match[2] is not None))
    return tuple(devices)


def parse_pci_flags(text: str) -> tuple[PciFlag, ...]:
    """The devices of one `pci_dev_flags=`; raises ValueError saying what is allowed."""
    flags = []
    for part in text.split(","):
        match = _PCI.fullmatch(part.strip())
        if not match:
            raise ValueError(f"got {part.strip()!r}; allowed: {PCI_ALLOWED}")
        flags.append(PciFlag(int(match[1], 16), int(match[2], 16)))
    return tuple(flags)


def device_names(devices: Iterable[Device]) -> tuple[str, ...]:
    """What a kernel with these has below /dev, beside what every one has; the last word on a name counts."""
    names = dict.fromkeys(SHARED, True)
    for device in devices:
        names[device.name] = not device.blocked
    return tuple(name for name, has in names.items() if has)
