"""How an error is told to the user."""

import click

from popnet.cli.settings import Settings
from popnet.core.errors import PopnetError


def report(error: PopnetError, settings: Settings) -> None:
    """Message and hint on stderr; with -v the traceback before them."""
    if settings.verbose:
        import traceback

        traceback.print_exception(error)
    click.echo(f"popnet: {error}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
