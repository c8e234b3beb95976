"""`mode`: how a kernel waits at the rings of its links."""

from collections.abc import Mapping
from typing import Any, Final

import click

from popnet.cli.complete import KERNEL
from popnet.cli.output import Column, print_list
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.core.errors import NoSuchKernel

MODES: Final = ("poll", "adaptive", "interrupt")
RINGS: Final = ("high", "normal", "frames")

COLUMNS: Final = (
    Column("KERNEL", lambda row: str(row["kernel"])),
    Column("PEER", lambda row: str(row["peer"])),
    *(Column(ring.upper(), lambda row, ring=ring: str(row[ring])) for ring in RINGS),  # type: ignore[misc]
)


@verb("mode", lists=True)
@click.argument("kernel", type=KERNEL)
@click.argument("mode", type=click.Choice(MODES), required=False)
@click.option("-p", "--peer", type=KERNEL, help="Only for what comes from this kernel.")
@click.option("-r", "--ring", type=click.Choice(RINGS), help="Only at this ring.")
@pass_settings
def mode_verb(settings: Settings, kernel: str, mode: str | None, peer: str | None, ring: str | None) -> None:
    """Show or switch how a kernel waits for messages and frames.

    poll looks all the time: the shortest wait, for a whole core. adaptive (the default) looks for a while
    that it learns from what comes, then sleeps. interrupt sleeps at once. Without --peer a switch holds for
    all peers, those to come included.
    """
    from popnet.control import blocking, wire

    client = settings.client()
    numbers = {str(row["name"]): int(row["kid"]) for row in client.get("/v1/kernels")}
    params: dict[str, Any] = {}
    if mode is not None:
        params["mode"] = mode
        if peer is not None:
            params["peer"] = _number(numbers, peer, client.machine)
        if ring is not None:
            params["ring"] = ring
    with blocking.connect(client.socket, wire.stream_path(kernel, "modes", params)) as stream:
        while stream.receive() is not None:
            pass  # it sends nothing but its result
        told = (stream.result or {}).get("modes", {})
    print_list(
        settings, "ReceiveModes", rows(kernel, told, {str(n): name for name, n in numbers.items()}), COLUMNS
    )


def rows(
    kernel: str, told: Mapping[str, Mapping[str, str]], names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row for each peer of *kernel*; *told* by the peers' numbers, *names* by number."""
    return [{"kernel": kernel, "peer": names.get(kid, kid), **rings} for kid, rings in told.items()]


def _number(numbers: Mapping[str, int], name: str, machine: str) -> int:
    if name not in numbers:
        raise NoSuchKernel(
            f"machine {machine} has no kernel {name!r}", f"Its kernels are {', '.join(numbers)}."
        )
    return numbers[name]
