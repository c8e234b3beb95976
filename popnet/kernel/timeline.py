"""The steps of a boot and their times, on the monotonic clock that all processes of a host share.

A daemon that is killed tells nobody anything. So it writes the name of each step into a pipe before it begins
it, and the primary, which holds the other end, reads it only if the daemon has died: a boot costs ten writes
and no wake-up.
"""

import os
import signal
import time
from dataclasses import dataclass
from typing import Any, Final

from popnet.core.errors import LinkViolation

STEPS_MAX: Final = 64
"""Steps kept of what a kernel told; a boot has a dozen."""


@dataclass(frozen=True, slots=True)
class Step:
    """One boot step, in seconds of the monotonic clock."""

    name: str
    start_s: float
    end_s: float


class Timeline:
    """The boot steps of one incarnation, in the order they ended; each starts where the one before it in its
    process ended.

    Args:
        told: a pipe that gets the name of each step as it begins; -1: none.
        die_in: the step in which this process is to kill itself, for tests.

    Attributes:
        step: the one that began last.
    """

    def __init__(self, started_at_s: float, told: int = -1, die_in: str = "") -> None:
        self.started_at_s = started_at_s
        self._told = told
        self._die_in = die_in
        self.step = ""
        self.steps: list[Step] = []
        self._mark = started_at_s

    def begin(self, name: str) -> str:
        """Note that step *name* begins; returns it."""
        self.step = name
        if self._told >= 0:
            os.write(self._told, f"{name}\n".encode())
        if name == self._die_in:
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    def over(self) -> None:
        """The boot is: whoever dies from now on dies in no step."""
        if self._told >= 0:
            os.close(self._told)
            self._told = -1

    def done(self, name: str, start_s: float | None = None) -> Step:
        """Note that step *name* ended now; it began at *start_s* or when the last step ended."""
        now = time.monotonic()
        step = Step(name, self._mark if start_s is None else start_s, now)
        self.steps.append(step)
        self._mark = now
        return step

    def rows(self) -> list[dict[str, Any]]:
        """The steps as the control API shows them: name, start and length in milliseconds since the boot
        began."""
        return [
            {
                "step": step.name,
                "start_ms": round((step.start_s - self.started_at_s) * 1e3, 3),
                "took_ms": round((step.end_s - step.start_s) * 1e3, 3),
            }
            for step in self.steps
        ]


def last_begun(pipe: int) -> str:
    """The step that a daemon, which has died, began last; *pipe* is the reading end of what it told."""
    try:
        names = os.read(pipe, 4096).decode(errors="replace").split()
    except BlockingIOError:
        names = []  # it lived too short, or too long: other processes have the writing end
    return names[-1][:64] if names else "fork"


def checked_rows(rows: list[Any]) -> list[dict[str, Any]]:
    """The steps in *rows*, which a kernel told, and nothing else of it. LinkViolation if they are none."""
    checked: list[dict[str, Any]] = []
    for row in rows[:STEPS_MAX]:
        match row:
            case {
                "step": str(step),
                "start_ms": int() | float() as start,
                "took_ms": int() | float() as took,
            }:
                checked.append({"step": step[:64], "start_ms": start, "took_ms": took})
            case _:
                raise LinkViolation(f"no step of a boot: {str(row)[:80]}")
    return checked
