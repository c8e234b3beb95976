"""Waiting at a ring: the three modes, what ends a wait, and who may wait where."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from popnet.transport._native import PAYLOAD_MAX, Link, LinkClosed, Violation, look, looks
from popnet.transport.modes import DEFAULT_MODE, Mode
from tests.transport.lab import PATIENCE_S, eventually
from tests.transport.pair import FRAMES, HIGH, NORMAL, RING_NAMES, End, Pair
from tests.transport.test_native_processes import assert_succeeded, in_child

MODES: tuple[Mode, ...] = ("poll", "adaptive", "interrupt")
Records = list[tuple[int, bytes]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Pair() as joined:
        yield joined


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def wait(end: End, ring: int = HIGH, timeout_s: float | None = PATIENCE_S) -> Records:
    return end.link.receive_wait(ring, 16, timeout_s, end.bell)


def count(end: End, name: str, ring: int = HIGH) -> int:
    return end.link.counters()[f"{RING_NAMES[ring]}_{name}"]


def asleep(end: End, what: str = "armed_data_high") -> bool:
    return end.window.words()[what] != 0


def waits_already(link: Link, ring: int = HIGH) -> bool:
    """Somebody is inside a wait for data at *ring*."""
    try:
        link.disarm(ring)
    except RuntimeError:
        return True
    return False


def start(threads: ThreadPoolExecutor, end: End, mode: Mode, ring: int = HIGH) -> "Future[Records]":
    """A thread that waits for data at *ring*, and has begun to."""
    end.link.set_mode(ring, mode)
    armed_before = count(end, "armed", ring)
    waiter = threads.submit(wait, end, ring)
    if mode == "poll":
        eventually(lambda: waits_already(end.link, ring))
    else:
        eventually(lambda: count(end, "armed", ring) > armed_before)
    return waiter


def fill(link: Link, ring: int = HIGH, size: int = 1000) -> int:
    """Send until the ring is full; how many records that took."""
    sent = 0
    while link.send(ring, bytes(size)):
        sent += 1
    return sent


# ---- data


@pytest.mark.parametrize("mode", MODES)
def test_what_is_there_is_taken_at_once(pair: Pair, mode: Mode) -> None:
    pair.b.link.set_mode(HIGH, mode)
    pair.a.link.send_many(HIGH, [(tag, b"x") for tag in range(20)])
    assert wait(pair.b) == [(tag, b"x") for tag in range(16)]
    assert count(pair.b, "budget_exhausted") == 1
    assert len(wait(pair.b, timeout_s=0)) == 4
    assert wait(pair.b, timeout_s=0) == []
    assert count(pair.b, "budget_exhausted") == 1
    assert count(pair.b, "armed") == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ring", [HIGH, NORMAL, FRAMES])
def test_a_waiter_gets_what_comes(pair: Pair, threads: ThreadPoolExecutor, mode: Mode, ring: int) -> None:
    waiter = start(threads, pair.b, mode, ring)
    pair.a.link.send(ring, b"late", 7)
    assert waiter.result() == [(7, b"late")]
    assert count(pair.a, "kicks", ring) == (mode != "poll")
    assert pair.b.rung() == 0, "the waiter drained its bell"


@pytest.mark.parametrize("mode", MODES)
def test_a_wait_ends_at_its_deadline(pair: Pair, mode: Mode) -> None:
    pair.b.link.set_mode(HIGH, mode)
    assert wait(pair.b, timeout_s=0.01) == []
    assert not asleep(pair.b)
    assert pair.b.link.receive(HIGH) is None, "nobody waits any more"


@pytest.mark.parametrize("mode", MODES)
def test_ping_pong_of_waiters_loses_no_wake_up(pair: Pair, mode: Mode) -> None:
    rounds = 300 if mode == "poll" else 10_000  # on a busy machine each look may cost others' whole turns

    def echo() -> None:
        for _ in range(rounds):
            for tag, data in wait(pair.b):
                assert pair.b.link.send_wait(HIGH, data, tag, PATIENCE_S, pair.b.bell)

    for end in (pair.a, pair.b):
        end.link.set_mode(HIGH, mode)
    child = in_child(echo)
    for number in range(rounds):
        data = number.to_bytes(8, "little")
        assert pair.a.link.send(HIGH, data, number)
        assert wait(pair.a) == [(number, data)]
    assert_succeeded(child)
    assert (count(pair.a, "armed") > 0) == (mode != "poll") or mode == "adaptive"
    assert (count(pair.a, "spin_hits") > 0) == (mode != "interrupt") or mode == "adaptive"


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_through_a_full_ring_of_waiters(pair: Pair, mode: Mode) -> None:
    total, size = 300 if mode == "poll" else 3_000, PAYLOAD_MAX[HIGH] // 3

    def produce() -> None:
        for number in range(total):
            assert pair.a.link.send_wait(HIGH, bytes(size), number, PATIENCE_S, pair.a.bell)

    for end in (pair.a, pair.b):
        end.link.set_mode(HIGH, mode)
    child = in_child(produce)
    tags: list[int] = []
    while len(tags) < total:
        records = wait(pair.b)
        assert records, "nobody rang: a wake-up is lost"
        tags += [tag for tag, _ in records]
    assert_succeeded(child)
    assert tags == list(range(total))


def test_without_a_bell_one_polls(pair: Pair, threads: ThreadPoolExecutor) -> None:
    pair.b.link.set_mode(HIGH, "interrupt")
    waiter = threads.submit(pair.b.link.receive_wait, HIGH, 1, PATIENCE_S, -1)
    eventually(lambda: waits_already(pair.b.link))
    pair.a.link.send(HIGH, b"polled for")
    assert waiter.result() == [(0, b"polled for")]
    assert count(pair.b, "armed") == count(pair.a, "kicks") == 0


# ---- room


@pytest.mark.parametrize("mode", MODES)
def test_a_sender_gets_room(pair: Pair, threads: ThreadPoolExecutor, mode: Mode) -> None:
    pair.a.link.set_mode(HIGH, mode)
    sent = fill(pair.a.link)
    waiter = threads.submit(pair.a.link.send_wait, HIGH, bytes(1000), 9, PATIENCE_S, pair.a.bell)
    if mode != "poll":
        eventually(lambda: asleep(pair.a, "armed_room_high"))
    assert len(pair.b.link.receive_many(HIGH, sent)) == sent
    assert waiter.result() is True
    assert pair.b.link.receive_many(HIGH, 9) == [(9, bytes(1000))]
    assert count(pair.a, "armed_for_room") == count(pair.b, "room_kicks") == (mode != "poll")


@pytest.mark.parametrize("mode", MODES)
def test_a_sender_without_room_gives_up(pair: Pair, mode: Mode) -> None:
    pair.a.link.set_mode(HIGH, mode)
    sent = fill(pair.a.link)
    for timeout_s in (0, 0.01):
        assert not pair.a.link.send_wait(HIGH, bytes(1000), 9, timeout_s, pair.a.bell)
    assert len(pair.b.link.receive_many(HIGH, 999)) == sent, "it was not sent after all"
    assert pair.a.link.send(HIGH, b"")


def test_what_was_staged_is_shown_before_the_wait_for_room(pair: Pair, threads: ThreadPoolExecutor) -> None:
    staged = 0
    while pair.a.link.stage(HIGH, bytes(1000)):
        staged += 1
    waiter = threads.submit(pair.a.link.send_wait, HIGH, b"last", 0, PATIENCE_S, pair.a.bell)
    tags: Records = []
    while len(tags) <= staged:
        tags += wait(pair.b)
    assert tags[-1] == (0, b"last")
    assert waiter.result() is True


# ---- what else ends a wait


@pytest.mark.parametrize("mode", MODES)
def test_closing_ends_the_wait(pair: Pair, threads: ThreadPoolExecutor, mode: Mode) -> None:
    waiter = start(threads, pair.b, mode)
    pair.b.link.close()
    with pytest.raises(LinkClosed):
        waiter.result()


@pytest.mark.parametrize("mode", MODES)
def test_closing_ends_the_wait_for_room(pair: Pair, threads: ThreadPoolExecutor, mode: Mode) -> None:
    pair.a.link.set_mode(HIGH, mode)
    fill(pair.a.link)
    waiter = threads.submit(pair.a.link.send_wait, HIGH, bytes(1000), 0, None, pair.a.bell)
    if mode != "poll":
        eventually(lambda: asleep(pair.a, "armed_room_high"))
    pair.a.link.close()
    with pytest.raises(LinkClosed):
        waiter.result()


@pytest.mark.parametrize("mode", MODES)
def test_nonsense_ends_the_wait(pair: Pair, threads: ThreadPoolExecutor, mode: Mode) -> None:
    waiter = start(threads, pair.b, mode)
    pair.a.poke_word("produced_high", 1)
    os.eventfd_write(pair.b.bell, 1)
    with pytest.raises(Violation, match="not a multiple of 64"):
        waiter.result()


def test_nonsense_at_another_ring_ends_the_wait(pair: Pair, threads: ThreadPoolExecutor) -> None:
    waiter = start(threads, pair.b, "interrupt")
    pair.a.poke_word("produced_normal", 1)
    with pytest.raises(Violation):
        pair.b.link.receive(NORMAL)
    with pytest.raises(Violation):
        waiter.result()


class HandlerError(Exception):
    pass


@pytest.mark.parametrize("mode", MODES)
def test_the_handler_of_a_signal_may_end_the_wait(
    pair: Pair, threads: ThreadPoolExecutor, mode: Mode
) -> None:
    """The second handler raises, so the wait went on after the first."""
    calls: list[int] = []

    def handler(_number: int, _frame: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise HandlerError

    def signal_twice() -> None:
        for number in (1, 2):
            eventually(lambda: len(calls) >= 2 or waits())
            while len(calls) < number:  # the first may come just before the sleep, which Python cannot see
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                os.sched_yield()

    def waits() -> bool:
        return waits_already(pair.b.link) if mode == "poll" else asleep(pair.b)

    pair.b.link.set_mode(HIGH, mode)
    old = signal.signal(signal.SIGUSR1, handler)
    try:
        sender = threads.submit(signal_twice)
        with pytest.raises(HandlerError):
            wait(pair.b)
        sender.result()
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, old)
    assert pair.b.link.receive(HIGH) is None, "nobody waits any more"
    assert not asleep(pair.b)


# ---- who may wait where


@pytest.mark.parametrize("mode", MODES)
def test_one_waiter_at_a_side_of_a_ring(pair: Pair, threads: ThreadPoolExecutor, mode: Mode) -> None:
    link = pair.b.link
    waiter = start(threads, pair.b, mode)
    for call in (
        lambda: link.receive(HIGH),
        lambda: link.receive_many(HIGH, 1),
        lambda: wait(pair.b),
        lambda: link.arm(HIGH),
        lambda: link.disarm(HIGH),
        lambda: look([link], 0),
    ):
        with pytest.raises(RuntimeError, match="another thread waits"):
            call()
    assert link.send(HIGH, b"the other side is free")
    assert link.receive(NORMAL) is None, "and so are other rings"
    pair.a.link.send(HIGH, b"")
    assert len(waiter.result()) == 1
    assert link.receive(HIGH) is None


def test_one_waiter_for_room(pair: Pair, threads: ThreadPoolExecutor) -> None:
    link = pair.a.link
    link.set_mode(HIGH, "interrupt")
    fill(link)
    waiter = threads.submit(link.send_wait, HIGH, bytes(1000), 0, PATIENCE_S, pair.a.bell)
    eventually(lambda: asleep(pair.a, "armed_room_high"))
    for call in (
        lambda: link.send(HIGH, b""),
        lambda: link.send_many(HIGH, [(0, b"")]),
        lambda: link.stage(HIGH, b""),
        lambda: link.publish(HIGH),
        lambda: link.arm_room(HIGH, 1),
        lambda: link.disarm_room(HIGH),
        lambda: link.send_wait(HIGH, b"", 0, 0, pair.a.bell),
    ):
        with pytest.raises(RuntimeError, match="another thread waits"):
            call()
    assert link.receive(HIGH) is None
    link.close()
    with pytest.raises(LinkClosed):
        waiter.result()


def test_waiters_of_a_link_may_share_its_bell(pair: Pair, threads: ThreadPoolExecutor) -> None:
    """Whoever drains the bell wakes the others, so nobody waits for a kick that was drained."""
    for _ in range(100):
        high = start(threads, pair.b, "interrupt", HIGH)
        normal = start(threads, pair.b, "interrupt", NORMAL)
        pair.a.link.send(NORMAL, b"n")
        assert normal.result() == [(0, b"n")]
        pair.a.link.send(HIGH, b"h")
        assert high.result() == [(0, b"h")]


def test_a_drained_bell_nudges_the_other_waiters(pair: Pair, threads: ThreadPoolExecutor) -> None:
    high = start(threads, pair.b, "interrupt", HIGH)
    normal = start(threads, pair.b, "interrupt", NORMAL)

    def of_both(name: str) -> int:
        return count(pair.b, name, HIGH) + count(pair.b, name, NORMAL)

    before = of_both("nudges")
    os.eventfd_write(pair.b.bell, 1)
    eventually(lambda: of_both("nudges") > before and of_both("kicks_spurious") > 0)
    pair.a.link.send(NORMAL, b"n")
    pair.a.link.send(HIGH, b"h")
    assert (high.result(), normal.result()) == ([(0, b"h")], [(0, b"n")])


def test_wrong_arguments_are_refused(pair: Pair) -> None:
    link = pair.b.link
    with pytest.raises(ValueError, match="budget"):
        link.receive_wait(HIGH, 0, 0, pair.b.bell)
    with pytest.raises(ValueError, match="timeout"):
        link.receive_wait(HIGH, 1, float("nan"), pair.b.bell)
    with pytest.raises(TypeError):
        link.receive_wait(HIGH, 1, "soon", pair.b.bell)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="doorbell"):
        link.receive_wait(HIGH, 1, PATIENCE_S, 10_000)
    with pytest.raises(ValueError, match="larger than"):
        link.send_wait(HIGH, bytes(PAYLOAD_MAX[HIGH] + 1), 0, 0, pair.b.bell)
    with pytest.raises(ValueError, match="a mode is"):
        link.set_mode(HIGH, "often")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        link.set_mode(HIGH, "poll", -1)
    with pytest.raises(ValueError, match="no such ring"):
        link.set_mode(3, "poll")
    with pytest.raises(TypeError):
        look([pair.b], 0)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="256"):
        look([link] * 257, 0)


# ---- modes and counters


def test_each_ring_has_its_mode(pair: Pair) -> None:
    link = pair.a.link
    assert [link.mode(ring) for ring in (HIGH, NORMAL, FRAMES)] == [DEFAULT_MODE] * 3
    link.set_mode(NORMAL, "poll")
    link.set_mode(FRAMES, mode="interrupt", spin_max_us=5)
    assert [link.mode(ring) for ring in (HIGH, NORMAL, FRAMES)] == ["adaptive", "poll", "interrupt"]
    assert pair.b.link.mode(NORMAL) == "adaptive", "the other end has its own"


def test_the_mode_is_switched_under_a_waiter(pair: Pair, threads: ThreadPoolExecutor) -> None:
    waiter = start(threads, pair.b, "interrupt")
    pair.b.link.set_mode(HIGH, "poll")
    eventually(lambda: not asleep(pair.b))
    pair.b.link.set_mode(HIGH, "interrupt")
    eventually(lambda: asleep(pair.b))
    pair.b.link.set_mode(HIGH, "poll")
    eventually(lambda: not asleep(pair.b))
    pair.a.link.send(HIGH, b"polled for")
    assert waiter.result() == [(0, b"polled for")]
    assert count(pair.a, "kicks") == 0


def test_a_ring_that_must_not_spin_does_not(pair: Pair) -> None:
    pair.b.link.set_mode(HIGH, "adaptive", 0)
    for _ in range(5):
        assert wait(pair.b, timeout_s=0.001) == []
    assert count(pair.b, "spin_misses") == 0
    assert count(pair.b, "armed") == 5


def test_an_idle_ring_stops_spinning(pair: Pair) -> None:
    for _ in range(20):
        assert wait(pair.b, timeout_s=0.001) == []
    assert 0 < count(pair.b, "spin_misses") < 10
    assert count(pair.b, "armed") == 20


def test_a_ring_whose_data_is_on_its_way_hits(pair: Pair, threads: ThreadPoolExecutor) -> None:
    """With a long window a waiter finds the data while it spins: nobody kicks."""
    pair.b.link.set_mode(HIGH, "adaptive", 60_000_000)
    waiter = threads.submit(wait, pair.b, HIGH, None)
    eventually(lambda: waits_already(pair.b.link))
    pair.a.link.send(HIGH, b"")
    assert len(waiter.result()) == 1
    assert (count(pair.b, "spin_hits"), count(pair.b, "armed"), count(pair.a, "kicks")) == (1, 0, 0)


def test_a_spurious_kick_is_counted(pair: Pair, threads: ThreadPoolExecutor) -> None:
    waiter = start(threads, pair.b, "interrupt")
    os.eventfd_write(pair.b.bell, 1)
    eventually(lambda: count(pair.b, "kicks_spurious") == 1)
    pair.a.link.send(HIGH, b"")
    assert len(waiter.result()) == 1
    assert count(pair.b, "kicks_spurious") == 1, "that one was none"


# ---- many links at once


def test_look_finds_data_of_any_link(pair: Pair) -> None:
    with Pair() as other:
        links = [pair.b.link, other.b.link]
        assert not look(links, 0)
        assert not look(links, 50)
        assert not look([], 50)
        for sender, ring in ((pair.a, NORMAL), (other.a, HIGH)):
            sender.link.send(ring, b"")
            assert look(links, 0)
            assert look(links, 50)
            receiver = pair.b if sender is pair.a else other.b
            assert len(receiver.link.receive_many(ring, 9)) == 1
            assert not look(links, 0)


def test_look_waits_for_what_comes_soon(pair: Pair, threads: ThreadPoolExecutor) -> None:
    pair.b.link.set_mode(NORMAL, "poll")
    looker = threads.submit(look, [pair.b.link], 2_000_000_000)
    eventually(lambda: waits_already(pair.b.link))
    pair.a.link.send(NORMAL, b"")
    assert looker.result() is True
    assert count(pair.b, "spin_hits", NORMAL) == 1


@pytest.mark.parametrize(
    "news", [lambda pair: pair.b.link.close(), lambda pair: pair.a.poke_word("produced_high", 1)]
)
def test_look_reports_a_link_that_is_done(pair: Pair, news: Callable[[Pair], None]) -> None:
    news(pair)
    assert look([pair.b.link], 0), "the caller finds out by receiving"
    with pytest.raises((LinkClosed, Violation)):
        pair.b.link.receive(HIGH)


def test_look_learns_when_not_to_spin(pair: Pair) -> None:
    for _ in range(20):
        assert not look([pair.b.link], 20)
    assert 0 < count(pair.b, "spin_misses", HIGH) < 10
    spun = count(pair.b, "spin_misses", HIGH)
    for _ in range(20):
        assert not look([pair.b.link], 20)
    assert count(pair.b, "spin_misses", HIGH) == spun


def test_looks_tells_whether_look_would_spin(pair: Pair) -> None:
    links = [pair.b.link]
    assert looks(links), "nothing was learnt yet"
    pair.b.link.set_mode(HIGH, "interrupt")
    for _ in range(10):
        assert not look(links, 20)
    assert not looks(links), "it never paid"
    pair.b.link.set_mode(NORMAL, "poll")
    assert looks(links)
    pair.b.link.set_mode(NORMAL, "interrupt")
    assert not looks(links)
    assert not looks([])
    with pytest.raises(TypeError):
        looks([pair.b])  # type: ignore[list-item]


def test_look_never_spins_at_rings_in_interrupt_mode(pair: Pair) -> None:
    for ring in (HIGH, NORMAL):
        pair.b.link.set_mode(ring, "interrupt")
    for _ in range(5):
        assert not look([pair.b.link], 1_000_000)
    assert count(pair.b, "spin_misses", HIGH) == count(pair.b, "spin_misses", NORMAL) == 0


# ---- stage and publish


def test_what_is_staged_is_invisible_until_published(pair: Pair) -> None:
    assert pair.a.link.position(NORMAL) == (0, 0)
    assert pair.a.link.stage(NORMAL, b"one", 1)
    assert pair.a.link.stage(NORMAL, bytes(100), tag=2)
    assert pair.a.link.position(NORMAL) == (64 + 128, 0)
    assert pair.b.link.arm(NORMAL)
    assert pair.b.link.receive(NORMAL) is None
    assert pair.b.rung() == 0
    pair.a.link.publish(NORMAL)
    pair.a.link.publish(NORMAL)
    assert pair.b.rung() == 1
    assert pair.b.link.receive(NORMAL) == (1, b"one")
    assert pair.b.link.position(NORMAL) == (0, 64)
    assert pair.b.link.receive(NORMAL) == (2, bytes(100))
    assert pair.b.link.position(NORMAL) == (0, 64 + 128)


def test_staging_stops_at_a_full_ring(pair: Pair) -> None:
    staged = 0
    while pair.a.link.stage(HIGH, bytes(1000)):
        staged += 1
    assert count(pair.a, "full") == 1
    assert pair.b.link.receive(HIGH) is None
    assert pair.a.link.send_many(HIGH, []) == 0
    assert len(pair.b.link.receive_many(HIGH, 999)) == staged, "any publication shows what was staged"


def test_positions_name_a_record_alike_at_both_ends() -> None:
    start_at = 2**64 - 128
    with Pair(start_at) as pair:
        for number in range(5):
            here = pair.a.link.position(HIGH)[0]
            assert here == pair.b.link.position(HIGH)[1] == (start_at + 64 * number) % 2**64
            pair.a.link.send(HIGH, b"")
            pair.b.link.receive(HIGH)
