"""`run`: a machine in the foreground, as service managers and containers want it."""

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from popnet.cli.complete import MACHINE_FILE
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.core.logformat import FORMATS, LEVELS

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option(
        "--log-format",
        type=click.Choice(["auto", *FORMATS]),
        default="auto",
        show_default=True,
        envvar="POPNET_LOG_FORMAT",
        show_envvar=True,
        help="Lines of text or of JSON; or journald's fields. auto: journald if it reads stderr, else text.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        envvar="POPNET_LOG_LEVEL",
        show_envvar=True,
        help="Log what is as bad as this, or worse.",
    ),
    click.option(
        "--metrics",
        metavar="ADDRESS:PORT",
        envvar="POPNET_METRICS",
        show_envvar=True,
        help="Serve /metrics for Prometheus there, such as 127.0.0.1:9464.",
    ),
)


def watching_options(function: Function) -> Function:
    """Decorator: the options --log-format, --log-level and --metrics."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def primary_options(log_format: str, log_level: str, metrics: str | None) -> list[str]:
    """The same for the process of the primary."""
    words = ["--log-format", log_format, "--log-level", log_level]
    return [*words, "--metrics", metrics] if metrics else words


@verb("run")
@click.argument("file", type=MACHINE_FILE)
@click.option("--name", help="The machine's name, instead of the one in the file.")
@watching_options
@pass_settings
def run_verb(
    settings: Settings, file: str, name: str | None, log_format: str, log_level: str, metrics: str | None
) -> None:
    """Be a machine in the foreground, for systemd and containers.

    For service managers and containers: this process is the machine. It logs on stderr, tells systemd when it
    is up and feeds its watchdog, and takes the machine down at SIGTERM or Ctrl-C. Exit status 0 after that, 1
    if the machine could not start or go on.
    """
    from popnet.control.launch import primary_command

    command = primary_command(file, name or settings.machine, settings.run_path())
    options = primary_options(log_format, log_level, metrics)
    os.execv(command[0], [*command, "--foreground", *options])
