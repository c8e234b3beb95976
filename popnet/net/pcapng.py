"""Captured frames as pcapng, the format that Wireshark reads: one function for each kind of block.

A capture is a section header, the description of its one interface, packets, and at the end statistics.
Blocks are little-endian and times count nanoseconds since 1970, whatever the host. Format:
https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html.
"""

import os
import struct
from collections.abc import Iterable
from typing import Final

INBOUND: Final = 0
"""Direction of a frame that goes to the guest."""

OUTBOUND: Final = 1
"""Direction of a frame that the guest sent."""

LINKTYPE_ETHERNET: Final = 1

_SECTION_HEADER, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_LENGTH_UNKNOWN: Final = -1

_PACKET_HEAD: Final = struct.Struct("<7I")  # type, length, interface, time high, time low, captured, original
_PACKET_TAIL: Final = struct.Struct(
    "<HHIII"
)  # option epb_flags, its length, flags, end of options, length again
_PACKET_OVERHEAD: Final = _PACKET_HEAD.size + _PACKET_TAIL.size
_OPTION_FLAGS: Final = 2
_FLAGS: Final = {INBOUND: 1, OUTBOUND: 2}
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")  # by the length modulo 4


def section_header(application: str = "popnet", hardware: str = "", system: str = "") -> bytes:
    """The block that a file starts with; *hardware* and *system* default to those of this host."""
    host = os.uname()
    options = (
        _option(2, (hardware or host.machine).encode())
        + _option(3, (system or f"{host.sysname} {host.release}").encode())
        + _option(4, application.encode())
    )
    return _block(_SECTION_HEADER, struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, _LENGTH_UNKNOWN), options)


def interface(
    name: str,
    snap_length: int,
    filter_text: str = "",
    mac: bytes = b"",
    link_type: int = LINKTYPE_ETHERNET,
    description: str = "",
) -> bytes:
    """The description of an interface; packets refer to it by its place, from 0.

    Args:
        name: as it should read in Wireshark, such as `k1/eth0`.
        snap_length: bytes kept of a frame.
        filter_text: the capture filter, as the user wrote it.
        mac: 6 octets, or none.
        link_type: what its packets begin with, by tcpdump's numbers.
        description: a few words about it, or none.
    """
    options = _option(2, name.encode())
    if description:
        options += _option(3, description.encode())
    if mac:
        options += _option(6, mac)
    options += _option(9, b"\x09")  # if_tsresol: times are in units of 10**-9 s
    if filter_text:
        options += _option(11, b"\0" + filter_text.encode())  # the first octet says: text as libpcap takes it
    return _block(_INTERFACE, struct.pack("<HHI", link_type, 0, snap_length), options)


def packets(frames: Iterable[tuple[int, int, int, bytes]], interface_id: int = 0) -> bytes:
    """The blocks of *frames*: (time in ns since 1970, INBOUND or OUTBOUND, original length, bytes kept)."""
    head, tail = _PACKET_HEAD.pack, _PACKET_TAIL.pack
    parts: list[bytes] = []
    for time_ns, direction, original_length, data in frames:
        kept = len(data)
        padding = _PADDING[kept & 3]
        length = _PACKET_OVERHEAD + kept + len(padding)
        parts += (
            head(_PACKET, length, interface_id, time_ns >> 32, time_ns & 0xFFFF_FFFF, kept, original_length),
            data,
            padding,
            tail(_OPTION_FLAGS, 4, _FLAGS[direction], 0, length),
        )
    return b"".join(parts)


def statistics(time_ns: int, captured: int, dropped: int, interface_id: int = 0) -> bytes:
    """The counts of an interface at *time_ns*: frames in this file, and frames lost."""
    options = b"".join(
        _option(kind, struct.pack("<Q", count))
        for kind, count in ((4, captured + dropped), (5, dropped), (8, captured))
    )
    high_and_low = struct.pack("<III", interface_id, time_ns >> 32, time_ns & 0xFFFF_FFFF)
    return _block(_STATISTICS, high_and_low, options)


def _option(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", kind, len(value)) + value + _PADDING[len(value) & 3]


def _block(kind: int, fixed: bytes, options: bytes) -> bytes:
    length = 12 + len(fixed) + len(options) + 4
    return b"".join(
        (struct.pack("<II", kind, length), fixed, options, bytes(4), struct.pack("<I", length))
    )  # four zeroes end the options
