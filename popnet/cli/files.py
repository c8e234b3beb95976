"""`validate`, `schema`: machine files, without booting anything. Needs no machine and no privileges."""

import os
from typing import TYPE_CHECKING

import click

from popnet.cli.complete import MACHINE_FILE
from popnet.cli.output import Column, json_text, print_list
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.units import size_text

if TYPE_CHECKING:
    from popnet.machine.spec import MachineSpec

SPEC_COLUMNS = (
    Column("NAME", lambda row: str(row["name"])),
    Column("KID", lambda row: str(row["kid"]), right=True),
    Column("IMAGE", lambda row: str(row["image"])),
    Column("CPUS", lambda row: str(row["cpus"])),
    Column("MEMORY", lambda row: size_text(row["memory_bytes"])),
    Column("TTYS", lambda row: str(row["ttys"]), right=True),
    Column("ADDRESS", lambda row: str(row["ipv4"])),
)


@verb("validate", lists=True)
@click.argument("file", type=MACHINE_FILE)
@pass_settings
def validate_verb(settings: Settings, file: str) -> None:
    """Check a machine file, and list all its errors.

    Prints the kernels it would make on this host. Nothing is started.
    """
    spec = load_file(file)
    print_list(settings, "KernelSpecList", spec_rows(spec), SPEC_COLUMNS)
    settings.say(f"{spec.file}: machine {spec.name!r} is valid")


@verb("schema")
@click.option("--image", "of_image", is_flag=True, help="That of an image's manifest, image.yaml.")
def schema_verb(of_image: bool) -> None:
    """Print the JSON Schema of machine files.

    For editors: put  # yaml-language-server: $schema=popnet.schema.json  on top of the file.
    """
    from popnet.machine.file import schema

    click.echo(json_text(schema(of_image)))


def load_file(name: str) -> "MachineSpec":
    """The machine that file *name* (a path, or a bare name) means on this host. Raises InvalidMachineFile."""
    from popnet.kernel.host import read_host
    from popnet.machine.file import load
    from popnet.machine.search import find_machine_file, image_search_path
    from popnet.net.filter import match_problem

    path = find_machine_file(name, os.environ)
    return load(path, read_host(), image_search_path(os.environ, path), match_problem)


def spec_rows(spec: "MachineSpec") -> list[dict[str, object]]:
    """The kernels of *spec* as rows, for people and programs."""
    from popnet.machine.units import format_cpus

    return [
        {
            "name": kernel.name,
            "kid": kernel.kid,
            "image": kernel.image,
            "cpus": format_cpus(kernel.cpus),
            "memory_bytes": kernel.memory_bytes,
            "mtu": kernel.mtu,
            "ttys": kernel.ttys,
            "hostname": kernel.hostname,
            "init": kernel.init,
            "ssh": kernel.ssh,
            "ipv4": str(spec.ipv4(kernel)),
            "ipv6": str(spec.ipv6(kernel)),
            "cmdline": kernel.cmdline,
        }
        for kernel in spec.kernels
    ]


def shipped_files() -> list[str]:
    """Bare names of the machine files that popnet brings along, sorted."""
    from pathlib import Path

    from popnet.machine.search import image_search_path

    directories = image_search_path(os.environ)
    return sorted(
        {path.stem for directory in directories for path in Path(directory).glob("machines/*.yaml")}
    )
