"""`GET /metrics`: on the control socket, and, where it was asked for, on a TCP port, which has nothing else.

The port is bound before the machine has a network of its own, so it is one of the host, or of the container.
"""

import ipaddress
import socket
from typing import Final

from aiohttp import web

from popnet import __version__
from popnet.control.metrics import CONTENT_TYPE, text
from popnet.control.service import Service
from popnet.core.errors import Refused

_CLOSE_S: Final = 0.5
"""Seconds that a scrape may go on while the server closes."""


async def answer(service: Service) -> web.Response:
    """The document, of this moment."""
    told = (await service.counters())["kernels"]
    document = text(__version__, service.machine(), service.kernels(), told)
    return web.Response(body=document.encode(), headers={"Content-Type": CONTENT_TYPE})


def bind(address: str) -> socket.socket:
    """A socket that is bound to *address*, such as 127.0.0.1:9464 or [::1]:9464.

    Raises Refused if that is none, or cannot be had.
    """
    host, colon, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        if not (colon and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError
    except ValueError:
        hint = "write an IP address and a port, such as 127.0.0.1:9464 or [::1]:9464"
        raise Refused(f"--metrics: {address!r} is no address", hint) from None
    sock = socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(ip), int(port)))
    except OSError as error:
        sock.close()
        raise Refused(f"--metrics: cannot listen on {address} ({error.strerror})") from None
    return sock


class MetricsServer:
    """Serves the metrics of *service* on *sock*, a bound socket, until it is closed."""

    def __init__(self, service: Service, sock: socket.socket) -> None:
        self._service = service
        self._sock = sock
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CLOSE_S)

    async def start(self) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, self._sock).start()

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        return await answer(self._service)
