"""`console`: attach to a terminal of a kernel, from its power-on to its end, with the network up or down.

Theory of operation. Two things happen at once: output of the stream is written, keys are sent. The first to
end ends the
session: the terminal was closed for good, the user typed the escape sequence, stdin ended, or a signal came.
Whatever it was, our own terminal is given back as it was. Another client may take the keyboard away; then
keys go nowhere any more, but output and the escape sequence go on.

A stdin that is no terminal is sent as it is, without escape sequences. At its end the answer to what was sent
is still on its way; so the session ends once the kernel's terminal has been quiet for a while (`--linger`).
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import click

from popnet.cli import attach
from popnet.cli.complete import KERNEL, TTY
from popnet.cli.escape import DEFAULT, Action, Escape, describe, parse
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.terminal import RawTerminal, Signals
from popnet.control import wire
from popnet.control.stream import ClientStream, connect
from popnet.core.errors import PopnetError
from popnet.tty.promptness import take_short_turns

INTERRUPT: Final = 3
"""Ctrl-C, which a raw terminal hands over as a key: who only watches leaves with it."""

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@verb("console")
@click.argument("kernel", type=KERNEL)
@click.argument("tty", type=TTY, default=0)
@click.option("--ro", "read_only", is_flag=True, help="Only watch; several can.")
@click.option("--force", is_flag=True, help="Take the keyboard from whoever has it.")
@click.option("--no-history", is_flag=True, help="Begin with what comes now, not with power-on.")
@click.option("--escape", metavar="KEY", default=DEFAULT, show_default=True, help="Escape key, or none.")
@click.option(
    "--linger",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=0.5,
    show_default=True,
    help="With a stdin that is no terminal: how long it must be quiet after its end.",
)
@pass_settings
def console_verb(
    settings: Settings,
    kernel: str,
    tty: int,
    read_only: bool,
    force: bool,
    no_history: bool,
    escape: str,
    linger: float,
) -> None:
    """Attach to a terminal of a kernel.

    It shows everything since power-on. Ctrl-] then . detaches, Ctrl-] then ? helps, Ctrl-] twice sends
    Ctrl-].
    """
    path = wire.tty_path(kernel, tty, write=not read_only, force=force, history=not no_history)
    take_short_turns()
    session = Session(settings, f"{kernel} tty{tty}", parse(escape), write=not read_only, linger_s=linger)
    status = asyncio.run(session.run(settings.client().socket, path))
    click.get_current_context().exit(status)


class Session:
    """One attachment of this process to a terminal of a kernel."""

    def __init__(
        self, settings: Settings, where: str, prefix: int | None, *, write: bool, linger_s: float
    ) -> None:
        self._settings = settings
        self._where = where
        self._interactive = os.isatty(attach.STDIN)
        self._prefix = prefix if self._interactive else None
        self._read_only = not write
        self._keyboard = write
        self._linger_s = linger_s
        self._came = asyncio.Event()
        self._outputs = attach.Outputs()

    async def run(self, address: Path, path: str) -> int:
        """Attach to *path* of the control socket *address*. Returns the exit status: 0, or 128 + a signal."""
        stream = await connect(address, path)
        poster = attach.Poster(stream)
        ended_by: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def end(number: int) -> None:
            if not ended_by.done():
                ended_by.set_result(128 + number)

        actions: dict[int, Callable[[], None]] = {n: partial(end, n) for n in _ENDING}
        async with stream:
            with self._outputs, RawTerminal(attach.STDIN) as terminal:
                self._say(self._greeting())
                if self._interactive:
                    actions |= attach.window_actions(terminal, poster.post_size)
                    poster.post_size()
                with Signals(actions):
                    status = await attach.first_of(
                        self._show(stream),
                        self._type(stream),
                        _result(ended_by),
                        beside=(poster.run(),),
                    )
        return status

    async def _show(self, stream: ClientStream) -> int:
        while (received := await stream.receive()) is not None:
            channel, data = received
            self._came.set()
            if channel == attach.DATA:
                await self._outputs.write(data)
            elif channel == attach.CONTROL and "taken" in json.loads(data):
                self._keyboard = False  # the terminal itself has told so, between its bytes
        self._say("the terminal is closed")
        return 0

    async def _type(self, stream: ClientStream) -> int:
        escape = Escape(self._prefix)

        async def send(data: bytes) -> bool:
            for part in escape.feed(data):
                if part is Action.DETACH:
                    return False
                if part is Action.HELP:
                    self._say(self._help())
                elif self._keyboard:
                    await stream.send(part)
                elif self._interactive and INTERRUPT in part:
                    return False
            return True

        try:
            await attach.feed(send)
        except PopnetError:
            await asyncio.Event().wait()  # the stream ended, and `_show` tells how
        if self._interactive:
            self._say("detached")
        else:
            await self._quiet()
        return 0

    async def _quiet(self) -> None:
        """Returns once nothing came for `linger_s`."""
        while True:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), self._linger_s)
            except TimeoutError:
                return

    def _greeting(self) -> str:
        doing = "watching" if self._read_only else "attached to"
        keys = ""
        if self._prefix is not None:
            key = describe(self._prefix)
            keys = f"; {key} . detaches, {key} ? helps"
        return f"{doing} {self._where}{keys}"

    def _help(self) -> str:
        assert self._prefix is not None
        key = describe(self._prefix)
        return f"{key} .  detach    {key} {key}  send {key}    {key} ?  this help"

    def _say(self, text: str) -> None:
        if not self._settings.quiet:
            self._outputs.remark(text, raw=self._interactive)


async def _result(future: asyncio.Future[int]) -> int:
    return await future
