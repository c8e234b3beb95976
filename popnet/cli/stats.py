"""`stats`: what the rings of the links did: a row a kernel, peer and ring; and `stats net`, a row a NIC.

The numbers are those of `counters`; `--interval` and `--watch` show what they grew by, per second.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from popnet.cli.complete import KERNEL
from popnet.cli.output import Column, print_list
from popnet.cli.screen import Watched, at_terminal, show
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.control.client import Client
from popnet.core.errors import NoSuchKernel

RINGS: Final = ("high", "normal", "frames")

COUNTS: Final = (
    ("sent", "SENT"),
    ("received", "RECEIVED"),
    ("kicks", "KICKS"),
    ("kicks_suppressed", "SUPPRESSED"),
    ("kicks_spurious", "SPURIOUS"),
    ("budget_exhausted", "BUDGET"),
    ("full", "FULL"),
    ("armed", "ARMED"),
    ("armed_for_room", "FOR-ROOM"),
)
"""Counters of a ring, and their titles; what each counts is told in docs/performance.md."""

NIC_COUNTS: Final = (
    ("tx_frames", "TX"),
    ("tx_bytes", "TX-BYTES"),
    ("rx_frames", "RX"),
    ("rx_bytes", "RX-BYTES"),
    ("stalls", "STALLS"),
    ("sleeps", "SLEEPS"),
)


def _count(key: str, title: str) -> Column:
    return Column(title, lambda row: str(row.get(key, 0)), right=True)


def _text(key: str) -> Column:
    return Column(key.upper(), lambda row: str(row.get(key) or "-"))


RING_COLUMNS: Final = (
    _text("kernel"),
    _text("peer"),
    _text("ring"),
    _text("mode"),
    *(_count(key, title) for key, title in COUNTS),
)

NIC_COLUMNS: Final = (
    _text("kernel"),
    *(_count(key, title) for key, title in NIC_COUNTS),
    Column("DROPS", lambda row: ", ".join(f"{k} {v}" for k, v in row["drops"].items()) or "-"),
)


@verb("stats", lists=True)
@click.argument("what", type=click.Choice(("rings", "net")), default="rings")
@click.argument("named", type=KERNEL, nargs=-1, metavar="[KERNEL]...")
@click.option(
    "-k", "--kernel", "chosen", type=KERNEL, multiple=True, help="Only this kernel; may be repeated."
)
@click.option("-i", "--interval", "period_s", type=click.FloatRange(min=0.1), metavar="SECONDS",
              help="Go on: each so many seconds, growth a second.  [default with --watch: 1]")  # fmt: skip
@click.option("-w", "--watch", is_flag=True, help="Likewise, drawn anew in place at a terminal.")
@click.option("-n", "--count", "rounds", type=click.IntRange(min=1),
              help="With --interval or --watch: end after so many.")  # fmt: skip
@pass_settings
def stats_verb(
    settings: Settings,
    what: str,
    named: tuple[str, ...],
    chosen: tuple[str, ...],
    period_s: float | None,
    watch: bool,
    rounds: int | None,
) -> None:
    """Show what rings and NICs did.

    A link has three rings each way: high and normal messages, and frames. KICKS woke the peer; SUPPRESSED
    ones were spared because it was awake, SPURIOUS ones found nothing. BUDGET: polls that ended at theirs.
    FULL: sends that found no room. ARMED, FOR-ROOM: sleeps for data and for room, announced to the peer.

    popnet stats net k1 prints every counter of k1's NIC, and what went to and came from each peer. With
    --interval or --watch numbers are what the counters grew by, a second.
    """
    if watch and period_s is None:
        period_s = 1.0
    if rounds is not None and period_s is None:
        raise click.UsageError("--count is for --interval or --watch; without, counters are shown once")
    details = what == "net" and bool(named) and period_s is None
    chosen += named
    take, columns, kind = (
        (ring_rows, RING_COLUMNS, "RingStatistics")
        if what == "rings"
        else (nic_rows, NIC_COLUMNS, "NicStatistics")
    )
    client = settings.client()

    def look() -> list[dict[str, Any]]:
        names, counters = look_at(client, chosen)
        return [row for row in take(counters, names) if not chosen or row["kernel"] in chosen]

    if details:
        _print_details(settings, look_at(client, chosen))
        return
    before = look()
    if period_s is None:
        print_list(settings, kind, before, columns)
        return
    looked_s = time.monotonic()

    def rates() -> list[dict[str, Any]]:
        nonlocal before, looked_s
        was, was_s = before, looked_s
        before, looked_s = look(), time.monotonic()
        return growth(was, before, max(looked_s - was_s, 1e-3))

    rest = f"rows; popnet stats {what} lists all"
    watched = Watched(f"machine {client.machine}, growth a second", kind, columns, rest, rates)
    show(settings, watched, period_s, rounds, watch and at_terminal(settings))


def look_at(client: Client, chosen: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Names of kernels by number, and their counters. Raises NoSuchKernel if one of *chosen* is not there."""
    names = {str(row["kid"]): str(row["name"]) for row in client.get("/v1/kernels")}
    for name in chosen:
        if name not in names.values():
            raise NoSuchKernel(
                f"machine {client.machine} has no kernel {name!r}",
                f"Its kernels are {', '.join(names.values())}.",
            )
    counters = client.get("/v1/counters")["kernels"]
    return names, {name: told for name, told in counters.items() if not chosen or name in chosen}


def nic_details(kernels: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Every counter of each NIC, and of the frames ring of each of its links."""
    for kernel, told in kernels.items():
        peers = {
            names.get(kid, kid): {
                key.removeprefix("frames_"): n for key, n in counts.items() if key.startswith("frames_")
            }
            for kid, counts in told.get("links", {}).items()
            if names.get(kid) != kernel
        }
        yield {"kernel": kernel, "interface": f"{kernel}/eth0", "nic": told.get("nic", {}), "peers": peers}


def _print_details(settings: Settings, looked: tuple[dict[str, str], dict[str, Any]]) -> None:
    names, counters = looked
    items = list(nic_details(counters, names))
    if settings.output != "table":
        print_list(settings, "NicDetails", items, ())
        return
    for item in items:
        click.echo(f"{item['interface']}")
        _print_counts(item["nic"])
        for peer, counts in item["peers"].items():
            click.echo(f"  frames to and from {peer}")
            _print_counts(counts)


def _print_counts(counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        click.echo(f"    {name}: {count}")


def ring_rows(kernels: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A row for each ring of each link; a kernel that told no counters has none.

    Args:
        kernels: of the control API's counters: by kernel, its `links` by the peer's number.
        names: of kernels, by number.
    """
    for kernel, told in kernels.items():
        for kid, counters in told.get("links", {}).items():
            for ring in RINGS:
                counts = {key: counters.get(f"{ring}_{key}", 0) for key, _ in COUNTS}
                mode = told.get("modes", {}).get(kid, {}).get(ring)
                yield {"kernel": kernel, "peer": names.get(kid, kid), "ring": ring, "mode": mode, **counts}


def nic_rows(kernels: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A row for each kernel's NIC, with what it dropped, by reason."""
    del names
    for kernel, told in kernels.items():
        nic = told.get("nic", {})
        drops = {key.removeprefix("drop_"): n for key, n in nic.items() if key.startswith("drop_") and n}
        yield {"kernel": kernel, **{key: nic.get(key, 0) for key, _ in NIC_COUNTS}, "drops": drops}


def growth(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], period_s: float
) -> list[dict[str, Any]]:
    """The rows of *after* with numbers a second since *before*; a row that is new grew from 0.

    A kernel that was booted anew in between counts from 0 again: what it has now is its growth.
    """
    earlier = {_key(row): row for row in before}
    return [_rates(earlier.get(_key(row), {}), row, period_s) for row in after]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["kernel"], row.get("peer"), row.get("ring")


def _rates(before: Mapping[str, Any], after: Mapping[str, Any], period_s: float) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    for key, value in after.items():
        if isinstance(value, Mapping):
            rates[key] = {k: n for k, n in _rates(before.get(key, {}), value, period_s).items() if n}
        elif isinstance(value, int):
            grown = value - before.get(key, 0)
            rates[key] = round((grown if grown >= 0 else value) / period_s)
        else:
            rates[key] = value
    return rates
