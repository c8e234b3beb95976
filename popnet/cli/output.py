"""Results on stdout: tables for people, versioned JSON and YAML for programs.

What goes to a terminal is laid out by rich (see tables); what is piped on is plain, and comes out within
milliseconds.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO

import click

from popnet.cli.settings import Settings

API_VERSION: Final = "popnet/v1"

_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_STATE_COLOURS: Final = {
    "online": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "loaded": "cyan",
    "failed": "red",
    "offline": "dim",
}
_MARKS: Final = {"ok": ("✓", "ok  "), "degraded": ("!", "!   ")}
_PLAIN: Final = re.compile(r"[A-Za-z/_][A-Za-z0-9/_.-]*\Z")
_YAML_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"})


def coloured(stream: TextIO) -> bool:
    """Whether *stream* takes colours: a terminal, not a dumb one, and no NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, on: bool) -> str:
    """*text* in *colour* (see `_CODES`) if *on*."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if on and colour else text


def mark(outcome: str, encoding: str | None) -> str:
    """The sign of an *outcome* — ok, degraded, or anything that is not — that *encoding* can show."""
    sign, plain = _MARKS.get(outcome, ("✗", "FAIL"))
    try:
        sign.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return plain
    return sign


def state_colour(state: str) -> str:
    """The colour of a kernel's state; empty for none."""
    return _STATE_COLOURS.get(state, "")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, the text of a row's cell, and optionally the colour of that text."""

    title: str
    cell: Callable[[Mapping[str, Any]], str]
    right: bool = False
    colour: Callable[[str], str] = lambda text: ""


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], colours: bool = False) -> list[str]:
    """The lines of a table with a title line; columns are two blanks apart, nothing is cut."""
    cells = [[column.cell(row) for column in columns] for row in rows]
    widths = [
        max(len(column.title), *(len(line[i]) for line in cells)) if cells else len(column.title)
        for i, column in enumerate(columns)
    ]

    def join(texts: Sequence[str], colour_of: Callable[[int], str]) -> str:
        parts = []
        for i, text in enumerate(texts):
            last = i == len(texts) - 1
            pad = " " * (widths[i] - len(text))
            shown = paint(text, colour_of(i), colours)
            parts.append(pad + shown if columns[i].right else shown if last else shown + pad)
        return "  ".join(parts)

    return [
        join([column.title for column in columns], lambda i: "bold"),
        *(join(line, lambda i, line=line: columns[i].colour(line[i])) for line in cells),  # type: ignore[misc]
    ]


def json_text(value: Any, indent: int | None = 2) -> str:
    import json

    return json.dumps(value, indent=indent, ensure_ascii=False)


def yaml_text(value: Any, depth: int = 0) -> list[str]:
    """Lines of block-style YAML for what JSON can say: mappings with text keys, lists and scalars."""
    pad = "  " * depth
    lines: list[str] = []
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            if isinstance(item, (Mapping, list)) and item:
                lines.append(f"{pad}{_yaml_scalar(key)}:")
                lines += yaml_text(item, depth + 1)
            else:
                lines.append(f"{pad}{_yaml_scalar(key)}: {_yaml_scalar(item)}")
        return lines
    if isinstance(value, list) and value:
        for item in value:
            if isinstance(item, (Mapping, list)) and item:
                first, *rest = yaml_text(item, depth + 1)
                lines += [f"{pad}- {first.lstrip()}", *rest]
            else:
                lines.append(f"{pad}- {_yaml_scalar(item)}")
        return lines
    return [pad + _yaml_scalar(value)]


def _yaml_scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _YAML_WORDS:
        return value
    text = json_text(value, indent=None)
    if isinstance(value, float):  # YAML 1.1 takes 1e-05 for a text, 1.0e-05 for a number
        return text if "." in text else text.replace("e", ".0e")
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in text)


def document(kind: str, items: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The versioned wrapping of a list: what `-o json` and `-o yaml` print."""
    return {"apiVersion": API_VERSION, "kind": kind, "items": [dict(item) for item in items]}


def print_list(
    settings: Settings, kind: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]
) -> None:
    """Print *rows* in the way the user asked for with `-o`."""
    match settings.output:
        case "json":
            click.echo(json_text(document(kind, rows)))
        case "yaml":
            click.echo("\n".join(yaml_text(document(kind, rows))))
        case _ if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from popnet.cli.tables import print_table

            print_table(rows, columns)
        case _:
            click.echo("\n".join(table(rows, columns)))


def print_record(settings: Settings, row: Mapping[str, Any], text: str) -> None:
    """Print and flush one record of an endless list: a line of JSON, a YAML document, or *text*."""
    match settings.output:
        case "json":
            line = json_text(row, indent=None)
        case "yaml":
            line = "\n".join(("---", *yaml_text(row)))
        case _:
            line = text
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
