"""`ssh`, `ssh-config`, `proxy`: OpenSSH's own clients, brought to a kernel over its own network.

`popnet ssh` becomes ssh, with the configuration that the machine keeps in its run directory: its keys, its
known hosts, and `popnet proxy` as ProxyCommand, as the host itself has no address in the machine's network.
"""

import os
import shutil
from pathlib import Path

import click

from popnet.cli.complete import KERNEL
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.core.errors import Unavailable


@verb("ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("kernel", type=KERNEL)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[SSH ARGUMENTS]...")
@pass_settings
def ssh_verb(settings: Settings, kernel: str, arguments: tuple[str, ...]) -> None:
    """Log into a kernel over its network.

    What follows the kernel's name is for ssh: a command, -L, -N, …
    """
    program = ssh_program()
    line = [program, "-F", str(config_path(settings)), kernel, *arguments]
    os.execv(program, line)


@verb("ssh-config")
@pass_settings
def ssh_config_verb(settings: Settings) -> None:
    """Print a configuration for OpenSSH clients.

    For ssh, scp, sftp, rsync and whatever reads ~/.ssh/config:  ssh -F <(popnet ssh-config) k1
    """
    click.echo(settings.client().get("/v1/ssh-config"), nl=False)


@verb("proxy")
@click.argument("kernel", type=KERNEL)
@click.argument("port", type=click.IntRange(1, 65535), default=22)
@pass_settings
def proxy_verb(settings: Settings, kernel: str, port: int) -> None:
    """Connect stdin and stdout to a port of a kernel.

    For OpenSSH's ProxyCommand, and for talking to any TCP server in the machine's network.
    """
    from popnet.cli.proxy import run_proxy

    run_proxy(settings, kernel, port)


def ssh_program() -> str:
    """The path of OpenSSH's client. Raises Unavailable."""
    program = shutil.which("ssh")
    if program is None:
        raise Unavailable("there is no ssh program on this host", "install the OpenSSH client")
    return program


def config_path(settings: Settings) -> Path:
    """The ssh_config of the running machine. Raises NoSuchMachine; Unavailable if it has none."""
    path = settings.client().socket.parent / "ssh_config"
    if not path.is_file():
        raise Unavailable(f"machine has no {path}", "none of its kernels runs sshd")
    return path
