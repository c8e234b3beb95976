"""An ssh server whose users are kernels: one connection of it. With sshd and keys, the door to asyncssh.

What a login or a command does is the caller's: `serve_connection` calls its *handle* with a `Login` for each
session, and *handle* answers with an exit status. Only public keys let in; any user name does, since it says
what is wanted and not who wants it. Nothing is forwarded, there is no sftp: for those the kernels have sshds
of their own.
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncssh

from popnet.tty.sshoptions import KEYS_ONLY

_PIECE: Final = 64 << 10


class Login:
    """One session of a client.

    Attributes:
        user: the name it logged in with.
        command: what it wants to run; None: a shell.
        terminal: what kind of terminal it has, as TERM names it; None: none.
    """

    def __init__(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        self._process = process
        self.user: str = process.get_extra_info("username")
        self.command: str | None = process.command
        self.terminal: str | None = process.get_terminal_type()
        self.on_size: Callable[[int, int], None] = lambda cols, rows: None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of its terminal."""
        cols, rows, _, _ = self._process.get_terminal_size()
        return cols or 80, rows or 24

    async def read(self) -> bytes:
        """What the client sent; b"" at its end, and when it is gone. Changes of size go to `on_size`."""
        while True:
            try:
                return await self._process.stdin.read(_PIECE)
            except asyncssh.TerminalSizeChanged as change:
                self.on_size(change.width or 80, change.height or 24)
            except asyncssh.SignalReceived:
                return b""
            except asyncssh.BreakReceived:
                continue
            except (asyncssh.Error, OSError):
                return b""

    async def write(self, data: bytes, errors: bool = False) -> None:
        """To stdout, or to stderr for *errors*; waits for a slow client. Raises BrokenPipeError."""
        stream = self._process.stderr if errors else self._process.stdout
        try:
            stream.write(data)
            await stream.drain()
        except (asyncssh.Error, OSError) as error:
            raise BrokenPipeError from error

    async def until_closed(self) -> None:
        """Returns once the client is gone."""
        await self._process.wait_closed()


async def serve_connection(
    connected: socket.socket,
    host_key: bytes,
    keys: Callable[[str], str],
    handle: Callable[[Login], Awaitable[int]],
) -> None:
    """One connection, to its end.

    Args:
        host_key: private, in OpenSSH's format.
        keys: the text of an `authorized_keys` for a user name. Without a valid key in it, nobody can log in.
        handle: runs for each session; what it returns is the exit status.
    """
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)  # what goes wrong, the client is told

    async def run(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        status = 255
        try:
            status = await handle(Login(process))
        except BrokenPipeError:
            pass  # the client is gone: nobody is there to be told
        finally:
            process.exit(status)

    connection = await asyncssh.run_server(
        connected,
        server_factory=lambda: _Server(keys),
        server_host_keys=[asyncssh.import_private_key(host_key)],
        server_version="popnet-gateway",
        process_factory=run,
        **KEYS_ONLY,
    )
    try:
        await connection.wait_closed()
    finally:
        connection.abort()


class _Server(asyncssh.SSHServer):
    def __init__(self, keys: Callable[[str], str]) -> None:
        self._keys = keys

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        try:
            keys = asyncssh.import_authorized_keys(self._keys(username))
        except ValueError:  # no valid key: nobody is let in
            return True
        self._connection.set_authorized_keys(keys)
        return True


Error: Any = asyncssh.Error
"""What a connection that breaks before anybody has logged in ends with."""
