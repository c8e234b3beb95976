"""The kernel's end of one tty: its pty, the shell on it, and the stream to the primary that carries its
bytes.

The pty exists from boot; the login shell starts when somebody first attaches (as busybox's `askfirst` does,
without the key
press), and again whenever it ends while the kernel runs. Bytes are never dropped: while the stream has no
credit, the pty is
not read, and programs on it wait, on this tty only.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from typing import Final

from popnet.core.errors import PeerDied, Refused, StreamClosed
from popnet.kernel import fdio
from popnet.kernel.initclient import InitClient
from popnet.message.endpoint import Endpoint
from popnet.message.stream import Stream
from popnet.tty import pty

CONTROL: Final = 2
_RESPAWN_S: Final = 1.0
"""Seconds between two starts of the shell at least, so that one that fails at once does not spin."""


class Console:
    """Terminal number *n* of a kernel, served until `stop`."""

    def __init__(
        self, n: int, init: InitClient, shell: str, environment: Callable[..., dict[str, str]]
    ) -> None:
        self.n = n
        self._init = init
        self._shell = shell
        self._environment = environment
        self._attached = asyncio.Event()
        self._path = ""
        self._master = -1
        self._slave = -1
        self._stream: Stream | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, endpoint: Endpoint, generation: int) -> None:
        """Make the pty and connect it to the primary's terminal of the same number."""
        self._path, self._master, self._slave = await self._init.open_pty(f"tty{self.n}")
        os.set_blocking(self._master, False)
        self._stream = await endpoint.open(0, "tty", {"n": self.n, "generation": generation})
        self._tasks = [
            asyncio.create_task(self._output(self._stream)),
            asyncio.create_task(self._input(self._stream)),
            asyncio.create_task(self._keep_shell()),
        ]

    async def print(self, text: str) -> None:
        """Show a line of the kernel's own on the terminal."""
        if self._stream is not None:
            with contextlib.suppress(StreamClosed, PeerDied):
                await self._stream.send(text.replace("\n", "\r\n").encode())

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _output(self, stream: Stream) -> None:
        with (
            contextlib.suppress(StreamClosed, PeerDied),
            contextlib.closing(fdio.Source(self._master)) as pty,
        ):
            while data := await pty.read():
                await stream.send(data)

    async def _input(self, stream: Stream) -> None:
        with contextlib.suppress(StreamClosed, PeerDied):
            while (received := await stream.receive()) is not None:
                channel, data = received
                if channel == CONTROL:
                    self._control(json.loads(data))
                else:
                    await fdio.write(self._master, data)

    def _control(self, request: dict[str, object]) -> None:
        match request:
            case {"resize": [int(columns), int(rows)]}:
                pty.set_size(self._master, columns, rows)
            case {"attached": True}:
                self._attached.set()

    async def _keep_shell(self) -> None:
        await self._attached.wait()
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                environ = self._environment(TERM="xterm-256color")
                program = await self._init.spawn([self._shell, "-l"], environ, cwd="/root", path=self._path)
                await program.ended
            except Refused as error:
                await self.print(f"[popnet] cannot start {self._shell}: {error}\n")
            await asyncio.sleep(max(0.0, started + _RESPAWN_S - loop.time()))
