"""`scapy`: a shell of scapy, or a script, with the NICs of a machine in it. It runs in this process."""

import click

from popnet.cli.settings import Settings, pass_settings, verb
from popnet.core.errors import Unavailable


@verb("scapy", context_settings={"ignore_unknown_options": True})
@click.argument("script", required=False, type=click.Path(exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1)
@pass_settings
def scapy_verb(settings: Settings, script: str | None, arguments: tuple[str, ...]) -> None:
    """Start scapy with the NICs of a machine in it.

    In the shell, popnet_sniff, popnet_srp, popnet_sendp and others take a kernel instead of an interface.
    With SCRIPT, a Python file is run that finds the same names; ARGUMENTS are its own.
    """
    client = settings.client()
    kernels = [str(row["name"]) for row in client.get("/v1/kernels")]
    try:
        from popnet.scapy import shell
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "scapy":
            raise
        raise Unavailable("scapy is not installed", "Install it: pip install 'popnet[scapy]'") from None
    if settings.run_dir:
        import os

        os.environ["POPNET_RUN_DIR"] = str(settings.run_path())
    if script is None:
        shell.interact(client.machine, kernels)
    else:
        shell.run_script(client.machine, script, arguments)
