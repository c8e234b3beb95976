"""Addresses of a kernel, all made from its kid: MAC, IPv4 (as in Popcorn: last octet is kid + 1) and IPv6."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

MAC_PREFIX: Final = bytes.fromhex("02706f706e")
"""First five octets of every kernel's MAC: locally administered, unicast, and `popn` in ASCII."""

DEFAULT_SUBNET: Final = IPv4Network("10.1.2.0/24")
DEFAULT_SUBNET6: Final = IPv6Network("fd70:6f70:6e65:1::/64")


def mac(kid: int) -> bytes:
    """The 6 octets of the MAC of kernel *kid*."""
    return MAC_PREFIX + bytes((kid,))


def mac_text(kid: int) -> str:
    return mac(kid).hex(":")


def kid_of_mac(address: bytes) -> int | None:
    """The kid that *address* (6 octets) belongs to, or None for a broadcast, multicast or foreign one."""
    return address[5] if address[:5] == MAC_PREFIX else None


def ipv4(kid: int, subnet: IPv4Network = DEFAULT_SUBNET) -> IPv4Address:
    return subnet[kid + 1]


def ipv6(kid: int, subnet: IPv6Network = DEFAULT_SUBNET6) -> IPv6Address:
    return subnet[kid + 1]
