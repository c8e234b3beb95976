"""`images`: what kernels can run. Needs no machine and no privileges."""

import os

import click

from popnet.cli.output import Column, print_list
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.units import size_text

COLUMNS = (
    Column("NAME", lambda row: str(row["name"])),
    Column("KIND", lambda row: str(row["kind"] or "-")),
    Column("ROOT", lambda row: str(row["root"] or "-")),
    Column("SIZE", lambda row: size_text(row["size_bytes"]), right=True),
    Column("SHA256", lambda row: str(row["sha256"] or "-")[:16]),
    Column("ORIGIN", lambda row: str(row["path"])),
)


@verb("images", lists=True)
@click.argument("paths", nargs=-1, metavar="[DIR]...")
@pass_settings
def images_verb(settings: Settings, paths: tuple[str, ...]) -> None:
    """List the images that kernels can run.

    Those that a machine file can name, or those in the directories DIR. The size is that of an image's own
    files: a root that shows the host's files has none of them. -o json has the whole digest. Exit status 1
    if one is broken.
    """
    from popnet.machine.imagelist import image_rows

    rows = image_rows(os.environ, paths)
    print_list(settings, "ImageList", rows, COLUMNS)
    broken = [row for row in rows if row["error"]]
    for row in broken:
        click.echo(row["error"], err=True)
    if broken:
        click.get_current_context().exit(1)
