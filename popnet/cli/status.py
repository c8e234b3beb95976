"""`status`: whether machines are well, for people and for health checks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from popnet.cli.output import Column, print_list
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.core.errors import PopnetError

TIMEOUT_S: Final = 10.0
"""Seconds that a machine may take to answer before it counts as hung."""

COLUMNS: Final = (
    Column("MACHINE", lambda row: str(row["machine"])),
    Column("HEALTH", lambda row: "well" if row["healthy"] else "not well"),
    Column("ONLINE", lambda row: f"{row['online']} of {row['kernels']}", right=True),
    Column("WHY", lambda row: str(row["why"])),
)


@verb("status", lists=True)
@pass_settings
def status_verb(settings: Settings) -> None:
    """Say whether machines are well.

    A machine is well if it answers, its primary is online, no kernel has failed or hangs, and its gateway, if
    it has one, listens; kernels that were stopped on purpose do not matter. Without -m: every machine of the
    run directory. Exit status 0 if all are well, 1 if not, 3 if there is none.
    """
    from popnet.control.client import run_dir

    directory = settings.run_path() or run_dir()
    names = [settings.machine] if settings.machine else found(directory)
    rows = [look(settings, name) for name in names]
    if not rows:
        settings.say(f"no machine is running in {directory}")
        click.get_current_context().exit(3)
    print_list(settings, "StatusList", rows, COLUMNS)
    if not all(row["healthy"] for row in rows):
        click.get_current_context().exit(1)


def found(run_dir: Path) -> list[str]:
    """Machines of *run_dir*, sorted; also those that died and left their directory behind."""
    return sorted(lock.parent.name for lock in run_dir.glob("*/lock"))


def look(settings: Settings, name: str) -> dict[str, Any]:
    """The row of machine *name*."""
    from popnet.control.client import Client

    try:
        client = Client(name, run_dir=settings.run_path(), timeout_s=TIMEOUT_S)
        return judge(name, client.get("/v1/machine"), client.get("/v1/kernels"))
    except PopnetError as error:
        return {"machine": name, "healthy": False, "online": 0, "kernels": 0, "why": str(error)}


def judge(name: str, machine: Mapping[str, Any], kernels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The row of machine *name*, of what its control API says."""
    why = [] if machine["state"] in ("up", "online") else [f"the machine is {machine['state']}"]
    for kernel in kernels:
        if kernel["state"] == "failed" or (kernel["kid"] == 0 and kernel["state"] != "online"):
            reason = kernel.get("reason")
            why.append(f"{kernel['name']} is {kernel['state']}" + (f" ({reason})" if reason else ""))
        elif kernel.get("hung"):
            why.append(f"{kernel['name']} hangs")
    gateway = machine.get("gateway")
    if gateway and gateway["state"] == "failed":
        why.append("its gateway does not run")
    return {
        "machine": name,
        "healthy": not why,
        "online": sum(kernel["state"] == "online" for kernel in kernels),
        "kernels": len(kernels),
        "why": "; ".join(why),
    }
