"""`jitter`: how punctual the CPUs of a kernel are, beside those of another."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from popnet.cli.complete import KERNEL
from popnet.cli.jitterdraw import histogram_lines, nanoseconds_text, summary
from popnet.cli.output import Column, print_list
from popnet.cli.settings import Settings, pass_settings, verb


def _time(title: str, key: str) -> Column:
    return Column(title, lambda row: nanoseconds_text(row[key]), right=True)


COLUMNS = (
    Column("KERNEL", lambda row: str(row["kernel"])),
    Column("CPU", lambda row: str(row["cpu"]), right=True),
    Column("POLICY", lambda row: str(row["policy"])),
    Column("TIMERS", lambda row: str(row["wakeups"]), right=True),
    _time("MIN", "min_ns"),
    _time("P50", "p50_ns"),
    _time("P99", "p99_ns"),
    _time("P99.9", "p99.9_ns"),
    _time("MAX", "max_ns"),
    Column("GAPS", lambda row: str(row["gaps"]), right=True),
    _time("LONGEST", "gap_max_ns"),
    Column("LOST", lambda row: f"{row['gap_share']:.3%}", right=True),
)


@verb("jitter", lists=True)
@click.argument("kernel", type=KERNEL)
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="How long.")
@click.option(
    "--interval",
    "interval_us",
    type=click.IntRange(50, 1_000_000),
    default=1000,
    show_default=True,
    help="Microseconds between timers.",
)
@click.option("--against", type=KERNEL, metavar="KERNEL", help="Another kernel, measured at the same time.")
@click.option("--cpu", type=int, help="The CPU, of those that the kernel has; the last by default.")
@click.option("--no-fifo", is_flag=True, help="Without a real-time priority, also where it is allowed.")
@pass_settings
def jitter_verb(
    settings: Settings,
    kernel: str,
    seconds: float,
    interval_us: int,
    against: str | None,
    cpu: int | None,
    no_fifo: bool,
) -> None:
    """Measure how punctual the CPUs of a kernel are.

    Half of the time, timers: how late each wakes a thread in the kernel. The other half, gaps: how long a
    thread that only looks at the clock is without its CPU, and how much of the time it loses. A kernel that
    has its cores alone is measured at priority 80 of SCHED_FIFO, if the host allows it; others as their
    programs run.
    """
    client = settings.client()
    isolated = {row["name"]: row.get("isolated", False) for row in client.get("/v1/kernels")}
    asked = [(kernel, cpu), *([(against, None)] if against is not None else [])]
    params = [
        {
            "seconds": seconds,
            "interval_us": interval_us,
            **({"fifo": 80, "fifo_wanted": True} if isolated.get(name) and not no_fifo else {}),
            **({"cpu": one} if one is not None else {}),
        }
        for name, one in asked
    ]
    with ThreadPoolExecutor(len(asked)) as pool:
        jobs = [
            pool.submit(_measure, client.socket, name, each)
            for (name, _), each in zip(asked, params, strict=True)
        ]
        found = [job.result() for job in jobs]
    rows = [summary(name, one) for (name, _), one in zip(asked, found, strict=True)]
    if settings.output == "table":
        print_list(settings, "JitterReport", rows, COLUMNS)
        _draw([name for name, _ in asked], found)
    else:
        items = [
            {**row, "wakeup_buckets": one["wakeups"]["buckets"], "gap_buckets": one["noise"]["buckets"]}
            for row, one in zip(rows, found, strict=True)
        ]
        print_list(settings, "JitterReport", items, COLUMNS)


def _measure(socket: Path, kernel: str, params: dict[str, Any]) -> dict[str, Any]:
    from popnet.control import blocking, wire

    with blocking.connect(socket, wire.stream_path(kernel, "jitter", params)) as stream:
        while stream.receive() is not None:
            pass  # it sends nothing but its result
        return dict(stream.result or {})


def _draw(names: list[str], found: list[dict[str, Any]]) -> None:
    from popnet.cli.bars import fancy_ok

    fancy = fancy_ok(sys.stdout.encoding)
    for title, key in (("timers late by", "wakeups"), ("gaps of", "noise")):
        click.echo()
        spreads = [(name, one[key]) for name, one in zip(names, found, strict=True)]
        for line in histogram_lines(title, spreads, fancy):
            click.echo(line)
