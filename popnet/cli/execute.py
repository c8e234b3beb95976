"""`exec`: run a command in a kernel, as if it ran here.

Theory of operation. Three things happen at once until the stream ends with the command's result: what comes
from the stream is written to stdout and stderr, byte by byte as it was; stdin is sent, as fast as the kernel
takes it; signals are sent on. The result is the command's exit status, or the signal that ended it, and
becomes ours in the way of shells.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import click

from popnet.cli import attach
from popnet.cli.complete import KERNEL
from popnet.cli.failure import report
from popnet.cli.settings import Settings, Verb, pass_settings
from popnet.cli.terminal import RawTerminal, Signals, size
from popnet.control import wire
from popnet.control.stream import ClientStream, connect
from popnet.core.errors import PopnetError

FAILED: Final = 125
"""Exit status when popnet failed, not the command; as docker's."""

_STATUSES: Final = {"not-executable": 126, "not-found": 127}

_FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


class ExecVerb(Verb):
    """Takes options before and after the kernel; what follows is the command's, with or without `--`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        options, rest = self._split(args)
        return super().parse_args(context, [*options, "--", *rest] if rest else options)

    def _split(self, args: list[str]) -> tuple[list[str], list[str]]:
        """*args* as (our options, [kernel, command…])."""
        options: list[str] = []
        kernel: list[str] = []
        i = 0
        while i < len(args):
            word = args[i]
            if word == "--" and kernel:
                return options, kernel + args[i + 1 :]
            if word == "--":
                return options, args[i + 1 :]
            if word.startswith("-") and word != "-":
                count = 2 if self._takes_next(word) else 1
                options += args[i : i + count]
                i += count
                continue
            if kernel:
                return options, kernel + args[i:]
            kernel = [word]
            i += 1
        return options, kernel

    def _takes_next(self, word: str) -> bool:
        """Whether the value of the option *word* is the word after it."""
        with_value = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for name in parameter.opts
        }
        if word.startswith("--"):
            return word in with_value
        for place, letter in enumerate(word[1:], 1):
            if f"-{letter}" in with_value:
                return place == len(word) - 1
        return False


@click.command("exec", cls=ExecVerb)
@click.argument("kernel", type=KERNEL)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal; ours becomes raw.")
@click.option("-i", "--interactive", is_flag=True, help="Send stdin even if it is a terminal.")
@click.option("-e", "--env", "variables", metavar="NAME=VALUE", multiple=True, help="Set a variable for it.")
@click.option("--fifo", type=click.IntRange(1, 99), metavar="PRIORITY", help="At this real-time priority.")
@click.option("-w", "--workdir", metavar="DIR", help="Run it in this directory of the kernel.")
@pass_settings
def exec_verb(
    settings: Settings,
    kernel: str,
    command: tuple[str, ...],
    tty: bool,
    interactive: bool,
    variables: tuple[str, ...],
    workdir: str | None,
    fifo: int | None,
) -> None:
    """Run a command in a kernel.

    Exit status, stdout and stderr are the command's; 125: popnet failed, 126: the command cannot be run, 127:
    there is no such command, 128+n: signal n ended it. A stdin that is no terminal is sent to it.
    """
    params: dict[str, Any] = {"argv": list(command), "tty": tty}
    if fifo is not None:
        params["fifo"] = fifo
    env = dict(_variable(text) for text in variables)
    if tty:
        env.setdefault("TERM", os.environ.get("TERM", "xterm-256color"))
    if env:
        params["env"] = env
    if workdir is not None:
        params["cwd"] = workdir
    if tty and not os.isatty(0):
        raise click.UsageError("-t needs a terminal as stdin")
    try:
        sends = tty or interactive or not os.isatty(attach.STDIN)
        status = asyncio.run(execute(settings, kernel, params, sends))
    except PopnetError as error:
        report(error, settings)
        status = _STATUSES.get(error.code, FAILED)
    click.get_current_context().exit(status)


def _variable(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, or `NAME` for what it is here, as docker takes it."""
    name, equals, value = text.partition("=")
    if not name:
        raise click.BadParameter(f"{text!r} has no name", param_hint="--env")
    if not equals and name not in os.environ:
        raise click.BadParameter(f"{name} is not set here; write {name}=VALUE", param_hint="--env")
    return name, value if equals else os.environ[name]


async def execute(settings: Settings, kernel: str, params: dict[str, Any], send_stdin: bool) -> int:
    """Run the command of *params* with this process's descriptors. Returns the exit status of a shell."""
    tty = bool(params["tty"])
    found = size(attach.STDOUT, attach.STDIN) if tty else None
    if found is not None:
        params = {**params, "cols": found[0], "rows": found[1]}
    stream = await connect(settings.client().socket, wire.stream_path(kernel, "exec", params))
    poster = attach.Poster(stream)
    actions: dict[int, Callable[[], None]] = {n: partial(poster.post, {"signal": int(n)}) for n in _FORWARDED}
    async with stream:
        with attach.Outputs() as outputs, RawTerminal(attach.STDIN if tty else None) as terminal:
            if tty:
                actions |= attach.window_actions(terminal, poster.post_size)
            with Signals(actions):
                return await attach.first_of(
                    _take_output(stream, outputs), beside=(_give_input(stream, send_stdin), poster.run())
                )


async def _take_output(stream: ClientStream, outputs: attach.Outputs) -> int:
    while (received := await stream.receive()) is not None:
        channel, data = received
        if channel in (attach.DATA, attach.ERRORS):
            await outputs.write(data, channel)
    return exit_status(stream.result)


async def _give_input(stream: ClientStream, send_stdin: bool) -> None:
    async def send(data: bytes) -> bool:
        await stream.send(data)
        return True

    try:
        if send_stdin:
            await attach.feed(send)
        await attach.send_control(stream, {"eof": True})
    except PopnetError:
        return  # the command ended, or its kernel did: who takes the output tells


def exit_status(result: dict[str, Any] | None) -> int:
    """The exit status for a result of the `exec` service: the command's, or 128 + its signal, or FAILED."""
    match result:
        case {"signal": int(number)} if number:
            return 128 + number
        case {"status": int(status)}:
            return status
        case _:
            return FAILED
