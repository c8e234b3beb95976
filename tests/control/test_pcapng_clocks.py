"""pcapng of other programs: byte orders, clocks, sections, foreign blocks; and where a file may be cut."""

import struct

import pytest

from popnet.control.pcapng_reader import Reader
from popnet.core.errors import LinkViolation
from popnet.net import pcapng

TIME_NS = 1_700_000_000_123_456_789
FRAMES = [(TIME_NS, 0, 60, bytes(60)), (TIME_NS + 1, 1, 1514, b"snapped"), (TIME_NS + 2, 0, 3, b"abc")]
OURS = pcapng.section_header() + pcapng.interface("k1/eth0", 65550, "icmp", bytes(6)) + pcapng.packets(FRAMES)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    head = struct.pack(order + "II", kind, len(body) + 12)
    return head + body + head[4:]


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(order: str = "<", options: bytes = b"") -> bytes:
    return block(1, struct.pack(order + "HHI", 1, 0, 0) + options, order)


def packet(time: int, data: bytes, order: str = "<", number: int = 0, options: bytes = b"") -> bytes:
    head = struct.pack(order + "5I", number, time >> 32, time & 0xFFFFFFFF, len(data), len(data))
    return block(6, head + data + bytes(-len(data) % 4) + options, order)


def test_the_position_is_that_of_whole_blocks() -> None:
    reader = Reader()
    reader.feed(OURS[:-1])
    assert reader.position == len(OURS) - len(pcapng.packets(FRAMES[-1:]))
    reader.feed(OURS[-1:])
    assert reader.position == len(OURS)


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order_and_any_clock(order: str) -> None:
    microseconds = interface(order)
    picoseconds = interface(order, struct.pack(order + "HHB3x", 9, 1, 12))
    binary = interface(order, struct.pack(order + "HHB3x", 9, 1, 0x80 | 10))
    data = section(order) + microseconds + picoseconds + binary
    data += packet(5, b"a", order) + packet(7000, b"bc", order, 1) + packet(1024, b"", order, 2)
    assert [(item.time_ns, item.data, item.interface) for item in Reader().feed(data)] == [
        (5000, b"a", "0"),
        (7, b"bc", "1"),
        (10**9, b"", "2"),
    ]


def test_a_new_section_starts_anew() -> None:
    other = section(">") + interface(">") + packet(1, b"x", ">")
    assert len(Reader().feed(OURS + other + OURS)) == 7
    with pytest.raises(LinkViolation, match="refers to nothing"):
        Reader().feed(OURS + section() + packet(1, b"x"))


def test_other_blocks_are_skipped() -> None:
    statistics = block(5, bytes(12))
    custom = block(0xBAD, b"any thing at all")
    assert len(Reader().feed(section() + custom + interface() + statistics + packet(1, b"x"))) == 1


def test_a_packet_longer_than_its_block() -> None:
    head = struct.pack("<5I", 0, 0, 0, 100, 100)
    with pytest.raises(LinkViolation, match="cut short"):
        Reader().feed(section() + interface() + block(6, head + b"short..."))
