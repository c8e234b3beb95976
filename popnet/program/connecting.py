"""`popnet.connect`: one call for both flavours; which one it is, `async with` or `with` decides."""

from popnet.program.blocking import BlockingConnection
from popnet.program.connection import Connection
from popnet.program.dialing import open_connection
from popnet.program.greeting import SOCKET_PATH


class Connecting:
    """A connection that is not made yet: enter it."""

    def __init__(self, path: str, attach: bool) -> None:
        self._path = path
        self._attach = attach
        self._connection: Connection | None = None
        self._blocking: BlockingConnection | None = None

    async def __aenter__(self) -> Connection:
        assert self._connection is None, "a connection is entered once"
        self._connection = await open_connection(self._path, self._attach)
        return self._connection

    async def __aexit__(self, *error: object) -> None:
        assert self._connection is not None
        await self._connection.close()

    def __enter__(self) -> BlockingConnection:
        assert self._blocking is None, "a connection is entered once"
        self._blocking = BlockingConnection(self._path, self._attach)
        return self._blocking

    def __exit__(self, *error: object) -> None:
        assert self._blocking is not None
        self._blocking.close()


def connect(path: str = SOCKET_PATH, attach: bool = False) -> Connecting:
    """Connect a program to the kernel that it runs in.

        async with popnet.connect() as me:                   with popnet.connect() as me:
            stream = await me.open("k2", "echo")                 stream = me.open("k2", "echo")

    Args:
        path: the kernel's socket. attach: have a ring of shared memory with the kernel: faster than the
        socket, at the cost of some memory.

    Raises, when entered:
        Unavailable: nothing answers at *path*: this is no kernel.
        Refused: the kernel has too many programs already.
    """
    return Connecting(path, attach)
