"""Make a fresh TAP the NIC of a kernel: addresses, all from the kid, MTU, and the loopback beside it.

Every kernel runs this while it boots, so it asks for little: two links set, two addresses added, four
settings under /proc/sys. Half a millisecond, most of it the host's work of bringing links up; a process that
was just forked pays about as much again for the pages it touches first.
"""

import os
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from popnet.core import addresses
from popnet.core.limits import TX_QUEUE_LENGTH
from popnet.net.netlink import RouteSocket

IPV6_MTU_MIN: Final = 1280
"""Below this MTU a link carries no IPv6 (RFC 8200)."""

IPV6_SETTINGS: Final = (("disable_ipv6", b"0"), ("accept_dad", b"0"), ("router_solicitations", b"0"))
"""Usable at once, and silent: kids are unique, so no address needs probing; there is no router to ask for."""


TCP_SETTINGS: Final = (("tcp_tso_rtt_log", b"12"),)
"""A sender whose shortest round trip is up to 2^12 us hands its NIC segments of up to 64 KiB, not only up to
2^9 us as is usual: when many kernels share few cores, round trips are milliseconds, and hundreds of flows
would come here as frames of two packets each, of which every one costs as much as 64 KiB do. From 20 ms on,
which is a wire's own delay, it makes no difference."""


@dataclass(frozen=True, slots=True)
class Nic:
    """A configured NIC.

    Attributes:
        index: of the interface in its namespace.
        mac: 6 octets.
        mtu: bytes of payload a frame.
        ipv6: None if the MTU is too small for it or the host has no IPv6.
        skipped: names of IPV6_SETTINGS and TCP_SETTINGS that could not be written; the NIC works without
            them, a little later, or slower among many kernels.
    """

    name: str
    index: int
    mac: bytes
    mtu: int
    ipv4: IPv4Address
    ipv6: IPv6Address | None
    skipped: tuple[str, ...]


def configure(
    tap_name: str,
    kid: int,
    subnet: IPv4Network = addresses.DEFAULT_SUBNET,
    subnet6: IPv6Network = addresses.DEFAULT_SUBNET6,
    mtu: int = 1500,
    ipv4: IPv4Address | None = None,
) -> Nic:
    """Configure the TAP *tap_name* for kernel *kid* and bring it up, in the caller's network namespace.

    Needs CAP_NET_ADMIN over that namespace. *ipv4* is an address of *subnet* other than the kid's. The routes
    are those the kernel adds with the addresses.

    Raises:
        OSError: the kernel refused a step; the error names it.
    """
    mac = addresses.mac(kid)
    ipv4 = ipv4 or addresses.ipv4(kid, subnet)
    ipv6 = None
    skipped = _write_all("/proc/sys/net/ipv4", TCP_SETTINGS)
    settings = f"/proc/sys/net/ipv6/conf/{tap_name}"
    if mtu >= IPV6_MTU_MIN and os.path.exists(settings):  # noqa: PTH110 - pathlib would take 20 us of a boot
        ipv6 = addresses.ipv6(kid, subnet6)
        skipped += _write_all(settings, IPV6_SETTINGS)
    with RouteSocket() as route:
        route.set_link("lo", up=True)
        route.set_link(tap_name, mac=mac, mtu=mtu, tx_queue_length=TX_QUEUE_LENGTH, up=True)
        index = socket.if_nametoindex(tap_name)
        route.add_address(index, ipv4, subnet.prefixlen)
        if ipv6 is not None:
            route.add_address(index, ipv6, subnet6.prefixlen)
    return Nic(tap_name, index, mac, mtu, ipv4, ipv6, skipped)


def _write_all(directory: str, settings: tuple[tuple[str, bytes], ...]) -> tuple[str, ...]:
    """Write all; the names of those that could not be written."""
    return tuple(name for name, value in settings if not _write(f"{directory}/{name}", value))


def _write(path: str, value: bytes) -> bool:
    """Write one setting; False if the host keeps it read-only, as containers do with all of /proc/sys."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, value)
    finally:
        os.close(fd)
    return True
