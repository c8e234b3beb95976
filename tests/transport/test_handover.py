"""Handover: JSON and descriptors arrive together or not at all."""

import array
import fcntl
import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.core.errors import LinkViolation
from popnet.transport.handover import (
    DESCRIPTORS_MAX,
    PACKET_SIZE_MAX,
    create_handover,
    receive_packet,
    send_packet,
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = create_handover()
    with a, b:
        yield a, b


Ends = tuple[socket.socket, socket.socket]


@pytest.fixture(autouse=True, scope="module")
def no_collector() -> Iterator[None]:
    """What earlier tests left in cycles must not be closed between two counts of descriptors."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def open_descriptors() -> int:
    gc.collect()  # those of earlier tests
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_arrive_close_on_exec_and_open_the_same_file(ends: Ends) -> None:
    bell = os.eventfd(7)
    send_packet(ends[0], {"kid": 3}, [bell, bell])
    os.close(bell)
    packet = receive_packet(ends[1])
    assert packet is not None
    message, fds = packet
    assert message == {"kid": 3}
    assert len(fds) == 2
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in fds)
    assert os.eventfd_read(fds[0]) == 7
    for fd in fds:
        os.close(fd)


def test_packets_keep_their_bounds(ends: Ends) -> None:
    for number in range(5):
        send_packet(ends[0], {"n": number})
    assert [receive_packet(ends[1]) for _ in range(5)] == [({"n": number}, []) for number in range(5)]


def test_the_largest_packet_and_the_most_descriptors(ends: Ends) -> None:
    padding = "x" * (PACKET_SIZE_MAX - len('{"p":""}'))
    send_packet(ends[0], {"p": padding}, [0] * DESCRIPTORS_MAX)
    packet = receive_packet(ends[1])
    assert packet is not None
    assert packet[0] == {"p": padding}
    assert len(packet[1]) == DESCRIPTORS_MAX
    for fd in packet[1]:
        os.close(fd)
    with pytest.raises(ValueError, match="larger"):
        send_packet(ends[0], {"p": padding + "x"})
    with pytest.raises(ValueError, match="more than"):
        send_packet(ends[0], {}, [0] * (DESCRIPTORS_MAX + 1))


def test_a_closed_peer_is_the_end(ends: Ends) -> None:
    send_packet(ends[0], {"last": True})
    ends[0].close()
    assert receive_packet(ends[1]) == ({"last": True}, [])
    assert receive_packet(ends[1]) is None
    with pytest.raises(BrokenPipeError):
        send_packet(ends[1], {})


def test_a_peer_that_died_with_our_packets_unread_is_the_end_too(ends: Ends) -> None:
    send_packet(ends[1], {})
    ends[0].close()
    assert receive_packet(ends[1]) is None


def test_an_empty_non_blocking_socket_says_so(ends: Ends) -> None:
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        receive_packet(ends[1])


NONSENSE = st.sampled_from([b"[]", b"1", b'"x"', b"null", b"{", b"[" * 60000])


@settings(deadline=None)
@given(data=NONSENSE | st.binary(min_size=1, max_size=200).filter(lambda data: data.strip()[:1] != b"{"))
def test_nonsense_is_a_violation_and_leaves_no_descriptor(data: bytes) -> None:
    a, b = create_handover()
    with a, b:
        before = open_descriptors()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1]))
        a.sendmsg([data], [rights])
        with pytest.raises(LinkViolation):
            receive_packet(b)
        assert open_descriptors() == before


def test_a_packet_that_is_too_large_is_a_violation(ends: Ends) -> None:
    ends[0].send(b'{"p":"' + b"x" * PACKET_SIZE_MAX + b'"}')
    with pytest.raises(LinkViolation, match="too large"):
        receive_packet(ends[1])


def test_an_empty_packet_with_descriptors_is_a_violation(ends: Ends) -> None:
    before = open_descriptors()
    ends[0].sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    with pytest.raises(LinkViolation):
        receive_packet(ends[1])
    assert open_descriptors() == before
