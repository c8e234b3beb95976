"""The life of a kernel against its table: the docstring of KernelState is the oracle."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.core.errors import IllegalState
from popnet.machine.states import (
    Boot,
    CleanUp,
    Command,
    Died,
    Event,
    KernelState,
    Life,
    Load,
    Online,
    Start,
    StepFailed,
    Stop,
    Terminate,
    Unload,
    Update,
    handle,
)

USER: dict[str, Callable[[], Event]] = {
    "Load": Load,
    "Start": Start,
    "Stop": Stop,
    "Unload": Unload,
    "Update": Update,
}
HOST: dict[str, Callable[[int], Event]] = {
    "Online": Online,
    "StepFailed": lambda generation: StepFailed(generation, "nic", "no TAP"),
    "Died": lambda generation: Died(generation, "signal 9"),
}


def table() -> dict[tuple[str, str], tuple[str, str]]:
    """(state, event) -> (next state, command) from the docstring."""
    moves = {}
    for line in (KernelState.__doc__ or "").split("========\n")[-2].splitlines():
        words = line.split()
        if len(words) >= 4 and not words[0].startswith("="):
            moves[words[0], words[1]] = (words[2], words[3])
    return moves


TABLE = table()


def names(commands: list[Command]) -> str:
    return " ".join(type(command).__name__ for command in commands) or "-"


def test_the_table_was_found() -> None:
    assert len(TABLE) == 25
    assert {state for state, _ in TABLE} == {state.value for state in KernelState}


@pytest.mark.parametrize("state", KernelState)
@pytest.mark.parametrize("event", [*USER, *HOST])
def test_every_pair_is_in_the_table_or_refused(state: KernelState, event: str) -> None:
    life = Life("k1", state, generation=3, since_s=1.0)
    happening = USER[event]() if event in USER else HOST[event](3)
    expected = TABLE.get((state.value, event))
    if expected is not None:
        after, commands = handle(life, happening, 2.0)
        assert (after.state.value, names(commands)) == expected
        assert after.since_s == (2.0 if after.state is not state else 1.0)
    elif event in USER:
        with pytest.raises(IllegalState, match=f"kernel k1: it is {state.value}") as caught:
            handle(life, happening, 2.0)
        assert caught.value.hint.endswith(".")
        assert "{" not in caught.value.hint
    else:
        with pytest.raises(AssertionError):
            handle(life, happening, 2.0)


@given(st.lists(st.tuples(st.sampled_from([*USER, *HOST]), st.integers(0, 2)), max_size=60))
def test_random_walk(steps: list[tuple[str, int]]) -> None:
    """Whatever comes in whatever order: the table decides, generations only grow, old ones change nothing."""
    life = Life("k1")
    for now_s, (event, age) in enumerate(steps, start=1):
        before = life
        if event in USER:
            try:
                life, commands = handle(life, USER[event](), now_s)
            except IllegalState:
                assert (before.state.value, event) not in TABLE
                continue
            assert (life.state.value, names(commands)) == TABLE[before.state.value, event]
            assert life.generation == before.generation + (event == "Start")
            continue
        generation = before.generation - age
        if generation < 1 or (age == 0 and (before.state.value, event) not in TABLE):
            continue
        life, commands = handle(life, HOST[event](generation), now_s)
        if age:
            assert (life, commands) == (before, [])
        else:
            assert (life.state.value, names(commands)) == TABLE[before.state.value, event]
        assert life.generation == before.generation


def test_every_boot_is_cleaned_up_once() -> None:
    life, done = Life("k1"), []
    events: list[Event] = [
        Load(), Start(), Online(1), Died(1, "panic"), Died(1, "panic"),
        Load(), Start(), Online(2), Stop("kill"), Died(2, "signal 9"), Died(2, "signal 9"),
    ]  # fmt: skip
    for now_s, event in enumerate(events):
        life, commands = handle(life, event, now_s)
        done += commands
    assert done == [Boot(1), CleanUp(1, "panic"), Boot(2), Terminate(2), CleanUp(2, "kill")]
    assert life == Life("k1", KernelState.OFFLINE, 2, 9.0, "kill")


def test_a_failed_step_is_told() -> None:
    life, commands = handle(Life("k1", KernelState.STARTING, 1), StepFailed(1, "nic", "no TAP"), 5.0)
    assert (life.state, life.reason) == (KernelState.FAILED, "nic: no TAP")
    assert commands == [CleanUp(1, "nic: no TAP")]


def test_a_report_from_the_future_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        handle(Life("k1", KernelState.STARTING, 1), Died(2, "x"), 0.0)
