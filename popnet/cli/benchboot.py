"""`bench boot`: machines of several sizes, beside everything else that boots something."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from popnet.cli.output import Column, json_text, print_list, yaml_text
from popnet.cli.settings import Settings, pass_settings, verb


@verb("boot", lists=True)
@click.option("--peer", "--only", "peers", multiple=True, metavar="PEER", help="Only this; may be repeated.")
@click.option(
    "--kernels",
    type=click.IntRange(1, 200),
    multiple=True,
    help="How many at once; may be repeated.  [default: 1, 8, 32, 64]",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often all are measured."
)
@click.option("--picture", type=click.Path(dir_okay=False), help="Also draw it, as SVG.")
@pass_settings
def boot_verb(
    settings: Settings, peers: tuple[str, ...], kernels: tuple[int, ...], rounds: int, picture: str | None
) -> None:
    """Measure how long kernels take to boot, popnet beside its rivals.

    N are started at once, in namespaces of their own, and ended. READY is the time until all are ready for
    work, EACH that divided by N, DOWN until all are gone; CPU (everything, interpreters included) and MEMORY
    (PSS, managers included) are for each of N. Rounds are interleaved; the figures are medians, and the noise
    is the spread of READY. What is not installed is listed, with the way to get it.
    """
    from popnet.bench.bootpeers import PEERS
    from popnet.bench.bootrounds import COUNTS, BootPlan
    from popnet.bench.netrounds import in_worker

    known = [peer.id for peer in PEERS]
    for one in peers:
        if one not in known:
            raise click.BadParameter(f"{one!r} is none of {', '.join(known)}", param_hint="--peer / --only")
    plan = BootPlan(peers or known, kernels or COUNTS, rounds)
    document = in_worker(plan, settings.say, "popnet.bench.bootworker")
    show(settings, document)
    if picture:
        from popnet.bench.bootpicture import svg

        Path(picture).write_text(svg(document))
        settings.say(f"drawn: {picture}")
    if document["failed"]:
        sys.exit(1)


def show(settings: Settings, document: Mapping[str, Any]) -> None:
    """Print a measurement in the way the user asked for with `-o`."""
    if settings.output == "json":
        click.echo(json_text(document))
        return
    if settings.output == "yaml":
        click.echo("\n".join(yaml_text(document)))
        return
    for count in sorted({item["kernels"] for item in document["items"]}):
        rows = [item for item in document["items"] if item["kernels"] == count]
        rows.sort(key=lambda item: item["figures"]["ready_ms"]["median"])
        click.echo(f"{count} kernel{'s' * (count > 1)}:")
        print_list(settings, "BootBench", rows, COLUMNS)
        click.echo()
    for entry in document["limited"]:
        click.echo(f"{entry['name']}: at most {entry['most']} at once")
    for entry in document["missing"]:
        click.echo(f"{entry['name']}: {entry['reason']}; {entry['install']}")
    for entry in document["failed"]:
        click.echo(f"{entry['name']} ({entry['kernels']}) failed: {entry['reason']}")
    host = document["host"]
    click.echo(f"{host['cpu']}, Linux {host['linux']}, Python {host['python']}, load {host['load']:.1f}")


def _figure(name: str, digits: int = 1) -> Any:
    def text(row: Mapping[str, Any]) -> str:
        value = float(row["figures"][name]["median"])
        return f"{value:.0f}" if value >= 100 else f"{value:.{digits}f}"

    return text


COLUMNS: Final = (
    Column(
        "WHAT", lambda row: str(row["name"]), colour=lambda text: "bold" if text.startswith("popnet") else ""
    ),
    Column("READY ms", _figure("ready_ms"), right=True),
    Column("NOISE", lambda row: f"{row['figures']['ready_ms']['spread']:.0%}", right=True),
    Column("EACH ms", _figure("each_ms"), right=True),
    Column("CPU ms", _figure("cpu_ms"), right=True),
    Column("MEMORY MiB", _figure("pss_mib", 2), right=True),
    Column("DOWN ms", _figure("down_ms"), right=True),
)
