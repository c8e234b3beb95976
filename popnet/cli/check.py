"""`check`: run the self-checks that a machine's file has, against the machine while it runs.

Theory of operation. Checks run one after the other, each in all its kernels at once, so that one that loads a
kernel does not spoil the next. What a check waits for (an answer to a ping, a state) it tries again until its
time is over; a command runs once. With FILE the machine lives for its checks only.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from popnet.cli.complete import MACHINE_FILE
from popnet.cli.output import coloured, mark, paint, print_list
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.units import duration_text
from popnet.core.errors import PopnetError, Refused
from popnet.machine.checks import Check, wrong

if TYPE_CHECKING:
    from popnet.control.client import Client

AT_ONCE: Final = 16
"""Commands of one check that run at the same time."""

_LOOK_S: Final = 0.05
"""Seconds between two looks at a state."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check in one kernel.

    Attributes:
        peer: of a check of reachability.
        reason: what is wrong; empty if nothing is.
    """

    check: str
    kernel: str
    peer: str | None
    reason: str
    took_s: float

    @property
    def ok(self) -> bool:
        return not self.reason

    @property
    def where(self) -> str:
        return self.kernel if self.peer is None else f"{self.kernel} to {self.peer}"


@verb("check", lists=True)
@click.argument("file", type=MACHINE_FILE, required=False)
@click.option("--name", help="The machine's name, instead of the one in the file.")
@click.option("--keep", is_flag=True, help="Leave the machine of FILE running.")
@click.option(
    "--junit", type=click.Path(dir_okay=False), metavar="FILE", help="Also write the results as JUnit XML."
)
@pass_settings
def check_verb(settings: Settings, file: str | None, name: str | None, keep: bool, junit: str | None) -> None:
    """Run the self-checks that a machine file has.

    With FILE (a path, or the bare name of a file that popnet brings along) its machine is booted, checked and
    taken down; without, those of the running machine are run. Exit status 1 if a check failed.
    """
    if file is None and (name is not None or keep):
        raise click.UsageError("--name and --keep are for a FILE; without one, -m says which machine")
    with _machine(settings, file, name, keep) as client:
        machine = client.get("/v1/machine")
        checks = [Check.from_row(row) for row in machine["checks"]]
        if not checks:
            hint = "add a list 'checks:' to its file; docs/checks.md shows how"
            raise Refused(f"machine {client.machine!r} has no checks", hint)
        verdicts = asyncio.run(_Run(settings, client).all(checks))
    failed = sum(not verdict.ok for verdict in verdicts)
    if settings.output != "table":
        rows = [{**asdict(verdict), "ok": verdict.ok} for verdict in verdicts]
        print_list(settings, "CheckResultList", rows, ())
    if junit is not None:
        _write_junit(junit, client.machine, verdicts)
    settings.say(f"machine {client.machine}: {len(verdicts) - failed} checks passed, {failed} failed")
    if failed:
        click.get_current_context().exit(1)


@contextmanager
def _machine(settings: Settings, file: str | None, name: str | None, keep: bool) -> "Iterator[Client]":
    """The machine to check; that of *file* is booted, and taken down afterwards unless it is to be kept."""
    if file is None:
        yield settings.client()
        return
    from popnet.cli.machine import boot
    from popnet.control.launch import take_down

    booted = boot(settings, file, name or settings.machine)
    try:
        yield booted.client
    finally:
        if not keep:
            take_down(booted.client)


def _write_junit(path: str, machine: str, verdicts: Sequence[Verdict]) -> None:
    from popnet.cli.junit import junit_text

    try:
        Path(path).write_text(junit_text(machine, verdicts))
    except OSError as error:
        raise Refused(f"--junit {path}: {error.strerror}", "name a file in a directory of yours") from None


class _Run:
    """Runs checks against the machine of *client*, and tells each verdict as it comes."""

    def __init__(self, settings: Settings, client: "Client") -> None:
        self._settings = settings
        self._client = client
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def all(self, checks: Sequence[Check]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for check in checks:
            found = await asyncio.gather(*(self._part(check, *part) for part in check.parts()))
            self._tell(check, found)
            verdicts += found
        return verdicts

    async def _part(self, check: Check, kernel: str, peer: str | None) -> Verdict:
        async with self._slots:
            started_s = time.monotonic()
            try:
                async with asyncio.timeout(check.timeout_s + 1.0):  # each way of looking keeps its own time
                    reason = await self._reason(check, kernel, peer)
            except PopnetError as error:  # first: a command that took too long is one of these, and says more
                reason = str(error).removeprefix(f"{kernel}: ")
            except TimeoutError:
                reason = f"no answer within {check.timeout_s:g} s"
            return Verdict(check.name, kernel, peer, reason, round(time.monotonic() - started_s, 3))

    async def _reason(self, check: Check, kernel: str, peer: str | None) -> str:
        if check.run:
            from popnet.control.running import run

            result = await run(self._client.socket, kernel, check.run, timeout_s=check.timeout_s)
            return wrong(check, kernel, result.status, result.stdout, result.stderr)
        deadline_s = time.monotonic() + check.timeout_s
        if peer is not None:
            return await self._reach(kernel, peer, deadline_s)
        return await self._state(kernel, check.state, deadline_s)

    async def _reach(self, kernel: str, peer: str, deadline_s: float) -> str:
        from popnet.control.running import run

        address = (await self._row(peer))["ipv4"]
        while True:
            result = await run(
                self._client.socket, kernel, ["ping", "-c", "1", "-W", "1", address], timeout_s=5.0
            )
            if result.ok:
                return ""
            if time.monotonic() >= deadline_s:
                return f"no answer from {peer} ({address}): {(result.stderr or result.stdout).strip()[-200:]}"

    async def _state(self, kernel: str, state: str, deadline_s: float) -> str:
        while True:
            row = await self._row(kernel)
            if row["state"] == state:
                return ""
            if time.monotonic() >= deadline_s:
                reason = f" ({row['reason']})" if row.get("reason") else ""
                return f"it is {row['state']}{reason}, not {state}"
            await asyncio.sleep(_LOOK_S)

    async def _row(self, kernel: str) -> Mapping[str, Any]:
        rows = await asyncio.to_thread(self._client.get, "/v1/kernels")
        return next(row for row in rows if row["name"] == kernel)

    def _tell(self, check: Check, verdicts: Sequence[Verdict]) -> None:
        if self._settings.output != "table":
            return
        import sys

        colours, encoding = coloured(sys.stdout), sys.stdout.encoding
        bad = [verdict for verdict in verdicts if not verdict.ok]
        sign = paint(mark("failed" if bad else "ok", encoding), "red" if bad else "green", colours)
        took = duration_text(max((verdict.took_s for verdict in verdicts), default=0.0))
        count = f"{len(verdicts)} of them" if len(verdicts) > 1 else "".join(one.where for one in verdicts)
        click.echo(f"{sign} {check.name} {paint(f'({count}, {took})', 'dim', colours)}")
        for verdict in bad:
            click.echo(f"    {verdict.where}: {verdict.reason}")
