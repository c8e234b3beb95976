"""`events`, `dmesg`: what happened to the machine, what a kernel says of itself; so far, or as it happens."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from popnet.cli.complete import KERNEL, quoted
from popnet.cli.output import coloured, paint, print_list, print_record
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.units import clock_text

_LEVEL_COLOURS: Final = {
    "emerg": "red",
    "alert": "red",
    "crit": "red",
    "error": "red",
    "err": "red",
    "warning": "yellow",
    "warn": "yellow",
    "debug": "dim",
}


@verb("events", lists=True)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what happens, until Ctrl-C.")
@click.option(
    "--since",
    metavar="NUMBER",
    type=click.IntRange(0),
    default=0,
    help="Only events after the one of this number (`seq` in -o json).",
)
@pass_settings
def events_verb(settings: Settings, follow: bool, since: int) -> None:
    """Print what happened to the machine.

    With -f and -o json, one event a line.
    """
    _print(settings, f"/v1/events?follow={int(follow)}&since={since}", follow, "EventList", event_line)


@verb("dmesg", lists=True)
@click.argument("kernel", type=KERNEL)
@click.option("-f", "--follow", is_flag=True, help="Go on printing what it logs, until Ctrl-C.")
@click.option("--previous", is_flag=True, help="The log of the last generation that has ended.")
@pass_settings
def dmesg_verb(settings: Settings, kernel: str, follow: bool, previous: bool) -> None:
    """Print a kernel's own log.

    Times are seconds since its boot. With -f and -o json, one record a line.
    """
    path = f"/v1/kernels/{quoted(kernel)}/dmesg?follow={int(follow)}&previous={int(previous)}"
    _print(settings, path, follow, "LogList", log_line)


def _print(
    settings: Settings, path: str, follow: bool, kind: str, line: Callable[[Mapping[str, Any], bool], str]
) -> None:
    """Print the JSON lines of *path*: as lines of text, as records while they come, or as one list."""
    client = settings.client(timeout_s=None) if follow else settings.client()
    records = client.follow(path)
    if settings.output != "table" and not follow:
        print_list(settings, kind, list(records), ())
        return
    colours = coloured(sys.stdout)
    for record in records:
        print_record(settings, record, line(record, colours))


def event_line(event: Mapping[str, Any], colours: bool) -> str:
    """`12:30:01.250  k1       kernel-online   generation 2, 41 ms`."""
    who = str(event.get("kernel") or "machine")
    clock = paint(clock_text(event["time_s"]), "dim", colours)
    return f"{clock}  {who:<8} {event['kind']:<16} {event.get('text', '')}".rstrip()


def log_line(record: Mapping[str, Any], colours: bool) -> str:
    """`[    0.041250] k1: online`, as Linux prints its log."""
    colour = _LEVEL_COLOURS.get(str(record.get("level", "")), "")
    return paint(f"[{record['time_s']:12.6f}]", "dim", colours) + " " + paint(record["text"], colour, colours)
