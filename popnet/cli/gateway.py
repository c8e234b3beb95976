"""`gateway`: the machine's own ssh server; the user name says which kernel, so one port serves them all.

Theory of operation. A gateway is a client of the control API, in a process of its own: nothing of ssh runs
in the primary, and a gateway that dies takes nothing with it. Each connection is a task. With --stdio there
is one connection, over stdin and stdout, which is what the configuration of `popnet ssh-config` uses: no
port, no address, no daemon. Two threads move its bytes to and from a socket pair. With --inherited, somebody
who bound the socket started us (a machine with a `gateway` key, `popnet serve`), and we end with them.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from popnet.cli.gatewayusers import EveryMachine, OneMachine, Users
from popnet.cli.settings import Settings, pass_settings, verb
from popnet.cli.terminal import Signals
from popnet.control.rundir import run_dir
from popnet.core.errors import PopnetError
from popnet.tty.authorized import AuthorizedKeys
from popnet.tty.hostkeys import host_key, state_dir
from popnet.tty.listening import bound, close

if TYPE_CHECKING:
    from popnet.tty.gateway import Login

_CHUNK: Final = 64 << 10
_PR_SET_PDEATHSIG: Final = 1
CONNECTIONS_MAX: Final = 64


@verb("gateway")
@click.option("--stdio", is_flag=True, help="Serve one client on stdin and stdout, as a ProxyCommand.")
@click.option(
    "--listen", metavar="ADDRESS", help="Listen on 127.0.0.1:PORT, [::1]:PORT or a unix socket's path."
)
@click.option("--public", is_flag=True, help="Let --listen be an address that others than this host reach.")
@click.option("--all", "everything", is_flag=True, help="Serve every machine: its name first, as demo.k1.")
@click.option(
    "--authorized-keys",
    metavar="SOURCE",
    multiple=True,
    help="Who may log in, beside the machine's own key and yours: a file, a directory with MACHINE.pub, or "
    "$VARIABLE.",
)
@click.option("--inherited", type=int, hidden=True, help="The descriptor of a socket that listens already.")
@pass_settings
def gateway_verb(
    settings: Settings,
    stdio: bool,
    listen: str | None,
    public: bool,
    everything: bool,
    authorized_keys: tuple[str, ...],
    inherited: int | None,
) -> None:
    """Be the machine's ssh server: the user name says which kernel.

    \b
    ssh -p 2222 k1@127.0.0.1                     a shell in k1
    ssh -p 2222 k1.tty0@127.0.0.1                its console
    ssh -p 2222 k1@127.0.0.1 capture eth0 icmp   its frames, as pcapng
    ssh -p 2222 demo.k1@127.0.0.1                with --all: k1 of machine demo
    """
    if [stdio, listen is not None, inherited is not None].count(True) != 1:
        raise click.UsageError("say --listen ADDRESS, or --stdio")
    authorized = AuthorizedKeys(authorized_keys, os.environ, Path())
    users, whose = _users(settings, authorized, everything)
    gateway = Gateway(users)
    if inherited is not None:
        _die_with_parent()
        with socket.socket(fileno=inherited) as listener:
            asyncio.run(gateway.serve(listener))
        return
    if listen is None:
        asyncio.run(gateway.serve_stdio())
        return
    listener = bound(listen, public, "--listen", "--public")
    try:
        for problem in authorized.problems():
            settings.say(problem)
        settings.say(f"gateway of {whose}: listening on {listen}; Ctrl-C stops")
        asyncio.run(gateway.serve(listener))
    finally:
        close(listener)


def _users(settings: Settings, authorized: AuthorizedKeys, everything: bool) -> tuple[Users, str]:
    """Whose gateway it is, and that in words."""
    if not everything:
        client = settings.client()
        client.get("/v1/machine")
        return OneMachine(client, authorized), f"machine {client.machine}"
    key = host_key(state_dir() / "gateway", "gateway of popnet")
    return EveryMachine(settings.run_path() or run_dir(), authorized, key), "all machines"


def _die_with_parent() -> None:
    """Whoever gave us the socket owns us: end with it."""
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) or os.getppid() != parent:
        raise PopnetError("whoever started this gateway is gone")


class Gateway:
    """The gateway of *users*."""

    def __init__(self, users: Users) -> None:
        self._users = users

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
        from popnet.tty import gateway

        connected.setblocking(False)
        with contextlib.suppress(OSError, gateway.Error):  # the client went, or never was one
            await gateway.serve_connection(
                connected,
                self._users.host_key.encode(),
                self._users.keys,
                self._session,
            )

    async def _session(self, login: "Login") -> int:
        from popnet.cli.gatewaysession import GatewaySession

        return await GatewaySession(self._users.client, login).run()

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
