"""One line of text for a frame, in the manner of tcpdump: PURE, and never fails, however short or mad the
frame.

Each layer has a function that takes the bytes from that layer on and returns text; it reads with struct only,
whose error means that the frame ends too early, which is told as tcpdump tells it: `[|tcp]`.
"""

import struct
from collections.abc import Callable, Mapping
from socket import AF_INET6, inet_ntoa, inet_ntop
from typing import Final

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
VLAN_TAGS: Final = frozenset((0x8100, 0x88A8))
ETHERTYPE_MIN: Final = 0x0600
"""Smaller values are the length of an IEEE 802.3 frame."""

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60

_DIRECTIONS: Final = ("In ", "Out")
_PROTOCOLS: Final = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMP6: "icmp6"}
_TCP_FLAGS: Final = "FSRP.UEW"
_ICMP6_NAMES: Final = {
    1: "destination unreachable",
    2: "packet too big",
    3: "time exceeded",
    4: "parameter problem",
    128: "echo request",
    129: "echo reply",
    130: "multicast listener query",
    131: "multicast listener report",
    132: "multicast listener done",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbor solicitation",
    136: "neighbor advertisement",
    137: "redirect",
    143: "multicast listener report v2",
}
_ICMP6_UNREACHABLE: Final = {
    0: "unreachable route",
    1: "unreachable prohibited",
    3: "unreachable address",
    4: "unreachable port",
}


def decode_line(
    time_ns: int, direction: int, frame: bytes, original_length: int, utc_offset_s: int = 0
) -> str:
    """Describe a frame: `12:34:56.123456789 Out IP 10.1.2.2 > 10.1.2.3: ICMP echo request, id 7, seq 1,
    length 64`.

    Args:
        time_ns: since 1970; shown as time of day, in UTC unless *utc_offset_s* says by how much to shift it.
        direction: 0 to the guest (`In`), 1 from it (`Out`).
        frame: from the Ethernet header on; may be cut off.
        original_length: bytes the frame had on the link.
    """
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    minutes, second = divmod((seconds + utc_offset_s) % 86_400, 60)
    hour, minute = divmod(minutes, 60)
    text = _layer("ether", lambda: _ethernet(frame, original_length))
    return f"{hour:02}:{minute:02}:{second:02}.{nanoseconds:09} {_DIRECTIONS[direction & 1]} {text}"


def _layer(name: str, describe: Callable[[], str]) -> str:
    try:
        return describe()
    except struct.error:
        return f"[|{name}]"


def _ethernet(frame: bytes, original_length: int) -> str:
    destination, source, ethertype = struct.unpack_from(">6s6sH", frame)
    offset, tags = 14, ""
    while ethertype in VLAN_TAGS:
        tag, ethertype = struct.unpack_from(">HH", frame, offset)
        tags += f"vlan {tag & 0xFFF}, p {tag >> 13}, "
        offset += 4
    rest = frame[offset:]
    if ethertype == ARP:
        text = _layer("arp", lambda: _arp(rest))
    elif ethertype == IPV4:
        text = _layer("ip", lambda: _ipv4(rest, original_length - offset))
    elif ethertype == IPV6:
        text = _layer("ip6", lambda: _ipv6(rest, original_length - offset))
    else:
        kind = f"ethertype 0x{ethertype:04x}" if ethertype >= ETHERTYPE_MIN else "802.3"
        text = f"{source.hex(':')} > {destination.hex(':')}, {kind}, length {original_length}"
    return tags + text


def _arp(data: bytes) -> str:
    hardware, protocol, hardware_size, protocol_size, operation = struct.unpack_from(">HHBBH", data)
    if (hardware, protocol, hardware_size, protocol_size) != (1, IPV4, 6, 4):
        return f"ARP, hardware {hardware}, protocol 0x{protocol:04x}, operation {operation}"
    source_mac, source, _target_mac, target = struct.unpack_from("6s4s6s4s", data, 8)
    if operation == 1:
        return f"ARP, Request who-has {inet_ntoa(target)} tell {inet_ntoa(source)}, length 28"
    if operation == 2:
        return f"ARP, Reply {inet_ntoa(source)} is-at {source_mac.hex(':')}, length 28"
    return f"ARP, operation {operation}, {inet_ntoa(source)} to {inet_ntoa(target)}, length 28"


def _ipv4(data: bytes, available: int) -> str:
    """*available*: bytes from here on that the frame had, for segments whose header does not say."""
    version, length, fragment, protocol, source, target = struct.unpack_from(">BxHxxHxBxx4s4s", data)
    head = (version & 15) * 4
    if version >> 4 != 4 or head < 20:
        return f"IP, bad header 0x{version:02x}"
    ends = inet_ntoa(source), inet_ntoa(target)
    size = max((length or available) - head, 0)
    offset = (fragment & 0x1FFF) * 8
    if offset:
        name = _PROTOCOLS.get(protocol, f"ip-proto-{protocol}")
        return f"IP {ends[0]} > {ends[1]}: {name} fragment at {offset}, length {size}"
    return "IP " + _transport(protocol, data[head:], size, *ends)


def _ipv6(data: bytes, available: int) -> str:
    first, length, kind, source, target = struct.unpack_from(">IHBx16s16s", data)
    if first >> 28 != 6:
        return f"IP6, bad version {first >> 28}"
    ends = inet_ntop(AF_INET6, source), inet_ntop(AF_INET6, target)
    offset, size, notes = 40, length or max(available - 40, 0), ""
    while kind in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS):
        if kind == FRAGMENT:
            following, place, _id = struct.unpack_from(">BxHI", data, offset)
            step = 8
            if place & 0xFFF8:
                name = _PROTOCOLS.get(following, f"ip-proto-{following}")
                return f"IP6 {ends[0]} > {ends[1]}: {name} fragment at {place & 0xFFF8}, length {size - 8}"
        else:
            following, units = struct.unpack_from("BB", data, offset)
            step = 8 + units * 8
            notes += "HBH " if kind == HOP_BY_HOP else ""
        kind, offset, size = following, offset + step, max(size - step, 0)
    return "IP6 " + _transport(kind, data[offset:], size, *ends, notes)


def _transport(protocol: int, data: bytes, size: int, source: str, target: str, notes: str = "") -> str:
    """What IP carries: *size* bytes of it on the link, the first of them in *data*."""
    if protocol in (TCP, UDP):
        try:
            ports = struct.unpack_from(">HH", data)
        except struct.error:
            return f"{source} > {target}: {notes}[|{_PROTOCOLS[protocol]}]"
        source, target = f"{source}.{ports[0]}", f"{target}.{ports[1]}"
    describe = _TRANSPORTS.get(protocol)
    if describe is None:
        text = f"ip-proto-{protocol}, length {size}"
    else:
        text = _layer(_PROTOCOLS[protocol], lambda: describe(data, size))
    return f"{source} > {target}: {notes}{text}"


def _tcp(data: bytes, size: int) -> str:
    sequence, acknowledgement, offset, bits, window = struct.unpack_from(">IIBBH", data, 4)
    length = max(size - (offset >> 4) * 4, 0)
    flags = "".join(letter for place, letter in enumerate(_TCP_FLAGS) if bits >> place & 1) or "none"
    text = f"Flags [{flags}]"
    if length:
        text += f", seq {sequence}:{(sequence + length) & 0xFFFF_FFFF}"
    elif bits & 0x07:  # FIN, SYN and RST carry a number of their own
        text += f", seq {sequence}"
    if bits & 0x10:
        text += f", ack {acknowledgement}"
    return f"{text}, win {window}, length {length}"


def _udp(data: bytes, size: int) -> str:
    (length,) = struct.unpack_from(">H", data, 4)
    return f"UDP, length {max((length or size) - 8, 0)}"


def _icmp(data: bytes, size: int) -> str:
    kind, code = struct.unpack_from("BB", data)
    if kind in (0, 8):
        identifier, sequence = struct.unpack_from(">HH", data, 4)
        name = "request" if kind == 8 else "reply"
        return f"ICMP echo {name}, id {identifier}, seq {sequence}, length {size}"
    if kind == 3:
        return f"ICMP {_unreachable(code, data)}, length {size}"
    if kind == 11:
        return f"ICMP {'ip reassembly time exceeded' if code else 'time exceeded in-transit'}, length {size}"
    return f"ICMP type {kind} code {code}, length {size}"


def _unreachable(code: int, data: bytes) -> str:
    """What ICMP says could not be reached, from the header of the packet that it quotes."""
    mtu, version, protocol, address = struct.unpack_from(">6xHB8xB6x4s", data)
    target = inet_ntoa(address)
    match code:
        case 0:
            return f"net {target} unreachable"
        case 1:
            return f"host {target} unreachable"
        case 2:
            return f"{target} protocol {protocol} unreachable"
        case 3:
            (port,) = struct.unpack_from(">H", data, 8 + (version & 15) * 4 + 2)
            return f"{target} {_PROTOCOLS.get(protocol, protocol)} port {port} unreachable"
        case 4:
            return f"{target} unreachable - need to frag (mtu {mtu})"
        case _:
            return f"{target} unreachable, code {code}"


def _icmp6(data: bytes, size: int) -> str:
    kind, code = struct.unpack_from("BB", data)
    text = "ICMP6, " + _ICMP6_NAMES.get(kind, f"type {kind} code {code}")
    match kind:
        case 1:
            protocol, address, port = struct.unpack_from(">14xB17x16s2xH", data)
            text += f", {_ICMP6_UNREACHABLE.get(code, f'code {code}')}, {inet_ntop(AF_INET6, address)}"
            if code == 4:
                text += f" {_PROTOCOLS.get(protocol, protocol)} port {port}"
        case 2:
            (mtu,) = struct.unpack_from(">I", data, 4)
            text += f", mtu {mtu}"
        case 128 | 129:
            identifier, sequence = struct.unpack_from(">HH", data, 4)
            text += f", id {identifier}, seq {sequence}"
        case 135 | 136:
            (address,) = struct.unpack_from("8x16s", data)
            text += f", {'who has' if kind == 135 else 'tgt is'} {inet_ntop(AF_INET6, address)}"
        case 143:
            (records,) = struct.unpack_from(">6xH", data)
            text += f", {records} group record(s)"
    return f"{text}, length {size}"


_TRANSPORTS: Final[Mapping[int, Callable[[bytes, int], str]]] = {
    ICMP: _icmp,
    TCP: _tcp,
    UDP: _udp,
    ICMP6: _icmp6,
}
