"""`ramdisk`: a small root file system in one file. Needs no machine and no privileges."""

from pathlib import Path

import click

from popnet.cli.settings import verb


@verb("ramdisk")
@click.argument("out", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--program",
    "programs",
    multiple=True,
    metavar="NAME",
    help="A static program of this host; busybox by default.",
)
@click.option("--file", "files", multiple=True, metavar="PATH:INSIDE", help="A file, and where it is to be.")
def ramdisk_verb(out: Path, programs: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Make a ramdisk of static programs, as a cpio archive.

    That of the image `light` is made in the same way. FILE is compressed if it ends with .gz. The same
    programs give the same bytes. An image with `root: cpio` and `source: FILE` boots it; so does Linux.
    """
    import hashlib

    from popnet.cli.units import size_text
    from popnet.image import ramdisk
    from popnet.image.entry import clean_path

    more = {}
    for text in files:
        path, colon, inside = text.rpartition(":")
        if not colon or not clean_path(inside):
            raise click.BadParameter(f"got {text!r}; allowed: PATH:INSIDE, such as ./init:/sbin/init")
        try:
            more[clean_path(inside)] = Path(path).read_bytes()
        except OSError as error:
            raise click.BadParameter(f"{path}: {(error.strerror or '').lower()}") from None
    found = ramdisk.members([ramdisk.find_program(name, out.name) for name in programs or ("busybox",)], more)
    data = ramdisk.archive(found, compress=out.suffix == ".gz")
    try:
        out.write_bytes(data)
    except OSError as error:
        raise click.BadParameter(f"{out}: {(error.strerror or '').lower()}") from None
    click.echo(
        f"{out}: {size_text(len(data))}, {len(found)} files, sha256 {hashlib.sha256(data).hexdigest()}"
    )
