"""Receive modes: chosen by peer and ring, kept over generations, and never a spin without a core."""

from typing import Any

import pytest

from popnet.core.errors import Refused
from popnet.kernel.modes import FRAMES, Modes, parameters_of
from popnet.message.kinds import Ring
from popnet.message.stream import pair
from popnet.transport.modes import Mode


class FakeLink:
    def __init__(self) -> None:
        self.modes: dict[int, tuple[Mode, int]] = {}

    def set_mode(self, ring: int, mode: Mode, spin_max_us: int = 20) -> None:
        assert ring != FRAMES, "it belongs to the pump"
        self.modes[ring] = (mode, spin_max_us)


class FakePump:
    def __init__(self) -> None:
        self.modes: dict[int | None, tuple[Mode, int]] = {}

    def set_mode(self, kid: int | None, mode: Mode, spin_max_us: int = 20) -> None:
        if kid is None:
            self.modes.clear()
        self.modes[kid] = (mode, spin_max_us)


class Kernel:
    """Links to kernels 0 and 2, and the modes of them."""

    def __init__(self, cores: float = 1.0) -> None:
        self.links = {0: FakeLink(), 2: FakeLink()}
        self.polled: dict[int, list[Ring]] = {}
        self.pump = FakePump()
        self.modes = Modes(cores, lambda: self.links, self.polled.__setitem__)
        self.modes.pump = self.pump
        for kid, link in self.links.items():
            self.modes.apply(kid, link)


def test_all_are_adaptive_at_first() -> None:
    rings = {"high": "adaptive", "normal": "adaptive", "frames": "adaptive"}
    assert Kernel().modes.table() == {"0": rings, "2": rings}


def test_one_ring_of_one_peer() -> None:
    kernel = Kernel()
    kernel.modes.set("interrupt", 2, 1)
    assert kernel.modes.table() == {
        "0": {"high": "adaptive", "normal": "adaptive", "frames": "adaptive"},
        "2": {"high": "adaptive", "normal": "interrupt", "frames": "adaptive"},
    }
    assert kernel.links[2].modes == {0: ("adaptive", 20), 1: ("interrupt", 20)}
    assert kernel.links[0].modes == {0: ("adaptive", 20), 1: ("adaptive", 20)}
    assert kernel.pump.modes == {}


def test_frames_are_the_pumps() -> None:
    kernel = Kernel()
    kernel.modes.set("interrupt", 2, FRAMES)
    assert kernel.pump.modes == {2: ("interrupt", 20)}
    kernel.modes.set("poll")
    assert kernel.pump.modes == {None: ("poll", 20)}
    assert kernel.modes.table()["2"]["frames"] == "poll"


def test_who_must_look_all_the_time_is_told() -> None:
    kernel = Kernel()
    assert kernel.polled == {0: [], 2: []}
    kernel.modes.set("poll", 2, 1)
    assert kernel.polled == {0: [], 2: [Ring.NORMAL]}
    kernel.modes.set("poll")
    assert kernel.polled == {0: [Ring.HIGH, Ring.NORMAL], 2: [Ring.HIGH, Ring.NORMAL]}
    kernel.modes.set("adaptive")
    assert kernel.polled == {0: [], 2: []}


def test_a_peers_next_generation_and_a_new_peer_are_waited_for_as_chosen() -> None:
    kernel = Kernel()
    kernel.modes.set("interrupt", 2)
    kernel.modes.set("poll", ring=0)
    kernel.links |= {2: FakeLink(), 3: FakeLink()}
    for kid in (2, 3):
        kernel.modes.apply(kid, kernel.links[kid])
    table = kernel.modes.table()
    assert table["2"] == {"high": "poll", "normal": "interrupt", "frames": "interrupt"}
    assert table["3"] == {"high": "poll", "normal": "adaptive", "frames": "adaptive"}


def test_the_later_choice_wins_for_everybody() -> None:
    kernel = Kernel()
    kernel.modes.set("poll", 2, 1)
    kernel.modes.set("interrupt")
    assert {mode for rings in kernel.modes.table().values() for mode in rings.values()} == {"interrupt"}


def test_less_than_a_core_never_spins() -> None:
    kernel = Kernel(cores=0.5)
    assert kernel.links[0].modes[1] == ("adaptive", 0)
    with pytest.raises(Refused, match="less than a core may not poll"):
        kernel.modes.set("poll")
    assert kernel.links[0].modes[1] == ("adaptive", 0)
    assert kernel.polled[0] == []
    kernel.modes.set("interrupt")
    assert kernel.links[0].modes[1] == ("interrupt", 0)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"mode": "fast"}, "mode: got 'fast', allowed are poll, adaptive, interrupt"),
        ({"mode": ["poll"]}, "mode: got"),
        ({"ring": 1}, "ring: got 1, allowed are high, normal, frames"),
        ({"peer": "k2"}, "peer: got 'k2', expected a kernel's number"),
        ({"peer": True}, "peer: got True"),
    ],
)
def test_nonsense_is_refused(params: dict[str, Any], text: str) -> None:
    with pytest.raises(Refused, match=text):
        parameters_of(params)


async def test_the_service_sets_and_tells() -> None:
    kernel = Kernel()
    for params, mode in (({}, "adaptive"), ({"mode": "poll", "peer": 0, "ring": "normal"}, "poll")):
        opener, accepter = pair("modes", params)
        await kernel.modes.serve(accepter)
        assert await opener.receive() is None
        assert opener.result is not None
        assert opener.result["modes"]["0"]["normal"] == mode
        assert opener.result["modes"]["2"]["normal"] == "adaptive"
        opener.abort()
