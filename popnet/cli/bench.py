"""`bench`: how fast popnet is on this host, beside everything else that is installed.

`bench messages` is here, `bench net` in benchnet, `bench boot` in benchboot; `bench` alone shows short
figures of messages and networks.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from popnet.cli.benchboot import boot_verb
from popnet.cli.benchnet import net_verb
from popnet.cli.output import Column, json_text, print_list, yaml_text
from popnet.cli.settings import Settings, common_options, output_option, pass_settings, verb

REFERENCE: Final = "unix-stream"
"""The wire that the column VS UNIX compares with: everybody knows it, and everybody has it."""


SHORT_WIRES: Final = ("popnet-python", "popnet-asyncio", "pipe", "unix-stream", "tcp")
SHORT_BUDGET_S: Final = 0.06
"""What `bench` alone measures of messages."""


@click.group("bench", invoke_without_command=True, params=[output_option(), *common_options()])
@click.pass_context
def bench_verb(context: click.Context) -> None:
    """Measure messages, networks and boots, popnet beside its rivals.

    Without a subcommand: short figures of messages and networks, of one round each.
    """
    if context.invoked_subcommand is None:
        short(context.ensure_object(Settings))


def short(settings: Settings) -> None:
    """One round of few wires, messages and networks; a quarter of a minute."""
    import tempfile

    from popnet.bench.rounds import Plan, measure
    from popnet.bench.wires import WIRES, Host
    from popnet.cli import benchnet

    with tempfile.TemporaryDirectory(prefix="popnet-bench-") as build:
        chosen = [kind for kind in WIRES if kind.id in SHORT_WIRES]
        plan = Plan(chosen, (64,), 1, SHORT_BUDGET_S)
        messages = measure(plan, Host(Path(build)), settings.say)
        net = benchnet.measure_short(Path(build), settings.say)
    if settings.output == "json":
        click.echo(json_text({"messages": messages, "net": net}))
    elif settings.output == "yaml":
        click.echo("\n".join(yaml_text({"messages": messages, "net": net})))
    else:
        show(settings, messages)
        click.echo()
        benchnet.show(settings, net)
    if messages["failed"] or net["failed"]:
        sys.exit(1)


@verb("messages", lists=True)
@click.option(
    "--wire", "--only", "wires", multiple=True, metavar="WIRE", help="Only this one; may be repeated."
)
@click.option(
    "--size",
    "sizes",
    type=int,
    multiple=True,
    help="Bytes of a message, up to 16 MiB; single records go to 64 KiB.  [default: 64, 1024, 65536]",
)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often all are measured."
)
@click.option(
    "--budget-ms",
    type=click.FloatRange(1),
    default=200.0,
    show_default=True,
    help="How long one measurement takes.",
)
@click.option("--picture", type=click.Path(dir_okay=False), help="Also draw it, as SVG.")
@pass_settings
def messages_verb(
    settings: Settings,
    wires: tuple[str, ...],
    sizes: tuple[int, ...],
    rounds: int,
    budget_ms: float,
    picture: str | None,
) -> None:
    """Measure messages between two processes, popnet beside its rivals.

    Each wire is measured in two processes on two CPUs: round trips, of which one way is half, and a stream in
    one direction. Rounds are interleaved; the figures are medians, BEST is the best round, and the noise is
    the spread of the rounds, (largest - smallest) / median. What is not installed is listed, with the way to
    get it.
    """
    import tempfile

    from popnet.bench.rounds import SIZES, Plan, measure
    from popnet.bench.timing import SIZE_MIN
    from popnet.bench.wires import WIRES, Host
    from popnet.core.limits import MESSAGE_SIZE_MAX

    known = {kind.id: kind for kind in WIRES}
    for wire in wires:
        if wire not in known:
            raise click.BadParameter(f"{wire!r} is none of {', '.join(known)}", param_hint="--wire")
    if any(not SIZE_MIN <= size <= MESSAGE_SIZE_MAX for size in sizes):
        raise click.BadParameter(f"sizes are {SIZE_MIN} to {MESSAGE_SIZE_MAX} bytes", param_hint="--size")
    chosen = [known[wire] for wire in wires] or list(WIRES)
    with tempfile.TemporaryDirectory(prefix="popnet-bench-") as build:
        plan = Plan(chosen, sizes or SIZES, rounds, budget_ms / 1000)
        document = measure(plan, Host(Path(build)), settings.say)
    show(settings, document)
    if picture:
        from popnet.bench.picture import svg

        Path(picture).write_text(svg(document))
        settings.say(f"drawn: {picture}")
    if document["failed"]:
        sys.exit(1)


bench_verb.add_command(messages_verb)
bench_verb.add_command(net_verb)
bench_verb.add_command(boot_verb)


def show(settings: Settings, document: Mapping[str, Any]) -> None:
    """Print a measurement in the way the user asked for with `-o`."""
    if settings.output == "json":
        click.echo(json_text(document))
        return
    if settings.output == "yaml":
        click.echo("\n".join(yaml_text(document)))
        return
    from popnet.bench.picture import size_text

    for size in sorted({item["size"] for item in document["items"]}):
        rows = rows_of([item for item in document["items"] if item["size"] == size])
        click.echo(f"{size_text(size)}:")
        print_list(settings, "MessageBench", rows, COLUMNS)
        click.echo()
    for entry in document["missing"]:
        click.echo(f"{entry['name']}: {entry['reason']}; {entry['install']}")
    for entry in document["failed"]:
        click.echo(f"{entry['wire']} ({entry['mode']}, {entry['size']} bytes) failed: {entry['reason']}")
    host = document["host"]
    pinned = f"CPUs {host['cpus'][0]} and {host['cpus'][1]}" if host["cpus"] else "one CPU for both ends"
    click.echo(f"{host['cpu']}, {pinned}, Linux {host['linux']}, Python {host['python']}")


def rows_of(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The items of one size, fastest first, each with its ratio to the reference (None without it)."""
    reference = next((item["one_way_us"]["p50"] for item in items if item["wire"] == REFERENCE), None)
    ordered = sorted(items, key=lambda item: item["one_way_us"]["p50"])
    return [{**item, "ratio": reference and item["one_way_us"]["p50"] / reference} for item in ordered]


def _us(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def _rate(row: Mapping[str, Any]) -> str:
    return f"{row['messages_per_s']['median'] / 1e6:.3f}" if row["messages_per_s"] else "-"


def _bandwidth(row: Mapping[str, Any]) -> str:
    return f"{row['messages_per_s']['median'] * row['size'] / 1e9:.2f}" if row["messages_per_s"] else "-"


COLUMNS: Final = (
    Column(
        "WIRE", lambda row: str(row["name"]), colour=lambda text: "bold" if text.startswith("popnet") else ""
    ),
    Column("MODE", lambda row: str(row["mode"])),
    Column("ONE WAY µs", lambda row: _us(row["one_way_us"]["p50"]), right=True),
    Column("BEST", lambda row: _us(row["one_way_us"]["best"]), right=True),
    Column("p99", lambda row: _us(row["one_way_us"]["p99"]), right=True),
    Column("NOISE", lambda row: f"{row['one_way_us']['spread']:.0%}", right=True),
    Column("VS UNIX", lambda row: f"{row['ratio']:.3f}" if row["ratio"] else "-", right=True),
    Column("M/s", _rate, right=True),
    Column(
        "NOISE",
        lambda row: f"{row['messages_per_s']['spread']:.0%}" if row["messages_per_s"] else "-",
        right=True,
    ),
    Column("GB/s", _bandwidth, right=True),
)
