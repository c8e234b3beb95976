"""`bench net`: frames between two kernels, beside every other network that is installed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from popnet.cli.output import Column, json_text, print_list, yaml_text
from popnet.cli.settings import Settings, pass_settings, verb

SCALE: Final = (2, 4, 8, 16, 32)
SHORT_WIRES: Final = ("veth", "bridge", "popnet")
"""What `bench` alone measures of networks."""


@verb("net", lists=True)
@click.option(
    "--wire",
    "--only",
    "wires",
    multiple=True,
    metavar="WIRE",
    help="Only this one, beside veth; may be repeated.",
)
@click.option("--metric", "metrics", multiple=True, metavar="METRIC", help="Only this one; may be repeated.")
@click.option("--mtu", "mtus", type=click.IntRange(576, 9000), multiple=True, help="[default: 1500, 9000]")
@click.option(
    "--rounds", type=click.IntRange(1), help="How often all are measured.  [default: 3; 1 if --quick]"
)
@click.option(
    "--seconds",
    type=click.IntRange(1, 60),
    default=1,
    show_default=True,
    help="How long one measurement of TCP takes; the others take a third of it.",
)
@click.option("--quick", is_flag=True, help="One round, MTU 1500, short measurements.")
@click.option("--scale", is_flag=True, help="Instead: how cost grows with the number of kernels.")
@click.option(
    "--kernels",
    type=click.IntRange(2, 64),
    multiple=True,
    help="With --scale: this many.  [default: 2, 4, 8, 16, 32]",
)
@click.option(
    "--idle-seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="With --scale: how long an idle machine is watched; 0 leaves it out.",
)
@click.option("--picture", type=click.Path(dir_okay=False), help="Also draw it, as SVG.")
@pass_settings
def net_verb(
    settings: Settings,
    wires: tuple[str, ...],
    metrics: tuple[str, ...],
    mtus: tuple[int, ...],
    rounds: int | None,
    seconds: int,
    quick: bool,
    scale: bool,
    kernels: tuple[int, ...],
    idle_seconds: float,
    picture: str | None,
) -> None:
    """Measure networks between two namespaces, popnet beside its rivals.

    Each network is made in namespaces of its own, measured, and removed, once a round; nothing of it is on
    the host. Rounds are interleaved; the figures are medians, VS VETH is the ratio to veth in the same round,
    and the noise is the spread of the rounds, (largest - smallest) / median. TCP by iperf3; floods and round
    trips between two CPUs. Works as root, and as an ordinary user who may have user namespaces.
    """
    import tempfile

    from popnet.bench.netloads import METRICS
    from popnet.bench.netrounds import MTUS, NetPlan, helper, in_worker
    from popnet.bench.netwires import NETS, REFERENCE

    _known("--wire / --only", wires, [kind.id for kind in NETS])
    _known("--metric", metrics, METRICS)
    if kernels and not scale:
        raise click.UsageError("--kernels belongs to --scale")
    if scale and metrics:
        raise click.UsageError("--metric does not go with --scale: it has measurements of its own")
    chosen = [kind.id for kind in NETS if not wires or scale or kind.id in (*wires, REFERENCE)]
    with tempfile.TemporaryDirectory(prefix="popnet-bench-") as build:
        plan = NetPlan(
            wires=wires if scale and wires else chosen,
            load=load(helper(Path(build), settings.say), seconds, quick),
            mtus=mtus or (MTUS[:1] if quick or scale else MTUS),
            metrics=metrics or METRICS,
            rounds=rounds or (1 if quick else 3),
            kernels=(kernels or SCALE) if scale else (),
            idle_s=idle_seconds,
        )
        document = in_worker(plan, settings.say)
    show(settings, document)
    if picture:
        from popnet.bench.netpicture import svg

        Path(picture).write_text(svg(document))
        settings.say(f"drawn: {picture}")
    if document["failed"]:
        sys.exit(1)


def _known(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    for one in given:
        if one not in known:
            raise click.BadParameter(f"{one!r} is none of {', '.join(known)}", param_hint=option)


def load(helper: Sequence[str], seconds: int, quick: bool) -> Any:
    """How long each measurement takes."""
    from popnet.bench.netloads import Load
    from popnet.bench.wires import two_cpus

    if quick:
        return Load(helper, seconds, 0.1, 0.1, 1, two_cpus())
    return Load(helper, seconds, seconds / 3, seconds / 3, 4, two_cpus())


def measure_short(build: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """What `bench` alone measures of networks."""
    from popnet.bench.netrounds import MTUS, NetPlan, helper, in_worker

    return in_worker(NetPlan(SHORT_WIRES, load(helper(build, say), 1, True), MTUS[:1], rounds=1), say)


def show(settings: Settings, document: Mapping[str, Any]) -> None:
    """Print a measurement in the way the user asked for with `-o`."""
    if settings.output == "json":
        click.echo(json_text(document))
        return
    if settings.output == "yaml":
        click.echo("\n".join(yaml_text(document)))
        return
    if document["kind"] == "NetScaleBench":
        print_list(settings, "NetScaleBench", document["items"], SCALE_COLUMNS)
        click.echo()
        if idle := document["idle"]:
            share = f"{idle['cpu_share']:.2%} of a core, over {idle['seconds']:g} s"
            click.echo(f"an idle machine of {idle['kernels']} kernels: {share}")
    else:
        for mtu in sorted({item["mtu"] for item in document["items"]}):
            items = [item for item in document["items"] if item["mtu"] == mtu]
            for title, columns in TABLES:
                rows = [item for item in items if any(name in item["figures"] for name in columns)]
                if rows:
                    click.echo(f"MTU {mtu}, {title}:")
                    print_list(settings, "NetBench", rows, (NETWORK, *_columns(columns)))
                    click.echo()
    for entry in document["missing"]:
        click.echo(f"{entry['name']}: {entry['reason']}; {entry['install'] or 'see popnet doctor'}")
    for entry in document["failed"]:
        what = entry.get("metric") or f"{entry['kernels']} kernels"
        click.echo(f"{entry['name']} ({what}) failed: {entry['reason']}")
    host = document["host"]
    click.echo(
        f"{host['cpu']}, load {host['load']:.1f}, Linux {host['linux']}, Python {host['python']}, "
        f"{document['rounds']} rounds"
    )


NETWORK: Final = Column(
    "NETWORK", lambda row: str(row["name"]), colour=lambda text: "bold" if text == "popnet" else ""
)

TABLES: Final[tuple[tuple[str, dict[str, tuple[str, str]]], ...]] = (
    (
        "TCP",
        {
            "tcp1_gbit": ("1 STREAM Gbit/s", ".1f"),
            "tcp1_cpu_s_per_gb": ("CPU s/GB", ".2f"),
            "tcp4_gbit": ("4 STREAMS Gbit/s", ".1f"),
            "tcp4_cpu_s_per_gb": ("CPU s/GB", ".2f"),
        },
    ),
    (
        "datagrams of 64 bytes",
        {
            "udp64_kpps": ("FLOOD k/s", ".0f"),
            "udp64_loss": ("LOST", ".1%"),
            "udp64_clean_kpps": ("< 0.1 % LOST k/s", ".0f"),
        },
    ),
    (
        "datagrams of 1472 bytes",
        {
            "udp1472_kpps": ("FLOOD k/s", ".0f"),
            "udp1472_loss": ("LOST", ".1%"),
            "udp1472_clean_kpps": ("< 0.1 % LOST k/s", ".0f"),
        },
    ),
    (
        "request and answer",
        {"trip_p50_us": ("p50 µs", ".1f"), "trip_p99_us": ("p99 µs", ".1f")},
    ),
)
"""Of each table the figures, with a title and a format."""


def _columns(figures: Mapping[str, tuple[str, str]]) -> list[Column]:
    found = []
    for name, (title, form) in figures.items():
        found.append(Column(title, _cell(name, "median", form), right=True))
        if not name.endswith("_loss"):
            found.append(Column("VS VETH", _cell(name, "ratio", ".2f"), right=True))
            found.append(Column("NOISE", _cell(name, "spread", ".0%"), right=True))
    return found


def _cell(name: str, part: str, form: str) -> Callable[[Mapping[str, Any]], str]:
    def text(row: Mapping[str, Any]) -> str:
        value = row["figures"].get(name, {}).get(part)
        return "-" if value is None else format(value, form)

    return text


SCALE_COLUMNS: Final = (
    NETWORK,
    Column("KERNELS", lambda row: str(row["kernels"]), right=True),
    Column("FLOWS", lambda row: str(row["flows"]), right=True),
    Column("TOTAL Gbit/s", _cell("total_gbit", "median", ".1f"), right=True),
    Column("VS FEWEST", _cell("total_gbit", "ratio", ".2f"), right=True),
    Column("NOISE", _cell("total_gbit", "spread", ".0%"), right=True),
    Column("CPU s/GB", _cell("total_cpu_s_per_gb", "median", ".2f"), right=True),
    Column("SLOWEST FLOW", _cell("slowest_share", "median", ".0%"), right=True),
)
"""SLOWEST FLOW: the share that the slowest flow got of a fair one."""
