"""Tracing of endpoints: what is noted, in which order, over fake and real links; and nothing of it stays."""

import asyncio
import json

from popnet.message import codec
from popnet.message.codec import HEADER
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import Kind, Ring
from popnet.message.outbox import Outbox
from popnet.message.peer import Peer
from popnet.message.stream import Stream
from popnet.message.trace import TracedLink, TracedOutbox
from popnet.message.tracehalf import Received, Sent

from .ends import KIND, Alone, Ends, echo, everywhere, is_real, read_all, settle, until

Halves = list[Sent | Received]


def peers(endpoint: Endpoint) -> dict[int, Peer]:
    return endpoint._peers


def is_plain(endpoint: Endpoint) -> bool:
    """Whether not one link or outbox of *endpoint* is wrapped."""
    parts = [(peer._link, *peer._boxes.values()) for peer in peers(endpoint).values()]
    return not any(isinstance(part, TracedLink | TracedOutbox) for some in parts for part in some)


def kinds(halves: Halves, side: type, peer: int) -> list[int]:
    return [half.tag & 0xFFFF for half in halves if isinstance(half, side) and half.peer == peer]


def names(halves: Halves, side: type) -> list[tuple[int, int]]:
    """(ring, number) of each half of one side."""
    return [(half.ring, half.number) for half in halves if isinstance(half, side)]


@everywhere
async def test_a_message_has_the_same_name_at_both_ends_and_ordered_times(ends: Ends) -> None:
    got: list[bytes] = []
    ends.b.on(KIND, lambda kid, body: got.append(body))
    ends.a.post(2, KIND, b"before")
    await until(lambda: got == [b"before"])
    sender: Halves = []
    receiver: Halves = []
    ends.a.start_trace(sender.append)
    ends.b.start_trace(receiver.append)
    assert not is_plain(ends.a) and not is_plain(ends.b)
    ends.a.post(2, KIND, b"normal")
    ends.a.post(2, KIND, b"high", high=True)
    await until(lambda: len(receiver) == 2)
    assert got == [b"before", b"high", b"normal"]
    assert sorted(names(sender, Sent)) == sorted(names(receiver, Received)) == [(0, 0), (1, 1)]
    by_name = {(half.ring, half.number): half for half in receiver}
    for sent in sender:
        received = by_name[sent.ring, sent.number]
        assert isinstance(sent, Sent) and isinstance(received, Received)
        assert (sent.peer, sent.peer_generation) == (2, 5)
        assert (received.peer, received.peer_generation) == (1, 1)
        assert (sent.tag, sent.size, sent.payload) == (received.tag, received.size, received.payload)
        assert sent.payload == HEADER.pack(0, 5) + (b"normal", b"high")[sent.ring == Ring.HIGH]
        assert 0 < sent.enqueue_ns <= sent.publish_ns <= sent.sent_ns
        assert 0 < received.wake_ns <= received.taken_ns <= received.begin_ns <= received.handle_ns
        assert sent.publish_ns <= received.taken_ns


@everywhere
async def test_only_the_publish_that_rings_is_a_kick(ends: Ends) -> None:
    await settle()  # b sleeps
    halves: Halves = []
    ends.a.start_trace(halves.append)
    for _ in range(3):
        ends.a.post(2, KIND, b"")
    assert [half.kicked for half in halves if isinstance(half, Sent)] == [True, False, False]


@everywhere
async def test_what_waits_for_room_was_enqueued_when_it_began_to_wait(ends: Ends) -> None:
    sender: Halves = []
    receiver: Halves = []
    ends.b.on(KIND, lambda kid, body: None)
    ends.a.start_trace(sender.append)
    ends.b.start_trace(receiver.append)
    for _ in range(12):
        assert ends.a.post(2, KIND, bytes(60_000))
    waiting = 12 - len(sender)
    assert waiting > 0
    posted_ns = asyncio.get_running_loop().time() * 1e9  # CLOCK_MONOTONIC too
    await until(lambda: len(receiver) == 12)
    assert names(sender, Sent) == names(receiver, Received) == [(1, number) for number in range(12)]
    late = [half for half in sender if isinstance(half, Sent)][-waiting:]
    assert all(0 < half.enqueue_ns < posted_ns + 1e6 for half in late)
    assert all(half.enqueue_ns < half.publish_ns <= half.sent_ns for half in late)


@everywhere
async def test_every_fragment_of_a_long_message_is_traced(ends: Ends) -> None:
    sender: Halves = []
    got: list[int] = []
    ends.b.on(KIND, lambda kid, body: got.append(len(body)))
    ends.a.start_trace(sender.append)
    ends.a.post(2, KIND, bytes(1_000_000))
    await until(lambda: got)
    assert len(sender) == 16
    assert all(isinstance(half, Sent) and half.enqueue_ns for half in sender)


@everywhere
async def test_a_stream_is_seen_from_its_open_to_its_close(ends: Ends) -> None:
    ends.b.serve("echo", echo)
    halves: Halves = []
    ends.a.start_trace(halves.append)
    stream = await ends.a.open(2, "echo")
    await stream.send(b"hello")
    await stream.close()
    assert await read_all(stream) == [(0, b"hello")]
    assert kinds(halves, Sent, 2) == [Kind.OPEN, Kind.DATA, Kind.CLOSE]
    await until(lambda: Kind.CLOSE in kinds(halves, Received, 2))
    assert kinds(halves, Received, 2)[:3] == [Kind.ACCEPT, Kind.DATA, Kind.CLOSE]


@everywhere
async def test_a_kernel_s_link_to_itself_is_traced_with_both_halves(ends: Ends) -> None:
    halves: Halves = []
    ends.a.on(KIND, lambda kid, body: None)
    ends.a.start_trace(halves.append)
    ends.a.post(1, KIND, b"x")
    await until(lambda: len(halves) == 2)
    assert names(halves, Sent) == names(halves, Received)


async def waiting_service(stream: Stream) -> None:
    await read_all(stream)


@everywhere
async def test_trace_streams_are_not_traced_and_others_are(ends: Ends) -> None:
    """One that is there when the trace starts, one that is opened later, from either end."""
    for endpoint in (ends.a, ends.b):
        endpoint.serve("trace", waiting_service)
        endpoint.serve("other", waiting_service)
    first = await ends.a.open(2, "trace")
    halves: Halves = []
    ends.a.start_trace(halves.append)
    ends.b.start_trace(halves.append)
    streams = [first, await ends.b.open(1, "trace"), await ends.a.open(1, "trace")]
    for stream in streams:
        await stream.send(bytes(100_000))  # enough for credit to come back
        await stream.close()
    for stream in streams:
        await read_all(stream)
    await settle()
    assert halves == []
    await ends.a.open(2, "other")
    assert Kind.OPEN in kinds(halves, Sent, 2)  # the negative control


@everywhere
async def test_the_last_one_that_stops_leaves_everything_plain(ends: Ends) -> None:
    plain = {kid: (peer._link, dict(peer._boxes)) for kid, peer in peers(ends.a).items()}
    one: Halves = []
    two: Halves = []
    ends.a.start_trace(one.append)
    ends.a.start_trace(two.append)
    ends.a.post(2, KIND, b"")
    assert one == two != []
    ends.a.stop_trace(one.append)  # bound methods of one list are equal
    ends.a.stop_trace(one.append)
    assert not is_plain(ends.a)
    ends.a.post(2, KIND, b"")
    assert (len(one), len(two)) == (1, 2)
    ends.a.stop_trace(two.append)
    assert is_plain(ends.a)
    assert {kid: (peer._link, peer._boxes) for kid, peer in peers(ends.a).items()} == plain
    ends.a.post(2, KIND, b"")
    assert len(two) == 2


@everywhere
async def test_what_waits_when_a_trace_starts_or_stops_is_not_lost(ends: Ends) -> None:
    got: list[bytes] = []
    halves: Halves = []
    ends.b.on(KIND, lambda kid, body: got.append(body[:1]))
    for number in range(10):
        ends.a.post(2, KIND, bytes([number]) * 60_000)
    ends.a.start_trace(halves.append)
    for number in range(10, 20):
        ends.a.post(2, KIND, bytes([number]) * 60_000)
    await until(lambda: len(halves) > 3)
    ends.a.stop_trace(halves.append)
    await until(lambda: len(got) == 20)
    assert got == [bytes([number]) for number in range(20)]
    old = next(half for half in halves if isinstance(half, Sent))
    assert old.enqueue_ns == 0 < old.publish_ns  # nobody looked when it was enqueued


@everywhere
async def test_a_link_that_comes_during_a_trace_is_traced(ends: Ends) -> None:
    halves: Halves = []
    ends.a.start_trace(halves.append)
    ends.a.remove_link(2, "test")
    ends.a.add_link(2, 6, ends.pair.a)
    ends.a.post(2, KIND, b"")
    assert [half.peer_generation for half in halves] == [6]


@everywhere
async def test_nonsense_ends_a_traced_link_as_any_other(alone: Alone) -> None:
    halves: Halves = []
    alone.a.start_trace(halves.append)
    alone.say(Ring.NORMAL, KIND, body=b"good")
    alone.pair.b.send(Ring.NORMAL, b"bad", codec.tag_of(KIND))
    alone.say(Ring.NORMAL, KIND, body=b"never handled")
    await until(lambda: alone.violations)
    assert [half.payload[8:] for half in halves if isinstance(half, Received)] == [b"good", b""]
    assert "too short" in alone.violations[0][1]


@everywhere
async def test_an_open_with_bad_json_is_no_trace_stream(alone: Alone) -> None:
    halves: Halves = []
    alone.a.start_trace(halves.append)
    for body in (b"{", b"[1]", json.dumps({"service": ["trace"]}).encode()):
        alone.say(Ring.NORMAL, Kind.OPEN, id=3, body=body)
    await until(lambda: kinds(halves, Received, 2))
    assert kinds(halves, Received, 2)[0] == Kind.OPEN


@everywhere
async def test_a_traced_link_has_all_that_the_plain_one_has(ends: Ends) -> None:
    ends.a.start_trace(lambda half: None)
    traced = peers(ends.a)[2]._link
    assert isinstance(traced, TracedLink)
    assert traced.closed is False
    assert traced.counters() == ends.pair.a.counters()
    if is_real(ends):
        assert traced.violation is None


def test_a_traced_outbox_is_the_outbox() -> None:
    plain = Outbox(100)
    enqueued: dict[int, int] = {}
    clock = iter(range(1, 10))
    box = TracedOutbox(plain, lambda: next(clock), enqueued)
    assert not box
    first, second = b"first", b"second"
    box.put(1, first)
    box.put_message(iter([(2, second)]), 6)
    assert box and plain
    assert box.has_place(94) and not box.has_place(95)
    assert list(box.staged()) == list(plain.staged()) == [(1, first), (2, second)]
    assert enqueued == {id(first): 1, id(second): 2}
    box.sent(2)
    assert not plain
