"""No wake-up is lost, whatever the order of events; and each part of the protocol is needed for that."""

from dataclasses import replace

import pytest

from tests.model.doorbell import CAPACITY, WAKE_FREE, Consumer, Producer, Rules
from tests.model.machine import Result, Wait, search

RECORDS = (
    (1, 1, 1),  # never full: only the wait for data
    (2, 2, 1, 1),
    (WAKE_FREE, WAKE_FREE, WAKE_FREE),  # each larger than half the ring
    (1, WAKE_FREE, 1, 2),
    (CAPACITY - 1, 1, 1, CAPACITY - 1),
    (1, 1, 1, 1, 1, 1),
)


def explore(rules: Rules, sizes: tuple[int, ...]) -> Result:
    return search(Producer(rules, sizes), Consumer(rules, sizes))


@pytest.mark.parametrize("sizes", RECORDS, ids=str)
def test_nobody_sleeps_forever(sizes: tuple[int, ...]) -> None:
    result = explore(Rules(), sizes)
    assert result.steps is None
    assert result.states > 100, "the search went somewhere"


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
def test_a_wake_up_is_lost_without(left_out: str, sleeper: str) -> None:
    broken = replace(Rules(), **{left_out: False})
    found = (explore(broken, sizes).wanted for sizes in RECORDS)
    assert any(Wait(sleeper) in wanted for wanted in found), "the search must find it asleep for ever"


def test_the_search_shows_how_it_came_to_that() -> None:
    result = explore(Rules(fence_after_publish=False), (1,))
    assert result.steps is not None
    looked, stored = "0: Load(word='armed_data')", "0: produced=1 reaches memory"
    assert result.steps.index(stored) > result.steps.index(looked), "the store was still in the buffer"
