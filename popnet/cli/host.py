"""`doctor`, `gc`: what this host can do, and what killed machines left on it."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import click

from popnet.cli.output import Column, coloured, mark, paint, print_list
from popnet.cli.settings import Settings, pass_settings, verb

GC_COLUMNS: Final = (
    Column("MACHINE", lambda row: str(row.get("machine", "-"))),
    Column("KIND", lambda row: str(row.get("kind", "-"))),
    Column("WHAT", lambda row: str(row.get("what", "-"))),
    Column("RESULT", lambda row: "removed" if row.get("done") else f"kept: {row.get('reason') or 'unknown'}"),
)

_STATUS_COLOURS: Final = {"ok": "green", "degraded": "yellow", "missing": "red"}


@verb("doctor", lists=True)
@pass_settings
def doctor_verb(settings: Settings) -> None:
    """Say what this host can do, and how to mend the rest.

    Exit status 1 if something is missing without which no machine runs.
    """
    from popnet.control.client import run_dir
    from popnet.kernel.doctor import run_checks

    rows = [asdict(check) for check in run_checks(settings.run_path() or run_dir())]
    if settings.output == "table":
        for line in check_lines(rows, coloured(sys.stdout)):
            click.echo(line)
    else:
        print_list(settings, "CheckList", rows, ())
    if any(row["status"] == "missing" for row in rows):
        click.get_current_context().exit(1)


def check_lines(rows: Sequence[Mapping[str, Any]], colours: bool) -> list[str]:
    """A line a check, with what it means and how to mend it if it is not well; last, all in one sentence."""
    width = max((len(row["name"]) for row in rows), default=0)
    lines = []
    for row in rows:
        sign = mark(row["status"], sys.stdout.encoding)
        lines.append(
            f"{paint(sign, _STATUS_COLOURS[row['status']], colours)} {row['name']:<{width}}  {row['detail']}"
        )
        if row["status"] != "ok":
            indent = " " * (len(sign) + width + 3)
            lines += [
                indent + paint(text, "dim", colours) for text in (row["consequence"], row["fix"]) if text
            ]
    count = {status: sum(row["status"] == status for row in rows) for status in _STATUS_COLOURS}
    if count["missing"]:
        return [*lines, f"machines cannot run here: {count['missing']} missing"]
    degraded = f", {count['degraded']} degraded" if count["degraded"] else ""
    return [*lines, f"machines can run here: {count['ok']} ok{degraded}"]


@verb("gc", lists=True)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would be removed.")
@pass_settings
def gc_verb(settings: Settings, dry_run: bool) -> None:
    """Remove what killed machines left behind.

    Only what their own records prove to be theirs; running machines are left alone.
    """
    from popnet.control.client import run_dir
    from popnet.kernel import gc

    rows = gc.collect(settings.run_path() or run_dir(), dry_run)
    if settings.output == "table" and not rows:
        settings.say("nothing is left behind")
    else:
        print_list(settings, "ResidueList", rows, GC_COLUMNS)
    if any(not row.get("done") for row in rows) and not dry_run:
        click.get_current_context().exit(1)
