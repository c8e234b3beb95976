"""How the pump waits: its modes, for each link and for the guest."""

import os
from collections.abc import Callable

import pytest

from popnet.transport._native import Pump
from popnet.transport.modes import Mode
from tests.transport.lab import NO_OFFLOAD, Kernel, Lab, ethernet, eventually, running

FRAMES = 2
MODES: tuple[Mode, ...] = ("poll", "adaptive", "interrupt")
LONG_US = 60_000_000


FRAME = NO_OFFLOAD + ethernet(1)
"""For the guest of kernel 1, from kernel 2."""


def sleeps(kernel: Kernel) -> bool:
    """The pump has armed, and as it lets us in after that, it sleeps."""
    armed = all(window.words()["armed_data_frames"] != 0 for window, _ in kernel.windows.values())
    return kernel.count("sleeps") > 0 and armed


def polls(kernel: Kernel) -> bool:
    """The pump is not armed, and goes round and round."""
    armed = any(window.words()["armed_data_frames"] != 0 for window, _ in kernel.windows.values())
    rounds = kernel.count("rounds")
    return not armed and kernel.count("rounds") > rounds


@pytest.mark.parametrize("mode", MODES)
def test_frames_go_in_every_mode(mode: Mode) -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        for kernel in lab.kernels.values():
            kernel.pump.set_mode(None, mode)
        for number in range(100):
            frame = lab[1].send(2, b"ping %d" % number)
            assert lab[2].receive() == frame
            frame = lab[2].send(1, b"pong %d" % number)
            assert lab[1].receive() == frame


def idle(lab: Lab) -> Kernel:
    lab.connect(1, 2)
    return lab[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda pump: pump.set_mode(None, "poll"),
        lambda pump: pump.set_mode(2, "poll"),
        lambda pump: pump.set_mode(2, "adaptive", LONG_US),
    ],
)
def test_the_mode_is_switched_while_the_pump_runs(change: Callable[[Pump], None]) -> None:
    """From sleep to polling and back; frames for one that polls need no kick."""
    with running((1, 2), bare=(2,)) as lab:
        kernel = idle(lab)
        kernel.pump.set_mode(None, "interrupt")
        eventually(lambda: sleeps(kernel))
        change(kernel.pump)
        eventually(lambda: polls(kernel))
        asleep = kernel.count("sleeps")
        sender = lab[2].links[1]
        assert sender.send(FRAMES, FRAME)
        assert kernel.receive() == FRAME
        assert kernel.count("sleeps") == asleep, "it polled all the time"
        assert sender.counters()["frames_kicks"] == 0
        kernel.pump.set_mode(None, "interrupt")
        eventually(lambda: sleeps(kernel))
        assert sender.send(FRAMES, FRAME)
        assert kernel.receive() == FRAME
        assert sender.counters()["frames_kicks"] == 1


def test_the_mode_of_a_kernel_outlives_its_link() -> None:
    with running((1, 2), bare=(2,)) as lab:
        kernel = lab[1]
        kernel.pump.set_mode(None, "interrupt")
        kernel.pump.set_mode(2, "poll")
        for _ in range(2):
            lab.connect(1, 2)
            eventually(lambda: polls(kernel))
            asleep, rounds = kernel.count("sleeps"), kernel.count("rounds")
            eventually(lambda before=rounds: kernel.count("rounds") > before + 10)  # type: ignore[misc]
            assert kernel.count("sleeps") == asleep
        asleep = kernel.count("sleeps")
        kernel.pump.detach(2)
        eventually(lambda: kernel.count("sleeps") > asleep)


def test_an_idle_pump_stops_spinning() -> None:
    with running((1, 2), bare=(2,)) as lab:
        kernel = idle(lab)
        kernel.pump.set_mode(None, "adaptive", 5)
        for _ in range(12):  # each wakes the pump, to find nothing
            asleep = kernel.count("sleeps")
            kernel.pump.set_link_up(True)
            eventually(lambda before=asleep: kernel.count("sleeps") > before)  # type: ignore[misc]
        assert 0 < kernel.count("spin_misses") < 7
        assert kernel.count("spin_misses") < kernel.count("sleeps")
        assert 0 < kernel.links[2].counters()["frames_spin_misses"] < 7
        assert kernel.links[2].counters()["frames_armed"] >= 12


@pytest.mark.parametrize(("mode", "spin_max_us"), [("interrupt", 20), ("adaptive", 0)])
def test_a_pump_that_must_not_spin_does_not(mode: Mode, spin_max_us: int) -> None:
    with running((1, 2)) as lab:
        for kernel in lab.kernels.values():
            kernel.pump.set_mode(None, mode, spin_max_us)
        before = {kid: kernel.count("spin_misses") for kid, kernel in lab.kernels.items()}
        lab.connect(1, 2)
        for number in range(20):
            frame = lab[1].send(2, b"%d" % number)
            assert lab[2].receive() == frame
        for kid, kernel in lab.kernels.items():
            assert kernel.count("spin_misses") == before[kid]


def test_a_spinning_pump_hits() -> None:
    with running((1, 2), bare=(2,)) as lab:
        kernel = idle(lab)
        kernel.pump.set_mode(2, "adaptive", LONG_US)
        eventually(lambda: polls(kernel))
        before = kernel.count("spin_hits")
        assert lab[2].links[1].send(FRAMES, FRAME)
        assert kernel.receive() == FRAME
        eventually(lambda: kernel.count("spin_hits") == before + 1)
        assert kernel.links[2].counters()["frames_spin_hits"] == 1


def test_a_spurious_kick_of_the_pump_is_counted() -> None:
    with running((1, 2), bare=(2,)) as lab:
        kernel = idle(lab)
        kernel.pump.set_mode(None, "interrupt")
        eventually(lambda: sleeps(kernel))
        assert lab[2].links[1].send(FRAMES, FRAME)
        assert kernel.receive() == FRAME
        eventually(lambda: sleeps(kernel))
        assert kernel.count("kicks_spurious") == 0, "that one was none"
        os.eventfd_write(kernel.bell, 1)
        eventually(lambda: kernel.count("kicks_spurious") == 1)


def test_an_exhausted_budget_is_counted() -> None:
    """One frame more than the budget is there when the link is attached."""
    with running((1, 2), bare=(1, 2)) as lab:
        lab.connect(1, 2)
        kernel = lab[1]
        assert lab[2].links[1].send_many(FRAMES, [(0, FRAME)] * 65) == 65
        kernel.pump.attach(2, kernel.links[2])
        kernel.thread.start()
        for _ in range(65):
            assert kernel.receive() == FRAME
        assert kernel.links[2].counters()["frames_budget_exhausted"] == 1


def test_wrong_modes_are_refused() -> None:
    kernel = Kernel(1)
    try:
        with pytest.raises(ValueError, match="a mode is"):
            kernel.pump.set_mode(None, "often")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="a kid is"):
            kernel.pump.set_mode(256, "poll")
        with pytest.raises(ValueError, match="a kid is"):
            kernel.pump.set_mode(-1, "poll")
        with pytest.raises(ValueError, match="negative"):
            kernel.pump.set_mode(1, "poll", -1)
    finally:
        kernel.stop()
