"""What stands before every handler of the control API: who may ask, and what an error looks like.

Unix sockets tell who is at the other end (SO_PEERCRED of unix(7)): our own user, or root, and nobody else.
Every error is JSON; one that is not a PopnetError is a fault of ours, which goes to the log with all its
details.
"""

import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from popnet.control.client import encode_error
from popnet.core.errors import PopnetError, Refused

log = logging.getLogger(__name__)

_STATUS: Final = {
    "no-such-machine": 404,
    "no-such-kernel": 404,
    "no-such-terminal": 404,
    "no-such-service": 404,
    "illegal-state": 409,
    "refused": 400,
    "invalid-machine-file": 400,
    "unavailable": 503,
    "overloaded": 503,
    "peer-died": 502,
    "boot-failed": 502,
    "link-violation": 502,
    "deadline-exceeded": 504,
}
"""HTTP statuses of errors, for clients that do not read them; 500 for others."""

_ROOT: Final = 0

_UCRED: Final = struct.Struct("3i")


@web.middleware
async def guard(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Lets only our own user and root in, and makes every error JSON."""
    try:
        _check_peer(socket_of(request))
        return await handler(request)
    except PopnetError as error:
        return web.json_response(encode_error(error), status=_STATUS.get(error.code, 500))
    except web.HTTPException as error:
        problem = PopnetError(f"{request.method} {request.path}: {error.reason}")
        return web.json_response(encode_error(problem), status=error.status)
    except ConnectionError:
        raise  # the client is gone; there is nobody to answer
    except Exception:
        log.exception("control: %s %s failed", request.method, request.path)
        problem = PopnetError(
            "the machine failed to do this, by a fault of its own", "its log has the details"
        )
        return web.json_response(encode_error(problem), status=500)


@contextmanager
def begun(request: web.Request) -> Iterator[None]:
    """For what follows the head of an answer: a fault of ours can only break it off, as the client sees."""
    try:
        yield
    except ConnectionError:
        raise
    except Exception as error:
        log.exception("control: %s %s failed", request.method, request.path)
        raise ConnectionAbortedError("broken off") from error


def socket_of(request: web.Request) -> socket.socket:
    """The socket that *request* came from. Raises ConnectionResetError if its client is gone."""
    if request.transport is None:
        raise ConnectionResetError("the client is gone")
    sock: socket.socket = request.transport.get_extra_info("socket")
    return sock


def _check_peer(sock: socket.socket) -> None:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)
    if uid not in (_ROOT, os.getuid()):
        raise Refused("this machine is another user's", "only its owner and root may control it")
