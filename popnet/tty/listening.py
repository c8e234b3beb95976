"""A socket that listens where a gateway was told to."""

import os
import socket
from pathlib import Path
from typing import Final

from popnet.core.errors import Refused
from popnet.machine.gatewayspec import tcp_address

BACKLOG: Final = 64


def bound(text: str, public: bool, what: str, ask: str) -> socket.socket:
    """A listening socket at `127.0.0.1:2222`, `[::1]:2222` or a path, where only this user may connect.

    Args:
        public: whether others than this host may reach it.
        what: where *text* comes from, for errors, such as "--listen".
        ask: how a user asks for an address that others can reach.

    Raises Refused. Close it with `close`.
    """
    try:
        if "/" in text:
            return _unix(text)
        address = tcp_address(text, public, ask)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except ValueError as error:
        raise Refused(f"{what}: {error}") from None
    except OSError as error:
        raise Refused(f"{what}: {text}: {os.strerror(error.errno or 0)}") from error


def close(listener: socket.socket) -> None:
    """Close it; the path of a unix socket goes with it."""
    path = listener.getsockname() if listener.family == socket.AF_UNIX else None
    listener.close()
    if path is not None:
        Path(path).unlink(missing_ok=True)


def _unix(text: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(text)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
