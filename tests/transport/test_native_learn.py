"""What adaptive learns: the native steps against their model, and what the model comes to."""

from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.transport._native import learn
from tests.transport.wait_model import PATIENCE_MAX, Spin

Event = Literal["hit", "missed", "slept", "reset"]
US = 1000
MAXIMA = st.sampled_from([0, 1 * US, 5 * US, 20 * US, 1000 * US])
STEPS = st.lists(st.tuples(st.sampled_from(get_args(Event)), st.integers(0, 500 * US)), max_size=200)


@given(MAXIMA, STEPS)
def test_the_native_steps_are_those_of_the_model(max_ns: int, steps: list[tuple[Event, int]]) -> None:
    model = Spin(max_ns)
    native = learn((0, 0, 0, 0, 0, 0), "reset", max_ns)
    assert native == model.state()
    for event, ns in steps:
        gap_ns = ns // US * US if event == "reset" else ns
        getattr(model, event)(gap_ns)
        native = learn(native, event, gap_ns)
        assert native == model.state()
        assert 0 <= model.window_ns <= model.max_ns
        assert 1 <= model.countdown <= model.patience <= PATIENCE_MAX


def test_the_comparison_sees_a_difference() -> None:
    model = Spin(20 * US)
    model.hit(100)
    assert learn(Spin(20 * US).state(), "hit", 9 * US) != model.state()


def test_a_ring_whose_data_never_comes_soon_stops_spinning() -> None:
    spin = Spin(20 * US)
    for _ in range(4):
        assert spin.window_ns
        spin.missed()
        spin.slept(10_000 * US)
    for _ in range(1000):
        spin.slept(10_000 * US)
        assert spin.window_ns == 0


def test_a_ring_whose_data_comes_soon_again_spins_again() -> None:
    spin = Spin(20 * US)
    for _ in range(9):
        spin.missed()
    while spin.countdown > 1:
        spin.slept(50 * US)
        assert spin.window_ns == 0
    spin.slept(50 * US)
    assert spin.window_ns == 20 * US
    for _ in range(100):
        spin.hit(1 * US)
    assert spin.window_ns == 5 * US, "not longer than what comes so soon needs"
    spin.hit(19 * US)
    assert spin.window_ns > 5 * US


def test_one_miss_among_hits_is_forgiven() -> None:
    spin = Spin(20 * US)
    spin.missed()
    assert spin.window_ns == 10 * US, "not without a hit before"
    for _ in range(100):
        spin.hit(15 * US)
        spin.missed()
    assert spin.window_ns == 20 * US
    spin.missed()
    assert spin.window_ns == 10 * US


def test_tries_that_fail_become_rare() -> None:
    """Data just too late for a spin: of ten thousand waits few spin."""
    spin, spun = Spin(20 * US), 0
    for _ in range(10_000):
        if spin.window_ns:
            spun += 1
            spin.missed()
        else:
            spin.slept(30 * US)
    assert spun < 10_000 / 15


@pytest.mark.parametrize("event", ["hit", "missed", "slept"])
def test_who_must_not_spin_never_does(event: Event) -> None:
    spin = learn((1, 1, 1, 1, 1, 1), "reset", 0)
    for _ in range(10):
        spin = learn(spin, event, 0)
        assert spin[1] == 0
