"""Tables for people at a terminal, fitted to its width: the only door to rich.

Imported only when a table goes to a terminal: rich costs 40 ms, and what is piped on has to be plain anyway.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from popnet.cli.output import Column

_STYLES = {"dim": "dim", "": "none"}


def print_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], width: int | None = None
) -> None:
    """Print a table with a title line on stdout; cells that do not fit are folded. NO_COLOR is obeyed.

    Args:
        width: of the terminal in characters; None asks it.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(column, row) for column in columns))
    Console(highlight=False, width=width).print(table)


def _cell(column: Column, row: Mapping[str, Any]) -> Text:
    text = column.cell(row)
    colour = column.colour(text)
    return Text(text, style=_STYLES.get(colour, colour))
