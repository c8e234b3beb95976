"""`fault`: plans of faults: run the machine file's or another, see how far it is, end it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from popnet.cli.link import impairment_text
from popnet.cli.output import Column, print_list
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.core.errors import InvalidMachineFile

COLUMNS: Final = (
    Column("AT", lambda row: str(row["at"]), right=True),
    Column("WHERE", lambda row: "; ".join(row["ways"])),
    Column("WHAT", lambda row: str(row["action"])),
    Column("IMPAIRMENT", lambda row: impairment_text(row["impairment"])),
    Column("DONE", lambda row: "done" if row["done"] else "-"),
)


@click.group("fault")
def fault_verb() -> None:
    """Run a plan of faults, or show or stop the one that runs."""


@verb("run", lists=True)
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@pass_settings
def run_command(settings: Settings, file: str | None) -> None:
    """Run the machine file's plan again, or that of FILE, from its beginning.

    FILE is YAML with a list under faults:, as in a machine file. A plan that runs is ended first. Does not
    wait for the end; `popnet events -f` tells what happens.
    """
    body = {"faults": None if file is None else read_plan(file)}
    _print(settings, settings.client().post("/v1/faults/run", body))


@verb("show", lists=True)
@pass_settings
def show_command(settings: Settings) -> None:
    """Show the steps of the plan that ran last, and how far it is."""
    _print(settings, settings.client().get("/v1/faults"))


@verb("stop", lists=True)
@pass_settings
def stop_command(settings: Settings) -> None:
    """End the plan that runs, and all flaps. What they did stays: see `popnet link`."""
    _print(settings, settings.client().post("/v1/faults/stop"))


def read_plan(file: str) -> Any:
    """What *file* has under `faults`. Raises InvalidMachineFile."""
    from popnet.machine.document import read

    try:
        text = Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InvalidMachineFile(f"{file}: cannot read this plan: {reason}") from None
    document = read(text)
    if document.problems:
        lines = (f"{file}:{mark.line}:{mark.column}: {problem.text}" for mark, problem in document.problems)
        raise InvalidMachineFile("\n".join(lines))
    if not isinstance(document.data, Mapping) or not isinstance(document.data.get("faults"), list):
        raise InvalidMachineFile(f"{file}: there is no list under 'faults:'")
    return document.data["faults"]


def _print(settings: Settings, plan: Mapping[str, Any]) -> None:
    print_list(settings, "FaultPlan", plan["steps"], COLUMNS)
    if plan["running"]:
        settings.say(f"running since {plan['since_s']} s")


for _command in (run_command, show_command, stop_command):
    fault_verb.add_command(_command)
