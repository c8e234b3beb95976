"""`serve`: run machines, and a gateway for all, in the foreground; the first process of a container."""

import asyncio
import os
import sys
from pathlib import Path

import click

from popnet.cli.serving import DOWN_S, Serving, check_names, targets
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.control.client import make_run_dir, run_dir
from popnet.machine.names import machine_name
from popnet.tty import keys
from popnet.tty.authorized import AuthorizedKeys
from popnet.tty.hostkeys import host_key, state_dir
from popnet.tty.listening import bound


@verb("serve")
@click.argument("machines", nargs=-1, required=True, metavar="FILE | NAME=FILE | NAME[01-20]=FILE ...")
@click.option("--gateway", metavar="ADDRESS", help="Listen there for ssh to all of them; see popnet gateway.")
@click.option("--public", is_flag=True, help="Let ADDRESS be one that others than this host reach.")
@click.option(
    "--authorized-keys",
    metavar="SOURCE",
    multiple=True,
    help="Who may log in there: a file, a directory with MACHINE.pub, or $VARIABLE.",
)
@click.option(
    "--grace",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=DOWN_S,
    envvar="POPNET_GRACE",
    show_envvar=True,
    show_default=True,
    help="After a signal, kill what is not down by then.",
)
@pass_settings
def serve_verb(
    settings: Settings,
    machines: tuple[str, ...],
    gateway: str | None,
    public: bool,
    authorized_keys: tuple[str, ...],
    grace: float,
) -> None:
    """Run machines in the foreground, until a signal.

    \b
    popnet serve demo
    popnet serve demo --gateway 127.0.0.1:2222      ssh -p 2222 k1@127.0.0.1
    popnet serve 'lab[01-20]=pair' --gateway ...    ssh -p 2222 lab07.k1@127.0.0.1

    It boots them, reaps what is left to it, and on SIGTERM or Ctrl-C takes all down within five seconds; so
    it can be the first process of a container, without another init. Exit status 1 if a machine did not
    end in good order. With one machine, the gateway's users are its kernels.
    """
    try:
        wanted = targets(machines)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    check_names(wanted, machine_name)
    if gateway is None and (public or authorized_keys):
        raise click.UsageError("--public and --authorized-keys are for --gateway ADDRESS")
    make_run_dir(settings.run_path() or run_dir())
    command = _gateway(settings, gateway, public, authorized_keys) if gateway is not None else None
    status = asyncio.run(Serving(wanted, settings.run_path(), command, settings.say, grace).run())
    click.get_current_context().exit(status)


def _gateway(settings: Settings, address: str, public: bool, sources: tuple[str, ...]) -> list[str]:
    """The command of the gateway, which inherits a socket that listens already. Raises Refused."""
    authorized = AuthorizedKeys(sources, os.environ, Path())
    listener = bound(address, public, "--gateway", "--public")
    os.set_inheritable(listener.fileno(), True)
    private = host_key(state_dir() / "gateway", "gateway of popnet")
    fingerprint = keys.fingerprint(keys.public_line(private.encode()))
    settings.say(f"gateway: {address}, host key {fingerprint}")
    for problem in authorized.problems():
        settings.say(f"gateway: {problem}")
    if authorized.empty():
        settings.say("gateway: nobody may log in from outside yet: there is no key in --authorized-keys")
    words = ["gateway", "--all", "--inherited", str(listener.detach())]
    for source in authorized.sources:
        words += ["--authorized-keys", source]
    run = ["--run-dir", str(settings.run_path())] if settings.run_path() else []
    return [sys.executable, "-m", "popnet.cli.main", *run, *words]
