"""The control API: HTTP and WebSockets over a machine's unix socket, for one Service.

Theory of operation. Short requests run to their end even if the client goes away meanwhile: half a boot
would help nobody. Lists that are followed and streams may last for ever; each ends when its client is gone
(see `hangup`) or when the server closes, whichever is first, so closing never waits for a client. Every
error is JSON.

The socket is made with mode 0600, in a directory of 0700; `guard` looks at every request first.
"""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from popnet import __version__
from popnet.control import routes
from popnet.control.bridge import bridge, first
from popnet.control.client import encode_error
from popnet.control.guard import begun, guard, socket_of
from popnet.control.hangup import hangup
from popnet.control.metricsserver import answer
from popnet.control.rundir import ShortAddress, is_alive
from popnet.control.service import Service, Stream
from popnet.control.terminals import TerminalStream, read_history
from popnet.control.wire import MESSAGE_MAX, TARGET_SIZE_MAX
from popnet.core.errors import IllegalState, NoSuchKernel, PopnetError, Refused

_HANDLERS_S: Final = 1.5
"""Seconds that requests may go on while the server closes; a little more than a stream's farewell."""

_CLOSE_S: Final = 24 * 3600.0
"""Seconds that a WebSocket's closing handshake may take: as long as a slow client lives and reads."""


class ControlServer:
    """A server that runs. *path* is its socket, which `close` removes."""

    def __init__(self, path: Path, runner: web.AppRunner, closing: asyncio.Event) -> None:
        self.path = path
        self._runner = runner
        self._closing = closing
        self._cleanup = ExitStack()
        self._inode = 0
        self._server: asyncio.Server

    async def start(self) -> None:
        """Raises IllegalState if something listens on the socket already."""
        # Event loops use it when they close, too.
        address = self._cleanup.enter_context(ShortAddress(self.path))
        sock = _bind(self.path, address)
        self._inode = self.path.stat().st_ino
        await self._runner.setup()
        assert self._runner.server is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._runner.server, sock=sock, backlog=512)

    async def close(self) -> None:
        """Ends it: lists and streams end with a last word, other requests get their answers, or 2 s."""
        self._closing.set()
        if self.path.exists() and self.path.stat().st_ino == self._inode:
            self.path.unlink()
        self._server.close()
        await self._runner.cleanup()
        self._cleanup.close()


async def serve(service: Service, path: Path) -> ControlServer:
    """Serves *service* on the unix socket *path*, whose directory exists.

    Raises IllegalState if something listens there; a socket that nobody listens on is replaced.
    """
    closing = asyncio.Event()
    api = _Api(service, closing)
    app = web.Application(middlewares=[guard])
    for route in routes.ROUTES:
        app.router.add_route(route.method, route.path, getattr(api, route.operation))
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=_HANDLERS_S,
        tcp_keepalive=False,
        max_line_size=TARGET_SIZE_MAX,
        max_field_size=TARGET_SIZE_MAX,
    )
    server = ControlServer(path, runner, closing)
    await server.start()
    return server


def _bind(path: Path, address: str) -> socket.socket:
    if is_alive(path):
        raise IllegalState(f"a machine is running already on {path}", f"popnet down {path.parent.name}")
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.fchmod(sock.fileno(), 0o600)  # bind gives the file the mode of the socket: it never has another
    sock.bind(address)
    return sock


class _Api:
    """The handlers, by the operations of `routes.ROUTES`."""

    def __init__(self, service: Service, closing: asyncio.Event) -> None:
        self._service = service
        self._closing = closing

    async def machine(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._service.machine())

    async def down(self, request: web.Request) -> web.StreamResponse:
        await self._service.down()
        return web.json_response({})

    async def plan(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.plan(await _body(request)))

    async def apply(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.apply(await _body(request)))

    async def kernels(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._service.kernels())

    async def kernel(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._row(request))

    async def boot(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.boot(_name(request)))

    async def kill(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.kill(_name(request)))

    async def load(self, request: web.Request) -> web.StreamResponse:
        image, append = request.query.get("image"), request.query.get("append")
        return web.json_response(self._service.load(_name(request), image, append))

    async def unload(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._service.unload(_name(request)))

    async def update(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.update(_name(request), await _body(request)))

    async def reboot(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.reboot(_name(request)))

    async def panic(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.panic(_name(request)))

    async def hang(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._service.hang(_name(request)))

    async def timeline(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._service.timeline(_name(request)))

    async def dmesg(self, request: web.Request) -> web.StreamResponse:
        name = self._row(request)["name"]
        follow, previous = _flag(request, "follow", False), _flag(request, "previous", False)
        return await self._lines(request, self._service.log(name, follow, previous))

    async def events(self, request: web.Request) -> web.StreamResponse:
        since, follow = _number(request.query.get("since", "0")), _flag(request, "follow", False)
        return await self._lines(request, self._service.events(since, follow))

    async def ssh_config(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._service.ssh_config())

    async def images(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.images())

    async def services(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._service.services())

    async def counters(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.counters())

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        return await answer(self._service)

    async def links(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.links())

    async def link(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._service.link(request.match_info["op"], await _body(request)))

    async def faults(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._service.faults())

    async def run_faults(self, request: web.Request) -> web.StreamResponse:
        plan = (await _body(request)).get("faults")
        return web.json_response(self._service.run_faults(plan))

    async def stop_faults(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._service.stop_faults())

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(routes.document(__version__))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        params = _params(request)

        async def opening() -> Stream:
            return await self._service.open(_name(request), request.match_info["service"], params)

        return await self._bridge(request, opening)

    async def tty(self, request: web.Request) -> web.StreamResponse:
        n, write = _number(request.match_info["n"]), _flag(request, "write", True)
        force, history = _flag(request, "force", False), _flag(request, "history", True)

        async def opening() -> Stream:
            terminal = self._service.terminal(_name(request), n)
            return TerminalStream(terminal.attach(write=write, force=force, history=history), write=write)

        return await self._bridge(request, opening)

    async def history(self, request: web.Request) -> web.StreamResponse:
        terminal = self._service.terminal(_name(request), _number(request.match_info["n"]))
        return web.Response(body=await read_history(terminal), content_type="text/plain", charset="utf-8")

    def _row(self, request: web.Request) -> dict[str, Any]:
        rows = self._service.kernels()
        for row in rows:
            if row["name"] == _name(request):
                return row
        names = ", ".join(row["name"] for row in rows)
        raise NoSuchKernel(f"no kernel is named {_name(request)!r}", f"there are: {names}")

    async def _lines(self, request: web.Request, items: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
        """Writes *items* as they come, until they end, or the client is gone, or the server closes."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with begun(request), hangup(socket_of(request).fileno()) as gone:
            try:
                await first(_write_lines(response, items), _set(gone), _set(self._closing))
            except ConnectionError:
                return response  # the client went while it was written to
        if not gone.is_set():
            await response.write_eof()
        return response

    async def _bridge(
        self, request: web.Request, opening: Callable[[], Awaitable[Stream]]
    ) -> web.StreamResponse:
        ws = web.WebSocketResponse(timeout=_CLOSE_S, max_msg_size=MESSAGE_MAX, compress=False)
        await ws.prepare(request)
        with begun(request), hangup(socket_of(request).fileno()) as gone:
            await bridge(opening, ws, gone, self._closing)
        return ws


async def _write_lines(response: web.StreamResponse, items: AsyncIterator[dict[str, Any]]) -> None:
    try:
        async for item in items:
            await response.write(json.dumps(item).encode() + b"\n")
    except PopnetError as error:
        await response.write(json.dumps(encode_error(error)).encode() + b"\n")
    finally:
        if close := getattr(items, "aclose", None):
            await close()


async def _set(event: asyncio.Event) -> None:
    await event.wait()


def _name(request: web.Request) -> str:
    return request.match_info["kernel"]


def _params(request: web.Request) -> dict[str, Any]:
    text = request.query.get("params", "{}")
    try:
        params = json.loads(text)
    except ValueError:
        params = None
    if not isinstance(params, dict):
        raise Refused(f"params is not a JSON object: {text[:80]!r}")
    return params


async def _body(request: web.Request) -> dict[str, Any]:
    """The JSON object that a request brings; without a body, the empty one."""
    text = await request.text()
    try:
        body = json.loads(text or "{}")
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refused(f"the body is not a JSON object: {text[:80]!r}")
    return body


def _flag(request: web.Request, name: str, default: bool) -> bool:
    match request.query.get(name):
        case None:
            return default
        case "1" | "true":
            return True
        case "0" | "false":
            return False
        case other:
            raise Refused(f"{name} is 0 or 1, not {other[:80]!r}")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refused(f"not a number: {text[:80]!r}")
    return int(text)
