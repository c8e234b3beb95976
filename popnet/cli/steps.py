"""A show of steps on a terminal: each is named, timed, and marked as done, skipped or failed."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from popnet.cli.output import coloured, mark, paint
from popnet.cli.units import duration_text
from popnet.core.errors import PopnetError


class StepFailed(PopnetError):
    """A step did not do what it should; it was told already, on its own line."""

    code = "step-failed"


class Skipped(Exception):
    """A step cannot be done on this host; the message says why."""


class Steps:
    """Runs and prints steps."""

    def __init__(self) -> None:
        self._colours = coloured(sys.stdout)
        self._encoding = sys.stdout.encoding
        self._lines: list[str] = []
        self.done = 0
        self.skipped = 0

    def detail(self, *lines: str) -> None:
        """Lines to print below the current step, once it has ended."""
        self._lines += lines

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """`with steps.step("boot"):` one step. A PopnetError or an OSError in it fails it.

        Raises StepFailed, which says so and why, in place of it.
        """
        self._lines = []
        started_s = time.monotonic()
        try:
            yield
        except Skipped as reason:
            self.skipped += 1
            self._print("degraded", title, started_s, f"skipped: {reason}")
        except (PopnetError, OSError) as error:
            hint = getattr(error, "hint", "")
            self._print("failed", title, started_s, f"failed: {error}")
            raise StepFailed(f"{title}: {error}", hint) from error
        else:
            self.done += 1
            self._print("ok", title, started_s)

    def _print(self, outcome: str, title: str, started_s: float, remark: str = "") -> None:
        colour = {"ok": "green", "degraded": "yellow"}.get(outcome, "red")
        sign = paint(mark(outcome, self._encoding), colour, self._colours)
        took = paint(f"({duration_text(time.monotonic() - started_s)})", "dim", self._colours)
        click.echo(f"{sign} {title} {took}{': ' if remark else ''}{remark}")
        for line in self._lines:
            click.echo(f"    {line}")
