"""What the shell completes: live names of machines, kernels and terminals, and machine files.

Silent and quick: completion runs while somebody waits with a finger on a key. Whatever goes wrong, nothing is
offered.
"""

from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from popnet.cli.settings import Settings
from popnet.core.errors import PopnetError

TIMEOUT_S: Final = 0.5
"""Longer than a live machine ever needs, short enough for a key press."""


def machine_names(settings: Settings, incomplete: str) -> list[str]:
    """Names of running machines that begin with *incomplete*."""
    from popnet.control.client import machines

    try:
        names = machines(settings.run_path())
    except (PopnetError, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


def kernel_rows(context: click.Context) -> list[dict[str, Any]]:
    """The kernels of the machine that the words typed so far choose; empty on any error."""
    settings = context.ensure_object(Settings)
    try:
        rows = settings.client(timeout_s=TIMEOUT_S).get("/v1/kernels")
    except (PopnetError, OSError):
        return []
    return rows if isinstance(rows, list) else []


class Kernel(click.ParamType):  # type: ignore[type-arg]
    """The name of a kernel; completes to those of the machine. The machine itself says which exist."""

    name = "kernel"

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [
            CompletionItem(row["name"], help=f"{row.get('state', '')} {row.get('image', '')}".strip())
            for row in kernel_rows(context)
            if row["name"].startswith(incomplete)
        ]


class Tty(click.ParamType):  # type: ignore[type-arg]
    """The number of a terminal: `0`, `tty0`; completes to those of the kernel named before it."""

    name = "tty"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        text = str(value).removeprefix("tty")
        if not text.isdecimal():
            self.fail(f"{value!r} is no terminal; say 0 or tty0", parameter, context)
        return int(text)

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        for row in kernel_rows(context):
            if row["name"] == context.params.get("kernel"):
                numbers = [str(n) for n in range(row.get("ttys") or 0)]
                return [CompletionItem(n) for n in numbers if n.startswith(incomplete)]
        return []


class MachineFile(click.ParamType):  # type: ignore[type-arg]
    """A machine file, by path or bare name; completes to both."""

    name = "file"

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from popnet.cli.files import shipped_files

        names = [name for name in shipped_files() if name.startswith(incomplete)]
        local = [str(path) for path in Path().glob("*.y*ml") if path.name.startswith(incomplete)]
        # One kind or the other: bash takes files only where nothing else is offered.
        return [CompletionItem(name) for name in names + local] or [CompletionItem(incomplete, type="file")]


KERNEL: Final = Kernel()
TTY: Final = Tty()
MACHINE_FILE: Final = MachineFile()


def quoted(name: str) -> str:
    """*name* as one segment of a path of the control API."""
    from urllib.parse import quote

    return quote(name, safe="")
