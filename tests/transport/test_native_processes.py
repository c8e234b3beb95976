"""Links between two sleeping processes: no wake-up is lost; a killed peer loses one record at most."""

import os
import random
import select
import signal
import zlib
from collections.abc import Callable

import pytest

from popnet.transport._native import PAYLOAD_MAX
from popnet.transport.doorbell import drain
from tests.transport.pair import HIGH, NORMAL, End, Pair

WAIT_MS = 60_000
"""A wake-up that takes longer is lost: far longer than any schedule of a busy machine."""


def in_child(work: Callable[[], None]) -> int:
    """Fork a process that does *work*; its exit status tells whether that succeeded."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def assert_succeeded(pid: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def sleep_until_kicked(end: End) -> None:
    poll = select.poll()
    poll.register(end.bell, select.POLLIN)
    assert poll.poll(WAIT_MS), "nobody rang: a wake-up is lost"
    drain(end.bell)


def receive(end: End, ring: int) -> bytes:
    while (record := end.link.receive(ring)) is None:
        if end.link.arm(ring):
            sleep_until_kicked(end)
            end.link.disarm(ring)
    return record[1]


def send(end: End, ring: int, data: bytes) -> None:
    while not end.link.send(ring, data):
        if end.link.arm_room(ring, len(data)):
            sleep_until_kicked(end)
            end.link.disarm_room(ring)


def test_ping_pong_loses_no_wake_up() -> None:
    rounds = 100_000

    def echo() -> None:
        for _ in range(rounds):
            send(pair.b, HIGH, receive(pair.b, HIGH))

    with Pair() as pair:
        child = in_child(echo)
        for number in range(rounds):
            data = number.to_bytes(8, "little")
            send(pair.a, HIGH, data)
            assert receive(pair.a, HIGH) == data
        assert_succeeded(child)
        assert pair.a.link.counters()["high_kicks"] > 0, "somebody slept"


@pytest.mark.parametrize(
    ("ring", "largest", "count"),
    [(HIGH, 200, 300_000), (HIGH, PAYLOAD_MAX[HIGH], 10_000), (NORMAL, PAYLOAD_MAX[NORMAL], 3_000)],
)
def test_a_stream_through_a_full_ring_loses_no_wake_up(ring: int, largest: int, count: int) -> None:
    def sizes() -> list[int]:
        return random.Random(largest).choices(range(largest + 1), k=count)

    material = random.Random(1).randbytes(largest + 256)

    def record(number: int, size: int) -> bytes:
        return material[number % 256 :][:size]

    def produce() -> None:
        for number, size in enumerate(sizes()):
            send(pair.b, ring, record(number, size))

    with Pair() as pair:
        child = in_child(produce)
        for number, size in enumerate(sizes()):
            assert receive(pair.a, ring) == record(number, size)
        assert_succeeded(child)


def test_both_directions_at_once() -> None:
    """Each process sends and receives as it can, and sleeps for both when it can do neither."""
    count, data = 20_000, bytes(3000)

    def exchange(end: End) -> None:
        sent = received = 0
        while sent < count or received < count:
            before = sent + received
            received += len(end.link.receive_many(HIGH, 64))
            while sent < count and end.link.send(HIGH, data):
                sent += 1
            if sent + received == before and arm(end, sent < count):
                sleep_until_kicked(end)
                end.link.disarm(HIGH)
                end.link.disarm_room(HIGH)

    def arm(end: End, for_room: bool) -> bool:
        return end.link.arm(HIGH) and (not for_room or end.link.arm_room(HIGH, len(data)))

    with Pair() as pair:
        child = in_child(lambda: exchange(pair.b))
        exchange(pair.a)
        assert_succeeded(child)


def test_killing_a_producer_in_mid_flood_loses_only_its_last_record() -> None:
    chance = random.Random(9)
    material = chance.randbytes(PAYLOAD_MAX[NORMAL])

    def flood() -> None:
        number = 0
        while True:
            body = material[: number * 7919 % (PAYLOAD_MAX[NORMAL] - 12)]
            send(pair.b, NORMAL, number.to_bytes(8, "little") + zlib.crc32(body).to_bytes(4, "little") + body)
            number += 1

    def check(data: bytes, number: int) -> None:
        assert int.from_bytes(data[:8], "little") == number
        assert int.from_bytes(data[8:12], "little") == zlib.crc32(data[12:])

    for _ in range(25):
        with Pair() as pair:
            child = in_child(flood)
            received = 0
            for _ in range(chance.randrange(1, 300)):
                check(receive(pair.a, NORMAL), received)
                received += 1
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            while record := pair.a.link.receive(NORMAL):
                check(record[1], received)
                received += 1
            assert pair.a.link.violation is None
            words = pair.b.window.words()["produced_normal"], pair.a.window.words()["consumed_normal"]
            assert words[0] == words[1], "all that was published was received"


def test_a_dead_consumer_blocks_nobody() -> None:
    with Pair() as pair:
        child = in_child(lambda: None)
        assert_succeeded(child)
        while pair.a.link.send(HIGH, bytes(1000)):
            pass
        assert pair.a.link.arm_room(HIGH, 1000), "waiting is the caller's choice"
        assert not pair.a.link.send(HIGH, bytes(1000))
