"""`gateway`: the machine's own ssh server; the user name says which kernel, so one port serves them all.

Theory of operation. A gateway is a client of the control API, in a process of its own: nothing of ssh runs
in the primary, and a gateway that dies takes nothing with it. Each connection is a task. With --stdio there
is one connection, over stdin and stdout, which is what the configuration of `popnet ssh-config` uses: no
port, no address, no daemon. Two threads move its bytes to and from a socket pair.
"""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Final

import click

from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.terminal import Signals
from popnet.control.client import Client
from popnet.core.errors import PopnetError

_CHUNK: Final = 64 << 10
CONNECTIONS_MAX: Final = 64


@verb("gateway")
@click.option("--stdio", is_flag=True, help="Serve one client on stdin and stdout, as a ProxyCommand.")
@click.option(
    "--listen", metavar="ADDRESS", help="Listen on 127.0.0.1:PORT, [::1]:PORT or a unix socket's path."
)
@click.option(
    "--authorized-keys",
    metavar="FILE",
    type=click.Path(),
    help="Who may log in, beside the machine's own key and yours.",
)
@pass_settings
def gateway_verb(settings: Settings, stdio: bool, listen: str | None, authorized_keys: str | None) -> None:
    """Be the machine's ssh server: the user name says which kernel.

    \b
    ssh -p 2222 k1@127.0.0.1                     a shell in k1
    ssh -p 2222 k1.tty0@127.0.0.1                its console
    ssh -p 2222 k1@127.0.0.1 capture eth0 icmp   its frames, as pcapng
    """
    if stdio == (listen is not None):
        raise click.UsageError("say --listen ADDRESS, or --stdio")
    client = settings.client()
    client.get("/v1/machine")
    gateway = Gateway(client, authorized_keys)
    if listen is None:
        asyncio.run(gateway.serve_stdio())
        return
    with bound(listen) as listener:
        settings.say(f"gateway of machine {client.machine}: listening on {listen}; Ctrl-C stops")
        try:
            asyncio.run(gateway.serve(listener))
        finally:
            if listener.family == socket.AF_UNIX:
                Path(listen).unlink(missing_ok=True)


class Gateway:
    """The gateway of one machine. Raises PopnetError if its keys cannot be read."""

    def __init__(self, client: Client, authorized_keys: str | None) -> None:
        self._client = client
        directory = client.socket.parent
        self._host_key = _read(directory / "gateway_key").encode()
        self._authorized_keys = _read(directory / "authorized_keys")
        if authorized_keys is not None:
            self._authorized_keys += "\n" + _read(Path(authorized_keys))

    async def serve(self, listener: socket.socket) -> None:
        """Until SIGINT or SIGTERM."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()
        room = asyncio.Semaphore(CONNECTIONS_MAX)

        async def accept() -> None:
            while True:
                await room.acquire()
                connected, _ = await loop.sock_accept(listener)
                task = asyncio.create_task(self.serve_one(connected))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                task.add_done_callback(lambda _done: room.release())

        with Signals({signal.SIGINT: stopped.set, signal.SIGTERM: stopped.set}):
            accepting = asyncio.create_task(accept())
            await stopped.wait()
            for task in (accepting, *tasks):
                task.cancel()
            await asyncio.gather(accepting, *tasks, return_exceptions=True)

    async def serve_one(self, connected: socket.socket) -> None:
        """One connection, to its end."""
        from popnet.cli.gatewaysession import GatewaySession
        from popnet.tty import gateway

        connected.setblocking(False)
        with contextlib.suppress(OSError, gateway.Error):  # the client went, or never was one
            await gateway.serve_connection(
                connected,
                self._host_key,
                self._authorized_keys,
                lambda login: GatewaySession(self._client, login).run(),
            )

    async def serve_stdio(self) -> None:
        ours, theirs = socket.socketpair()
        for move in (_from_stdin, _to_stdout):
            threading.Thread(target=move, args=(theirs,), daemon=True).start()
        await self.serve_one(ours)


def _from_stdin(pipe: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side is gone, and with it the need to go on
        while data := os.read(0, _CHUNK):
            pipe.sendall(data)
        pipe.shutdown(socket.SHUT_WR)


def _to_stdout(pipe: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := memoryview(pipe.recv(_CHUNK)):
            while data:
                data = data[os.write(1, data) :]
        os.close(1)


def bound(text: str) -> socket.socket:
    """A listening socket at `127.0.0.1:2222`, `[::1]:2222` or a path. Raises PopnetError."""
    try:
        if "/" in text:
            listener = socket.socket(socket.AF_UNIX)
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(text)
            listener.listen(CONNECTIONS_MAX)
            return listener
        return socket.create_server(
            _loopback(text), family=socket.AF_INET6 if "[" in text else socket.AF_INET
        )
    except OSError as error:
        raise PopnetError(f"{text}: {error.strerror or error}") from error


def _loopback(text: str) -> tuple[str, int]:
    """Address and port; only this host's own are allowed, as whoever logs in is root in the kernels."""
    host, _, port = text.rpartition(":")
    allowed = "allowed: 127.0.0.1:PORT, [::1]:PORT, or the path of a unix socket"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise PopnetError(f"--listen: got {text!r}; {allowed}") from None
    if not address.is_loopback or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise PopnetError(f"--listen: got {text!r}; {allowed}")
    return str(address), int(port)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise PopnetError(f"{path}: {error.strerror}") from error
