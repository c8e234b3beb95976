"""`images`: what kernels can run. Needs no machine and no privileges."""

import os
from typing import Any

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
    Column("ORIGIN", lambda row: str(row["origin"] or row["path"])),
)

KEPT_COLUMNS = (
    Column("DIGEST", lambda row: str(row["digest"])[:16]),
    Column("SIZE", lambda row: size_text(row.get("size_bytes")), right=True),
    Column("FILES", lambda row: str(row.get("entries", "-")), right=True),
    Column("FROM", lambda row: str(row.get("origin", "-"))),
)


@verb("images", lists=True)
@click.argument("paths", nargs=-1, metavar="[DIR]...")
@click.option("--kept", is_flag=True, help="List the roots that are kept unpacked.")
@click.option("--prune", is_flag=True, help="Remove those of them that no machine uses.")
@pass_settings
def images_verb(settings: Settings, paths: tuple[str, ...], kept: bool, prune: bool) -> None:
    """List the images that kernels can run.

    Those that a machine file can name, or those in the directories DIR. The size is that of an image's own
    files: a root that shows the host's files has none of them. -o json has the whole digest. Exit status 1
    if one is broken.
    """
    if kept or prune:
        if paths:
            raise click.UsageError("--kept and --prune are about all images; leave DIR out")
        print_list(settings, "KeptRootList", _kept(prune), KEPT_COLUMNS)
        return
    from popnet.machine.imagelist import image_rows

    rows = image_rows(os.environ, paths)
    print_list(settings, "ImageList", rows, COLUMNS)
    broken = [row for row in rows if row["error"]]
    for row in broken:
        click.echo(row["error"], err=True)
    if broken:
        click.get_current_context().exit(1)


def _kept(prune: bool) -> list[dict[str, Any]]:
    """The roots that are kept, or those that were and are no longer."""
    from popnet.image.store import Store, store_directory

    is_root = os.geteuid() == 0
    store = Store(store_directory(os.environ, is_root), owners=is_root)
    return store.prune() if prune else store.rows()
