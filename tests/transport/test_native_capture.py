"""Captures on a pump: what they keep, what they drop, and that checksums left to the NIC are completed."""

import os
import random
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.core.limits import FRAME_SIZE_MAX
from popnet.net import pcapng
from popnet.transport.doorbell import create_doorbell, drain
from tests.net.blocks import frames_of
from tests.transport.lab import NO_OFFLOAD, Kernel, Lab, ethernet, eventually, running
from tests.transport.pcap import compile_filter

TO_GUEST, FROM_GUEST = 0, 1
Captured = tuple[int, int, int, bytes]


def read_all(kernel: Kernel, capture: int, count: int) -> list[Captured]:
    frames: list[Captured] = []

    def complete() -> bool:
        frames.extend(kernel.pump.capture_read(capture, 1000))
        return len(frames) >= count

    eventually(complete)
    assert len(frames) == count
    return frames


def test_both_directions_with_times_and_lengths() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = lab[1].pump.capture_open(1 << 20, 0, None, 0, -1)
        before = time.time_ns()
        sent = [lab[1].send(2, bytes(size)) for size in (0, 100, 1486, 60_000)]
        assert [lab[2].receive() for _ in sent] == sent
        answer = lab[2].send(1, b"answer")
        assert lab[1].receive() == answer
        frames = read_all(lab[1], capture, 5)
        after = time.time_ns()
        assert [frame[1] for frame in frames] == [FROM_GUEST] * 4 + [TO_GUEST]
        assert [NO_OFFLOAD + frame[3] for frame in frames] == [*sent, answer]
        assert [frame[2] for frame in frames] == [len(frame[3]) for frame in frames]
        times = [frame[0] for frame in frames]
        assert before <= times[0]
        assert times == sorted(times)
        assert times[-1] <= after
        assert lab[1].pump.capture_close(capture) == 0


def test_the_snap_length_cuts_but_the_original_length_stays() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = lab[1].pump.capture_open(1 << 16, 60, None, 0, -1)
        frames = [lab[1].send(2, bytes(size)) for size in (0, 45, 46, 47, 5000)]
        got = read_all(lab[1], capture, 5)
        assert [frame[2] for frame in got] == [len(frame) - 12 for frame in frames]
        assert [frame[3] for frame in got] == [frame[12:72] for frame in frames]


def test_a_filter_of_libpcap_decides_and_may_cut() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        program, address = compile_filter("ether dst 02:70:6f:70:6e:02 and ether[14] = 7")
        capture = lab[1].pump.capture_open(1 << 16, 0, program, address, -1)
        for number in range(20):
            lab[1].send(2, bytes([number]) * 50)
            lab[1].send(3, bytes([number]) * 50)
        eventually(lambda: lab[1].count("tx_frames") == 40)
        (frame,) = read_all(lab[1], capture, 1)
        assert frame[3] == ethernet(2, b"\x07" * 50, source=1)
        accept_20_bytes = struct.pack("HBBI", 0x06, 0, 0, 20)
        second = lab[1].pump.capture_open(1 << 16, 0, accept_20_bytes, address, -1)
        lab[1].send(2)
        assert len(read_all(lab[1], second, 1)[0][3]) == 20


def test_injected_frames_are_captured_as_sent() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = lab[1].pump.capture_open(1 << 16, 0, None, 0, -1)
        lab[1].pump.inject(ethernet(2, b"injected"))
        assert read_all(lab[1], capture, 1)[0][1:] == (FROM_GUEST, 22, ethernet(2, b"injected"))


def test_what_finds_no_room_is_dropped_and_counted() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = lab[1].pump.capture_open(0, 1000, None, 0, -1)
        for _ in range(10):
            frame = lab[1].send(2, bytes(1000))
            assert lab[2].receive() == frame
        assert lab[1].pump.capture_dropped(capture) == 9
        assert len(lab[1].pump.capture_read(capture, 100)) == 1
        lab[1].send(2, bytes(1000))
        lab[2].receive()
        assert len(lab[1].pump.capture_read(capture, 100)) == 1
        assert lab[1].pump.capture_close(capture) == 9


def test_the_reader_is_notified_when_there_is_something_new() -> None:
    notify = create_doorbell()
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = lab[1].pump.capture_open(1 << 16, 0, None, 0, notify)
        assert not drain(notify)
        for _ in range(3):
            lab[1].send(2)
        assert [lab[2].receive() for _ in range(3)]
        assert drain(notify)
        assert len(lab[1].pump.capture_read(capture, 2)) == 2, "a budget leaves the rest for the next call"
        assert len(lab[1].pump.capture_read(capture, 2)) == 1
        assert lab[1].pump.capture_read(capture, 2) == []
        lab[1].send(2)
        lab[2].receive()
        assert drain(notify)
    os.close(notify)


def test_blocks_are_those_of_the_pure_writer() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        pump = lab[1].pump
        captures = [pump.capture_open(1 << 20, 0, None, 0, -1) for _ in range(2)]
        for size in (0, 1, 2, 3, 4, 1486, 60_000):
            frame = lab[1].send(2, bytes(size))
            assert lab[2].receive() == frame
        frames = read_all(lab[1], captures[0], 7)
        plain = [(0, *frame[1:]) for frame in frames]
        blocks, count, last_ns = pump.capture_blocks(captures[1], 5, 1 << 20)
        got = frames_of(blocks, 5)
        assert count == 7
        assert got[-1][0] == last_ns
        assert [(0, *frame[1:]) for frame in got] == plain
        assert blocks == pcapng.packets(got, 5)
        assert pump.capture_blocks(captures[1], 5, 1 << 20) == (b"", 0, 0)


def test_as_many_whole_blocks_are_read_as_have_room_and_at_least_one() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = lab[1].pump.capture_open(1 << 20, 0, None, 0, -1)
        for number in range(6):
            frame = lab[1].send(2, bytes([number]) * 46)
            assert lab[2].receive() == frame
        counts, numbers = [], []
        for size in (0, -1, 103, 104, 2 * 104 + 103, 1000):
            blocks, count, _ = lab[1].pump.capture_blocks(capture, 0, size)
            counts.append(count)
            numbers += [data[-1] for *_, data in frames_of(blocks)]
        assert counts == [1, 1, 1, 1, 2, 0]
        assert numbers == list(range(6))


def test_captures_are_separate_and_limited() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        pump = lab[1].pump
        captures = [pump.capture_open(1 << 12, 100, None, 0, -1) for _ in range(16)]
        assert len(set(captures)) == 16
        with pytest.raises(RuntimeError, match="16 captures"):
            pump.capture_open(1 << 12, 100, None, 0, -1)
        lab[1].send(2)
        lab[2].receive()
        for capture in captures:
            assert len(pump.capture_read(capture, 9)) == 1
            pump.capture_close(capture)
            for call in (
                pump.capture_close,
                pump.capture_dropped,
                lambda id: pump.capture_read(id, 1),
                lambda id: pump.capture_blocks(id, 0, 1),
            ):
                with pytest.raises(KeyError):
                    call(capture)
        assert pump.capture_open(1 << 12, 100, None, 0, -1) not in captures


def test_a_filter_must_be_whole_instructions_with_their_interpreter() -> None:
    lab = Lab((1,))
    _, address = compile_filter("ip")
    for program, where in ((b"", address), (b"1234567", address), (b"12345678", 0)):
        with pytest.raises(ValueError, match="bpf"):
            lab[1].pump.capture_open(1 << 12, 0, program, where, -1)
    lab[1].stop()


def test_readers_in_many_threads_do_no_harm() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = lab[1].pump.capture_open(1 << 20, 0, None, 0, -1)
        stop, seen, refused = threading.Event(), [0, 0, 0], [0, 0, 0]

        def read(which: int) -> None:
            while not stop.is_set():
                try:
                    seen[which] += len(lab[1].pump.capture_read(capture, 5))
                except RuntimeError:
                    refused[which] += 1

        threads = [threading.Thread(target=read, args=(which,)) for which in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            frame = lab[1].send(2, bytes(300))
            assert lab[2].receive() == frame
        stop.set()
        for thread in threads:
            thread.join()
        rest = len(lab[1].pump.capture_read(capture, 1000)) + len(lab[1].pump.capture_read(capture, 1000))
        assert sum(seen) + rest + lab[1].pump.capture_dropped(capture) == 100


# ---- checksums


def internet_checksum(data: bytes) -> int:
    """RFC 1071, the plain way."""
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[i : i + 2]) for i in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def vnet_header(start: int, offset: int, flags: int = 1) -> bytes:
    return struct.pack("=BBHHHHH", flags, 0, 0, 0, start, offset, 0)


def capture_one(lab: Lab, record: bytes, snap_length: int = 0, *, lies: bool = False) -> bytes:
    """What a capture at kernel 1 has of *record*, which kernel 2 gets, unless its vnet header *lies*."""
    capture = lab[1].pump.capture_open(1 << 18, snap_length, None, 0, -1)
    refused = lab[2].count("drop_bad_header")
    lab[1].guest.send(record)
    if lies:
        eventually(lambda: lab[2].count("drop_bad_header") == refused + 1)
    else:
        assert lab[2].receive() == record, "the frame itself goes on as it was"
    ((_, _, _, data),) = read_all(lab[1], capture, 1)
    lab[1].pump.capture_close(capture)
    return data


@pytest.fixture(scope="module")
def linked() -> Iterator[Lab]:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        yield lab


@settings(max_examples=200, deadline=None)
@given(size=st.integers(0, 300) | st.integers(0, 60_000), offset=st.integers(0, 40), seed=st.integers(0, 99))
def test_a_checksum_left_to_the_nic_is_completed(linked: Lab, size: int, offset: int, seed: int) -> None:
    segment = random.Random(seed).randbytes(max(size, offset + 2))
    frame = ethernet(2, bytes(20) + segment, source=1)
    data = capture_one(linked, vnet_header(34, offset) + frame)
    expected = internet_checksum(segment) or 0xFFFF
    assert int.from_bytes(data[34 + offset : 36 + offset]) == expected
    assert data[: 34 + offset] + data[36 + offset :] == frame[: 34 + offset] + frame[36 + offset :]


def test_a_checksum_of_zero_is_written_as_ones(linked: Lab) -> None:
    frame = ethernet(2, bytes(20) + b"\xff\xff" + bytes(10), source=1)
    data = capture_one(linked, vnet_header(34, 4) + frame)
    assert data[38:40] == b"\xff\xff"


def test_a_cut_frame_has_its_checksum_completed_over_all_of_it(linked: Lab) -> None:
    segment = random.Random(1).randbytes(2000)
    data = capture_one(linked, vnet_header(34, 16) + ethernet(2, bytes(20) + segment, source=1), 60)
    assert int.from_bytes(data[50:52]) == internet_checksum(segment)


@pytest.mark.parametrize(
    ("start", "offset", "flags"),
    [
        (34, 16, 0),
        (34, 16, 2),
        (34, 0xFFFF, 1),
        (0xFFFF, 0, 1),
        (100, 0, 1),
        (34, 65, 1),
        (0xFFFF, 0xFFFF, 1),
    ],
)
def test_a_checksum_that_is_not_there_is_left_alone(linked: Lab, start: int, offset: int, flags: int) -> None:
    frame = ethernet(2, bytes(range(86)), source=1)
    assert len(frame) == 100
    assert capture_one(linked, vnet_header(start, offset, flags) + frame, lies=flags == 1) == frame


def test_the_largest_frame_is_captured_whole(linked: Lab) -> None:
    frame = ethernet(2, random.Random(2).randbytes(FRAME_SIZE_MAX - 14), source=1)
    assert capture_one(linked, NO_OFFLOAD + frame) == frame


def test_a_capture_that_diverts_ends_what_it_accepts() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        pump = lab[1].pump
        program, address = compile_filter("ether[14] = 7")
        capture = pump.capture_open(1 << 16, 0, program, address, -1)
        pump.capture_divert(capture, False, True)
        lab[1].send(2, b"\x07 taken")
        passed = lab[1].send(2, b"\x08 passes")
        assert lab[2].receive() == passed
        answer = lab[2].send(1, b"\x07 the other way")
        assert lab[1].receive() == answer
        assert [frame[1] for frame in read_all(lab[1], capture, 2)] == [FROM_GUEST, TO_GUEST]
        pump.capture_divert(capture, True, False)
        lab[2].send(1, b"\x07 taken")
        answer = lab[2].send(1, b"\x08 passes")
        assert lab[1].receive() == answer
        assert lab[1].count("drop_diverted") == 2
        pump.capture_close(capture)
        answer = lab[2].send(1, b"\x07 again")
        assert lab[1].receive() == answer, "the way is free once the capture has ended"
        with pytest.raises(KeyError):
            pump.capture_divert(capture, True, True)


def test_injected_frames_are_never_diverted() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = lab[1].pump.capture_open(1 << 16, 0, None, 0, -1)
        lab[1].pump.capture_divert(capture, True, True)
        lab[1].pump.inject(ethernet(2, b"out"))
        assert lab[2].receive() == NO_OFFLOAD + ethernet(2, b"out")
        assert lab[1].pump.inject(ethernet(1, b"in"), to_guest=True)
        assert lab[1].receive() == NO_OFFLOAD + ethernet(1, b"in")
        assert [frame[1] for frame in read_all(lab[1], capture, 2)] == [FROM_GUEST, TO_GUEST]
        counters = lab[1].pump.counters()
        assert (counters["injected_frames"], counters["injected_to_guest"]) == (1, 1)
        assert (counters["tx_frames"], counters["rx_frames"], counters["drop_diverted"]) == (1, 1, 0)
        lab[1].pump.set_link_up(False)
        lab[1].pump.inject(ethernet(1, b"nobody"), to_guest=True)
        assert lab[1].count("drop_link_down") == 1
        assert not lab[1].has_frame()


def test_what_is_diverted_and_finds_no_room_is_lost() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        capture = lab[1].pump.capture_open(0, 1000, None, 0, -1)
        lab[1].pump.capture_divert(capture, False, True)
        for _ in range(3):
            lab[1].send(2, bytes(1000))
        eventually(lambda: lab[1].count("drop_diverted") == 3)
        assert lab[1].pump.capture_close(capture) == 2
        assert not lab[2].has_frame()
