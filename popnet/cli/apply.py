"""`apply`: makes a machine that runs what a file says."""

import os
from pathlib import Path

import click

from popnet.cli.complete import MACHINE_FILE
from popnet.cli.output import Column, print_list
from popnet.cli.settings import Settings, pass_settings, verb

COLUMNS = (
    Column("STEP", lambda row: str(row["step"])),
    Column("WHAT", lambda row: str(row["what"])),
    Column("WHY", lambda row: str(row["why"])),
)


@verb("apply", lists=True)
@click.argument("file", type=MACHINE_FILE)
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@click.option(
    "--plan", "token", metavar="TOKEN", help="Only do the plan that a --dry-run has shown as TOKEN."
)
@pass_settings
def apply_verb(settings: Settings, file: str, dry_run: bool, token: str | None) -> None:
    """Make the machine that runs what a file says.

    Shows the steps, then does them, all or none: if one fails, those before it are undone. What can change
    while a kernel runs does; for the rest the kernel is booted again, and the plan says why. Applying the
    same file again does nothing."""
    from popnet.machine.report import read_text
    from popnet.machine.search import find_machine_file

    path = find_machine_file(file, os.environ)
    client = settings.client()

    def body() -> dict[str, str]:
        return {"file": str(Path(path).absolute()), "text": read_text(path, "machine file")}

    plan = client.post("/v1/plan", body())
    if not plan["steps"]:
        settings.say(f"machine {client.machine}: nothing to do")
    if plan["steps"] or settings.output != "table":
        print_list(settings, "StepList", plan["steps"], COLUMNS)
    if dry_run:
        settings.say(f"plan {plan['token']}: {_steps(plan)}, none done")
        return
    done = client.post("/v1/apply", {**body(), "token": token or plan["token"]})
    if done["steps"]:
        settings.say(f"machine {client.machine}: {_steps(done)} done")


def _steps(plan: dict[str, list[object]]) -> str:
    count = len(plan["steps"])
    return f"{count} step{'s' * (count != 1)}"
