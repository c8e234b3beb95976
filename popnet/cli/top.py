"""`top`: what the kernels do, a row a kernel, as rates between two looks at the counters."""

import time
from collections.abc import Mapping
from typing import Any, Final

import click

from popnet.cli.output import Column, state_colour
from popnet.cli.screen import Watched, at_terminal, show
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.units import size_text
from popnet.control.client import Client
from popnet.graphwords import bytes_text, count_text


def _rate(key: str, title: str) -> Column:
    show = bytes_text if key.endswith("bytes_s") else count_text
    return Column(title, lambda row: "-" if row[key] is None else show(row[key]), right=True)


COLUMNS: Final = (
    Column("KERNEL", lambda row: str(row["kernel"])),
    Column("STATE", lambda row: str(row["state"]), colour=state_colour),
    Column(
        "CPU%", lambda row: "-" if row["cpu_percent"] is None else f"{row['cpu_percent']:.1f}", right=True
    ),
    Column("MEMORY", lambda row: size_text(row["memory_bytes"]), right=True),
    _rate("tx_frames_s", "TX/S"),
    _rate("tx_bytes_s", "TX-B/S"),
    _rate("rx_frames_s", "RX/S"),
    _rate("rx_bytes_s", "RX-B/S"),
    _rate("messages_s", "MSG/S"),
    _rate("drops_s", "DROPS/S"),
)

_TOTALS: Final = ("tx_frames", "tx_bytes", "rx_frames", "rx_bytes")


@verb("top", lists=True)
@click.option("-i", "--interval", "period_s", type=click.FloatRange(min=0.1), default=1.0, show_default=True,
              help="Seconds between two looks.")  # fmt: skip
@click.option("-n", "--count", "rounds", type=click.IntRange(min=1), help="End after so many looks.")
@click.option("--once", is_flag=True, help="One look, and the end: as -n 1, and no screen of its own.")
@pass_settings
def top_verb(settings: Settings, period_s: float, rounds: int | None, once: bool) -> None:
    """Watch what the kernels do.

    Rates a second: frames and bytes that a kernel sent (TX) and got (RX), messages it sent, frames dropped at
    its NIC for any reason (popnet stats net names them). CPU%: of one core, its daemon and programs.
    """
    client = settings.client()
    before = _look(client)

    def look() -> list[dict[str, Any]]:
        nonlocal before
        was, before = before, _look(client)
        return rows(was, before)

    rest = "kernels; popnet top --once lists all"
    watched = Watched(f"machine {client.machine}", "Top", COLUMNS, rest, look)
    show(settings, watched, period_s, 1 if once else rounds, at_terminal(settings) and not once)


def _look(client: Client) -> dict[str, Any]:
    kernels = client.get("/v1/kernels")
    return {"time_s": time.monotonic(), "kernels": kernels, "told": client.get("/v1/counters")["kernels"]}


def rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a kernel, from two looks; what began in between, or anew, has grown from 0.

    Rates are None for a kernel that told nothing.
    """
    period_s = max(after["time_s"] - before["time_s"], 1e-3)
    return [
        _row(kernel, before["told"].get(kernel["name"], {}), after["told"].get(kernel["name"]), period_s)
        for kernel in after["kernels"]
    ]


def _row(
    kernel: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any] | None, period_s: float
) -> dict[str, Any]:
    row = {"kernel": kernel["name"], "state": kernel["state"]}
    was, now = _totals(before), _totals(after) if after else None
    usage = (after or {}).get("usage", {})
    row["cpu_percent"] = None
    if "cpu_s" in usage:
        grown = usage["cpu_s"] - before.get("usage", {}).get("cpu_s", 0.0)
        row["cpu_percent"] = round(100 * max(grown, 0.0) / period_s, 1)
    row["memory_bytes"] = usage.get("memory_bytes")
    for name in (*_TOTALS, "messages", "drops"):
        row[f"{name}_s"] = None
        if now is not None:
            grown = now[name] - was[name]
            row[f"{name}_s"] = round((grown if grown >= 0 else now[name]) / period_s, 1)
    return row


def _totals(told: Mapping[str, Any]) -> dict[str, int]:
    nic, links = told.get("nic", {}), told.get("links", {}).values()
    return {
        **{name: nic.get(name, 0) for name in _TOTALS},
        "messages": sum(link.get("high_sent", 0) + link.get("normal_sent", 0) for link in links),
        "drops": sum(count for name, count in nic.items() if name.startswith("drop_")),
    }
