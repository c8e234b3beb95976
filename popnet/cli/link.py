"""`link`: what links and NICs do to frames: impair, clear, cut, mend, flap; and what that came to."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from popnet.cli.complete import KERNEL
from popnet.cli.output import Column, print_list
from popnet.cli.settings import Settings, Verb, pass_settings, verb
from popnet.cli.units import duration_text

KIND: Final = "LinkList"

_DROPS: Final = (
    ("drop_loss", "loss"),
    ("drop_limit", "limit"),
    ("drop_down", "down"),
    ("drop_queue", "queue"),
)
_CHANGES: Final = (("duplicated", "duplicate"), ("reordered", "reorder"), ("corrupted", "corrupt"))


def _count(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: str(row["observed"].get(key, "-"))


def _parts(parts: tuple[tuple[str, str], ...]) -> Callable[[Mapping[str, Any]], str]:
    def text(row: Mapping[str, Any]) -> str:
        seen = row["observed"]
        return ", ".join(f"{name} {seen[key]}" for key, name in parts if seen.get(key)) or "-"

    return text


def _delay(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: _time_text(row["observed"].get(key)) if row["observed"].get("passed") else "-"


def _time_text(seconds: float) -> str:
    return duration_text(seconds) if seconds >= 0.9995 else f"{seconds * 1000:.3g}ms"


def impairment_text(words: Mapping[str, Any]) -> str:
    """`delay 5ms loss 1%`."""
    return " ".join(word if value is True else f"{word} {value}" for word, value in words.items()) or "-"


COLUMNS: Final = (
    Column("FROM", lambda row: str(row["from"] or "*")),
    Column("TO", lambda row: str(row["to"] or "*")),
    Column("STATE", lambda row: str(row["state"]), colour=lambda text: "red" if text == "down" else ""),
    Column("IMPAIRMENT", lambda row: impairment_text(row["impairment"])),
    Column("FRAMES", _count("frames"), right=True),
    Column("PASSED", _count("passed"), right=True),
    Column("DROPS", _parts(_DROPS)),
    Column("CHANGES", _parts(_CHANGES)),
    Column("QUEUED", _count("queued"), right=True),
    Column("DELAY", _delay("delay_mean_s"), right=True),
    Column("P99", _delay("delay_p99_s"), right=True),
)


class LinkGroup(click.Group):
    """`popnet link k1 k2 --delay 5ms` is `popnet link set k1 k2 --delay 5ms`; without options it shows."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["show", *args]
        return super().parse_args(context, args)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            impairs = any(word.startswith("-") and not _is_common(word) for word in args)
            args = ["set" if impairs else "show", *args]
        return super().resolve_command(context, args)


def _is_common(word: str) -> bool:
    names = {name for parameter in Verb("x", lists=True).params for name in parameter.opts}
    return word.partition("=")[0] in {*names, "--help", "-h"}


@click.command("link", cls=LinkGroup)
def link_verb() -> None:
    """Impair, cut or show links between kernels, and NICs.

    K1 K2 is the link between two kernels, K1 alone its NIC: all its traffic. Both directions, unless
    --direction says out (from K1) or in. Frames suffer, messages and consoles never do.

    popnet link K1 K2 --delay 5ms --loss 1% --seed 7 is short for popnet link set ..., and popnet link for
    popnet link show.
    """


def _where(function: Callable[..., None]) -> Callable[..., None]:
    """The arguments that name a link or a NIC."""
    direction = click.option(
        "-d",
        "--direction",
        type=click.Choice(("both", "out", "in")),
        default="both",
        help="As KERNEL sees it: out is from KERNEL to PEER.",
    )
    peer = click.argument("peer", type=KERNEL, required=False)
    return click.argument("kernel", type=KERNEL)(peer(direction(function)))


def _words(function: Callable[..., None]) -> Callable[..., None]:
    """An option for each word of an impairment."""
    options = (
        click.option("--delay", metavar="TIME", help="Each frame is late by this: 5ms."),
        click.option("--jitter", metavar="TIME", help="And by this times a number of the distribution."),
        click.option("--distribution", metavar="NAME", help="uniform (default), normal or pareto."),
        click.option("--ordered", is_flag=True, help="Jitter lets no frame overtake another."),
        click.option("--loss", metavar="LOSS", help="1%, or bursts: 'gemodel P R 1-H 1-K', each in %."),
        click.option("--duplicate", metavar="CHANCE", help="Frames that come twice: 0.1%."),
        click.option("--corrupt", metavar="CHANCE", help="Frames of which one bit is turned."),
        click.option("--reorder", metavar="CHANCE", help="Frames that do not wait for the delay."),
        click.option("--rate", metavar="RATE", help="10mbit: bits a second."),
        click.option("--limit", metavar="SIZE", help="Bytes that may wait for the rate.  [default: 100 ms]"),
        click.option("--match", metavar="FILTER", help="Only frames that match, in tcpdump's language."),
        click.option("--seed", type=click.IntRange(0), help="Of all chance.  [default: a new one]"),
    )
    for option in reversed(options):
        function = option(function)
    return function


@verb("show", lists=True)
@click.argument("kernel", type=KERNEL, required=False)
@click.argument("peer", type=KERNEL, required=False)
@pass_settings
def show_command(settings: Settings, kernel: str | None = None, peer: str | None = None) -> None:
    """Show what is impaired or cut, and what was observed since it was set.

    Of all links and NICs, those of KERNEL, or the one link. FRAMES met the impairment, as a wire would carry
    them; PASSED left it, copies included. DELAY is the mean of what was added, P99 what 99 % stay below.
    """
    rows = settings.client().get("/v1/links")
    chosen = [
        row
        for row in rows
        if all(name is None or name in (row["from"], row["to"]) for name in (kernel, peer))
    ]
    print_list(settings, KIND, chosen, COLUMNS)


@verb("set", lists=True)
@_where
@_words
@pass_settings
def set_command(settings: Settings, /, kernel: str, peer: str | None, direction: str, **words: Any) -> None:
    """Impair a link, or a kernel's NIC.

    Replaces what was set there before; what is not said is perfect. Frames that wait go on as they were.
    """
    said = {word: value for word, value in words.items() if value not in (None, False)}
    if not said:
        raise click.UsageError("say what to do to frames, such as --delay 5ms; `popnet link clear` ends it")
    _post(settings, "set", kernel, peer, direction, impairment=said)


@verb("clear", lists=True)
@_where
@pass_settings
def clear_command(settings: Settings, kernel: str, peer: str | None, direction: str) -> None:
    """Impair it no longer. What is cut stays cut."""
    _post(settings, "clear", kernel, peer, direction)


@verb("down", lists=True)
@_where
@pass_settings
def down_command(settings: Settings, kernel: str, peer: str | None, direction: str) -> None:
    """Cut it: no frame passes. KERNEL alone is isolated; with --direction it is a one-way cut."""
    _post(settings, "down", kernel, peer, direction)


@verb("up", lists=True)
@_where
@pass_settings
def up_command(settings: Settings, kernel: str, peer: str | None, direction: str) -> None:
    """Mend it: frames pass again, with the impairments that are set."""
    _post(settings, "up", kernel, peer, direction)


@verb("flap", lists=True)
@_where
@click.option("--down", metavar="TIME", default="1s", show_default=True, help="How long it is down.")
@click.option("--up", metavar="TIME", default="1s", show_default=True, help="How long it is up between.")
@click.option("--times", type=click.IntRange(1), default=1, show_default=True, help="How often.")
@pass_settings
def flap_command(
    settings: Settings, kernel: str, peer: str | None, direction: str, down: str, up: str, times: int
) -> None:
    """Cut it and mend it, several times. Does not wait for the end; `popnet events -f` tells."""
    _post(settings, "flap", kernel, peer, direction, flap={"down": down, "up": up, "times": times})


def _post(settings: Settings, op: str, kernel: str, peer: str | None, direction: str, **more: Any) -> None:
    body = {"kernel": kernel, "peer": peer, "direction": direction, **more}
    rows = settings.client().post(f"/v1/links/{op}", body)
    if op == "set" or settings.output != "table":
        print_list(settings, KIND, rows, COLUMNS)
    else:
        where = kernel if peer is None else f"{kernel} {peer}"
        settings.say(f"{where}: {_DONE[op]}")


_DONE: Final = {"clear": "cleared", "down": "down", "up": "up", "flap": "flapping"}

for _command in (show_command, set_command, clear_command, down_command, up_command, flap_command):
    link_verb.add_command(_command)
