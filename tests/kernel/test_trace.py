"""The service `trace`: what its client gets, what it never costs anybody else, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from popnet.core.errors import Refused
from popnet.core.limits import STREAM_RECORD_MAX
from popnet.kernel.trace import NOTES, PAYLOAD_MAX, TRACES_MAX, TraceRequest, TraceService
from popnet.message.kinds import Kind
from popnet.message.stream import Stream, pair
from popnet.message.tracehalf import HEAD, Received, Sent, pack, unpack
from tests.message.ends import KIND, Ends, running, settle, until
from tests.message.links import link_pair
from tests.message.test_trace import is_plain


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """Kernel 1 and kernel 2, which takes what comes."""
    links = link_pair("fake")
    made = Ends(links)
    made.b.on(KIND, lambda kid, body: None)
    made.b.on(KIND + 1, lambda kid, body: None)
    async with asyncio.timeout(20), running(made):
        yield made
    links.close()


class Trace:
    """A client of the trace of `ends.a`: `about` is the first note, `halves` what came."""

    def __init__(self, ends: Ends, service: TraceService | None = None, **params: Any) -> None:
        self.client, far = pair("trace", params)
        self.task = asyncio.ensure_future(_run(service or TraceService(ends.a), far))
        self.about: dict[str, Any] = {}
        self.notes: list[dict[str, Any]] = []
        self.halves: list[Sent | Received] = []

    async def begun(self) -> "Trace":
        item = await self.client.receive()
        assert item is not None and item[0] == NOTES
        self.about = json.loads(item[1])
        return self

    async def end(self) -> dict[str, Any]:
        """Stop it, and read all of it."""
        await self.client.close()
        while (item := await self.client.receive()) is not None:
            if item[0] == NOTES:
                self.notes.append(json.loads(item[1]))
            else:
                self.halves += unpack(item[1])
        await self.task
        assert self.client.result is not None
        return self.client.result


async def _run(service: Callable[[Stream], Awaitable[None]], stream: Stream) -> None:
    await service(stream)


async def test_what_was_traced_before_the_end_arrives(ends: Ends) -> None:
    trace = await Trace(ends).begun()
    assert trace.about.keys() == {"kid", "generation", "wall_offset_ns"}
    assert (trace.about["kid"], trace.about["generation"]) == (1, 1)
    ends.a.post(2, KIND, b"one")
    ends.a.post(2, KIND, b"two")
    assert await trace.end() == {"traced": 2, "lost": 0}
    assert [half.payload[8:] for half in trace.halves] == [b"one", b"two"]
    assert is_plain(ends.a)
    ends.a.post(2, KIND, b"three")
    assert len(trace.halves) == 2


async def test_a_trace_that_goes_on_sends_what_it_has(ends: Ends) -> None:
    trace = await Trace(ends).begun()
    ends.a.post(2, KIND, b"one")
    item = await trace.client.receive()
    assert item is not None and [half.payload[8:] for half in unpack(item[1])] == [b"one"]
    await trace.end()


async def test_kinds_kernels_and_bytes_may_be_chosen(ends: Ends) -> None:
    by_kind = await Trace(ends, kinds=[KIND], snap_length=10).begun()
    by_other = await Trace(ends, kids=[7]).begun()
    by_peer = await Trace(ends, kids=[2]).begun()
    by_self = await Trace(ends, kids=[1]).begun()
    ends.a.post(2, KIND, b"one")
    ends.a.post(2, KIND + 1, b"two")
    results = [await trace.end() for trace in (by_kind, by_other, by_peer, by_self)]
    assert [result["traced"] for result in results] == [1, 0, 2, 2]
    assert (by_kind.halves[0].payload[8:], by_kind.halves[0].size) == (b"on", 11)
    assert is_plain(ends.a)


async def test_a_slow_client_loses_halves_and_holds_up_nobody(ends: Ends) -> None:
    trace = await Trace(ends, TraceService(ends.a, 1000)).begun()
    for _ in range(100):
        assert ends.a.post(2, KIND, b"")
    fit = 1000 // (HEAD.size + 8)
    assert await trace.end() == {"traced": 100, "lost": 100 - fit}
    assert trace.notes == [{"lost": 100 - fit}]
    assert [half.number for half in trace.halves] == list(range(fit))


async def test_a_client_that_goes_leaves_plain_links(ends: Ends) -> None:
    trace = await Trace(ends).begun()
    assert not is_plain(ends.a)
    trace.client.abort()
    ends.a.post(2, KIND, b"one")
    await trace.task
    assert is_plain(ends.a)


async def test_a_service_that_is_cancelled_leaves_plain_links(ends: Ends) -> None:
    trace = await Trace(ends).begun()
    trace.task.cancel()
    await asyncio.wait([trace.task])
    assert trace.task.cancelled()
    assert is_plain(ends.a)


async def test_the_trace_of_a_stream_over_links_does_not_feed_itself(ends: Ends) -> None:
    """The real way: client at kernel 2, service at kernel 1, and both are traced."""
    for endpoint in (ends.a, ends.b):
        endpoint.serve("trace", TraceService(endpoint))
    streams = [await ends.b.open(1, "trace"), await ends.b.open(2, "trace"), await ends.a.open(2, "trace")]
    await settle()
    for stream in streams:
        assert await stream.receive() is not None  # the note at the beginning
    ends.a.post(2, KIND, b"once")
    await until(lambda: ends.b.counters_total["received"] > 0)
    results = []
    for stream in streams:
        await stream.close()
        while (item := await stream.receive()) is not None:
            assert item[0] != NOTES
        results.append(stream.result)
    assert results == [{"traced": 1, "lost": 0}] * 3


async def test_there_are_not_too_many(ends: Ends) -> None:
    service = TraceService(ends.a)
    traces = [await Trace(ends, service).begun() for _ in range(TRACES_MAX)]
    with pytest.raises(Refused, match="8 traces are running"):
        await Trace(ends, service).task
    for trace in traces:
        await trace.end()
    await (await Trace(ends, service).begun()).end()


@pytest.mark.parametrize(
    "params",
    [
        {"kinds": 4},
        {"kinds": ["DATA"]},
        {"kinds": [1 << 16]},
        {"kids": [-1]},
        {"kids": [True]},
        {"snap_length": "all"},
        {"snap_length": -1},
    ],
)
async def test_bad_parameters_are_refused(ends: Ends, params: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="trace: "):
        await Trace(ends, **params).task
    assert is_plain(ends.a)


async def test_the_largest_half_rides_one_record(ends: Ends) -> None:
    trace = await Trace(ends).begun()
    assert ends.a.post(2, KIND, bytes(64 << 10))
    await trace.end()
    [half] = trace.halves
    assert half.size == (64 << 10) + 8
    assert len(half.payload) == PAYLOAD_MAX
    assert len(pack(half)) == STREAM_RECORD_MAX


def test_a_request_without_parameters_wants_everything() -> None:
    request = TraceRequest.parse({})
    assert request == TraceRequest(frozenset(), frozenset(), PAYLOAD_MAX)
    half = Sent(0, 5, 1, 0, Kind.DATA, 8, bytes(8), 1, 1, 1, False)
    assert request.wants(half, 9)
