"""`partition`, `topology`: how a host could be split among kernels. Needs no machine and no privileges."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from popnet.cli.output import json_text, yaml_text
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.core.errors import Refused

if TYPE_CHECKING:
    from popnet.machine.planner import Plan
    from popnet.machine.topology import Topology

Value = TypeVar("Value")

_POLICIES = """\b
per-core     one kernel a core
per-node     one kernel a NUMA node
equal        --kernels N, all alike
compute-io   the primary has --cores for input and output, --kernels others compute
real-time    kernel rt has --cores of its own, --kernels others share the rest
"""


def topology_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--topology",
        "file",
        type=click.Path(dir_okay=False),
        help="The computer that this file describes, instead of this host: what `popnet topology` printed.",
    )(function)


@verb("topology", lists=True)
@topology_option
@pass_settings
def topology_verb(settings: Settings, file: str | None) -> None:
    """Print what this host is made of.

    Cores, NUMA nodes, memory by address, caches. As YAML, or JSON with -o json; `popnet partition
    --topology` reads it.
    """
    from popnet.machine.topology import summary, to_data

    topology = read(file)
    settings.say(f"# {summary(topology)}")
    data = to_data(topology)
    click.echo(json_text(data) if settings.output == "json" else "\n".join(yaml_text(data)))


@verb("partition", help=f"Print a machine file that splits this host among kernels.\n\n{_POLICIES}")
@click.argument("policy", required=False)
@click.option("--kernels", type=int, metavar="N", help="How many kernels.")
@click.option("--cores", type=int, metavar="N", help="How many cores for input and output, or for rt.")
@click.option("--give", "gives", multiple=True, metavar="NAME=CPUS[:MEMORY]", help="First, k1=0-3:2G@4G.")
@click.option("--cpus", metavar="LIST", help="Split these CPUs only.")
@click.option("--memory", metavar="SIZE", help="For each kernel; `none`: no limits.  [default: all there is]")
@click.option("--reserve", metavar="SIZE", help="Keep this much memory for the host.  [default: a 16th]")
@click.option("--by-amount", is_flag=True, help="Say how much memory, not at which addresses.")
@click.option("--overcommit", is_flag=True, help="Let kernels share CPUs, and promise too much memory.")
@topology_option
@click.option("--name", default="split", show_default=True, help="The machine's name.")
@click.option("--image", metavar="NAME", help="What all kernels run.")
@click.option("--explain", is_flag=True, help="Say why each CPU and each range of memory went where it did.")
@click.option("--draw", is_flag=True, help="Draw the split, on stderr.")
@click.option("--svg", type=click.Path(dir_okay=False), help="Draw the split into this file.")
@pass_settings
def partition_verb(
    settings: Settings,
    /,
    policy: str | None,
    gives: tuple[str, ...],
    file: str | None,
    name: str,
    image: str | None,
    explain: bool,
    draw: bool,
    svg: str | None,
    **wishes: Any,
) -> None:
    from popnet.machine.names import machine_name
    from popnet.machine.planfile import machine_file

    if policy is None and not gives:
        raise Refused(
            "nothing says how to split", "Name a policy or --give; `popnet partition --help` has all."
        )
    plan = _plan(read(file), policy, gives, **wishes)
    text = machine_file(plan, _value("--name", machine_name, name), image, explain)
    check(plan, text)
    click.echo(text, nl=False)
    if draw:
        from popnet.cli.plandraw import drawing

        for line in drawing(plan):
            click.echo(line, err=True)
    if svg is not None:
        _draw_svg(plan, svg)
        settings.say(f"drawn: {svg}")


def read(file: str | None) -> "Topology":
    """The topology in *file*, or this host's. Raises InvalidMachineFile."""
    if file is None:
        from popnet.kernel.topology import read_topology

        return read_topology()
    from popnet.machine.topologyfile import load_topology

    return load_topology(file)


def check(plan: "Plan", text: str) -> None:
    """The machine file must be valid on the computer that it was planned for. Raises InvalidMachineFile."""
    import os

    from popnet.machine.file import loads
    from popnet.machine.search import image_search_path

    loads(text, plan.topology.host(), image_search_path(os.environ), file="the plan")


def _plan(
    topology: "Topology",
    policy: str | None,
    gives: tuple[str, ...],
    kernels: int | None,
    cores: int | None,
    cpus: str | None,
    memory: str | None,
    reserve: str | None,
    by_amount: bool,
    overcommit: bool,
) -> "Plan":
    from popnet.machine.gives import parse_give
    from popnet.machine.planner import plan
    from popnet.machine.policies import Wish
    from popnet.machine.units import format_cpus, parse_cpus, parse_size

    if cpus is not None:
        wanted = _value("--cpus", parse_cpus, cpus)
        absent = set(wanted) - set(topology.cpus)
        if absent:
            there = format_cpus(topology.cpus)
            near = format_cpus(set(wanted) & set(topology.cpus)) or there
            raise Refused(
                f"--cpus: there is no CPU {format_cpus(absent)}; there are {there}",
                f"Nearest legal split: --cpus {near}",
            )
        topology = topology.only(wanted)
    each: int | str | None = "share"
    if memory is not None:
        each = None if memory == "none" else _value("--memory", parse_size, memory)
    return plan(
        topology,
        policy,
        Wish(kernels, cores, overcommit),
        [_value("--give", parse_give, text) for text in gives],
        each,
        None if reserve is None else _value("--reserve", parse_size, reserve),
        by_address=not by_amount,
    )


def _draw_svg(plan: "Plan", path: str) -> None:
    from pathlib import Path

    from popnet.cli.plansvg import svg

    try:
        Path(path).write_text(svg(plan))
    except OSError as error:
        raise Refused(f"--svg {path}: {(error.strerror or str(error)).lower()}") from None


def _value(option: str, parse: Callable[[str], Value], text: str) -> Value:
    try:
        return parse(text)
    except ValueError as error:
        raise Refused(f"{option}: {error}") from None
