"""pcapng as our writer writes it, in any pieces, of either byte order; and what is none."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.control.pcapng_reader import Packet, Reader
from popnet.core.errors import LinkViolation


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(order: str = "<", name: bytes = b"k1/eth0", resolution: int = 9) -> bytes:
    options = option(2, name, order) + option(9, bytes((resolution,)), order) + bytes(4)
    return block(1, struct.pack(order + "HHI", 1, 0, 0) + options, order)


def packet(data: bytes, time: int = 5, flags: int = 2, order: str = "<", number: int = 0) -> bytes:
    head = struct.pack(order + "5I", number, time >> 32, time & 0xFFFFFFFF, len(data), len(data) + 9)
    options = option(1, b"a comment", order) + option(2, struct.pack(order + "I", flags), order) + bytes(4)
    return block(6, head + data + bytes(-len(data) % 4) + options, order)


STREAM = section() + interface() + packet(b"first", 1 << 40, 2) + block(5, bytes(8)) + packet(b"2nd!", 7, 1)
PACKETS = [Packet(1 << 40, 1, b"first", 14, "k1/eth0"), Packet(7, 0, b"2nd!", 13, "k1/eth0")]


def test_a_stream_at_once() -> None:
    assert Reader().feed(STREAM) == PACKETS


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_in_any_pieces(cuts: list[int]) -> None:
    reader = Reader()
    edges = [0, *sorted(cuts), len(STREAM)]
    got = [p for start, end in itertools.pairwise(edges) for p in reader.feed(STREAM[start:end])]
    assert got == PACKETS


def test_the_other_byte_order_and_a_new_section() -> None:
    reader = Reader()
    reader.feed(STREAM)
    big = section(">") + interface(">", b"other", 6) + packet(b"x", 3, 2, ">")
    assert reader.feed(big) == [Packet(3000, 1, b"x", 10, "other")]
    with pytest.raises(LinkViolation, match="refers to nothing"):
        reader.feed(section() + packet(b"x"))


def test_an_interface_without_options() -> None:
    stream = section() + block(1, struct.pack("<HHI", 1, 0, 0)) + packet(b"x", 2)
    assert Reader().feed(stream) == [Packet(2000, 1, b"x", 10, "0")]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "a block of"),
        (b"\x0a\x0d\x0d\x0a" + bytes(12), "no byte-order magic"),
        (struct.pack("<II", 5, 11) + bytes(8), "a block of 11 bytes"),
        (struct.pack("<II", 5, 8) + bytes(8), "a block of 8 bytes"),
        (struct.pack("<II", 5, 1 << 21) + bytes(8), "a block of 2097152 bytes"),
        (section() + packet(b"x"), "refers to nothing"),
        (section() + interface() + packet(b"x", number=1), "refers to nothing"),
        (section() + interface() + block(6, bytes(8)), "cut short"),
        (section() + interface() + block(6, bytes(20) + option(2, b"12")), "cut short"),
        (section() + block(1, bytes(8) + option(9, b"")), "cut short"),
        (section() + interface() + block(6, struct.pack("<5I", 0, 0, 0, 500, 500)), "cut short"),
    ],
)
def test_what_is_no_pcapng(data: bytes, why: str) -> None:
    with pytest.raises(LinkViolation, match=why):
        Reader().feed(data)


@given(st.binary(max_size=400))
def test_any_bytes_give_packets_or_a_violation(data: bytes) -> None:
    for start in (b"", section() + interface()):
        try:
            Reader().feed(start + data)
        except LinkViolation:
            continue


@given(st.data())
def test_a_spoilt_stream_gives_packets_or_a_violation(data: st.DataObject) -> None:
    spoilt = bytearray(STREAM)
    spoilt[data.draw(st.integers(0, len(STREAM) - 1))] = data.draw(st.integers(0, 255))
    try:
        Reader().feed(bytes(spoilt))
    except LinkViolation:
        return
