"""`update`: another partition for a kernel that runs."""

import click

from popnet.cli.complete import KERNEL, quoted
from popnet.cli.kernels import columns_for
from popnet.cli.output import print_list
from popnet.cli.settings import Settings, pass_settings, verb


@verb("update", lists=True)
@click.argument("kernel", type=KERNEL)
@click.option("--cpus", metavar="LIST", help="+3: CPU 3 as well; -2-3: without 2 and 3; 0-1: exactly these.")
@click.option("--memory", metavar="SIZE", help="+512M, -256M: more, less; 1G: this much; none: no limit.")
@click.option(
    "--devices", metavar="NAMES", help="+loop0: in its /dev as well; -loop0: no longer; joined by commas."
)
@click.option(
    "--from", "giver", type=KERNEL, metavar="KERNEL", help="Who gives what is added (+), in the same step."
)
@pass_settings
def update_verb(
    settings: Settings,
    kernel: str,
    cpus: str | None,
    memory: str | None,
    devices: str | None,
    giver: str | None,
) -> None:
    """Move CPUs, memory and devices of kernels that run.

    The kernel sees it at once, and so do programs that watch it. What cannot be is refused, with the nearest
    that can; then nothing has changed. It holds until the kernel is unloaded."""
    asked = {"cpus": cpus, "memory": memory, "devices": devices, "from": giver}
    body = {key: value for key, value in asked.items() if value is not None}
    rows = settings.client().post(f"/v1/kernels/{quoted(kernel)}/update", body)
    print_list(settings, "KernelList", rows, columns_for(rows))
