"""The ssh server of a kernel: shells, commands, sftp, forwarding; by public keys. The door to asyncssh.

Theory of operation. `run` is the whole life of a process inside a kernel, forked on the first connection
(see acceptor) from a process that has imported this module: nothing is imported later, since the kernel's
root need not have it. One `_Session` is one channel: it starts a `Program`, or an sftp server, when the
client has said what it wants, and from then on only passes bytes and flow control between the two. When the
connection goes, its programs are hung up.
"""

import asyncio
import concurrent.futures.thread  # noqa: F401  late import of asyncio's, to look names up
import contextlib
import encodings.idna  # noqa: F401  late import of socket's, for host names
import grp  # noqa: F401  late import of asyncssh's, to list directories
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Final

import asyncssh
from asyncssh.stream import SSHServerStreamSession

from popnet.tty import login
from popnet.tty.acceptor import Acceptor
from popnet.tty.program import STDERR, Program
from popnet.tty.pty import SpawnFailed
from popnet.tty.sshoptions import KEYS_ONLY

CONNECTIONS_MAX: Final = 64
"""Connections at once, those not yet logged in included: a classroom on one kernel, a bound for a flood."""

IDLE_S: Final = 10.0
"""Seconds without a connection after which `run` returns: more than a script pauses between two commands."""

_SFTP_VERSION: Final = 3
"""What OpenSSH speaks."""

_TCP_DELACK_MAX_US: Final = 46
"""linux/tcp.h; the value is in microseconds."""

_SIGNALS: Final = {
    name: signal.Signals[f"SIG{name}"]
    for name in (
        *("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL"),
        *("PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"),
    )
}
"""Signals that ssh knows by name (RFC 4254 section 6.10)."""

_SIGNAL_NAMES: Final = {int(number): name for name, number in _SIGNALS.items()}

Log = Callable[[str], None]


def run(
    listener: socket.socket,
    host_key: bytes,
    authorized_keys: str,
    *,
    shell: str,
    environ: dict[str, str],
    on_log: Log,
    idle_s: float | None = IDLE_S,
) -> None:
    """`serve` in an event loop of its own, until idle for *idle_s* seconds, or SIGTERM.

    For a process that does nothing else: changes its directory (sftp's relative paths start there) and its
    handling of SIGCHLD and SIGTERM.
    """

    async def until_terminated() -> None:
        serving = asyncio.ensure_future(
            serve(
                listener,
                host_key,
                authorized_keys,
                shell=shell,
                environ=environ,
                on_log=on_log,
                idle_s=idle_s,
            )
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(login.home(environ))
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(until_terminated())


async def serve(
    listener: socket.socket,
    host_key: bytes,
    authorized_keys: str,
    *,
    shell: str,
    environ: dict[str, str],
    on_log: Log,
    idle_s: float | None = None,
) -> None:
    """Serve *listener* until there was no connection for *idle_s* seconds; with None, until cancelled.

    Args:
        listener: see Acceptor.
        host_key: private, in OpenSSH's format.
        authorized_keys: the text of such a file. Without a valid key in it, nobody can log in.
        shell: path of what logins and commands run.
        environ: of every program, before what ssh adds; at least its PATH.
        on_log: gets one line for each change of state.
    """
    _send_logs_to(on_log)
    options = asyncssh.SSHServerConnectionOptions(
        server_factory=lambda: _Server(authorized_keys, shell, environ),
        server_host_keys=[asyncssh.import_private_key(host_key)],
        server_version="popnet",
        **KEYS_ONLY,
    )

    async def handle(connected: socket.socket) -> None:
        peer = "a client"
        try:
            peer = "{} port {}".format(*connected.getpeername())
            _answer_at_once(connected)
            connection = await asyncssh.run_server(connected, options=options)
        except (OSError, asyncssh.Error) as error:
            connected.close()
            on_log(f"{peer}: no login: {error}")
            return
        on_log(f"{peer}: {connection.get_extra_info('username')} logged in")
        try:
            await connection.wait_closed()
        finally:
            connection.abort()
            await connection.wait_closed()
            on_log(f"{peer}: left")

    acceptor = Acceptor(
        listener,
        handle,
        connections_max=CONNECTIONS_MAX,
        idle_s=idle_s,
        on_log=on_log,
    )
    await acceptor.serve()


def _answer_at_once(connected: socket.socket) -> None:
    """Let small packets of a login wait for no other one's acknowledgement: neither ours, nor the client's.

    A client sends two small ones in a row while it logs in. Where the second waits for a delayed
    acknowledgement, a login takes 64 ms, not 40.
    """
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):  # newer Linux only
        connected.setsockopt(socket.IPPROTO_TCP, _TCP_DELACK_MAX_US, 10_000)


class _Server(asyncssh.SSHServer):
    """One connection: who may log in, and that everybody logged in may forward."""

    def __init__(self, authorized_keys: str, shell: str, environ: Mapping[str, str]) -> None:
        self._authorized_keys = authorized_keys
        self._shell = shell
        self._environ = environ

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        if login.is_us(username):
            with contextlib.suppress(ValueError):  # no valid key: nobody is let in
                self._connection.set_authorized_keys(asyncssh.import_authorized_keys(self._authorized_keys))
        return True

    def session_requested(self) -> "_Session":
        return _Session(self._connection, self._shell, self._environ)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        return True

    def unix_connection_requested(self, dest_path: str) -> bool:
        return True

    def unix_server_requested(self, listen_path: str) -> bool:
        return True


class _Session(asyncssh.SSHServerSession[bytes]):
    """One channel. Moves: open → program or sftp (as the client asks, once) → closed."""

    def __init__(
        self, connection: asyncssh.SSHServerConnection, shell: str, environ: Mapping[str, str]
    ) -> None:
        self._connection = connection
        self._shell = shell
        self._environ = environ
        self._argv: list[str] = []
        self._program: Program | None = None
        self._sftp: SSHServerStreamSession[bytes] | None = None

    # What the client asks for

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        return True

    def shell_requested(self) -> bool:
        self._argv = ["-" + PurePath(self._shell).name]
        return True

    def exec_requested(self, command: str) -> bool:
        self._argv = [self._shell, "-c", command]
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp":
            return False
        self._sftp = SSHServerStreamSession(None, lambda _: _SftpServer(self._channel), _SFTP_VERSION)
        self._sftp.connection_made(self._channel)
        return True

    def session_started(self) -> None:
        if self._sftp is not None:
            self._sftp.session_started()
            return
        cols, rows, _, _ = self._channel.get_terminal_size()
        on_pty = self._channel.get_terminal_type() is not None
        try:
            self._program = Program(
                self._argv,
                self._environment(),
                executable=self._shell,
                cwd=login.home(self._environ),
                size=(cols or 80, rows or 24) if on_pty else None,
                tty_modes=self._channel.get_terminal_modes(),
                output=self._output,
                room=self._room,
                ended=self._ended,
            )
        except SpawnFailed as error:
            self._channel.write_stderr(f"popnet: {error}\n".encode())
            self._channel.exit(error.status)

    def _environment(self) -> dict[str, str]:
        """What the kernel gives every program, and what this login adds."""
        optional = {
            "TERM": self._channel.get_terminal_type(),
            "SSH_AUTH_SOCK": self._channel.get_agent_path(),
        }
        return login.environment(
            self._environ,
            self._channel.get_environment(),
            user=self._connection.get_extra_info("username"),
            shell=self._shell,
            client=self._connection.get_extra_info("peername"),
            server=self._connection.get_extra_info("sockname"),
        ) | {name: value for name, value in optional.items() if value}

    # From the client

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._sftp is not None:
            self._sftp.data_received(data, datatype)
        elif self._program is not None:
            self._program.feed(data)

    def eof_received(self) -> bool:
        if self._sftp is not None:
            return bool(self._sftp.eof_received())
        if self._program is not None:
            self._program.feed_eof()
        return True  # the program may go on writing

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._program is not None:
            self._program.resize(width, height)

    def signal_received(self, signal_name: str) -> None:
        if self._program is not None and signal_name in _SIGNALS:
            self._program.signal(_SIGNALS[signal_name])

    def pause_writing(self) -> None:
        if self._sftp is not None:
            self._sftp.pause_writing()
        elif self._program is not None:
            self._program.pause()

    def resume_writing(self) -> None:
        if self._sftp is not None:
            self._sftp.resume_writing()
        elif self._program is not None:
            self._program.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sftp is not None:
            self._sftp.connection_lost(exc)
        elif self._program is not None:
            self._program.hang_up()

    # From the program

    def _output(self, file: int, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the client closed the channel; connection_lost follows
            self._channel.write(data, asyncssh.EXTENDED_DATA_STDERR if file == STDERR else None)

    def _room(self, room: bool) -> None:
        if room:
            self._channel.resume_reading()
        else:
            self._channel.pause_reading()

    def _ended(self, status: int) -> None:
        if -status in _SIGNAL_NAMES:
            self._channel.exit_with_signal(_SIGNAL_NAMES[-status])
        else:
            self._channel.exit(status if status >= 0 else 128 - status)


class _SftpServer(asyncssh.SFTPServer):
    """Files of this process's root. Its end has a status: without one, OpenSSH's scp tells of a failure."""

    def exit(self) -> None:
        self.channel.exit(0)


class _Handler(logging.Handler):
    """Takes complaints of the libraries to a kernel's log."""

    def __init__(self, on_log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = on_log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(self.format(record))


def _send_logs_to(on_log: Log) -> None:
    for name in ("asyncssh", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [_Handler(on_log)]
        logger.propagate = False
        logger.setLevel(logging.WARNING)
