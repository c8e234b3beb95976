"""Frames as lines of text; and no frame, however mad, is too much for it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.core import addresses
from popnet.net.decode import decode_line
from tests.net import frames

TIME_NS = (12 * 3600 + 34 * 60 + 56) * 10**9 + 123_456_789
QUOTED = frames.ipv4(17, frames.udp(40000, 9, b""))[14:]
QUOTED6 = frames.ipv6(17, frames.udp(40000, 9, b""))[14:]


def described(frame: bytes, original_length: int | None = None) -> str:
    line = decode_line(TIME_NS, 1, frame, len(frame) if original_length is None else original_length)
    prefix = "12:34:56.123456789 Out "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


def icmp(kind: int, code: int, rest: bytes) -> bytes:
    return struct.pack(">BBH", kind, code, 0) + rest


KNOWN: list[tuple[bytes, str]] = [
    (frames.arp(1), "ARP, Request who-has 10.1.2.3 tell 10.1.2.2, length 28"),
    (frames.arp(2), "ARP, Reply 10.1.2.2 is-at 02:70:6f:70:6e:01, length 28"),
    (
        frames.ipv4(1, frames.echo(8, 7, 3)),
        "IP 10.1.2.2 > 10.1.2.3: ICMP echo request, id 7, seq 3, length 64",
    ),
    (frames.ipv4(1, frames.echo(0, 7, 3)), "IP 10.1.2.2 > 10.1.2.3: ICMP echo reply, id 7, seq 3, length 64"),
    (
        frames.ipv4(1, icmp(3, 3, bytes(4) + QUOTED)),
        "IP 10.1.2.2 > 10.1.2.3: ICMP 10.1.2.3 udp port 9 unreachable, length 36",
    ),
    (
        frames.ipv4(1, icmp(3, 1, bytes(4) + QUOTED)),
        "IP 10.1.2.2 > 10.1.2.3: ICMP host 10.1.2.3 unreachable, length 36",
    ),
    (
        frames.ipv4(1, icmp(3, 4, struct.pack(">HH", 0, 1400) + QUOTED)),
        "IP 10.1.2.2 > 10.1.2.3: ICMP 10.1.2.3 unreachable - need to frag (mtu 1400), length 36",
    ),
    (
        frames.ipv4(1, icmp(11, 0, bytes(4) + QUOTED)),
        "IP 10.1.2.2 > 10.1.2.3: ICMP time exceeded in-transit, length 36",
    ),
    (
        frames.ipv4(6, frames.tcp(40000, 2222, 0x02)),
        "IP 10.1.2.2.40000 > 10.1.2.3.2222: Flags [S], seq 1000, win 64240, length 0",
    ),
    (
        frames.ipv4(6, frames.tcp(2222, 40000, 0x18, b"hello")),
        "IP 10.1.2.2.2222 > 10.1.2.3.40000: Flags [P.], seq 1000:1005, ack 2000, win 64240, length 5",
    ),
    (
        frames.ipv4(6, frames.tcp(2222, 40000, 0x10)),
        "IP 10.1.2.2.2222 > 10.1.2.3.40000: Flags [.], ack 2000, win 64240, length 0",
    ),
    (
        frames.ipv6(6, frames.tcp(2222, 40000, 0x04)),
        "IP6 fd70:6f70:6e65:1::2.2222 > fd70:6f70:6e65:1::3.40000: Flags [R], seq 1000, win 64240, length 0",
    ),
    (frames.ipv4(17, frames.udp(40000, 9, b"hello")), "IP 10.1.2.2.40000 > 10.1.2.3.9: UDP, length 5"),
    (
        frames.ipv6(58, frames.echo(128, 7, 3)),
        "IP6 fd70:6f70:6e65:1::2 > fd70:6f70:6e65:1::3: ICMP6, echo request, id 7, seq 3, length 64",
    ),
    (
        frames.ipv6(58, icmp(135, 0, bytes(4) + addresses.ipv6(2).packed)),
        "IP6 fd70:6f70:6e65:1::2 > fd70:6f70:6e65:1::3: "
        "ICMP6, neighbor solicitation, who has fd70:6f70:6e65:1::3, length 24",
    ),
    (
        frames.ipv6(58, icmp(136, 0, bytes(4) + addresses.ipv6(2).packed)),
        "IP6 fd70:6f70:6e65:1::2 > fd70:6f70:6e65:1::3: "
        "ICMP6, neighbor advertisement, tgt is fd70:6f70:6e65:1::3, length 24",
    ),
    (
        frames.ipv6(58, icmp(1, 4, bytes(4) + QUOTED6)),
        "IP6 fd70:6f70:6e65:1::2 > fd70:6f70:6e65:1::3: "
        "ICMP6, destination unreachable, unreachable port, fd70:6f70:6e65:1::3 udp port 9, length 56",
    ),
    (
        frames.ipv6(58, icmp(2, 0, struct.pack(">I", 1400) + QUOTED6)),
        "IP6 fd70:6f70:6e65:1::2 > fd70:6f70:6e65:1::3: ICMP6, packet too big, mtu 1400, length 56",
    ),
    (
        frames.ipv6(0, bytes((58, 0)) + b"\5\2\0\0\1\0" + icmp(143, 0, struct.pack(">HH", 0, 1) + bytes(20))),
        "IP6 fd70:6f70:6e65:1::2 > fd70:6f70:6e65:1::3: "
        "HBH ICMP6, multicast listener report v2, 1 group record(s), length 28",
    ),
]
"""Frames that tcpdump (with -n -S) describes in the same words."""

OURS: list[tuple[bytes, str]] = [
    (
        frames.ethernet(0x88B5, bytes(46)),
        "02:70:6f:70:6e:01 > 02:70:6f:70:6e:02, ethertype 0x88b5, length 60",
    ),
    (frames.ethernet(46, bytes(46)), "02:70:6f:70:6e:01 > 02:70:6f:70:6e:02, 802.3, length 60"),
    (
        frames.ethernet(0x8100, struct.pack(">HH", 3 << 13 | 5, 0x0806) + frames.arp(1)[14:]),
        "vlan 5, p 3, ARP, Request who-has 10.1.2.3 tell 10.1.2.2, length 28",
    ),
    (frames.ipv4(89, bytes(20)), "IP 10.1.2.2 > 10.1.2.3: ip-proto-89, length 20"),
    (frames.ipv4(17, bytes(20), fragment=185), "IP 10.1.2.2 > 10.1.2.3: udp fragment at 1480, length 20"),
    (
        frames.ipv6(44, bytes((17, 0)) + struct.pack(">HI", 1448, 9) + bytes(20)),
        "IP6 fd70:6f70:6e65:1::2 > fd70:6f70:6e65:1::3: udp fragment at 1448, length 20",
    ),
    (frames.ipv4(1, icmp(5, 1, bytes(4))), "IP 10.1.2.2 > 10.1.2.3: ICMP type 5 code 1, length 8"),
    (b"", "[|ether]"),
    (frames.arp(1)[:30], "[|arp]"),
    (frames.ipv4(1, b"")[:30], "[|ip]"),
    (frames.ethernet(0x0800, b"\x65" + bytes(40)), "IP, bad header 0x65"),
    (
        frames.ipv4(6, frames.tcp(2222, 40000, 2))[:44],
        "IP 10.1.2.2.2222 > 10.1.2.3.40000: [|tcp]",
    ),
    (frames.ipv4(17, frames.udp(1, 2, b""))[:35], "IP 10.1.2.2 > 10.1.2.3: [|udp]"),
    (frames.ipv6(58, frames.echo(128))[:20], "[|ip6]"),
]


@pytest.mark.parametrize(("frame", "text"), KNOWN + OURS)
def test_a_frame_as_text(frame: bytes, text: str) -> None:
    assert described(frame) == text


def test_lengths_are_those_on_the_link_not_of_what_was_kept() -> None:
    whole = frames.ipv4(6, frames.tcp(2222, 40000, 0x10, bytes(1000)))
    assert described(whole[:60], len(whole)) == described(whole)
    segment = frames.ipv6(6, frames.tcp(2222, 40000, 0x10, bytes(100)), length=0)  # too long for its header
    assert described(segment).endswith("seq 1000:1100, ack 2000, win 64240, length 100")


def test_times_are_of_day_and_shift_with_the_zone() -> None:
    frame = frames.arp(1)
    assert decode_line(1, 0, frame, 42).startswith("00:00:00.000000001 In  ARP")
    assert decode_line(TIME_NS, 0, frame, 42, 3600).startswith("13:34:56.123456789 ")
    assert decode_line(0, 0, frame, 42, -3600).startswith("23:00:00.000000000 ")


@given(st.binary(max_size=200), st.integers(0, 70_000), st.integers(), st.integers())
def test_no_bytes_are_too_mad(frame: bytes, original_length: int, time_ns: int, direction: int) -> None:
    assert "\n" not in decode_line(time_ns, direction, frame, original_length)


@given(
    st.sampled_from([frame for frame, _ in KNOWN + OURS]),
    st.integers(0, 120),
    st.lists(st.tuples(st.integers(0, 119), st.integers(0, 255)), max_size=4),
)
def test_no_frame_is_too_damaged(frame: bytes, kept: int, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(frame)
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    assert decode_line(TIME_NS, 0, bytes(damaged[:kept]), len(frame))
