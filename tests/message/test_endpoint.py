"""Endpoints over fake and real links, on both event loops: streams, messages, calls, every way they end."""

import asyncio
import gc
import itertools
import os
import random
import struct
import threading
import weakref
from functools import partial
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.core import limits
from popnet.core.errors import (
    DeadlineExceeded,
    LinkViolation,
    NoSuchService,
    Overloaded,
    PeerDied,
    PopnetError,
    Refused,
    StreamClosed,
    Unavailable,
)
from popnet.message import codec
from popnet.message.endpoint import Endpoint
from popnet.message.fake import FakeLink, fake_links
from popnet.message.kinds import Flag, Kind, Ring
from popnet.message.peer import NORMAL_SHARE
from popnet.message.stream import Stream
from popnet.transport._native import WORD_OFFSETS
from popnet.transport.doorbell import create_doorbell

from .ends import (
    KIND,
    Alone,
    Ends,
    deaf,
    echo,
    everywhere,
    no_connect,
    outcome,
    read_all,
    running,
    settle,
    sink,
    until,
)
from .links import link_pair

# Streams


@everywhere
async def test_a_conversation(ends: Ends) -> None:
    ends.b.serve("echo", echo)
    stream = await ends.a.open(2, "echo", {"x": 1})
    assert (stream.service, stream.params, stream.peer) == ("echo", {"x": 1}, 2)
    await stream.send(b"hello", 7)
    assert await stream.receive() == (7, b"hello")
    await stream.close()
    assert await stream.receive() is None
    assert stream.result == {"count": 5}
    await until(lambda: ends.b.counters()["tasks"] == 0)
    assert ends.a.counters()["streams"] == ends.b.counters()["streams"] == 0


@everywhere
async def test_the_service_sees_who_asks_for_what(ends: Ends) -> None:
    seen = []

    async def service(stream: Stream) -> None:
        seen.append((stream.service, stream.params, stream.peer))

    ends.b.serve("look", service)
    stream = await ends.a.open(2, "look", {"deep": {"x": [1, None]}})
    assert await stream.receive() is None
    assert seen == [("look", {"deep": {"x": [1, None]}}, 1)]


@everywhere
async def test_both_ends_open_at_once(ends: Ends) -> None:
    ends.a.serve("echo", echo)
    ends.b.serve("echo", echo)

    async def talk(endpoint: Endpoint, kid: int, text: bytes) -> None:
        stream = await endpoint.open(kid, "echo")
        await stream.send(text)
        assert await stream.receive() == (0, text)

    async with asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(talk(ends.a, 2, b"a%d" % n))
            group.create_task(talk(ends.b, 1, b"b%d" % n))


@everywhere
async def test_many_streams_deliver_every_byte_in_order(ends: Ends) -> None:
    ends.b.serve("echo", echo)

    async def talk(seed: int) -> None:
        dice = random.Random(seed)
        data = dice.randbytes(300_000)
        stream = await ends.a.open(2, "echo")

        async def send() -> None:
            left = memoryview(data)
            while left:
                piece = left[: dice.randint(1, 50_000)]
                await stream.send(bytes(piece))
                left = left[len(piece) :]
            await stream.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            items = await read_all(stream)
        assert b"".join(item for _, item in items) == data
        assert stream.result == {"count": len(data)}

    async with asyncio.TaskGroup() as group:
        for seed in range(25):
            group.create_task(talk(seed))


@everywhere
async def test_a_slow_reader_stalls_its_own_stream_only(ends: Ends) -> None:
    ends.b.serve("deaf", deaf)
    ends.b.serve("sink", sink)
    slow = [await ends.a.open(2, "deaf") for _ in range(5)]
    stuck = [asyncio.create_task(stream.send(bytes(1 << 20))) for stream in slow]
    quick = await ends.a.open(2, "sink")
    for _ in range(64):
        await quick.send(bytes(65_536))
    await quick.close()
    assert await quick.receive() is None
    assert quick.result == {"count": 4 << 20}
    assert not any(task.done() for task in stuck)
    for stream in slow:
        stream.abort()
    assert {type(await outcome(task)) for task in stuck} == {StreamClosed}


@everywhere
async def test_close_delivers_what_was_sent_before(ends: Ends) -> None:
    async def burst(stream: Stream) -> None:
        await stream.send(b"x" * 100_000)
        await stream.close({"done": True})

    ends.b.serve("burst", burst)
    stream = await ends.a.open(2, "burst")
    await settle()
    assert sum(len(data) for _, data in await read_all(stream)) == 100_000
    assert stream.result == {"done": True}


@everywhere
async def test_the_other_half_stays_open(ends: Ends) -> None:
    async def late(stream: Stream) -> None:
        assert await stream.receive() is None
        await stream.send(b"after your close")

    ends.b.serve("late", late)
    stream = await ends.a.open(2, "late")
    await stream.close()
    assert await read_all(stream) == [(0, b"after your close")]


@everywhere
async def test_whose_service_has_returned_need_not_send(ends: Ends) -> None:
    async def brief(stream: Stream) -> None:
        await stream.accept()

    ends.b.serve("brief", brief)
    stream = await ends.a.open(2, "brief")

    async def send() -> None:
        while True:
            await stream.send(bytes(1000))
            await asyncio.sleep(0)

    assert isinstance(await outcome(send()), StreamClosed)
    assert await stream.receive() is None


@everywhere
async def test_no_such_service(ends: Ends) -> None:
    error = await outcome(ends.a.open(2, "nothing"))
    assert isinstance(error, NoSuchService)
    assert "kernel 2" in str(error)


@everywhere
async def test_a_service_refuses(ends: Ends) -> None:
    async def choosy(stream: Stream) -> None:
        raise Refused("no such program", "look at $PATH", result={"status": 127})

    ends.b.serve("exec", choosy)
    error = await outcome(ends.a.open(2, "exec"))
    assert isinstance(error, Refused)
    assert (str(error), error.hint, error.result) == ("no such program", "look at $PATH", {"status": 127})
    assert ends.b.counters()["streams"] == 0


@everywhere
async def test_a_service_fails_on_purpose_behind_its_data(ends: Ends) -> None:
    async def fails(stream: Stream) -> None:
        await stream.send(b"so far")
        raise Unavailable("disk on fire", "extinguish it")

    ends.b.serve("fails", fails)
    stream = await ends.a.open(2, "fails")
    assert await stream.receive() == (0, b"so far")
    error = await outcome(stream.receive())
    assert isinstance(error, Unavailable)
    assert error.hint == "extinguish it"


@pytest.mark.parametrize("accepted", [False, True])
async def test_a_bug_in_a_service_is_logged_and_told_as_internal(
    accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy(stream: Stream) -> None:
        if accepted:
            await stream.accept()
        raise KeyError("secret detail")

    pair = link_pair("fake")
    ends = Ends(pair)
    async with running(ends):
        ends.b.serve("buggy", buggy)
        opened = await outcome(ends.a.open(2, "buggy"))
        error = await outcome(opened.receive()) if accepted else opened
        assert type(error) is PopnetError
        assert "internal error" in str(error)
        assert "secret" not in str(error)
        assert ends.b.counters()["handler_errors"] == 1
    assert "Traceback" in caplog.text
    assert "secret detail" in caplog.text
    pair.close()


@everywhere
async def test_an_error_that_is_no_json_does_not_leave_the_opener_waiting(ends: Ends) -> None:
    async def odd(stream: Stream) -> None:
        raise Refused("odd", result={"set": {1}})

    async def odd_answer() -> bytes:
        raise Refused("odd", result={"x": {1}})

    ends.b.serve("odd", odd)
    ends.b.answer(KIND, lambda kid, body: odd_answer())
    for error in (await outcome(ends.a.open(2, "odd")), await outcome(ends.a.call(2, KIND, b"", 10.0))):
        assert "internal error" in str(error)


@everywhere
async def test_an_error_of_any_size_crosses(ends: Ends) -> None:
    """A program's, say: what does not fit is cut off, and the link is none the worse."""
    deep: object = 1
    for _ in range(codec.JSON_DEPTH_MAX):
        deep = [deep]
    results: list[dict[str, Any]] = [{"x": "x" * codec.JSON_SIZE_MAX}, {"x": deep}, {"x": 1}]
    for number, result in enumerate(results):

        async def large(kid: int, body: bytes, result: Any = result) -> bytes:
            raise Refused("\U0001f600" * 9999, "\U0001f600" * 9999, result)

        ends.b.answer(KIND + number, large)
        error = await outcome(ends.a.call(2, KIND + number, b"", 10.0))
        assert isinstance(error, Refused)
        assert len(str(error)) == codec.TEXT_SIZE_MAX
        assert error.result == (result if number == 2 else {})
    assert "handler_errors" not in ends.b.counters()


@everywhere
async def test_the_first_receive_accepts(ends: Ends) -> None:
    ends.b.serve("sink", sink)
    assert (await ends.a.open(2, "sink")).peer == 2


@everywhere
async def test_an_open_that_is_given_up_is_forgotten(ends: Ends) -> None:
    got = asyncio.Event()

    async def slow(stream: Stream) -> None:
        got.set()
        assert isinstance(await outcome(asyncio.Event().wait()), BaseException)

    ends.b.serve("slow", slow)
    task = asyncio.create_task(ends.a.open(2, "slow"))
    await got.wait()
    assert ends.b.counters()["streams"] == 1
    task.cancel()
    await until(lambda: ends.b.counters()["streams"] == 0)
    assert ends.a.counters()["streams"] == 0


@everywhere
async def test_a_stream_that_its_user_lets_go_is_aborted(ends: Ends) -> None:
    ended: list[object] = []

    async def service(stream: Stream) -> None:
        ended.append(await outcome(stream.receive()))

    ends.b.serve("watch", service)
    stream = await ends.a.open(2, "watch")
    del stream
    gc.collect()
    await until(lambda: ended)
    assert isinstance(ended[0], StreamClosed)


@everywhere
async def test_too_many_streams_are_refused(ends: Ends) -> None:
    ends.b.serve("deaf", deaf)
    ends.b.serve("echo", echo)
    held = [await ends.a.open(2, "deaf") for _ in range(limits.STREAMS_MAX)]
    assert isinstance(await outcome(ends.a.open(2, "echo")), Overloaded)
    assert ends.b.counters()["tasks"] == len(held)


@everywhere
async def test_services_that_outlive_their_streams_are_bounded_too(ends: Ends) -> None:
    async def undying(stream: Stream) -> None:
        await asyncio.Event().wait()

    ends.b.serve("undying", undying)
    for _ in range(limits.STREAMS_MAX + 10):
        task = asyncio.create_task(ends.a.open(2, "undying"))
        await asyncio.sleep(0)
        task.cancel()
    await until(lambda: ends.b.counters()["streams_offered"] == limits.STREAMS_MAX + 10)
    await until(lambda: ends.b.counters()["streams"] == 0)
    assert ends.b.counters()["tasks"] == limits.STREAMS_MAX


# Messages


@everywhere
async def test_messages_arrive_in_order_with_their_sender(ends: Ends) -> None:
    got: list[tuple[int, bytes]] = []
    ends.b.on(KIND, lambda kid, body: got.append((kid, body)))
    bodies = [b"%d" % n * (n % 50) for n in range(8000)]
    for body in bodies:
        assert ends.a.post(2, KIND, body)
    await until(lambda: len(got) == len(bodies))
    assert got == [(1, body) for body in bodies]


@everywhere
async def test_the_largest_message_arrives_on_either_ring(ends: Ends) -> None:
    got: list[bytes] = []
    ends.b.on(KIND, lambda kid, body: got.append(body))
    body = random.Random(1).randbytes(limits.MESSAGE_SIZE_MAX)
    assert ends.a.post(2, KIND, body)
    assert ends.a.post(2, KIND, body[:100_000], high=True)
    await until(lambda: len(got) == 2)
    assert sorted(got, key=len) == [body[:100_000], body]
    with pytest.raises(ValueError, match="at most"):
        ends.a.post(2, KIND, body + b"x")


@everywhere
async def test_a_large_message_does_not_hold_up_a_stream(ends: Ends) -> None:
    got: list[bytes] = []
    ends.b.on(KIND, lambda kid, body: got.append(body))
    ends.b.serve("echo", echo)
    stream = await ends.a.open(2, "echo")
    assert ends.a.post(2, KIND, bytes(limits.MESSAGE_SIZE_MAX))
    await stream.send(b"me too")
    assert await stream.receive() == (0, b"me too")
    assert not got
    await until(lambda: got)


@everywhere
async def test_what_waits_is_bounded(ends: Alone) -> None:
    size = limits.MESSAGE_SIZE_MAX
    taken = 0
    while ends.a.post(2, KIND, bytes(size)):
        taken += 1
    assert 2 <= taken <= limits.QUEUE_SIZE_MAX // size + 1
    assert ends.a.counters()["queue_full"] == 1
    assert isinstance(await outcome(ends.a.call(2, KIND, bytes(size), 5.0)), Overloaded)


@everywhere
async def test_high_goes_before_normal(ends: Alone) -> None:
    order: list[bytes] = []
    ends.a.on(KIND, lambda kid, body: order.append(body))
    for _ in range(200):
        ends.say(Ring.NORMAL, KIND, body=b"normal")
    for _ in range(5):
        ends.say(Ring.HIGH, KIND, body=b"high")
    await until(lambda: len(order) == 205)
    assert order[:5] == [b"high"] * 5


@everywhere
async def test_high_is_not_delayed_by_a_flood_of_normal(ends: Alone) -> None:
    """At most one budget of the flood is handled between the arrival of a high message and its turn."""
    order: list[bytes] = []
    ends.a.on(KIND, lambda kid, body: order.append(body))
    for n in range(1000):
        if n == 500:
            ends.say(Ring.HIGH, KIND, body=b"high")
            handled = len(order)
        ends.say(Ring.NORMAL, KIND, body=b"normal")
        if n % 50 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(order) == 1001)
    assert order.index(b"high") <= handled + limits.BUDGET


@everywhere
async def test_normal_has_its_share_in_a_flood_of_high(ends: Alone) -> None:
    order: list[bytes] = []
    ends.a.on(KIND, lambda kid, body: order.append(body))
    for _ in range(4 * limits.BUDGET):
        ends.say(Ring.HIGH, KIND, body=b"high")
        ends.say(Ring.NORMAL, KIND, body=b"normal")
    await until(lambda: len(order) == 8 * limits.BUDGET)
    assert order.index(b"normal") == limits.BUDGET
    assert order[: 2 * limits.BUDGET].count(b"normal") >= NORMAL_SHARE


@everywhere
async def test_the_loop_lives_on_in_a_flood(ends: Alone) -> None:
    got: list[bytes] = []
    ends.a.on(KIND, lambda kid, body: got.append(body))
    for _ in range(1000):
        ends.say(Ring.NORMAL, KIND)
    seen = []
    while len(got) < 1000:
        seen.append(len(got))
        await asyncio.sleep(0)
    assert len([1 for a, b in itertools.pairwise(seen) if a != b]) >= 1000 // limits.BUDGET - 1
    assert ends.a.counters()["budget_exhausted"] >= 1000 // limits.BUDGET - 1


@everywhere
async def test_an_idle_endpoint_sleeps(ends: Ends) -> None:
    ends.b.serve("echo", echo)
    stream = await ends.a.open(2, "echo")
    await stream.send(b"x")
    await stream.receive()
    await settle()
    before = ends.a.counters()["turns"], ends.b.counters()["turns"]
    await settle()
    assert (ends.a.counters()["turns"], ends.b.counters()["turns"]) == before


@everywhere
async def test_a_kind_that_nobody_handles_is_counted_and_answered(ends: Alone) -> None:
    ends.say(Ring.NORMAL, KIND + 7, body=b"?")
    answer = await ends.hear(Ring.NORMAL)
    assert (answer.kind, answer.body, answer.generation) == (Kind.UNKNOWN, codec.U32.pack(KIND + 7), 5)
    ends.say(Ring.NORMAL, Kind.UNKNOWN, body=codec.U32.pack(KIND + 8))
    await until(lambda: ends.a.counters().get("unknown_to_peer"))
    assert ends.heard(Ring.NORMAL) == [], "an answer to an answer would never end"
    assert ends.a.counters()["unknown_kinds"] == 1


@everywhere
async def test_a_handler_that_fails_is_not_the_end(ends: Alone) -> None:
    got: list[bytes] = []

    def handler(kid: int, body: bytes) -> None:
        got.append(body)
        raise RuntimeError("bug")

    ends.a.on(KIND, handler)
    ends.say(Ring.NORMAL, KIND, body=b"1")
    ends.say(Ring.NORMAL, KIND, body=b"2")
    await until(lambda: len(got) == 2)
    assert ends.a.counters()["handler_errors"] == 2


@everywhere
async def test_nonsense_that_a_program_may_have_written_is_counted_and_nothing_else(ends: Alone) -> None:
    def handler(kid: int, body: bytes) -> None:
        raise LinkViolation("no such word")

    ends.a.on(KIND, handler)
    ends.a.register("s", 1, handler)
    for _ in range(3):
        ends.say(Ring.NORMAL, KIND, body=b"1")
        ends.say(Ring.NORMAL, Kind.SEND, id=1, body=b"1")
    await until(lambda: ends.a.counters().get("nonsense") == 6)
    assert ends.a.has_link(2) and not ends.violations
    assert "handler_errors" not in ends.a.counters(), "it is not the handler's fault"


@everywhere
async def test_nonsense_of_a_kernel_that_a_handler_finds_costs_it_its_link(ends: Alone) -> None:
    def handler(kid: int, body: bytes) -> None:
        if body != b"good":
            raise LinkViolation("no such word")

    ends.a.on(Kind.LOG, handler)
    ends.say(Ring.NORMAL, Kind.LOG, body=b"good")
    await settle()
    assert ends.a.has_link(2)
    calling = asyncio.create_task(outcome(ends.a.call(2, KIND, b"x", 99)))
    await ends.hear(Ring.NORMAL)
    ends.say(Ring.NORMAL, Kind.LOG, body=b"bad")
    assert isinstance(await calling, PeerDied)
    assert ends.violations == [(2, "no such word")]
    assert ends.a.counters()["violations"] == 1
    assert not ends.a.has_link(2)


async def test_a_post_to_a_kernel_without_a_link_says_so() -> None:
    pair = link_pair("fake")
    ends = Ends(pair)
    async with running(ends):
        assert not ends.a.post(9, KIND, b"")
        assert ends.a.counters()["post_without_link"] == 1
    pair.close()


@pytest.mark.parametrize("kind", [0, Kind.DATA, Kind.STALE, 31, 0x1_0000])
async def test_kinds_of_the_layer_itself_are_not_for_users(kind: int) -> None:
    endpoint = Endpoint(1, 1, -1, no_connect)
    with pytest.raises(AssertionError):
        endpoint.on(kind, lambda kid, body: None)


# Calls


async def backwards(kid: int, body: bytes) -> bytes:
    return body[::-1]


@everywhere
async def test_calls(ends: Ends) -> None:
    ends.b.answer(KIND, backwards)
    for high in (False, True):
        results = await asyncio.gather(
            *(ends.a.call(2, KIND, b"%d-" % n, 10.0, high=high) for n in range(200)),
        )
        assert results == [(b"%d-" % n)[::-1] for n in range(200)]
    big = random.Random(2).randbytes(1_000_000)
    assert await ends.a.call(2, KIND, big, 10.0) == big[::-1]
    assert ends.a.counters()["calls"] == 0


@everywhere
async def test_a_call_of_a_kind_nobody_answers(ends: Ends) -> None:
    assert isinstance(await outcome(ends.a.call(2, KIND, b"", 10.0)), NoSuchService)
    assert ends.b.counters()["unknown_kinds"] == 1


@everywhere
async def test_a_call_that_is_answered_with_an_error(ends: Ends) -> None:
    async def on_purpose(kid: int, body: bytes) -> bytes:
        raise Refused("no", "ask nicely", result={"n": 1})

    async def bug(kid: int, body: bytes) -> bytes:
        raise KeyError("secret")

    ends.b.answer(KIND, on_purpose)
    ends.b.answer(KIND + 1, bug)
    error = await outcome(ends.a.call(2, KIND, b"", 10.0))
    assert isinstance(error, Refused)
    assert (error.hint, error.result) == ("ask nicely", {"n": 1})
    error = await outcome(ends.a.call(2, KIND + 1, b"", 10.0))
    assert type(error) is PopnetError
    assert "internal error" in str(error)


@everywhere
async def test_a_call_that_is_not_answered_in_time(ends: Ends) -> None:
    async def never(kid: int, body: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    ends.b.answer(KIND, never)
    assert isinstance(await outcome(ends.a.call(2, KIND, b"", 0.001)), DeadlineExceeded)
    assert ends.a.counters()["calls"] == 0


@everywhere
async def test_a_late_answer_finds_nobody(ends: Alone) -> None:
    task = asyncio.create_task(ends.a.call(2, KIND, b"", 0.001))
    request = await ends.hear(Ring.NORMAL)
    assert request.flags == Flag.REQUEST
    assert isinstance(await outcome(task), DeadlineExceeded)
    for id in (request.id, request.id + 1):
        ends.say(Ring.NORMAL, KIND, int(Flag.ANSWER), id, b"at last")
    await until(lambda: ends.a.counters().get("late_answers") == 2)


@everywhere
async def test_calls_in_work_are_bounded(ends: Ends) -> None:
    async def never(kid: int, body: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    ends.b.answer(KIND, never)
    calls = [asyncio.create_task(ends.a.call(2, KIND, b"", 60.0)) for _ in range(limits.CALLS_MAX + 1)]
    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert len(waiting) == limits.CALLS_MAX
    assert isinstance(done.pop().exception(), Overloaded)
    for task in waiting:
        task.cancel()


# The end of a peer


@everywhere
async def test_death_wakes_everyone_with_its_reason(ends: Ends) -> None:
    async def silent(stream: Stream) -> None:
        await asyncio.Event().wait()

    async def never(kid: int, body: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""

    ends.b.serve("deaf", deaf)
    ends.b.serve("silent", silent)
    ends.b.answer(KIND, never)
    stuck, quiet = await ends.a.open(2, "deaf"), await ends.a.open(2, "deaf")
    waiting = [
        asyncio.create_task(outcome(work))
        for work in (
            stuck.send(bytes(1 << 20)),
            quiet.receive(),
            ends.a.open(2, "silent"),
            ends.a.call(2, KIND, b"", 60.0),
        )
    ]
    await settle()
    assert not any(task.done() for task in waiting)
    ends.a.remove_link(2, "kernel 2 was killed")
    for error in await asyncio.gather(*waiting):
        assert isinstance(error, PeerDied)
        assert str(error) == "kernel 2 was killed"
    assert isinstance(await outcome(stuck.send(b"x")), PeerDied)
    await stuck.close()
    ends.a.remove_link(2, "twice")
    assert not ends.a.post(2, KIND, b"")
    assert isinstance(await outcome(ends.a.open(2, "deaf")), PeerDied)
    assert ends.a.counters()["links"] == ends.a.counters()["streams"] == ends.a.counters()["calls"] == 0


@everywhere
async def test_last_words_are_received_before_the_death(ends: Ends) -> None:
    async def dying(stream: Stream) -> None:
        await stream.send(b"Kernel panic")
        await asyncio.Event().wait()

    ends.b.serve("dying", dying)
    stream = await ends.a.open(2, "dying")
    await settle()
    ends.a.remove_link(2, "dead")
    assert await stream.receive() == (0, b"Kernel panic")
    for _ in range(2):
        assert isinstance(await outcome(stream.receive()), PeerDied)


@everywhere
async def test_services_notice_the_death_of_their_opener(ends: Ends) -> None:
    seen: list[object] = []

    async def service(stream: Stream) -> None:
        seen.append(await outcome(stream.receive()))

    ends.b.serve("watch", service)
    _held = await ends.a.open(2, "watch")
    ends.b.remove_link(1, "killed")
    await until(lambda: seen)
    assert isinstance(seen[0], PeerDied)


@everywhere
async def test_the_next_generation_is_somebody_else(ends: Alone) -> None:
    stream = asyncio.create_task(outcome(ends.a.open(2, "echo")))
    await ends.hear(Ring.NORMAL)
    other = link_pair("fake")
    ends.a.add_link(2, 6, other.a)
    error = await stream
    assert isinstance(error, PeerDied)
    assert "generation 6" in str(error)
    assert ends.a.generations() == {2: 6}
    assert ends.a.post(2, KIND, b"x")
    tag, payload = other.b.receive_many(1, 1)[0]
    assert codec.record_of(tag, payload).generation == 6
    ends.a.remove_link(2, "end of test")
    other.close()


@everywhere
async def test_what_is_addressed_to_another_generation_never_arrives(ends: Alone) -> None:
    got: list[bytes] = []
    ends.a.on(KIND, lambda kid, body: got.append(body))
    for generation in (0, 2, 2**32 - 1):
        ends.say(Ring.NORMAL, KIND, body=b"for my predecessor", to=generation)
        answer = await ends.hear(Ring.NORMAL)
        assert (answer.kind, answer.body) == (Kind.STALE, codec.U32.pack(1))
    for kind in (Kind.STALE, Kind.UNKNOWN):
        ends.say(Ring.NORMAL, kind, body=codec.U32.pack(9), to=7)
    ends.say(Ring.NORMAL, KIND, body=b"for me")
    await until(lambda: got)
    assert got == [b"for me"]
    assert ends.heard(Ring.NORMAL) == []
    assert ends.a.counters()["stale"] == 5


@everywhere
async def test_a_peer_that_says_we_are_stale_is_another_one(ends: Alone) -> None:
    opening = asyncio.create_task(outcome(ends.a.open(2, "echo")))
    await ends.hear(Ring.NORMAL)
    ends.say(Ring.NORMAL, Kind.STALE, body=codec.U32.pack(6))
    error = await opening
    assert isinstance(error, PeerDied)
    assert "generation 6" in str(error)
    assert ends.violations == []


@everywhere
async def test_peers_come_and_go_once_and_in_order(ends: Ends) -> None:
    news: list[tuple[object, ...]] = []
    ends.a.on_peer_up(lambda kid, generation: news.append(("up", kid, generation)))
    ends.a.on_peer_down(lambda kid, reason: news.append(("down", kid, reason)))
    other = link_pair("fake")
    ends.a.add_link(3, 1, other.a)
    ends.a.remove_link(3, "killed")
    ends.a.add_link(3, 2, other.a)
    ends.a.add_link(3, 3, other.a)
    assert news == [], "never from inside who made it happen"
    await settle()
    assert news == [
        ("up", 2, 5),
        ("up", 3, 1),
        ("down", 3, "killed"),
        ("up", 3, 2),
        ("down", 3, "kernel 3 runs in generation 3 now"),
        ("up", 3, 3),
    ]
    other.close()


# Nonsense


@pytest.mark.parametrize("payload", [b"", b"1234567"])
@pytest.mark.parametrize("link", ["fake", "real"])
async def test_a_record_that_is_no_message_ends_the_link(link: str, payload: bytes) -> None:
    pair = link_pair(link)
    ends = Alone(pair)
    async with running(ends):
        opening = asyncio.create_task(outcome(ends.a.open(2, "echo")))
        await ends.hear(Ring.NORMAL)
        pair.b.send(1, payload, 4)
        assert isinstance(await opening, PeerDied)
        assert [kid for kid, _ in ends.violations] == [2]
        assert ends.a.counters()["violations"] == 1
        assert ends.a.generations() == {}
    pair.close()


WRONG = {
    "fragments without end": [(KIND, 1, 0, bytes(65_536))] * (limits.MESSAGE_SIZE_MAX // 65_536 + 1),
    "a stream that never was": [(Kind.DATA, 0, 3, b"x")],
    "a stream in bad JSON": [(Kind.OPEN, 0, 3, b"not JSON")],
    "a notice of who has no registry": [(Kind.NOTICE, 0, 0, b'{"resync": true}')],
}


@pytest.mark.parametrize("records", WRONG.values(), ids=WRONG.keys())
async def test_messages_that_make_no_sense_end_the_link(records: list[tuple[int, int, int, bytes]]) -> None:
    pair = link_pair("fake")
    ends = Alone(pair)
    async with running(ends):
        for record in records:
            payload, tag = codec.payload_of(record[2], 1, record[3]), codec.tag_of(*record[:2])
            await until(partial(pair.b.send, 1, payload, tag))
        await until(lambda: ends.violations)
        assert ends.a.generations() == {}
    pair.close()


@everywhere
async def test_nonsense_on_a_stream_ends_the_link(ends: Alone) -> None:
    told: list[object] = []

    async def listen(stream: Stream) -> None:
        told.append(await outcome(read_all(stream)))

    ends.a.serve("listen", listen)
    for number in (1, 2):
        ends.say(Ring.NORMAL, Kind.OPEN, 0, number << 1 | 1, b'{"service":"listen"}')
        assert (await ends.hear(Ring.NORMAL)).kind == Kind.ACCEPT
    ends.say(Ring.NORMAL, Kind.CLOSE, 0, 3, b"not JSON")
    await until(lambda: len(told) == 2)
    assert {type(error) for error in told} == {PeerDied}
    assert ends.a.counters()["violations"] == 1
    assert [kid for kid, _ in ends.violations] == [2]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1]),
            st.sampled_from([*Kind, KIND]) | st.integers(0, 0xFFFF),
            st.integers(0, 15) | st.integers(0, 0xFFFF),
            st.integers(0, 9) | st.integers(0, 2**32 - 1),
            st.sampled_from([1, 1, 1, 0]),
            st.binary(max_size=60) | st.sampled_from([b"{}", b'{"service":"echo"}', b'{"result":{}}']),
        ),
        max_size=40,
    )
)
def test_garbage_never_hurts(items: list[tuple[int, int, int, int, int, bytes]]) -> None:
    async def main() -> None:
        pair = link_pair("fake")
        ends = Alone(pair)
        async with running(ends):
            ends.a.serve("echo", echo)
            ends.a.answer(KIND, backwards)
            pending = asyncio.create_task(outcome(ends.a.open(2, "echo")))
            for ring, kind, flags, id, generation, body in items:
                pair.b.send(ring, codec.payload_of(id, generation, body), codec.tag_of(kind, flags))
                await asyncio.sleep(0)
            await settle()
            mine = await ends.a.open(1, "echo")
            await mine.send(b"I am well")
            assert await mine.receive() == (0, b"I am well")
            ends.a.remove_link(2, "enough")
            opened = await pending
            if not isinstance(opened, Exception):
                assert isinstance(await outcome(read_all(opened)), PopnetError | list)
        pair.close()

    asyncio.run(main())


async def test_a_link_that_complains_is_dropped() -> None:
    pair = link_pair("fake")
    ends = Alone(pair)
    async with running(ends):
        opening = asyncio.create_task(outcome(ends.a.open(2, "echo")))
        await settle()
        assert isinstance(pair.a, FakeLink)
        pair.a.violate("produced went backwards")
        error = await opening
        assert isinstance(error, PeerDied)
        assert ends.violations == [(2, "produced went backwards")]
    pair.close()


async def test_a_real_link_with_garbage_in_its_window_is_dropped() -> None:
    pair = link_pair("real")
    ends = Alone(pair)
    async with running(ends):
        await settle()
        assert pair.window_b is not None
        pair.window_b.poke(WORD_OFFSETS["produced_normal"], struct.pack("<Q", 2**63))
        ends.a.wake()
        await until(lambda: ends.violations)
        assert ends.violations[0][0] == 2
    pair.close()


async def test_a_link_that_its_owner_closed_is_no_violation() -> None:
    pair = link_pair("fake")
    ends = Alone(pair)
    async with running(ends):
        opening = asyncio.create_task(outcome(ends.a.open(2, "echo")))
        await settle()
        pair.a.close()
        assert ends.a.post(2, KIND, b"x")
        assert isinstance(await opening, PeerDied)
        assert ends.violations == []
    pair.close()


# Alone, and the beginning


@everywhere
async def test_a_kernel_talks_to_itself(ends: Ends) -> None:
    got: list[tuple[int, bytes]] = []
    ends.a.on(KIND, lambda kid, body: got.append((kid, body)))
    ends.a.answer(KIND, backwards)
    ends.a.serve("echo", echo)
    ends.a.serve("sink", sink)
    stream = await ends.a.open(1, "echo")
    assert stream.peer == 1
    await stream.send(b"me")
    assert await stream.receive() == (0, b"me")
    assert ends.a.post(1, KIND, b"note")
    assert await ends.a.call(1, KIND, b"abc", 10.0) == b"cba"
    assert got == [(1, b"note")]
    bulk = await ends.a.open(1, "sink")
    await bulk.send(bytes(4 << 20))
    await bulk.close()
    assert await bulk.receive() is None
    assert bulk.result == {"count": 4 << 20}


async def test_links_are_made_on_first_use_once_for_all_who_want_them() -> None:
    pair = link_pair("fake")
    asked: list[int] = []

    async def connect(kid: int) -> None:
        asked.append(kid)
        await settle()
        a.add_link(2, 5, pair.a)
        b.add_link(1, 1, pair.b)

    a, b = Endpoint(1, 1, pair.bell_a, connect), Endpoint(2, 5, pair.bell_b, no_connect)
    a.start()
    b.start()
    b.serve("echo", echo)
    b.answer(KIND, backwards)
    results = await asyncio.gather(a.open(2, "echo"), a.open(2, "echo"), a.call(2, KIND, b"ab", 10.0))
    assert asked == [2]
    assert results[2] == b"ba"
    await a.stop()
    await b.stop()
    pair.close()


async def test_a_link_that_cannot_be_made() -> None:
    pair = link_pair("fake")

    async def forgetful(kid: int) -> None:
        return

    for connect, reason in ((no_connect, "does not run"), (forgetful, "no link")):
        endpoint = Endpoint(1, 1, pair.bell_a, connect)
        endpoint.start()
        for error in await asyncio.gather(
            outcome(endpoint.open(2, "x")), outcome(endpoint.call(2, KIND, b"", 9.0))
        ):
            assert isinstance(error, PeerDied)
            assert reason in str(error)
        await endpoint.stop()
    pair.close()


async def test_giving_up_waiting_for_a_link_does_not_stop_the_others() -> None:
    pair = link_pair("fake")
    go = asyncio.Event()

    async def connect(kid: int) -> None:
        await go.wait()
        raise PeerDied("after all")

    endpoint = Endpoint(1, 1, pair.bell_a, connect)
    endpoint.start()
    first, second = (asyncio.create_task(outcome(endpoint.open(2, "x"))) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert not second.done()
    go.set()
    assert str(await second) == "after all"
    await endpoint.stop()
    pair.close()


# The end of it all


@everywhere
async def test_stop_ends_everything(ends: Ends) -> None:
    ended: list[str] = []

    async def service(stream: Stream) -> None:
        await stream.accept()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("service")

    ends.b.serve("long", service)
    ends.b.serve("deaf", deaf)
    stream = await ends.a.open(2, "long")
    other = await ends.b.open(2, "deaf")
    waiting = asyncio.create_task(outcome(other.receive()))
    await ends.b.stop()
    await ends.b.stop()
    assert ended == ["service"]
    assert isinstance(await waiting, PopnetError)
    assert isinstance(await outcome(stream.receive()), StreamClosed), "the peer was told"
    assert ends.b.counters()["tasks"] == 0


async def test_a_service_may_ask_for_the_stop() -> None:
    pair = link_pair("fake")
    endpoint = Endpoint(1, 1, pair.bell_a, no_connect)
    endpoint.start()
    stopped = asyncio.Event()

    async def halt(stream: Stream) -> None:
        await stream.accept()
        await endpoint.stop()
        stopped.set()

    endpoint.serve("halt", halt)
    assert isinstance(await outcome(endpoint.open(1, "halt")), PeerDied)
    await stopped.wait()
    pair.close()


async def test_who_waits_for_a_link_when_the_endpoint_stops_is_told() -> None:
    pair = link_pair("fake")

    async def connect(kid: int) -> None:
        await asyncio.Event().wait()

    endpoint = Endpoint(1, 1, pair.bell_a, connect)
    endpoint.start()
    opening = asyncio.create_task(outcome(endpoint.open(2, "x")))
    await settle()
    await endpoint.stop()
    assert isinstance(await opening, PeerDied)
    pair.close()


# Two event loops at once


def test_two_kernels_on_two_threads_lose_no_wake_up() -> None:
    """Real links, each endpoint on a thread of its own: data both ways in sizes that fill and drain the
    rings, and small echoes that sleep at the doorbell between any two."""
    pair = link_pair("real")
    ready, over = threading.Event(), threading.Event()

    async def second() -> None:
        endpoint = Endpoint(2, 5, pair.bell_b, no_connect)
        endpoint.start()
        endpoint.serve("echo", echo)
        endpoint.answer(KIND, backwards)
        endpoint.add_link(1, 1, pair.b)
        ready.set()
        await asyncio.to_thread(over.wait)
        await endpoint.stop()

    async def first() -> None:
        endpoint = Endpoint(1, 1, pair.bell_a, no_connect)
        endpoint.start()
        endpoint.add_link(2, 5, pair.a)

        async def bulk(size: int, count: int) -> None:
            stream = await endpoint.open(2, "echo")

            async def send() -> None:
                for _ in range(count):
                    await stream.send(bytes(size))
                await stream.close()

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                assert sum(len(data) for _, data in await read_all(stream)) == size * count

        async def small() -> None:
            stream = await endpoint.open(2, "echo")
            for n in range(1000):
                await stream.send(b"%d" % n)
                assert await stream.receive() == (0, b"%d" % n)
                assert await endpoint.call(2, KIND, b"ab", 60.0, high=n % 2 == 0) == b"ba"

        await small()
        async with asyncio.TaskGroup() as group:
            group.create_task(bulk(65_536, 300))
            group.create_task(bulk(1_000_000, 20))
            group.create_task(bulk(100, 5000))
            group.create_task(small())
        await endpoint.stop()

    thread = threading.Thread(target=lambda: asyncio.run(second()))
    thread.start()
    try:
        assert ready.wait(30)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(first())
    finally:
        over.set()
        thread.join()
        pair.close()


async def test_a_link_that_ended_is_let_go_of_at_once() -> None:
    """Not when the collector comes by: a real one has windows and doorbells."""
    bells = create_doorbell(), create_doorbell()
    endpoint = Endpoint(1, 1, bells[0], no_connect)
    endpoint.start()
    link, theirs = fake_links(*bells)
    seen = weakref.ref(link)
    endpoint.add_link(2, 1, link)
    call = asyncio.ensure_future(endpoint.call(2, KIND, b"", 10))
    await settle()
    assert theirs.receive_many(Ring.NORMAL, 9)
    gc.disable()
    try:
        endpoint.remove_link(2, "it died")
        del link, theirs
        with pytest.raises(PeerDied):
            await call
        await settle()
        assert seen() is None
    finally:
        gc.enable()
    await endpoint.stop()
    for bell in bells:
        os.close(bell)
