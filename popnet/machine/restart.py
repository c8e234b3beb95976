"""Whether a kernel that ended by itself is booted again, and when. Pure.

    never        it stays failed until somebody boots it (the default)
    on-failure   again, unless its init ended with status 0
    always       again

What a user ends (`kill`, `unload`, `down`) stays ended. Each failure in a row doubles the pause; a kernel
that was online for STABLE_S has failed for the first time again. After FAILURES_MAX in a row it is given up:
a crash loop helps nobody, and hides its reason.
"""

from dataclasses import dataclass, replace
from typing import Final

POLICIES: Final = ("never", "on-failure", "always")
FAILURES_MAX: Final = 5
PAUSE_S: Final = 0.5
PAUSE_MAX_S: Final = 30.0
STABLE_S: Final = 60.0

_CLEAN_END: Final = "exited with status 0"


@dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of a kernel: failures in a row, and when it came online, if it is."""

    failures: int = 0
    online_s: float | None = None


@dataclass(frozen=True, slots=True)
class RestartIn:
    """Boot it in so many seconds; *text* is for the events."""

    pause_s: float
    text: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave it; *text* says why."""

    text: str


def online(record: Record, now_s: float) -> Record:
    """It is online."""
    return replace(record, online_s=now_s)


def failed(
    record: Record, policy: str, reason: str, now_s: float
) -> tuple[Record, RestartIn | GiveUp | None]:
    """It ended by itself, or did not come online, for *reason*: what is remembered then, and what to do."""
    if policy == "never" or (policy == "on-failure" and reason.endswith(_CLEAN_END)):
        return Record(), None
    stable = record.online_s is not None and now_s - record.online_s >= STABLE_S
    failures = 1 if stable else record.failures + 1
    if failures > FAILURES_MAX:
        return Record(), GiveUp(f"given up after {FAILURES_MAX} restarts in a row: {reason}")
    pause_s = min(PAUSE_S * 2 ** (failures - 1), PAUSE_MAX_S)
    text = f"restarts in {pause_s:g} s ({failures} of {FAILURES_MAX}): {reason}"
    return Record(failures), RestartIn(pause_s, text)
