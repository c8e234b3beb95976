"""The kernel's end of a terminal's stream, for tests: everything is at hand, nothing waits unless told to."""

import asyncio
import json
from typing import Any

from popnet.core.errors import PeerDied


class FakeStream:
    """What a hub sees of a stream; the test plays the kernel.

    `feed` is output of the kernel, `typed` its input, `told` what came on the control channel. `unreceived`
    bytes are still with the sender for want of credit: the stall a kernel would feel.
    """

    def __init__(self) -> None:
        self.service = "tty"
        self.params: dict[str, Any] = {"n": 0}
        self.peer = 1
        self.result: dict[str, Any] | None = None
        self.accepted = False
        self.typed = b""
        self.told: list[dict[str, Any]] = []
        self.takes_input = asyncio.Event()
        self.takes_input.set()
        self._output: asyncio.Queue[tuple[int, bytes] | Exception | None] = asyncio.Queue()
        self._unreceived = 0
        self._death: PeerDied | None = None

    def feed(self, data: bytes, channel: int = 0) -> None:
        self._unreceived += len(data)
        self._output.put_nowait((channel, data))

    def die(self, reason: str) -> None:
        self._death = PeerDied(reason)
        self._output.put_nowait(self._death)

    def finish(self) -> None:
        self._output.put_nowait(None)

    @property
    def unreceived(self) -> int:
        return self._unreceived

    async def accept(self) -> None:
        self.accepted = True

    async def send(self, data: bytes, channel: int = 0) -> None:
        await self.takes_input.wait()
        if self._death:
            raise self._death
        if channel == 0:
            self.typed += data
        else:
            self.told.append(json.loads(data))

    async def receive(self) -> tuple[int, bytes] | None:
        received = await self._output.get()
        if isinstance(received, Exception):
            raise received
        if received is not None:
            self._unreceived -= len(received[1])
        return received

    async def close(self, result: dict[str, Any] | None = None) -> None:
        self.finish()

    def abort(self) -> None:
        self.die("aborted")


async def settle() -> None:
    """Let every task run until it waits: each pass of the loop runs what is ready."""
    for _ in range(20):
        await asyncio.sleep(0)
