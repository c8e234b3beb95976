"""The fake pump keeps what PumpLike promises."""

import os
from collections.abc import Iterator

import pytest

from popnet.net.filter import compile_filter
from popnet.net.pump import FakePump, PumpLike
from tests.net import frames
from tests.net.blocks import frames_of

ARP = frames.arp(1)
PING = frames.ipv4(1, frames.echo())


@pytest.fixture
def bell() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def test_frames_wait_in_order_and_ring_once(bell: int) -> None:
    pump = FakePump()
    assert isinstance(pump, FakePump)
    like: PumpLike = pump
    capture = like.capture_open(1000, 10, None, 0, bell)
    for time_ns in range(3):
        pump.frame(time_ns, time_ns % 2, ARP)
    assert os.eventfd_read(bell) == 1
    blocks, count, last_ns = like.capture_blocks(capture, 3, 2 * 56)
    assert frames_of(blocks, 3) == [(0, 0, 42, ARP[:10]), (1, 1, 42, ARP[:10])]
    assert (count, last_ns) == (2, 1)
    assert frames_of(like.capture_blocks(capture, 0, 0)[0]) == [(2, 0, 42, ARP[:10])], "one, though too large"
    assert like.capture_blocks(capture, 0, 1000) == (b"", 0, 0)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(bell)
    pump.frame(3, 0, ARP)
    assert os.eventfd_read(bell) == 1


def test_a_full_buffer_drops_and_counts(bell: int) -> None:
    pump = FakePump()
    capture = pump.capture_open(2 * len(ARP), 100, None, 0, bell)
    for time_ns in range(5):
        pump.frame(time_ns, 0, ARP)
    assert pump.capture_blocks(capture, 0, 1000)[1] == 2
    assert pump.capture_dropped(capture) == 3
    pump.frame(5, 0, ARP)
    assert pump.capture_blocks(capture, 0, 1000)[1:] == (1, 5)
    assert pump.capture_close(capture) == 3
    assert pump.captures == []
    pump.frame(6, 0, ARP)


def test_each_capture_has_its_filter(bell: int) -> None:
    pump = FakePump()
    wanted = compile_filter("icmp", 65535)
    some = pump.capture_open(1000, 65535, wanted.program, wanted.function_address, bell)
    every = pump.capture_open(1000, 65535, None, 0, bell)
    pump.frame(1, 0, ARP)
    pump.frame(2, 1, PING)
    assert frames_of(pump.capture_blocks(some, 0, 1000)[0]) == [(2, 1, len(PING), PING)]
    assert pump.capture_blocks(every, 0, 1000)[1] == 2


def test_there_are_so_many_captures_and_no_more(bell: int) -> None:
    pump = FakePump()
    pump.captures_max = 1
    capture = pump.capture_open(1000, 65535, None, 0, bell)
    with pytest.raises(RuntimeError, match="1 captures already"):
        pump.capture_open(1000, 65535, None, 0, bell)
    pump.capture_close(capture)
    pump.capture_open(1000, 65535, None, 0, bell)


def test_injected_frames_are_kept_unless_the_queue_is_full() -> None:
    pump = FakePump()
    pump.refusals = 1
    assert not pump.inject(ARP)
    assert pump.inject(ARP)
    assert pump.injected == [ARP]
