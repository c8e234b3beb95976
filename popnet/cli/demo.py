"""`demo`: a machine of four kernels, booted, used in every way, taken down again; each step proves itself.

It is the first thing to run on a new host, so it says at each step what it did, and if one fails, which and
why. At the end it compares the host with what it was before.
"""

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from popnet.cli import residue
from popnet.cli.bars import boot_lines, fancy_ok
from popnet.cli.capturesinks import Decoder
from popnet.cli.inside import Outcome, Visitor
from popnet.cli.kernels import kernel_table
from popnet.cli.machine import boot
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.steps import Skipped, StepFailed, Steps
from popnet.control.launch import take_down
from popnet.core.errors import PopnetError

if TYPE_CHECKING:
    from popnet.control.client import Client

FILE: Final = "demo"
SSH_S: Final = 20.0

_NEXT: Final = """
The machine is up. Try:
  popnet ps                      its kernels
  popnet exec -t k1 -- sh        a shell in k1
  popnet console k2              k2's console; Ctrl-] . detaches
  popnet ssh k1                  over the machine's own network
  popnet capture k1 icmp         and in another terminal: popnet exec k1 -- ping k2
  popnet kill k2; popnet boot k2; popnet events
  popnet down                    nothing is left of it
"""


@verb("demo")
@click.option("--keep", is_flag=True, help="Leave the machine up, and say what to try next.")
@click.option("--name", default="demo", show_default=True, help="The machine's name, if this one is taken.")
@pass_settings
def demo_verb(settings: Settings, keep: bool, name: str) -> None:
    """Boot a machine, show all it can do, leave nothing.

    Exit status 1 if a step fails.
    """
    steps = Steps()
    try:
        Demo(settings, steps, name).run(keep)
    except StepFailed as failure:
        if failure.hint:
            click.echo(f"  hint: {failure.hint}", err=True)
        click.get_current_context().exit(1)
    skipped = f", {steps.skipped} skipped" if steps.skipped else ""
    click.echo(f"{steps.done} steps done{skipped}")
    if keep:
        click.echo(_NEXT, nl=False)


class Demo:
    """One run of the demonstration."""

    def __init__(self, settings: Settings, steps: Steps, name: str) -> None:
        self._settings = settings
        self._steps = steps
        self._name = name
        self._rows: list[dict[str, Any]] = []

    def run(self, keep: bool) -> None:
        """All steps. Raises StepFailed; the machine is down then, unless it is to be kept."""
        from popnet.control.client import run_dir

        place = self._settings.run_path() or run_dir()
        before = residue.take(place)
        with self._steps.step("boot machine `demo`"):
            client = self._boot()
        running = residue.take(place, client.get("/v1/machine")["pid"])
        try:
            self._show(Visitor(client.socket), client)
        except BaseException:
            if not keep:
                take_down(client)
            raise
        if keep:
            return
        with self._steps.step("take it down"):
            take_down(client)
        with self._steps.step("look for what is left on this host"):
            self._compare(before, running, residue.take(place))

    def _boot(self) -> "Client":
        booted = boot(self._settings, FILE, self._name)
        self._rows = booted.rows
        bars = boot_lines(booted.timelines, fancy_ok(sys.stdout.encoding))
        self._steps.detail(*bars, "", *kernel_table(booted.rows, colours=False))
        bad = [f"{row['name']}: {row['reason']}" for row in booted.rows if row["state"] != "online"]
        if bad:
            take_down(booted.client)
            raise PopnetError("; ".join(bad))
        return booted.client

    def _show(self, visitor: Visitor, client: "Client") -> None:
        names = [str(row["name"]) for row in self._rows]
        with self._steps.step("run a command in each kernel"):
            self._steps.detail(*asyncio.run(_commands(visitor, names)))
        with self._steps.step("ping between every two kernels"):
            self._steps.detail(*asyncio.run(_pings(visitor, self._rows)))
        with self._steps.step("log in over ssh"):
            self._steps.detail(self._ssh(client))
        with self._steps.step("read a console from power-on"):
            self._steps.detail(*self._console(visitor, names[1]))
        with self._steps.step("capture and decode a ping"):
            self._steps.detail(*asyncio.run(_capture(visitor, self._rows)))

    def _ssh(self, client: "Client") -> str:
        kernel = next((str(row["name"]) for row in self._rows if row.get("ssh") and row["kid"]), None)
        program = shutil.which("ssh")
        if kernel is None or program is None:
            raise Skipped("no kernel runs sshd" if kernel is None else "this host has no ssh program")
        config = client.socket.parent / "ssh_config"
        command = [program, "-F", str(config), kernel, "uname -n"]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SSH_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise PopnetError(f"ssh to {kernel}: no answer within {SSH_S:g} s") from None
        if done.returncode or done.stdout.strip() != kernel:
            why = done.stderr.strip() or f"it said {done.stdout.strip()!r}"
            raise PopnetError(f"ssh to {kernel}: status {done.returncode}: {why}")
        return f"$ ssh -F {config} {kernel} uname -n  ->  {done.stdout.strip()}"

    def _console(self, visitor: Visitor, kernel: str) -> list[str]:
        shown = asyncio.run(visitor.screen(kernel))
        if not shown:
            raise PopnetError(f"the console of {kernel} is empty")
        return [f"{kernel} tty0: {line}" for line in shown[:6]]

    def _compare(self, before: residue.Snapshot, running: residue.Snapshot, after: residue.Snapshot) -> None:
        left = residue.left(before, running, after)
        if left:
            raise PopnetError("left behind: " + "; ".join(left), "popnet gc removes what is popnet's")
        same = f"{len(after.interfaces)} interfaces, {len(after.routes)} routes, {len(after.mounts)} mounts"
        self._steps.detail(f"{same}, as before; {len(running.processes)} processes ended")


async def _commands(visitor: Visitor, names: Sequence[str]) -> list[str]:
    command = ["sh", "-c", 'echo "$(uname -n): $(cat /proc/cmdline)"']
    outcomes = await asyncio.gather(*(visitor.run(name, command) for name in names))
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome.status or not outcome.output.startswith(f"{name}: "):
            raise PopnetError(f"{name}: status {outcome.status}: {outcome.errors or outcome.output!r}")
    return [outcome.output.strip() for outcome in outcomes]


async def _pings(visitor: Visitor, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The matrix of round-trip times. Raises PopnetError naming the pairs that have none."""
    pairs = [(a, b) for a in rows for b in rows if a is not b]
    # All at once, for a proof; then one by one, for times that say something.
    await asyncio.gather(*(visitor.run(a["name"], ping(b["ipv4"])) for a, b in pairs))
    times = {
        (a["name"], b["name"]): round_trip_ms(await visitor.run(a["name"], ping(b["ipv4"]))) for a, b in pairs
    }
    lost = [f"{b} to {a}" for (a, b), time_ms in times.items() if time_ms is None]
    if lost:
        raise PopnetError(f"no answer from {', '.join(lost)}")
    return matrix([str(row["name"]) for row in rows], times)


def matrix(names: Sequence[str], times: Mapping[tuple[str, str], float | None]) -> list[str]:
    """Round-trip times in milliseconds, a row for each sender and a column for each target."""
    width = max(map(len, names))
    lines = [" " * width + "".join(f"  {name:>{width}}" for name in names) + "   ms"]
    for source in names:
        found = (times.get((source, target)) for target in names)
        cells = ("-" if time_ms is None else f"{time_ms:.2f}" for time_ms in found)
        lines.append(f"{source:<{width}}" + "".join(f"  {cell:>{width}}" for cell in cells))
    return lines


def ping(address: str) -> list[str]:
    """The command that pings *address*, of iputils or of busybox, whichever the kernel has."""
    return ["ping", "-c", "1", "-W", "3", address]


def round_trip_ms(outcome: Outcome) -> float | None:
    """The time that a ping printed, or None if it got no answer."""
    found = re.search(r"time=([0-9.]+) ms", outcome.output)
    return float(found[1]) if found and outcome.status == 0 else None


async def _capture(visitor: Visitor, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    source, target = rows[1], rows[2]
    pcapng, outcome = await visitor.capture_while(source["name"], "icmp", ping(target["ipv4"]))
    lines = Decoder().feed(pcapng)
    text = "\n".join(lines)
    if outcome.status or "echo request" not in text or "echo reply" not in text:
        raise PopnetError(f"a ping from {source['name']} to {target['name']} left {lines} in the capture")
    return lines
