"""A traced message as a line for people and as a record for programs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from popnet.message.kinds import Kind
from popnet.message.tracejoin import Traced

RINGS: Final = ("high", "normal")

HEADING: Final = (
    f"{'TIME':<15}  {'FROM':<8} {'TO':<8} {'RING':<6} {'KIND':<8} {'ID':>5} {'BYTES':>7}"
    f" {'KICK':>9} {'WAKE':>9}  {'HANDLE':>9}  (µs after it was enqueued)"
)


def kind_name(kind: int) -> str:
    """`DATA`; the number for a kind of users."""
    return Kind(kind).name if kind in _KINDS else str(kind)


_KINDS: Final = frozenset(int(kind) for kind in Kind)


def micros(traced: Traced, time_ns: int) -> float | None:
    """µs from the enqueue (if that is not known, from the first time that is) to *time_ns*; None for 0."""
    return (time_ns - traced.start_ns) / 1000 if time_ns else None


def body_size(traced: Traced) -> int:
    return max(traced.size - 8, 0)


def line(traced: Traced, names: Mapping[int, str], wall_offset_ns: int) -> str:
    """One line below HEADING."""
    clock = datetime.fromtimestamp((traced.start_ns + wall_offset_ns) / 1e9).strftime("%H:%M:%S.%f")
    who, whom = (names.get(kid, f"#{kid}") for kid in (traced.sender, traced.receiver))
    kick, wake, handle = (
        _text(micros(traced, time_ns)) for time_ns in (traced.kick_ns, traced.wake_ns, traced.handle_ns)
    )
    return (
        f"{clock:<15}  {who:<8} {whom:<8} {RINGS[traced.ring]:<6} {kind_name(traced.kind):<8} {traced.id:>5}"
        f" {body_size(traced):>7} {kick:>9} {wake:>9}{'*' if traced.awake else ' '} {handle:>9}"
    )


def record(traced: Traced, names: Mapping[int, str], wall_offset_ns: int) -> dict[str, Any]:
    """What `-o json` prints: times in ns of CLOCK_MONOTONIC, null for what is not known or was not."""
    return {
        "time_s": (traced.start_ns + wall_offset_ns) / 1e9,
        "from": names.get(traced.sender, str(traced.sender)),
        "from_generation": traced.sender_generation,
        "to": names.get(traced.receiver, str(traced.receiver)),
        "to_generation": traced.receiver_generation,
        "ring": RINGS[traced.ring],
        "number": traced.number,
        "kind": kind_name(traced.kind),
        "flags": traced.flags,
        "id": traced.id,
        "bytes": body_size(traced),
        "enqueue_ns": traced.enqueue_ns or None,
        "publish_ns": traced.publish_ns or None,
        "kick_ns": traced.kick_ns or None,
        "wake_ns": traced.wake_ns or None,
        "handle_ns": traced.handle_ns or None,
        "awake": traced.awake,
        "kick_us": micros(traced, traced.kick_ns),
        "wake_us": micros(traced, traced.wake_ns),
        "handle_us": micros(traced, traced.handle_ns),
    }


def _text(micros: float | None) -> str:
    return "-" if micros is None else f"{micros:.1f}"
