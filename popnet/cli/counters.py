"""`counters`: what the machine has counted: frames, bytes, kicks, and what was dropped for which reason."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

from popnet.cli.output import API_VERSION, json_text, yaml_text
from popnet.cli.settings import Settings, pass_settings, verb


@verb("counters", lists=True)
@click.option("-a", "--all", "with_zeros", is_flag=True, help="Also those that are 0.")
@pass_settings
def counters_verb(settings: Settings, with_zeros: bool) -> None:
    """Print the counters of all kernels and links."""
    counters = settings.client().get("/v1/counters")
    document = {"apiVersion": API_VERSION, "kind": "Counters", **counters}
    match settings.output:
        case "json":
            click.echo(json_text(document))
        case "yaml":
            click.echo("\n".join(yaml_text(document)))
        case _:
            for name, value in flat(counters):
                if value or with_zeros:
                    click.echo(f"{name} {value}")


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, each with its path: `kernels.k1.nic.tx_frames`."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
