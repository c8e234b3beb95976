"""Frames for tests, each a whole Ethernet frame as it stands on the link."""

import struct

from popnet.core import addresses


def ethernet(ethertype: int, payload: bytes, source: int = 1, destination: int = 2) -> bytes:
    """A frame from kernel *source* to kernel *destination*."""
    return addresses.mac(destination) + addresses.mac(source) + struct.pack(">H", ethertype) + payload


def ipv4(protocol: int, payload: bytes, source: int = 1, destination: int = 2, fragment: int = 0) -> bytes:
    head = struct.pack(
        ">BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        0x1234,
        fragment,
        64,
        protocol,
        0,
        addresses.ipv4(source).packed,
        addresses.ipv4(destination).packed,
    )
    return ethernet(0x0800, head + payload, source, destination)


def ipv6(
    next_header: int, payload: bytes, source: int = 1, destination: int = 2, length: int | None = None
) -> bytes:
    head = struct.pack(
        ">IHBB16s16s",
        6 << 28,
        len(payload) if length is None else length,
        next_header,
        255,
        addresses.ipv6(source).packed,
        addresses.ipv6(destination).packed,
    )
    return ethernet(0x86DD, head + payload, source, destination)


def udp(source_port: int, destination_port: int, data: bytes) -> bytes:
    return struct.pack(">HHHH", source_port, destination_port, 8 + len(data), 0) + data


def tcp(
    source_port: int, destination_port: int, flags: int, data: bytes = b"", options: bytes = b""
) -> bytes:
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack(">HHIIBBHHH", source_port, destination_port, 1000, 2000, offset, flags, 64240, 0, 0)
    return head + options + data


def echo(kind: int = 8, identifier: int = 7, sequence: int = 1) -> bytes:
    return struct.pack(">BBHHH", kind, 0, 0, identifier, sequence) + bytes(56)


def arp(operation: int, source: int = 1, destination: int = 2) -> bytes:
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    body += addresses.mac(source) + addresses.ipv4(source).packed
    body += (bytes(6) if operation == 1 else addresses.mac(destination)) + addresses.ipv4(destination).packed
    return ethernet(0x0806, body, source, destination)


def internet_checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def with_ipv4_checksum(frame: bytes) -> bytes:
    """*frame*, an IPv4 one, with the sum of its header made right."""
    head = frame[14:24] + bytes(2) + frame[26:34]
    return frame[:24] + struct.pack(">H", internet_checksum(head)) + frame[26:]
