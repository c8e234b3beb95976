"""`graph`: the kernels of a machine and the links between them, as text, a picture, or for other programs."""

from pathlib import Path

import click

from popnet.cli.output import API_VERSION, json_text, yaml_text
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.core.errors import PopnetError
from popnet.graph import DRAWINGS, build


@verb("graph")
@click.option(
    "-o",
    "--output",
    "drawing",
    type=click.Choice((*DRAWINGS, "json", "yaml")),
    help="What to print.  [default: text]",
)
@click.option("-w", "--write", type=click.Path(dir_okay=False), metavar="FILE", help="Write it to this file.")
@pass_settings
def graph_verb(settings: Settings, drawing: str | None, write: str | None) -> None:
    """Draw the kernels and the links between them.

    Links are made on first use; those that exist are shown, with what went over them. What is impaired or
    cut says so.
    """
    client = settings.client()
    graph = build(*(client.get(f"/v1/{what}") for what in ("machine", "kernels", "counters", "links")))
    document = {"apiVersion": API_VERSION, "kind": "Graph", **graph}
    match drawing or (settings.output if settings.output != "table" else "text"):
        case "json":
            shown = json_text(document)
        case "yaml":
            shown = "\n".join(yaml_text(document))
        case chosen:
            shown = DRAWINGS[chosen](graph)
    if write is None:
        click.echo(shown)
        return
    try:
        Path(write).write_text(shown + "\n")
    except OSError as error:
        raise PopnetError(f"{write}: {error.strerror}") from error
