"""A machine of endpoints with a registry, each with its programs' socket, in this process: for groups, which
need a registry. Kernel k0 has it; what connects is a real program's connection, in the same event loop."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from popnet.kernel.programs import Programs
from popnet.program.connection import Connection
from popnet.program.dialing import open_connection
from popnet.program.greeting import Greeting
from tests.message.mesh import Mesh, mesh_of

from .village import listen


class Town:
    """Attributes:
    programs: of each kernel that runs, by kid.
    """

    def __init__(
        self, mesh: Mesh, directory: Path, services: tuple[str, ...] | None, groups: tuple[str, ...] | None
    ) -> None:
        self.mesh = mesh
        self.programs: dict[int, Programs] = {}
        self.log: list[tuple[str, str]] = []
        self._directory = directory
        self._rules = (services, groups)
        self._open: list[Connection] = []

    def path(self, kid: int) -> str:
        return str(self._directory / f"k{kid}-{self.mesh.generations[kid]}.sock")

    def settle(self, kid: int) -> None:
        """Let kernel *kid*, which runs, have programs."""
        endpoint = self.mesh.ends[kid]

        async def connect(other: int) -> None:
            await endpoint.linked(other)

        kids = {name: number for number, name in self.mesh.names.items()}
        whoami = Greeting("town", f"k{kid}", kid, self.mesh.generations[kid], 0, kids)
        programs = Programs(endpoint, connect, whoami, *self._rules, lambda *line: self.log.append(line))
        programs.start(listen(Path(self.path(kid))))
        self.programs[kid] = programs

    async def program(self, kid: int, attach: bool = False) -> Connection:
        """A program in kernel *kid*, closed at the end."""
        connection = await open_connection(self.path(kid), attach)
        self._open.append(connection)
        return connection

    async def kill(self, kid: int) -> None:
        """The kernel dies, and its programs see it go."""
        await self.programs.pop(kid).stop()
        await self.mesh.kill(kid)

    def boot(self, kid: int) -> None:
        self.mesh.boot(kid)
        self.settle(kid)

    async def stop(self) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                await connection.close()
        for programs in self.programs.values():
            await programs.stop()


@asynccontextmanager
async def town(
    directory: Path,
    size: int = 3,
    services: tuple[str, ...] | None = None,
    groups: tuple[str, ...] | None = None,
) -> AsyncIterator[Town]:
    async with mesh_of(size) as mesh:
        here = Town(mesh, directory, services, groups)
        for kid in range(size):
            here.settle(kid)
        try:
            yield here
        finally:
            await here.stop()
