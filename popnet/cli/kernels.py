"""`ps`, `boot`, `kill`, `timeline`: the kernels of a machine, and starting and stopping one of them."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from popnet.cli.complete import KERNEL, quoted
from popnet.cli.output import Column, coloured, paint, print_list, state_colour, table
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.units import duration_text, size_text


def _text(key: str) -> Column:
    title = key.upper()
    return Column(title, lambda row: str(row.get(key) if row.get(key) is not None else "-"))


def _memory(row: Mapping[str, Any]) -> str:
    used, most = row.get("memory_used_bytes"), row.get("memory_bytes")
    if used is None:
        return size_text(most)
    return f"{size_text(used)}/{size_text(most)}" if most is not None else size_text(used)


KERNEL_COLUMNS = (
    Column("NAME", lambda row: str(row["name"])),
    Column("STATE", lambda row: str(row["state"]), colour=state_colour),
    Column("GEN", lambda row: str(row.get("generation", "-")), right=True),
    _text("image"),
    _text("cpus"),
    Column("MEMORY", _memory),
    Column("ADDRESS", lambda row: str(row.get("ipv4") or "-")),
    Column("UPTIME", lambda row: duration_text(row.get("uptime_s"))),
)
REASON = Column("REASON", lambda row: str(row.get("reason") or ""))


def columns_for(rows: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    """The columns of a list of kernels; why one is not online is shown only if there is something to show."""
    return (*KERNEL_COLUMNS, REASON) if any(row.get("reason") for row in rows) else KERNEL_COLUMNS


@verb("ps", lists=True)
@pass_settings
def ps_verb(settings: Settings) -> None:
    """List the kernels of the machine."""
    rows = settings.client().get("/v1/kernels")
    print_list(settings, "KernelList", rows, columns_for(rows))


@verb("boot")
@click.argument("kernel", type=KERNEL)
@click.option("--timeline", "with_timeline", is_flag=True, help="Also show how long each step took.")
@pass_settings
def boot_verb(settings: Settings, kernel: str, with_timeline: bool) -> None:
    """Boot a kernel that is not running.

    Its generation grows by one: who spoke to the last one must ask again.
    """
    row = settings.client().post(f"/v1/kernels/{quoted(kernel)}/boot")
    click.echo(_state_line(row))
    if with_timeline:
        _print_timeline(row.get("timeline") or [])


@verb("kill")
@click.argument("kernel", type=KERNEL)
@pass_settings
def kill_verb(settings: Settings, kernel: str) -> None:
    """Stop a kernel at once, as a power failure would.

    The others go on; `popnet boot` starts it again.
    """
    click.echo(_state_line(settings.client().post(f"/v1/kernels/{quoted(kernel)}/kill")))


@verb("load")
@click.argument("kernel", type=KERNEL)
@click.option("--image", metavar="IMAGE", help="What it runs: a name, or the path of its directory.")
@click.option("--append", metavar="TEXT", help="Its boot parameters, such as 'present_mask=1 mem=512M'.")
@pass_settings
def load_verb(settings: Settings, kernel: str, image: str | None, append: str | None) -> None:
    """Give a kernel its partition, without booting it.

    With --image or --append it is what these say until it is unloaded; KERNEL may be a new name then.
    """
    from pathlib import Path
    from urllib.parse import urlencode

    if image is not None and "/" in image:
        image = str(Path(image).absolute())
    asked = {key: value for key, value in (("image", image), ("append", append)) if value is not None}
    path = f"/v1/kernels/{quoted(kernel)}/load?{urlencode(asked)}"
    click.echo(_state_line(settings.client().post(path)))


@verb("unload")
@click.argument("kernel", type=KERNEL)
@pass_settings
def unload_verb(settings: Settings, kernel: str) -> None:
    """Take the partition of a kernel back that does not run.

    It is what the machine file says again; one that the file does not have is gone.
    """
    click.echo(_state_line(settings.client().post(f"/v1/kernels/{quoted(kernel)}/unload")))


@verb("reboot")
@click.argument("kernel", type=KERNEL)
@pass_settings
def reboot_verb(settings: Settings, kernel: str) -> None:
    """Shut a kernel down in good order, and boot it.

    Its generation grows by one.
    """
    click.echo(_state_line(settings.client().post(f"/v1/kernels/{quoted(kernel)}/reboot")))


@verb("panic")
@click.argument("kernel", type=KERNEL)
@pass_settings
def panic_verb(settings: Settings, kernel: str) -> None:
    """Make a kernel panic, to try what happens then.

    `popnet dmesg --previous` has its last words.
    """
    click.echo(_state_line(settings.client().post(f"/v1/kernels/{quoted(kernel)}/panic")))


@verb("hang")
@click.argument("kernel", type=KERNEL)
@pass_settings
def hang_verb(settings: Settings, kernel: str) -> None:
    """Make a kernel hang, to try what happens then.

    Its processes live, and it answers nothing: `popnet events` tells once heartbeats are missed.
    """
    click.echo(_state_line(settings.client().post(f"/v1/kernels/{quoted(kernel)}/hang")))


@verb("timeline", lists=True)
@click.argument("kernel", type=KERNEL)
@click.option("--picture", type=click.Path(dir_okay=False), help="Also draw it, as SVG.")
@pass_settings
def timeline_verb(settings: Settings, kernel: str, picture: str | None) -> None:
    """Show how long each step of a boot took."""
    steps = settings.client().get(f"/v1/kernels/{quoted(kernel)}/timeline")
    if picture is not None:
        from popnet.cli.machine import draw

        draw(settings, picture, {kernel: steps})
    if settings.output == "table":
        _print_timeline(steps)
    else:
        print_list(settings, "BootStepList", steps, ())


def _state_line(row: Mapping[str, Any]) -> str:
    """`kernel k1: online (generation 2, 41 ms)`."""
    from popnet.cli.bars import span
    from popnet.cli.units import milliseconds_text

    remarks = [f"generation {row['generation']}"] if row.get("generation") is not None else []
    if row.get("timeline"):
        first, last = span(row["timeline"])
        remarks.append(milliseconds_text(last - first))
    state = paint(str(row["state"]), state_colour(str(row["state"])), coloured(sys.stdout))
    reason = f": {row['reason']}" if row.get("reason") else ""
    return f"kernel {row['name']}: {state}{reason}" + (f" ({', '.join(remarks)})" if remarks else "")


def _print_timeline(steps: Sequence[Mapping[str, Any]]) -> None:
    from popnet.cli.bars import fancy_ok, timeline_lines

    for line in timeline_lines(steps, fancy_ok(sys.stdout.encoding)):
        click.echo(line)


def kernel_table(rows: Sequence[Mapping[str, Any]], colours: bool) -> list[str]:
    """The lines that `ps` prints for *rows*."""
    return table(rows, columns_for(rows), colours)
