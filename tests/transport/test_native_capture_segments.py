"""What a capture keeps of super-frames: what a wire would carry, unless told to keep them whole."""

import random
import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from popnet.core.limits import VNET_HEADER_SIZE
from tests.transport.lab import Kernel, Lab, eventually, running
from tests.transport.pcap import compile_filter
from tests.transport.test_native_capture import FROM_GUEST, TO_GUEST, read_all
from tests.transport.test_native_offload import HEADERS, sums_are_right, super_frame

KEEP_ALL = 1 << 20


def opened(kernel: Kernel, text: str = "", *, size: int = KEEP_ALL, snap: int = 0) -> int:
    program, address = compile_filter(text) if text else (None, 0)
    return kernel.pump.capture_open(size, snap, program, address, -1)


def send(lab: Lab, record: bytes) -> None:
    """k1's guest sends it, and k2's guest gets it as it is: a capture changes nothing."""
    lab[1].guest.send(record)
    assert lab[2].receive() == record


@pytest.mark.parametrize("kind", HEADERS)
def test_segments_with_their_own_lengths_and_checksums(kind: str) -> None:
    payload = random.Random(1).randbytes(10_000)
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        captures = [opened(lab[1]), opened(lab[2])]
        send(lab, super_frame(HEADERS[kind], payload, 1448))
        for kid, capture, way in ((1, captures[0], FROM_GUEST), (2, captures[1], TO_GUEST)):
            frames = read_all(lab[kid], capture, 7)
            assert {frame[1] for frame in frames} == {way}
            assert [frame[2] for frame in frames] == [len(frame[3]) for frame in frames]
            assert all(sums_are_right(frame[3]) for frame in frames)
            packets = [Ether(frame[3]) for frame in frames]
            layer = TCP if TCP in packets[0] else UDP
            assert b"".join(bytes(packet[layer].payload) for packet in packets) == payload
            assert all(IP in packet or IPv6 in packet for packet in packets)


def test_one_that_wants_them_whole_gets_them_summed() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = opened(lab[1])
        lab[1].pump.capture_whole(capture, True)
        record = super_frame(HEADERS["tcp4"], bytes(10_000), 1448)
        send(lab, record)
        ((_, _, original, kept),) = read_all(lab[1], capture, 1)
        assert original == len(kept) == len(record) - VNET_HEADER_SIZE
        lab[1].pump.capture_whole(capture, False)
        send(lab, record)
        assert len(read_all(lab[1], capture, 7)) == 7
        with pytest.raises(KeyError):
            lab[1].pump.capture_whole(4711, True)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("tcp port 7", [0, 1, 2, 3, 4, 5, 6]),
        ("tcp port 9", []),
        ("tcp[tcpflags] & tcp-fin != 0", [6]),
        ("ip[4:2] = 0", [1]),
        ("less 1502", [0, 1, 2, 3, 4, 5, 6]),
        ("less 1402", [6]),
        ("greater 1503", []),
    ],
)
def test_the_filter_judges_each_segment(text: str, segments: list[int]) -> None:
    """Of 1502 bytes each, the last of 1366."""
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        everything, chosen = opened(lab[1]), opened(lab[1], text)
        send(lab, super_frame(HEADERS["tcp4"], bytes(10_000), 1448))
        all_of_them = [frame[3] for frame in read_all(lab[1], everything, 7)]
        got = [frame[3] for frame in read_all(lab[1], chosen, len(segments))]
        assert got == [all_of_them[number] for number in segments]


def test_a_snap_length_holds_for_each_segment() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = opened(lab[1], snap=60)
        send(lab, super_frame(HEADERS["tcp4"], bytes(10_000), 1448))
        frames = read_all(lab[1], capture, 7)
        assert [frame[2] for frame in frames] == [1502] * 6 + [54 + 10_000 - 6 * 1448]
        assert {len(frame[3]) for frame in frames} == {60}


@pytest.mark.parametrize(("size", "kept"), [(0, 0), (4000, 1), (2 * 4 * 1600, 4)])
def test_segments_without_room_are_counted_one_by_one(size: int, kept: int) -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = opened(lab[1], size=size, snap=1600)
        send(lab, super_frame(HEADERS["tcp4"], bytes(10_000), 1448))
        first = len(lab[1].pump.capture_read(capture, 100))
        assert first >= kept
        send(lab, super_frame(HEADERS["tcp4"], bytes(10_000), 1448))
        second = len(lab[1].pump.capture_read(capture, 100))
        assert lab[1].pump.capture_close(capture) == 14 - first - second


def test_a_diverted_super_frame_ends_in_the_capture_as_a_whole() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = opened(lab[1], "tcp[tcpflags] & tcp-fin != 0")
        lab[1].pump.capture_divert(capture, False, True)
        lab[1].guest.send(super_frame(HEADERS["tcp4"], bytes(10_000), 1448))
        eventually(lambda: lab[1].count("drop_diverted") == 1)
        assert len(read_all(lab[1], capture, 7)) == 7
        assert not lab[2].has_frame()


def test_a_super_frame_that_is_none_is_kept_as_it_is() -> None:
    record = bytearray(super_frame(HEADERS["udp4"], bytes(3000), 1000))
    struct.pack_into("=B", record, 1, 1)  # TCP over IPv4, it says
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = opened(lab[1])
        send(lab, bytes(record))
        ((_, _, original, _),) = read_all(lab[1], capture, 1)
        assert original == len(record) - VNET_HEADER_SIZE
