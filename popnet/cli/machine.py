"""`up`, `down`: a machine's life."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from popnet.cli.bars import boot_lines, fancy_ok, machine_lines
from popnet.cli.complete import MACHINE_FILE, quoted
from popnet.cli.journal import event_line
from popnet.cli.kernels import columns_for
from popnet.cli.output import coloured, print_list
from popnet.cli.run import primary_options, watching_options
from popnet.cli.settings import Settings, complete_machine, pass_settings, verb
from popnet.cli.units import milliseconds_text

if TYPE_CHECKING:
    from popnet.control.client import Client


@verb("up", lists=True)
@click.argument("file", type=MACHINE_FILE)
@click.option("--name", help="The machine's name, instead of the one in the file.")
@click.option("--timeline", "with_timeline", is_flag=True, help="Also show how long each step took.")
@click.option("--picture", type=click.Path(dir_okay=False), help="Also draw the steps of all boots, as SVG.")
@watching_options
@pass_settings
def up_verb(
    settings: Settings,
    file: str,
    name: str | None,
    with_timeline: bool,
    picture: str | None,
    log_format: str,
    log_level: str,
    metrics: str | None,
) -> None:
    """Boot the machine that a file describes.

    FILE is a path, or the bare name of a file that popnet brings along, such as demo. Exit status 1 if a
    kernel failed. The machine's log is machine.log in its run directory.
    """
    booted = boot(settings, file, name or settings.machine, primary_options(log_format, log_level, metrics))
    took = milliseconds_text(booted.took_ms)
    settings.say(f"machine {booted.client.machine}: up, {len(booted.rows)} kernels ({took})")
    for line in boot_lines(booted.timelines, fancy_ok(sys.stderr.encoding)):
        settings.say(line)
    if with_timeline and settings.output != "table":
        for row in booted.rows:
            row["timeline"] = booted.timelines[row["name"]]
    print_list(settings, "KernelList", booted.rows, columns_for(booted.rows))
    if with_timeline and settings.output == "table":
        for line in ["", *machine_lines(booted.timelines, fancy_ok(sys.stdout.encoding))]:
            click.echo(line)
    if picture is not None:
        draw(settings, picture, booted.timelines)
    if any(row["state"] != "online" for row in booted.rows):
        click.get_current_context().exit(1)


def draw(settings: Settings, picture: str, timelines: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the SVG of boots to the file *picture*. Raises Refused if it cannot be written."""
    from popnet.cli.bootsvg import svg
    from popnet.core.errors import Refused

    try:
        Path(picture).write_text(svg(timelines))
    except OSError as error:
        raise Refused(
            f"--picture {picture}: {error.strerror}", "name a file in a directory of yours"
        ) from None
    settings.say(f"drawn: {picture}")


@dataclass(frozen=True, slots=True)
class Booted:
    """A machine that is up: its kernels as rows, and how each of them booted."""

    client: "Client"
    took_ms: float
    rows: list[dict[str, Any]]
    timelines: dict[str, list[dict[str, Any]]]


def boot(settings: Settings, file: str, name: str | None, options: Sequence[str] = ()) -> Booted:
    """Boot the machine of *file*, under *name* if given, and show its progress.

    Raises InvalidMachineFile, BootFailed, and whatever else the machine did not start for.
    """
    from popnet.control.client import Client
    from popnet.control.launch import launch

    progress = Progress(settings)
    try:
        ready = launch(file, name=name, run_dir=settings.run_path(), on_event=progress.event, options=options)
    finally:
        progress.end()
    client = Client(ready["name"], run_dir=settings.run_path())
    rows = client.get("/v1/kernels")
    timelines = {row["name"]: client.get(f"/v1/kernels/{quoted(row['name'])}/timeline") for row in rows}
    return Booted(client, ready["took_ms"], rows, timelines)


class Progress:
    """What a machine does while it boots: on a terminal one line that changes; with -v every event."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._line = not settings.quiet and not settings.verbose and sys.stderr.isatty()

    def event(self, event: Mapping[str, Any]) -> None:
        if self._settings.verbose:
            self._settings.say(event_line(event, coloured(sys.stderr)))
        elif self._line:
            self._write(str(event.get("text", "")))

    def end(self) -> None:
        """Take the line away again."""
        if self._line:
            self._write("")

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


@verb("down")
@click.argument("name", required=False, metavar="[MACHINE]", shell_complete=complete_machine)
@pass_settings
def down_verb(settings: Settings, name: str | None) -> None:
    """Shut the machine down.

    Returns once its processes are gone.
    """
    settings.machine = name or settings.machine
    from popnet.control.launch import take_down

    client = settings.client()
    take_down(client)
    settings.say(f"machine {client.machine}: down")
