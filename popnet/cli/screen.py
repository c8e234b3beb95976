"""Tables that are shown again and again: on a screen of their own at a terminal, one after another elsewhere.

The screen is drawn anew each time, on the alternate screen; q or Ctrl-C ends it, any other key looks at once.
Elsewhere each look is a table, or a document, of its own.
"""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from popnet.cli.output import Column, coloured, print_list, table
from popnet.cli.settings import Settings

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Watched:
    """What is shown.

    Attributes:
        title: the line above the table, before the time.
        kind: of the document, for programs.
        rest: what follows the number of the rows for which the screen has no room.
        look: the rows of now.
    """

    title: str
    kind: str
    columns: Sequence[Column]
    rest: str
    look: Callable[[], Rows]


def at_terminal(settings: Settings) -> bool:
    """Whether a table can be shown on a screen of its own."""
    return settings.output == "table" and sys.stdout.isatty() and sys.stdin.isatty()


def show(settings: Settings, watched: Watched, period_s: float, rounds: int | None, live: bool) -> None:
    """Look every *period_s* seconds, the first time after the first of them, *rounds* times; None: for good.

    Args:
        live: on a screen of its own.
    """
    shown = 0
    if not live:
        while rounds is None or shown < rounds:
            time.sleep(period_s)
            print_list(settings, watched.kind, watched.look(), watched.columns)
            sys.stdout.flush()
            shown += 1
        return
    with _screen():
        while (rounds is None or shown < rounds) and not _quit(period_s):
            _draw(watched, watched.look())
            shown += 1


def _draw(watched: Watched, rows: Rows) -> None:
    columns, lines = os.get_terminal_size()
    text = [f"{watched.title}  {time.strftime('%H:%M:%S')}   q quits", ""]
    plain = table(rows, watched.columns)
    painted = table(rows, watched.columns, coloured(sys.stdout))
    text += [
        line if len(bare) <= columns else bare[:columns] for line, bare in zip(painted, plain, strict=True)
    ]
    if len(text) > lines:
        text = [*text[: lines - 1], f"... {len(text) - lines + 1} more {watched.rest}"[:columns]]
    sys.stdout.write("\x1b[H" + "\x1b[K\r\n".join(text) + "\x1b[J")
    sys.stdout.flush()


def _quit(wait_s: float) -> bool:
    """Waits for a key; True if it was q, or there are no more keys to come."""
    if not select.select([sys.stdin], [], [], wait_s)[0]:
        return False
    return os.read(sys.stdin.fileno(), 64)[:1] in (b"q", b"Q", b"")


@contextmanager
def _screen() -> Iterator[None]:
    """The alternate screen, without a cursor; keys come one by one. All as it was afterwards."""
    settings = termios.tcgetattr(sys.stdin)
    sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[H\x1b[J")
    sys.stdout.flush()
    try:
        tty.setcbreak(sys.stdin.fileno())
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
