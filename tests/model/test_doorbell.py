"""No wake-up is lost and no byte is read too early or too late, whatever the order of events, on x86 and
on arm64; and each part of the protocol is needed for that on one of them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.model import tso, weak
from tests.model.doorbell import Consumer, Producer, Rules
from tests.model.machine import Program, Result, Wait

Search = Callable[..., Result]

NARROW = Rules(capacity=2)
"""The smallest ring that can be neither full nor empty."""

WIDE = Rules(capacity=4)

ON_TSO = [
    (WIDE, (1, 1, 1)),  # never full: only the wait for data
    (WIDE, (2, 2, 1, 1)),
    (WIDE, (3, 3, 3)),  # each larger than half the ring
    (NARROW, (1, 2, 1)),
]
ON_WEAK = [
    (NARROW, (1, 1, 1)),
    (NARROW, (2, 2)),
    (WIDE, (3, 1)),  # a record larger than half the ring
]
SHOWS = [(1,), (1, 1), (2, 1), (2, 2, 2)]
"""Records that are enough, in a narrow ring, to show each fault."""


def explore(search: Search, rules: Rules, sizes: tuple[int, ...]) -> Result:
    producer: Program = Producer(rules, sizes)
    return search(producer, Consumer(rules, sizes))


def label(case: object) -> str:
    return f"{case.capacity} units" if isinstance(case, Rules) else str(case)


@pytest.mark.parametrize(("rules", "sizes"), ON_TSO, ids=label)
def test_nothing_goes_wrong_with_store_buffers(rules: Rules, sizes: tuple[int, ...]) -> None:
    assert_fine(explore(tso.search, rules, sizes))


@pytest.mark.parametrize(("rules", "sizes"), ON_WEAK, ids=label)
def test_nothing_goes_wrong_on_the_weak_machine(rules: Rules, sizes: tuple[int, ...]) -> None:
    assert_fine(explore(weak.search, rules, sizes))


def assert_fine(result: Result) -> None:
    assert (result.steps, result.wrong) == (None, "")
    assert result.states > 1000, "the search went somewhere"


def results(search: Search, left_out: str) -> Iterator[Result]:
    for sizes in SHOWS:
        yield explore(search, replace(NARROW, **{left_out: False}), sizes)


@pytest.mark.parametrize("search", [tso.search, weak.search], ids=["store buffers", "weak"])
@pytest.mark.parametrize(
    ("left_out", "sleeper"),
    [
        ("fence_after_publish", "consumer"),
        ("fence_after_arming", "consumer"),
        ("look_again", "consumer"),
        ("new_sequence", "consumer"),
        ("fence_after_release", "producer"),
        ("fence_after_arming_for_room", "producer"),
        ("look_again_for_room", "producer"),
        ("new_sequence_for_room", "producer"),
    ],
)
def test_a_wake_up_is_lost_without(search: Search, left_out: str, sleeper: str) -> None:
    found = (result.wanted for result in results(search, left_out))
    assert any(Wait(sleeper) in wanted for wanted in found), "the search must find it asleep for ever"


@pytest.mark.parametrize(
    ("left_out", "how"),
    [("publish_releases", "early"), ("look_acquires", "early"), ("release_releases", "late")],
)
def test_bytes_are_read_wrongly_without(left_out: str, how: str) -> None:
    """... on the weak machine; x86 orders these by itself (the compiler must not undo it)."""
    assert any(how in result.wrong for result in results(weak.search, left_out))
    assert_fine(explore(tso.search, replace(NARROW, **{left_out: False}), (2, 1)))


@pytest.mark.parametrize("left_out", ["look_for_room_acquires", "arming_orders"])
def test_what_only_the_language_asks_for(left_out: str) -> None:
    """A store behind a branch on a load never overtakes it, and armed words have the fences: no machine needs
    these two. C does: without the first, ThreadSanitizer reports a race (tests/native)."""
    assert_fine(explore(weak.search, replace(NARROW, **{left_out: False}), (2, 1)))
    assert_fine(explore(tso.search, replace(NARROW, **{left_out: False}), (2, 1)))


def test_the_search_shows_how_it_came_to_that() -> None:
    result = explore(tso.search, replace(WIDE, fence_after_publish=False), (1,))
    assert result.steps is not None
    looked = next(i for i, step in enumerate(result.steps) if "0: Load(word='armed_data'" in step)
    stored = result.steps.index("0: produced=1 reaches memory")
    assert stored > looked, "the store was still in the buffer"
