"""Where a fault happens, and when: targets, single faults, and the plan that a machine file makes of them.

Pure. A flap is many faults, and is resolved here: what runs a plan only knows steps, each with its time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from popnet.machine.impairment import Impairment
from popnet.machine.units import format_duration

DIRECTIONS: Final = ("both", "out", "in")
FLAPS_MAX: Final = 10_000
"""Times that one flap may go down: a plan is held whole."""


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of a link or a NIC: what is impaired, or cut.

    Attributes:
        source, target: names of kernels. From one to the other; target None: all that leaves the source's
            NIC; source None: all that comes to the target's.
    """

    source: str | None
    target: str | None

    def __str__(self) -> str:
        if self.source is None:
            return f"{self.target}, in"
        if self.target is None:
            return f"{self.source}, out"
        return f"{self.source} -> {self.target}"

    @property
    def kernel(self) -> str:
        """Whose pump does it: where frames of a link arrive."""
        owner = self.source if self.target is None else self.target
        assert owner is not None
        return owner


def ways(kernel: str, peer: str | None, direction: str = "both") -> tuple[Way, ...]:
    """The directions of the link of *kernel* to *peer*, or (None) of its NIC, as *kernel* sees them."""
    out, back = Way(kernel, peer), Way(peer, kernel)
    return {"both": (out, back), "out": (out,), "in": (back,)}[direction]


@dataclass(frozen=True, slots=True)
class Flap:
    """Down for a while, up for a while, and again."""

    down_ns: int
    up_ns: int
    times: int


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of a plan. Exactly one of the rest is not None.

    Attributes:
        at_ns: after the plan's start.
        impairment: to set; the empty one clears.
    """

    at_ns: int
    ways: tuple[Way, ...]
    down: bool | None = None
    impairment: Impairment | None = None
    flap: Flap | None = None


Action = Literal["down", "up", "set"]


@dataclass(frozen=True, slots=True)
class Step:
    """What is done at one time."""

    at_ns: int
    ways: tuple[Way, ...]
    action: Action
    impairment: Impairment | None = None

    def row(self) -> dict[str, Any]:
        """It for people and programs."""
        action = self.action
        if self.impairment is not None:
            action = "set" if self.impairment.words() else "clear"  # type: ignore[assignment]
        return {
            "at": format_duration(self.at_ns),
            "at_s": self.at_ns / 1e9,
            "ways": [str(way) for way in self.ways],
            "action": action,
            "impairment": self.impairment.words() if self.impairment else {},
        }


def steps(faults: Iterable[Fault]) -> list[Step]:
    """All that *faults* do, in the order of time; at the same time, in theirs."""
    return sorted((step for fault in faults for step in _steps_of(fault)), key=lambda step: step.at_ns)


def _steps_of(fault: Fault) -> Iterator[Step]:
    if fault.flap is not None:
        period_ns = fault.flap.down_ns + fault.flap.up_ns
        for n in range(fault.flap.times):
            at_ns = fault.at_ns + n * period_ns
            yield Step(at_ns, fault.ways, "down")
            yield Step(at_ns + fault.flap.down_ns, fault.ways, "up")
    elif fault.down is not None:
        yield Step(fault.at_ns, fault.ways, "down" if fault.down else "up")
    else:
        yield Step(fault.at_ns, fault.ways, "set", fault.impairment)
