"""What the options before and after a verb say, and how a verb finds its machine.

The same options may stand before the verb (`popnet -m demo ps`) and after it (`popnet ps -m demo`): both
write into the one `Settings` of the invocation, the later one wins.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from pathlib import Path

    from popnet.control.client import Client

FORMATS: Final = ("table", "json", "yaml")


@dataclass(slots=True)
class Settings:
    """Options that every verb shares.

    Attributes:
        machine: name of the machine; None: $POPNET_MACHINE, else the only one that runs.
        run_dir: directory of the machines' run-time state; None: the client's default.
        output: one of FORMATS.
    """

    machine: str | None = None
    run_dir: str | None = None
    output: str = "table"
    quiet: bool = False
    verbose: bool = False

    def run_path(self) -> "Path | None":
        """The run directory that was asked for; None leaves it to the client."""
        from pathlib import Path

        return Path(self.run_dir).absolute() if self.run_dir else None

    def client(self, timeout_s: float | None = 120.0) -> "Client":
        """A client of the machine that was asked for. Raises NoSuchMachine."""
        from popnet.control.client import Client

        return Client(self.machine, run_dir=self.run_path(), timeout_s=timeout_s)

    def say(self, text: str) -> None:
        """Progress and remarks: on stderr, unless quiet."""
        if not self.quiet:
            click.echo(text, err=True)


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is None or value is False or parameter.name is None:
        return
    setattr(context.ensure_object(Settings), parameter.name, value)


def complete_machine(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion: names of running machines."""
    from popnet.cli.complete import machine_names

    return machine_names(context.ensure_object(Settings), incomplete)


def common_options() -> list[click.Option]:
    """New option objects for `-m`, `--run-dir`, `-q` and `-v`."""
    return [
        click.Option(
            ["-m", "--machine"],
            metavar="NAME",
            help="The machine to talk to.  [default: $POPNET_MACHINE, or the only one running]",
            callback=_store,
            expose_value=False,
            shell_complete=complete_machine,
        ),
        click.Option(
            ["--run-dir"],
            metavar="DIR",
            type=click.Path(file_okay=False),
            help="Where machines keep their run-time state.  [default: $POPNET_RUN_DIR, or the user's]",
            callback=_store,
            expose_value=False,
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            help="No progress on stderr.",
            callback=_store,
            expose_value=False,
        ),
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            help="More on stderr; a traceback with an error.",
            callback=_store,
            expose_value=False,
        ),
    ]


def output_option() -> click.Option:
    """A new option object for `-o`."""
    return click.Option(
        ["-o", "--output"],
        type=click.Choice(FORMATS),
        help="How a list is printed.",
        callback=_store,
        expose_value=False,
    )


class Verb(click.Command):
    """A verb of popnet: a click command that also takes the common options."""

    def __init__(self, *args: Any, lists: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if lists:
            self.params.append(output_option())
        self.params.extend(common_options())


def verb(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], Verb]:
    """Decorator: make a function a Verb; `lists=True` adds `-o`."""
    return click.command(name, cls=Verb, **attributes)
