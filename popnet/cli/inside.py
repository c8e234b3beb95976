"""Short visits to kernels for programs rather than people: run and collect, look at a terminal, capture."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from popnet.control import wire
from popnet.control.running import run
from popnet.control.stream import connect
from popnet.core.errors import Unavailable

VISIT_S: Final = 10.0
"""Seconds a visit may take: a hundred times what it needs."""


QUIET_S: Final = 0.05
"""Seconds without output after which a terminal has shown what it has to show."""

_SEQUENCE: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did: the exit status of a shell, and what it wrote."""

    status: int
    output: str
    errors: str


class Visitor:
    """Visits the kernels of the machine whose control socket is *address*."""

    def __init__(self, address: Path) -> None:
        self._address = address

    async def run(self, kernel: str, argv: Sequence[str]) -> Outcome:
        """Run *argv* in *kernel* without input."""
        result = await run(self._address, kernel, argv, timeout_s=VISIT_S)
        return Outcome(result.status, result.stdout, result.stderr)

    async def screen(self, kernel: str, n: int = 0) -> list[str]:
        """The lines that a terminal shows since its power-on, without control sequences and empty ones; waits
        until there is something, and for a moment in which nothing more comes."""
        path = wire.tty_path(kernel, n, write=False, history=True)
        shown = b""
        async with _limit(f"tty{n} of {kernel}"), await connect(self._address, path) as stream:
            while True:
                try:
                    received = await asyncio.wait_for(stream.receive(), QUIET_S if shown.strip() else None)
                except TimeoutError:
                    break
                if received is None:
                    break
                shown += received[1] if received[0] == 0 else b""
        text = _SEQUENCE.sub("", shown.decode(errors="replace"))
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    async def capture_while(
        self, kernel: str, filter_text: str, argv: Sequence[str]
    ) -> tuple[bytes, Outcome]:
        """The pcapng of what *argv* in *kernel* sends and receives there."""
        path = wire.stream_path(kernel, "capture", {"filter": filter_text, "snap_length": 0})
        pieces = []
        async with _limit(f"capture of {kernel}"), await connect(self._address, path) as stream:
            outcome = await self.run(kernel, argv)
            await stream.finish()
            while (received := await stream.receive()) is not None:
                pieces.append(received[1])
        return b"".join(pieces), outcome


@asynccontextmanager
async def _limit(what: str) -> AsyncIterator[None]:
    """At most VISIT_S for the block. Raises Unavailable."""
    try:
        async with asyncio.timeout(VISIT_S):
            yield
    except TimeoutError:
        raise Unavailable(f"{what}: no answer within {VISIT_S:g} s") from None
