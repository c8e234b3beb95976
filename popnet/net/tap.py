"""The TAP device, kernel end of a virtual NIC: the only door to pytun.

A TAP is opened in the network namespace of the calling process and stays in it, whoever holds its descriptor
later. Frames read from it and written to it start with a 12-byte vnet header (virtio_net_hdr_mrg_rxbuf of
linux/virtio_net.h), so that the guest's stack may hand over segments of up to 64 KiB, checksums to do. The
device goes away when its descriptor is closed: a crash leaves no interface behind.
"""

import errno
import fcntl
import os
import struct
from typing import Final

import pytun

from popnet.core.errors import Unavailable
from popnet.core.limits import VNET_HEADER_SIZE

# linux/if_tun.h
TUNSETOFFLOAD: Final = 0x4004_54D0
TUNSETVNETHDRSZ: Final = 0x4004_54D8
TUNSETCARRIER: Final = 0x4004_54E2

NAME_LENGTH_MAX: Final = 15
"""IFNAMSIZ of linux/if.h, less the final NUL."""

OFFLOAD_FLAGS: Final = {"csum": 0x01, "tso4": 0x02, "tso6": 0x04, "tso-ecn": 0x08, "uso4": 0x20, "uso6": 0x40}
"""TUN_F_* of linux/if_tun.h by name."""

OFFLOAD_STEPS: Final = (
    ("csum", "tso4", "tso6", "tso-ecn", "uso4", "uso6"),
    ("csum", "tso4", "tso6", "tso-ecn"),  # Linux before 6.2 knows no USO
    ("csum",),
)
"""What is asked for, in this order, until the host takes one; after the last, none."""


class Tap:
    """An open TAP device.

    Attributes:
        name: of the interface, in the namespace it was opened in.
        fd: non-blocking and close-on-exec; each read and each write is one frame after its vnet header.
        offloads: names of OFFLOAD_FLAGS that the host took; without any, frames are at most MTU + 14 bytes.
    """

    def __init__(self, device: pytun.TunTapDevice, offloads: tuple[str, ...]) -> None:
        self._device = device  # closes the descriptor when it is collected, so it lives as long as we do
        self.name: str = device.name
        self.fd: int = device.fileno()
        self.offloads = offloads

    def set_carrier(self, on: bool) -> bool:
        """Plug the cable in, or out: its stack sees NO-CARRIER. False: the host (Linux before 5.0) cannot."""
        try:
            fcntl.ioctl(self.fd, TUNSETCARRIER, struct.pack("i", on))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor, by which the interface disappears. Idempotent."""
        self._device.close()
        self.fd = -1


def open_tap(name: str = "eth0", *, offload: bool = True) -> Tap:
    """Make a TAP interface called *name*, down and without addresses, in the caller's network namespace.

    Without *offload* its stack makes every frame as on a wire: of at most MTU + 14 bytes, and summed.

    Raises:
        ValueError: *name* is no interface name.
        Unavailable: the host has no TUN/TAP driver, or does not let us use it.
    """
    if not 0 < len(name.encode()) <= NAME_LENGTH_MAX:
        raise ValueError(f"interface name {name!r} is not 1 to {NAME_LENGTH_MAX} bytes long")
    try:
        device = pytun.TunTapDevice(name=name, flags=pytun.IFF_TAP | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR)
    except OSError as error:
        raise _unavailable(name, error) from error
    fd = device.fileno()
    os.set_inheritable(fd, False)
    os.set_blocking(fd, False)
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_SIZE))
    return Tap(device, _offload(fd, OFFLOAD_STEPS if offload else ()))


def _offload(fd: int, steps: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    for step in steps:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, sum(OFFLOAD_FLAGS[name] for name in step))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return step
    return ()


def _unavailable(name: str, error: OSError) -> Unavailable:
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            reason = "/dev/net/tun is missing or has no driver"
            hint = "Load the driver (`modprobe tun`); in a container, start it with `--device /dev/net/tun`."
        case errno.EACCES:
            reason = "no permission to open /dev/net/tun"
            hint = "Let users open it (`chmod 0666 /dev/net/tun`, the usual mode), or run as root."
        case errno.EPERM:
            reason = "no permission to make a network interface here"
            hint = (
                "Run in a user namespace of your own, or with CAP_NET_ADMIN; "
                "in a container, start it with `--cap-add NET_ADMIN --device /dev/net/tun`."
            )
        case errno.EBUSY | errno.EINVAL:
            reason = "an interface of that name exists already"
            hint = "Open it in a new network namespace, or under another name."
        case _:
            reason, hint = str(error), ""
    return Unavailable(f"cannot open TAP device {name}: {reason}", hint)
