"""The services `capture` and `inject` on a fake pump, their clients at the other end of a stream."""

import asyncio
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from popnet.control.spoolreader import CHANNEL, SpoolReader
from popnet.core import addresses
from popnet.core.errors import Refused, StreamClosed
from popnet.core.limits import FRAME_SIZE_MAX
from popnet.message.stream import Stream, pair
from popnet.net import capture
from popnet.net.capture import CaptureRequest, serve_capture, serve_inject
from popnet.net.pump import FakePump
from tests.net import frames
from tests.net.blocks import frames_of

ARP = frames.arp(1)
PING = frames.ipv4(1, frames.echo())
SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = eventfds()
    yield
    assert eventfds() <= before  # fewer: of an earlier test, collected meanwhile


def eventfds() -> int:
    """How many eventfds this process has open."""
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += "eventfd" in str(entry.readlink())
        except FileNotFoundError:  # the directory's own
            continue
    return found


class Client:
    """Reads pcapng blocks from a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._data = b""

    async def block(self) -> tuple[int, bytes] | None:
        """(type, body) of the next block, None at the end."""
        while len(self._data) < 8 or len(self._data) < struct.unpack_from("<I", self._data, 4)[0]:
            item = await self.stream.receive()
            if item is None:
                assert self._data == b""
                return None
            assert item[0] == 0
            self._data += item[1]
        kind, length = struct.unpack_from("<II", self._data)
        body, self._data = self._data[8 : length - 4], self._data[length:]
        return kind, body

    async def rest(self) -> list[tuple[int, bytes]]:
        blocks = []
        while (block := await self.block()) is not None:
            blocks.append(block)
        return blocks


def packet(body: bytes) -> tuple[int, int, bytes]:
    """(time in ns, original length, bytes kept) of the body of a packet block."""
    _interface, high, low, kept, original = struct.unpack_from("<5I", body)
    return high << 32 | low, original, body[20 : 20 + kept]


async def opened(pump: FakePump, **params: Any) -> tuple[Client, asyncio.Task[None]]:
    """A client whose capture has begun: it has read the first two blocks."""
    near, far = pair("capture", params)
    task = asyncio.create_task(serve_capture(far, pump, "k1/eth0", 1))
    client = Client(near)
    head = [await client.block(), await client.block()]
    assert [block[0] for block in head if block] == [SECTION, INTERFACE]
    assert head[1] is not None
    assert b"k1/eth0" in head[1][1]
    return client, task


async def test_frames_are_sent_as_they_pass_and_counted_at_the_end() -> None:
    pump = FakePump()
    client, task = await opened(pump)
    pump.frame(1 << 60, 0, ARP)
    block = await client.block()
    assert block is not None
    assert block[0] == PACKET
    assert packet(block[1]) == (1 << 60, 42, ARP)
    pump.frame(5, 1, PING)
    await client.stream.close()
    blocks = await client.rest()
    assert [kind for kind, _ in blocks] == [PACKET, STATISTICS]
    assert packet(blocks[0][1]) == (5, len(PING), PING)
    assert client.stream.result == {"captured": 2, "dropped": 0}
    await task
    assert pump.captures == []


async def test_the_head_comes_before_any_frame_and_names_the_filter_and_the_length() -> None:
    near, far = pair("capture", {"filter": " icmp ", "snap_length": 20})
    pump = FakePump()
    task = asyncio.create_task(serve_capture(far, pump, "k9/eth0", 9))
    client = Client(near)
    await client.block()
    block = await client.block()
    assert block is not None
    assert struct.unpack_from("<HHI", block[1]) == (1, 0, 20)
    assert b"k9/eth0" in block[1]
    assert b"\0icmp\0" in block[1]
    assert bytes.fromhex("02706f706e09") in block[1]
    pump.frame(1, 0, ARP)
    pump.frame(2, 0, PING)
    await near.close()
    blocks = await client.rest()
    assert [packet(body) for kind, body in blocks if kind == PACKET] == [(2, len(PING), PING[:20])]
    assert near.result == {"captured": 1, "dropped": 0}
    await task


async def test_a_slow_client_loses_frames_of_its_capture_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "CAPTURE_SIZE", 10_000)
    pump = FakePump()
    slow, slow_task = await opened(pump)
    fast, fast_task = await opened(pump)
    for time_ns in range(400):  # far more than the window of a stream and the buffer hold
        pump.frame(time_ns, 0, bytes(1000))
        block = await fast.block()
        assert block is not None
        assert packet(block[1])[0] == time_ns
    await asyncio.gather(slow.stream.close(), fast.stream.close())
    kept = [packet(body)[0] for kind, body in await slow.rest() if kind == PACKET]
    await fast.rest()
    assert fast.stream.result == {"captured": 400, "dropped": 0}
    assert slow.stream.result == {"captured": len(kept), "dropped": 400 - len(kept)}
    assert 0 < len(kept) < 400
    assert kept == list(range(len(kept)))
    await asyncio.gather(slow_task, fast_task)


async def test_more_frames_than_one_record_holds_are_all_sent() -> None:
    pump = FakePump()
    client, task = await opened(pump)
    for time_ns in range(2000):
        pump.frame(time_ns, 1, ARP)
    await client.stream.close()
    assert [packet(body)[0] for kind, body in await client.rest() if kind == PACKET] == list(range(2000))
    await task


async def test_frames_that_pass_after_the_end_do_not_delay_it() -> None:
    class Flooded(FakePump):
        def capture_blocks(self, capture_id: int, interface: int, size: int, /) -> tuple[bytes, int, int]:
            self.frame(1 << 62, 0, ARP)  # captured long after any end of this test
            return super().capture_blocks(capture_id, interface, size)

    client, task = await opened(Flooded())
    await client.stream.close()
    assert [kind for kind, _ in await client.rest()] == [PACKET, STATISTICS]
    await task


def counts(body: bytes) -> tuple[int, int, int, int]:
    """(interface, time in ns, captured, dropped) of the body of a block of statistics."""
    interface, high, low = struct.unpack_from("<III", body)
    received, dropped, delivered = struct.unpack_from("<4xQ4xQ4xQ", body, 12)
    assert received == delivered + dropped
    return interface, high << 32 | low, delivered, dropped


async def test_statistics_follow_the_frames_when_some_were_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "CAPTURE_SIZE", 2 * len(ARP))
    pump = FakePump()
    client, task = await opened(pump)
    for time_ns in range(5):
        pump.frame(time_ns, 0, ARP)
    blocks = [await client.block() for _ in range(3)]
    assert [block and block[0] for block in blocks] == [PACKET, PACKET, STATISTICS]
    assert blocks[2] is not None
    assert counts(blocks[2][1])[2:] == (2, 3)
    pump.frame(5, 0, ARP)
    await client.stream.close()
    assert [kind for kind, _ in await client.rest()] == [PACKET, STATISTICS], "told once"
    await task


async def test_who_asks_is_told_that_all_from_before_was_sent() -> None:
    pump = FakePump()
    client, task = await opened(pump, interface=7)
    before = time.time_ns()
    pump.frame(before, 0, ARP)
    await client.stream.send(b"?")
    blocks = [await client.block(), await client.block()]
    assert [block and block[0] for block in blocks] == [PACKET, STATISTICS]
    assert blocks[1] is not None
    interface, time_ns, captured, dropped = counts(blocks[1][1])
    assert (interface, captured, dropped) == (7, 1, 0)
    assert before <= time_ns <= time.time_ns()
    await client.stream.close()
    await client.rest()
    await task


async def test_an_answer_does_not_wait_for_the_end_of_a_flood() -> None:
    class Flooded(FakePump):
        def capture_blocks(self, capture_id: int, interface: int, size: int, /) -> tuple[bytes, int, int]:
            self.frame(time.time_ns(), 0, ARP)
            return super().capture_blocks(capture_id, interface, size)

    client, task = await opened(Flooded())
    await client.stream.send(b"?")
    while (block := await client.block()) is not None and block[0] == PACKET:
        continue
    assert block is not None and block[0] == STATISTICS
    await client.stream.close()
    await client.rest()
    await task


async def pieces(client: Client, reader: SpoolReader, count: int) -> list[bytes]:
    """*count* pieces from the ring; everything else would be a failure."""
    found = []
    while len(found) < count:
        item = await client.stream.receive()
        assert item is not None and item[0] == CHANNEL
        blocks, answer = reader.take(item[1])
        await client.stream.send(answer, CHANNEL)
        if blocks:
            found.append(blocks)
    return found


async def test_frames_ride_the_ring_if_the_client_can_read_it() -> None:
    pump = FakePump()
    client, task = await opened(pump, spool=True)
    reader = SpoolReader()
    pump.frame(7, 0, ARP)
    assert [frames_of(blocks) for blocks in await pieces(client, reader, 1)] == [[(7, 0, 42, ARP)]]
    pump.frame(8, 1, PING)
    await client.stream.close()
    assert [kind for kind, _ in await client.rest()] == [PACKET, STATISTICS], (
        "after a stop, all rides the stream"
    )
    assert client.stream.result == {"captured": 2, "dropped": 0}
    await task
    reader.close()


async def test_frames_ride_the_stream_if_the_client_cannot() -> None:
    pump = FakePump()
    client, task = await opened(pump, spool=True)
    pump.frame(7, 0, ARP)
    item = await client.stream.receive()
    assert item is not None and item[0] == CHANNEL
    await client.stream.send(b"n", CHANNEL)
    block = await client.block()
    assert block is not None and block[0] == PACKET
    await client.stream.close()
    await client.rest()
    await task


async def test_a_client_that_never_answers_can_still_stop() -> None:
    pump = FakePump()
    client, task = await opened(pump, spool=True)
    pump.frame(7, 0, ARP)
    assert await client.stream.receive() is not None
    await client.stream.close()
    assert [kind for kind, _ in await client.rest()] == [PACKET, STATISTICS]
    await task


def between(source: int, destination: int | None) -> bytes:
    """An ARP request from kernel *source* to *destination*, or to all."""
    target = addresses.mac(destination) if destination is not None else b"\xff" * 6
    return target + addresses.mac(source) + ARP[12:]


@pytest.mark.parametrize("text", ["", "arp", "arp or icmp"])
async def test_a_link_is_what_its_two_kernels_say_to_each_other(text: str) -> None:
    pump = FakePump()
    client, task = await opened(pump, peer=2, filter=text)
    wanted = [(1, 2), (2, 1), (1, None), (2, None)]
    for source, destination in [(1, 3), (3, 1), (3, None), (2, 3), *wanted, (1, 0)]:
        pump.frame(source << 8 | (destination or 255), 0, between(source, destination))
    pump.frame(1, 0, addresses.mac(2) + addresses.mac(1) + frames.ipv6(17, frames.udp(1, 2, b""))[12:])
    await client.stream.close()
    times = [packet(body)[0] for kind, body in await client.rest() if kind == PACKET]
    assert times[:4] == [source << 8 | (destination or 255) for source, destination in wanted]
    assert times[4:] == ([] if text else [1])
    await task


async def test_a_client_that_goes_away_ends_the_capture() -> None:
    pump = FakePump()
    client, task = await opened(pump)
    client.stream.abort()
    await task
    assert pump.captures == []


async def test_a_client_that_stops_but_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "DRAIN_S", 0.0)
    pump = FakePump()
    client, task = await opened(pump)
    for time_ns in range(400):
        pump.frame(time_ns, 0, bytes(1000))
    await client.stream.close()
    await task
    assert pump.captures == []
    with pytest.raises(StreamClosed):
        await client.rest()


async def test_a_service_that_is_cancelled_closes_its_capture() -> None:
    pump = FakePump()
    _client, task = await opened(pump)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pump.captures == []


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"filter": 7}, "filter is a string, got 7"),
        ({"filter": "icmp and"}, "syntax error"),
        ({"snap_length": -1}, "snap_length is 0 to 65550 bytes, got -1"),
        ({"snap_length": FRAME_SIZE_MAX + 1}, "got 65551"),
        ({"snap_length": True}, "got True"),
        ({"snap_length": "96"}, "got '96'"),
        ({"peer": "k2"}, "peer is 0 to 254, got 'k2'"),
        ({"interface": -1}, "interface is 0 to 1048576, got -1"),
        ({"peer": 2, "filter": "arp) or (icmp"}, "filter 'arp\\) or \\(icmp'"),
    ],
)
async def test_bad_parameters_are_refused(params: dict[str, Any], says: str) -> None:
    _near, far = pair("capture", params)
    pump = FakePump()
    with pytest.raises(Refused, match=says):
        await serve_capture(far, pump, "k1/eth0", 1)
    assert pump.captures == []


async def test_one_capture_too_many_is_refused() -> None:
    _near, far = pair("capture")
    pump = FakePump()
    pump.captures_max = 0
    with pytest.raises(Refused, match="0 captures already"):
        await serve_capture(far, pump, "k1/eth0", 1)


def test_parameters_have_defaults() -> None:
    assert CaptureRequest.parse({}) == CaptureRequest("", FRAME_SIZE_MAX, None, 0)
    assert CaptureRequest.parse({"snap_length": 0}).snap_length == FRAME_SIZE_MAX
    assert CaptureRequest.parse({"filter": "  ", "snap_length": 96}) == CaptureRequest("", 96)


async def test_each_chunk_is_injected_as_a_frame() -> None:
    near, far = pair("inject")
    pump = FakePump()
    task = asyncio.create_task(serve_inject(far, pump))
    sent = [ARP, bytes(14), bytes(FRAME_SIZE_MAX)]
    for frame in sent:
        await near.send(frame)
    await near.close()
    assert await near.receive() is None
    assert near.result == {"injected": 3, "dropped": 0}
    assert pump.injected == sent
    await task


async def test_a_full_queue_is_waited_for_a_little() -> None:
    near, far = pair("inject")
    pump = FakePump()
    tries = len(capture.INJECT_WAITS_S) + 1
    pump.refusals = tries + tries - 1  # the first frame never finds room, the second at its last try
    task = asyncio.create_task(serve_inject(far, pump))
    await near.send(ARP)
    await near.send(PING)
    await near.close()
    assert await near.receive() is None
    assert near.result == {"injected": 1, "dropped": 1}
    assert pump.injected == [PING]
    await task


@pytest.mark.parametrize("size", [13, FRAME_SIZE_MAX + 1])
async def test_what_is_no_frame_by_its_size_is_refused(size: int) -> None:
    near, far = pair("inject")
    pump = FakePump()
    await near.send(ARP)
    await near.send(bytes(size))
    with pytest.raises(Refused, match=f"14 to 65550 bytes, not {size}"):
        await serve_inject(far, pump)
    assert pump.injected == [ARP]


async def test_a_client_of_inject_that_goes_away_is_no_error() -> None:
    near, far = pair("inject")
    near.abort()
    await serve_inject(far, FakePump())


async def test_frames_are_injected_to_the_guest_if_asked() -> None:
    pump = FakePump()
    near, far = pair("inject", {"direction": "in"})
    task = asyncio.create_task(serve_inject(far, pump))
    await near.send(PING)
    await near.close()
    assert await near.receive() is None
    await task
    assert (pump.given, pump.injected) == ([PING], [])
    with pytest.raises(Refused, match="in or out, got 'up'"):
        await serve_inject(pair("inject", {"direction": "up"})[1], pump)


async def test_what_is_diverted_goes_no_further_until_the_capture_ends() -> None:
    pump = FakePump()
    client, task = await opened(pump, divert="out")
    pump.frame(1, 1, PING)
    pump.frame(2, 0, ARP)
    await client.stream.close()
    assert [packet(body)[2] for kind, body in await client.rest() if kind == PACKET] == [PING, ARP]
    await task
    pump.frame(3, 1, PING)
    assert pump.passed == [(0, ARP), (1, PING)]
    with pytest.raises(Refused, match="in, out or both, got 'up'"):
        CaptureRequest.parse({"divert": "up"})


async def test_super_frames_are_kept_whole_if_asked() -> None:
    pump = FakePump()
    plain, first = await opened(pump)
    whole, second = await opened(pump, super_frames=True)
    assert (pump.captures, pump.keeping_whole) == ([1, 2], [2])
    for client, task in ((plain, first), (whole, second)):
        await client.stream.close()
        await client.rest()
        await task
    with pytest.raises(Refused, match="super_frames is true or false, got 1"):
        CaptureRequest.parse({"super_frames": 1})
