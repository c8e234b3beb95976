"""Calls that end otherwise than with an answer: given up, too late, to the dead, the hung and the full."""

import asyncio

import pytest

from popnet.core import limits
from popnet.core.errors import DeadlineExceeded, Overloaded, PeerDied, PopnetError, by_code
from popnet.message import codec
from popnet.message.calls import Calls
from popnet.message.codec import error_object, error_of
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import Flag, Kind, Ring

from .ends import KIND, Alone, Ends, everywhere, outcome, running, settle, until
from .links import link_pair

SOON_S = 0.02
LONG_S = 60.0


class Slow:
    """Answers nothing, and remembers how it ended."""

    def __init__(self) -> None:
        self.began = 0
        self.cancelled = 0

    async def __call__(self, kid: int, body: bytes) -> bytes:
        self.began += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return b""


@everywhere
async def test_a_caller_that_gives_up_ends_the_work_on_its_answer(ends: Ends) -> None:
    slow = Slow()
    ends.b.answer(KIND, slow)
    task = asyncio.create_task(ends.a.call(2, KIND, b"", LONG_S, high=True))
    await until(lambda: slow.began)
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
    await until(lambda: slow.cancelled == 1)
    await until(lambda: ends.b.counters()["tasks"] == 0)
    assert ends.a.counters()["calls_given_up"] == ends.b.counters()["calls_cancelled"] == 1
    assert ends.a.counters().get("late_answers", 0) == 0


@everywhere
async def test_a_deadline_ends_the_work_too(ends: Ends) -> None:
    slow = Slow()
    ends.b.register("slow", 1, on_call=slow)
    assert isinstance(await outcome(ends.a.call_service(2, "slow", b"", SOON_S)), DeadlineExceeded)
    await until(lambda: slow.cancelled == slow.began)
    await until(lambda: ends.b.counters()["tasks"] == 0)


@everywhere
async def test_only_the_call_that_was_given_up_is_cancelled(ends: Ends) -> None:
    slow = Slow()
    ends.b.answer(KIND, slow)
    tasks = [asyncio.create_task(ends.a.call(2, KIND, b"", LONG_S)) for _ in range(5)]
    await until(lambda: slow.began == 5)
    tasks[2].cancel()
    await until(lambda: slow.cancelled)
    await settle()
    assert slow.cancelled == 1
    for task in tasks:
        task.cancel()
    await until(lambda: slow.cancelled == 5)


@everywhere
async def test_the_death_of_a_caller_ends_the_work(ends: Ends) -> None:
    slow = Slow()
    ends.b.answer(KIND, slow)
    task = asyncio.create_task(outcome(ends.a.call(2, KIND, b"", LONG_S)))
    await until(lambda: slow.began)
    ends.b.remove_link(1, "died")
    await until(lambda: slow.cancelled == 1)
    task.cancel()


@everywhere
async def test_a_cancel_of_what_never_was_is_nothing(ends: Alone) -> None:
    slow = Slow()
    ends.a.answer(KIND, slow)
    ends.say(Ring.NORMAL, KIND, Flag.REQUEST, id=7)
    ends.say(Ring.NORMAL, Kind.CANCEL, id=8)
    ends.say(Ring.HIGH, Kind.CANCEL, id=9)
    await until(lambda: slow.began)
    await settle()
    assert slow.cancelled == 0
    assert ends.heard(Ring.NORMAL) == ends.heard(Ring.HIGH) == []
    ends.say(Ring.NORMAL, Kind.CANCEL, id=7)
    await until(lambda: slow.cancelled)


@everywhere
async def test_a_cancel_that_comes_with_its_call_finds_it(ends: Alone) -> None:
    """A handler that has not begun yet never does."""
    slow = Slow()
    ends.a.answer(KIND, slow)
    ends.say(Ring.NORMAL, KIND, Flag.REQUEST, id=7)
    ends.say(Ring.NORMAL, Kind.CANCEL, id=7)
    await until(lambda: ends.a.counters().get("calls_cancelled"))
    await settle()
    assert slow.began == slow.cancelled == 0
    assert ends.a.counters()["tasks"] == 0
    for n in range(limits.CALLS_MAX):
        ends.say(Ring.NORMAL, KIND, Flag.REQUEST, id=100 + n)
    await until(lambda: slow.began == limits.CALLS_MAX)


async def test_control_without_a_cancel_the_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the tests above."""
    monkeypatch.setattr(Calls, "cancel", lambda self, peer, id: None)
    pair = link_pair("fake")
    ends = Ends(pair)
    slow = Slow()
    async with running(ends):
        ends.b.answer(KIND, slow)
        assert isinstance(await outcome(ends.a.call(2, KIND, b"", SOON_S)), DeadlineExceeded)
        await settle()
        assert (slow.began, slow.cancelled) == (1, 0)
    pair.close()


# No call blocks past its deadline


@everywhere
async def test_a_call_to_a_hung_peer_ends_at_its_deadline(ends: Alone) -> None:
    for work in (
        ends.a.call(2, KIND, b"", SOON_S),
        ends.a.call_service(2, "svc", b"", SOON_S),
        ends.a.send(2, "svc", b"", timeout_s=SOON_S),
    ):
        assert isinstance(await outcome(work), DeadlineExceeded)
    assert ends.a.counters()["calls"] == 0


@everywhere
async def test_a_call_into_a_full_ring_ends_at_its_deadline(ends: Alone) -> None:
    """The peer takes nothing: ring full, and something waits behind it."""
    while not ends.a.counters().get("waited_for_room"):
        assert ends.a.post(2, KIND, bytes(60_000))
    assert isinstance(await outcome(ends.a.call(2, KIND, b"", SOON_S)), DeadlineExceeded)
    while ends.a.post(2, KIND, bytes(limits.MESSAGE_SIZE_MAX)):
        pass
    while ends.a.post(2, KIND, bytes(60_000)):
        pass
    assert isinstance(await outcome(ends.a.call(2, KIND, bytes(60_000), LONG_S)), Overloaded)


@everywhere
async def test_a_call_to_the_dead_ends_at_once(ends: Ends) -> None:
    slow = Slow()
    ends.b.register("slow", 1, on_call=slow)
    under_way = asyncio.create_task(outcome(ends.a.call_service(2, "slow", b"", LONG_S)))
    await until(lambda: slow.began)
    ends.a.remove_link(2, "kill -9")
    assert isinstance(await under_way, PeerDied)
    for work in (
        ends.a.call(2, KIND, b"", LONG_S),
        ends.a.call_service(2, "slow", b"", LONG_S),
        ends.a.send(2, "slow", b""),
    ):
        assert isinstance(await outcome(work), PeerDied)


async def test_a_call_over_a_link_that_nobody_makes_ends_at_its_deadline() -> None:
    async def never(kid: int) -> None:
        await asyncio.Event().wait()

    pair = link_pair("fake")
    endpoint = Endpoint(1, 1, pair.bell_a, never)
    endpoint.start()
    assert isinstance(await outcome(endpoint.call(2, KIND, b"", SOON_S)), DeadlineExceeded)
    assert isinstance(await outcome(endpoint.call_service("k2", "x", b"", SOON_S)), DeadlineExceeded)
    await endpoint.stop()
    pair.close()


@everywhere
async def test_a_timeout_of_the_handlers_own_is_not_the_callers(ends: Ends) -> None:
    async def times_out(kid: int, body: bytes) -> bytes:
        raise DeadlineExceeded("the disk did not answer")

    ends.b.answer(KIND, times_out)
    error = await outcome(ends.a.call(2, KIND, b"", LONG_S))
    assert isinstance(error, DeadlineExceeded) and "disk" in str(error)


@pytest.mark.parametrize("kind", [Overloaded, DeadlineExceeded, PeerDied])
def test_typed_errors_cross_links_as_they_are(kind: type[PopnetError]) -> None:
    crossed = error_of(error_object(kind("why", "what to do")))
    assert (type(crossed), str(crossed), crossed.hint) == (kind, "why", "what to do")
    assert isinstance(by_code(kind.code, "x"), kind)


@everywhere
async def test_who_sends_much_can_wait_for_room(ends: Alone) -> None:
    peer = ends.a._peers[2]
    await peer.drained(Ring.NORMAL)
    while not ends.a.counters().get("waited_for_room"):
        ends.a.post(2, KIND, bytes(60_000))
    waiting = asyncio.create_task(peer.drained(Ring.NORMAL))
    await settle()
    assert not waiting.done()
    while not waiting.done():
        ends.heard(Ring.NORMAL)
        await asyncio.sleep(0)
    while ends.a.post(2, KIND, bytes(codec.FRAGMENT_SIZE[Ring.NORMAL])):
        pass
    waiting = asyncio.create_task(outcome(peer.drained(Ring.NORMAL)))
    await settle()
    ends.a.remove_link(2, "died")
    assert isinstance(await waiting, PeerDied)
