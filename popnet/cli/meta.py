"""`version`, `include-dir` and `completion`."""

import sys
from typing import Final

import click

from popnet import __version__
from popnet.cli.output import print_list
from popnet.cli.settings import Settings, pass_settings, verb

_LOADED_FROM: Final = {
    "bash": 'add to ~/.bashrc:  eval "$(popnet completion bash)"',
    "zsh": 'add to ~/.zshrc:  eval "$(popnet completion zsh)"',
    "fish": "popnet completion fish > ~/.config/fish/completions/popnet.fish",
}


@verb("version", lists=True)
@pass_settings
def version_verb(settings: Settings) -> None:
    """Print versions."""
    import platform

    rows = [
        {"name": "popnet", "version": __version__},
        {"name": "python", "version": platform.python_version()},
        {"name": "linux", "version": platform.release()},
    ]
    if settings.output == "table":
        for row in rows:
            click.echo(f"{row['name']} {row['version']}")
    else:
        print_list(settings, "VersionList", rows, ())


@verb("include-dir")
def include_dir_verb() -> None:
    """Print where the headers for programs in C are.

    cc -I"$(popnet include-dir)" program.c
    """
    from popnet.transport.headers import include_dir

    click.echo(include_dir())


@verb("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_settings
def completion_verb(settings: Settings, shell: str) -> None:
    """Print a shell's completion script.

    Verbs, options, and the live names of machines, kernels and terminals.
    """
    from click.shell_completion import get_completion_class

    from popnet.cli.main import cli

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(cli, {}, "popnet", "_POPNET_COMPLETE").source())
    if sys.stdout.isatty():
        settings.say(f"# {_LOADED_FROM[shell]}")
