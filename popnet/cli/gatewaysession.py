"""What one login at the gateway does: a shell or a command in the kernel, a terminal of it, or a capture.

The user name says where: `k1` is the kernel, `k1.tty0` a terminal of it. The command says what: `capture`
(see `capturecommand`), `console`, or anything else, which runs in the kernel. Every one of these is a stream
of the machine's control API, as the verbs `capture`, `console` and `exec` use it; a session moves bytes
between the two until either ends.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

from popnet.cli.attach import first_of
from popnet.cli.blocks import Blocks
from popnet.cli.capturecommand import CaptureCommand, parse_command
from popnet.cli.execute import FAILED, exit_status
from popnet.control import wire
from popnet.control.capturefeeds import CaptureFeeds
from popnet.control.capturemerge import Section
from popnet.control.client import Client
from popnet.control.stream import ClientStream, connect
from popnet.core.errors import NoSuchKernel, PopnetError
from popnet.tty.gateway import Login

_SHELL: Final = "/bin/sh"


class GatewaySession:
    """One login at a gateway. *find* says which machine a user name means, and what is left of the name."""

    def __init__(self, find: Callable[[str], tuple[Client, str]], login: Login) -> None:
        self._find = find
        self._login = login

    async def run(self) -> int:
        """To the end of it. Returns the exit status. Raises BrokenPipeError when the client is gone."""
        try:
            return await self._run()
        except PopnetError as error:
            hint = f" ({error.hint})" if error.hint else ""
            await self._say(f"popnet: {error}{hint}")
            return FAILED

    async def _run(self) -> int:
        self._client, user = await asyncio.to_thread(self._find, self._login.user)
        rows = await asyncio.to_thread(self._client.get, "/v1/kernels")
        kernels = {row["name"]: row for row in rows}
        name, _, tty = user.partition(".")
        command = self._login.command
        if name not in kernels:
            raise NoSuchKernel(
                f"no kernel {name!r} in machine {self._client.machine}",
                f"the user name says which: {', '.join(kernels)}; or a terminal, as k1.tty0",
            )
        if command in ("console", "console tty0") and not tty:
            tty, command = "tty0", None
        if tty:
            number = tty.removeprefix("tty")
            if not tty.startswith("tty") or not number.isdecimal() or command is not None:
                raise NoSuchKernel(f"{self._login.user!r} is no terminal", "terminals are such as k1.tty0")
            return await self._console(wire.tty_path(name, int(number)))
        if command is not None:
            capture = parse_command(command, name, kernels)
            if capture is not None:
                return await self._capture(capture)
        return await self._execute(name, command)

    # A capture

    async def _capture(self, wanted: CaptureCommand) -> int:
        feeds = CaptureFeeds(self._client, wanted.where, wanted.filter, wanted.snap_length)
        async with feeds:
            return await first_of(
                self._send_capture(feeds, Blocks(wanted.count)),
                self._until_gone(),
                beside=(self._stop_when_told(feeds),),
            )

    async def _send_capture(self, feeds: CaptureFeeds, blocks: Blocks) -> int:
        section = Section(feeds.merger)
        await self._login.write(section.news())
        try:
            while (packets := await feeds.receive()) is not None:
                if not blocks.done:
                    await self._login.write(section.news() + blocks.feed(packets))
                if blocks.done:
                    await feeds.stop()
        finally:
            await self._login.write(section.statistics(time.time_ns()))
        dropped = sum(feed.dropped for feed in feeds.merger.feeds)
        await self._say(f"{blocks.packets} frames captured, {dropped} dropped by the capture")
        return 0

    async def _stop_when_told(self, feeds: CaptureFeeds) -> None:
        """Ctrl-C on a terminal, or a signal; the end of stdin is none, as many clients have none to begin
        with."""
        while data := await self._login.read():
            if b"\x03" in data:
                await feeds.stop()

    async def _until_gone(self) -> int:
        await self._login.until_closed()
        raise BrokenPipeError

    # A terminal, or a program

    async def _console(self, path: str) -> int:
        async with await connect(self._client.socket, path) as stream:
            if self._login.terminal is not None:
                await self._resize(stream, *self._login.size)
            return await self._join(stream, eof=None)

    async def _execute(self, kernel: str, command: str | None) -> int:
        argv = [_SHELL, "-c", command] if command is not None else [_SHELL, "-l"]
        params: dict[str, Any] = {"argv": argv, "tty": self._login.terminal is not None}
        if self._login.terminal is not None:
            cols, rows = self._login.size
            params |= {"env": {"TERM": self._login.terminal}, "cols": cols, "rows": rows}
        async with await connect(self._client.socket, wire.stream_path(kernel, "exec", params)) as stream:
            await self._join(stream, eof={"eof": True})
            return exit_status(stream.result)

    async def _join(self, stream: ClientStream, eof: dict[str, Any] | None) -> int:
        """Bytes both ways until the stream ends; with *eof*, it is told when the client has no more."""
        sizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self._login.on_size = lambda cols, rows: sizes.put_nowait((cols, rows))

        async def take() -> int:
            while (received := await stream.receive()) is not None:
                channel, data = received
                if channel in (wire.DATA, wire.STDERR):
                    await self._login.write(data, channel == wire.STDERR)
            return 0

        async def give() -> None:
            try:
                while data := await self._login.read():
                    await stream.send(data)
                if eof is not None:
                    await stream.send(json.dumps(eof).encode(), wire.CONTROL)
            except PopnetError:
                return  # the stream has ended: `take` tells how

        async def resize() -> None:
            while True:
                await self._resize(stream, *await sizes.get())

        return await first_of(take(), self._until_gone(), beside=(give(), resize()))

    @staticmethod
    async def _resize(stream: ClientStream, cols: int, rows: int) -> None:
        await stream.send(json.dumps({"resize": [cols, rows]}).encode(), wire.CONTROL)

    async def _say(self, text: str) -> None:
        end = "\r\n" if self._login.terminal is not None else "\n"
        await self._login.write((text + end).encode(), errors=True)
