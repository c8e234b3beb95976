"""Impairments, from their words to what the pump's native code works with; and what it tells of them.

Tables of distributions are as tc's (iproute2, netem/*.c): numbers of mean 0 and deviation 1, times 8192, to
be drawn from evenly; those of `uniform` reach from -1 to 1. Pareto's shape is 3; like tc's, its table ends at
four deviations, so its longest delays are rarer than in the books.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean
from typing import Any, Final, Protocol

from popnet.core.limits import FRAME_SIZE_MAX
from popnet.machine.impairment import Impairment
from popnet.net.filter import compile_filter

LINK: Final = 0
"""Places in a pump: frames that come from one kernel, all that come, all that leave."""
NIC_IN: Final = 1
NIC_OUT: Final = 2

_SCALE: Final = 8192
_LENGTH: Final = 4096
_MOST: Final = 32767 / _SCALE
_ONE: Final = 1 << 53
_PARETO_SHAPE: Final = 3.0
_PARETO_MEAN: Final = 1.5
_PARETO_DEVIATION: Final = 0.75**0.5


class ImpairPump(Protocol):
    """What this needs of a pump."""

    def impair(
        self,
        place: int,
        kid: int,
        config: bytes | None,
        table: bytes,
        program: bytes | None,
        bpf_filter_address: int,
        /,
    ) -> None: ...

    def impair_down(self, place: int, kid: int, down: bool, /) -> None: ...

    def impair_figures(self, place: int, kid: int, /) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What one place of one pump is to do.

    Attributes:
        kid: of the kernel that frames come from, if *place* is LINK; else 0.
        name: of the direction, as events have it: each has its own sequence of chances.
        impairment: None leaves it as it is, the empty one clears it.
        down: None leaves it as it is.
    """

    place: int
    kid: int
    name: str
    impairment: Impairment | None = None
    down: bool | None = None


def apply(pump: ImpairPump, setting: Setting) -> None:
    """Have *pump* do it. Raises Refused, Unavailable for a filter."""
    place, kid, impairment = setting.place, setting.kid, setting.impairment
    if impairment is not None:
        if impairment.words().keys() - {"seed"}:
            compiled = compile_filter(impairment.match, FRAME_SIZE_MAX) if impairment.match else None
            table = distribution(impairment.distribution) if impairment.jitter_ns else b""
            program = compiled.program if compiled else None
            address = compiled.function_address if compiled else 0
            pump.impair(place, kid, packed(impairment, setting.name), table, program, address)
        else:
            pump.impair(place, kid, None, b"", None, 0)
    if setting.down is not None:
        pump.impair_down(place, kid, setting.down)


def packed(impairment: Impairment, name: str) -> bytes:
    """`struct impair_config` of native/impair.h."""
    loss = impairment.loss
    chances = (loss.good, loss.bad, loss.to_bad, loss.to_good)
    others = (impairment.duplicate, impairment.corrupt, impairment.reorder)
    return struct.pack(
        "13Q",
        seed_of(impairment.seed or 0, name),
        impairment.delay_ns,
        impairment.jitter_ns,
        impairment.ordered,
        *(round(chance * _ONE) for chance in (*chances, *others)),
        impairment.rate_bps or 0,
        impairment.limit_ns,
    )


def seed_of(seed: int, name: str) -> int:
    """The seed of direction *name*: both directions of a link do not lose the same frames."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big")


@cache
def distribution(name: str) -> bytes:
    """The table of a distribution: numbers of 4 bytes."""
    steps = [(n + 0.5) / _LENGTH for n in range(_LENGTH)]
    match name:
        case "normal":
            normal = NormalDist()
            values = [normal.inv_cdf(step) for step in steps]
        case "pareto":
            values = [(step ** (-1 / _PARETO_SHAPE) - _PARETO_MEAN) / _PARETO_DEVIATION for step in steps]
        case _:
            values = [2 * step - 1 for step in steps]
    ended = [min(value, _MOST) for value in values]
    mean = fmean(ended)  # so that ending a table does not shift what it delays
    return struct.pack(f"{_LENGTH}i", *(round((value - mean) * _SCALE) for value in ended))


def observed(figures: dict[str, int]) -> dict[str, Any]:
    """What a pump tells of one place, for people: seconds, and a mean."""
    if not figures:
        return {}
    counts = {
        name: figures[name]
        for name in (
            "frames",
            "bytes",
            "unmatched",
            "passed",
            "drop_loss",
            "drop_limit",
            "drop_down",
            "drop_queue",
            "duplicated",
            "reordered",
            "corrupted",
            "queued",
        )
    }
    mean_ns = figures["delay_total_ns"] / figures["passed"] if figures["passed"] else 0.0
    times = {f"{name}_s": figures[f"{name}_ns"] / 1e9 for name in _TIMES}
    return {**counts, "delay_mean_s": mean_ns / 1e9, **times}


_TIMES: Final = ("delay_p50", "delay_p99", "late_p50", "late_p99")
