"""Two kernels with their programs' sockets, in this process: k1 (kid 1, generation 1) and k2 (kid 2,
generation 5), joined by a fake link. What connects is a real program's connection, in the same event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from popnet.kernel.programs import Programs
from popnet.program.connection import Connection
from popnet.program.dialing import open_connection
from popnet.program.greeting import Greeting
from tests.message.ends import Ends, running
from tests.message.links import link_pair

KIDS = {"k1": 1, "k2": 2}
ATTACH = (False, True)


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(64)
    return listener


class Village:
    """Attributes:
    a, b: the programs of k1 and of k2.
    log: what the kernels said.
    """

    def __init__(
        self,
        ends: Ends,
        directory: Path,
        services: tuple[str, ...] | None,
        groups: tuple[str, ...] | None = None,
    ) -> None:
        self.ends = ends
        self.groups = groups
        self.log: list[tuple[str, str]] = []
        self.paths = {1: str(directory / "k1.sock"), 2: str(directory / "k2.sock")}
        self.a = self._programs(1, "k1", 1, services)
        self.b = self._programs(2, "k2", 5, services)
        self._open: list[Connection] = []

    def _programs(self, kid: int, name: str, generation: int, services: tuple[str, ...] | None) -> Programs:
        async def connect(other: int) -> None:
            await self.connect(other)

        endpoint = self.ends.a if kid == 1 else self.ends.b
        whoami = Greeting("village", name, kid, generation, 0, KIDS)
        return Programs(endpoint, connect, whoami, services, self.groups, lambda *line: self.log.append(line))

    async def connect(self, kid: int) -> None:
        """Tests that have no link replace it."""

    def start(self) -> None:
        self.a.start(listen(Path(self.paths[1])))
        self.b.start(listen(Path(self.paths[2])))

    async def program(self, kid: int, attach: bool = False) -> Connection:
        """A program in kernel *kid*, closed at the end."""
        connection = await open_connection(self.paths[kid], attach)
        self._open.append(connection)
        return connection

    async def stop(self) -> None:
        for connection in self._open:
            await connection.close()
        await self.a.stop()
        await self.b.stop()


@asynccontextmanager
async def village(directory: Path, services: tuple[str, ...] | None = None) -> AsyncIterator[Village]:
    pair = link_pair("fake")
    ends = Ends(pair)
    async with running(ends):
        both = Village(ends, directory, services)
        both.start()
        try:
            yield both
        finally:
            await both.stop()
    pair.close()


async def fails(work: Awaitable[Any], kind: type[Exception]) -> Any:
    """The error of *kind* that *work* raises."""
    try:
        result = await work
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {result!r}")


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds; the test's timeout is the end of it. Sockets need the loop's selector, so
    this sleeps a little."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
