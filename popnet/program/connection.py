"""A program's connection to its kernel, for asyncio; and `connect`, which makes it.

Theory of operation. The program has an Endpoint of its own with one link, to its kernel's daemon, which
forwards (`routed` says what rides that link). So everything an endpoint promises (order, credit, deadlines,
one error for each end) holds here too. What is registered is registered twice: with the kernel, which may say
no, and here. When the kernel or the connection goes, every stream and call ends with PeerDied, and
`wait_closed` returns.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, Self, TypeAlias

from popnet.core import limits
from popnet.core.errors import (
    DeadlineExceeded,
    NoSuchKernel,
    NoSuchService,
    PeerDied,
    PopnetError,
    Unavailable,
)
from popnet.message import codec
from popnet.message.endpoint import Endpoint
from popnet.message.stream import Stream
from popnet.program import routed
from popnet.program.greeting import (
    HOST,
    PROGRAM_GENERATION,
    SOCKET_PATH,
    VERSION,
    Greeting,
    Half,
    closing,
    greeting_of,
)
from popnet.program.routed import Routed
from popnet.program.socketlink import SocketLink
from popnet.transport import doorbell
from popnet.transport._native import Link
from popnet.transport.handover import receive_packet, send_packet

CONNECT_TIMEOUT_S: Final = 5.0
"""Seconds that a kernel may take to greet, and to take a registration."""

_RETRY_S: Final = 0.01
"""Seconds until the next try when too many programs connect at once."""

KernelName: TypeAlias = str | int
"""A kernel by its name, or by its kid."""

StreamHandler: TypeAlias = Callable[[Stream], Awaitable[None]]
MessageHandler: TypeAlias = Callable[[int, bytes], None]
CallHandler: TypeAlias = Callable[[int, bytes], Awaitable[bytes]]


class Connection:
    """What a program says to other kernels, and hears of them. For one event loop.

    Attributes:
        kid, kernel, generation: of the kernel that the program runs in.
        machine: the machine's name.
        program: the number of this connection in its kernel.
        attached: whether records ride a ring of its own, rather than the socket.
    """

    def __init__(self, greeting: Greeting, sock: socket.socket, attached: bool, bell: int) -> None:
        """For `open_connection`."""
        self.kid = greeting.kid
        self.kernel = greeting.kernel
        self.generation = greeting.generation
        self.machine = greeting.machine
        self.program = greeting.program
        self.attached = attached
        self._kernels = greeting.kernels
        self._sock = sock
        self._bell = bell
        self._link: SocketLink | Link | None = None
        self._services: dict[str, StreamHandler] = {}
        self._handlers: dict[int, MessageHandler] = {}
        self._answers: dict[int, CallHandler] = {}
        self._closed = asyncio.Event()
        self._endpoint = Endpoint(self.program, PROGRAM_GENERATION, bell, _never)
        self._endpoint.serve(routed.OFFER, self._offered)
        self._endpoint.on(Routed.SEND, self._sent)
        self._endpoint.answer(Routed.CALL, self._called)
        self._endpoint.on_peer_down(lambda kid, reason: self._closed.set())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def kernels(self) -> dict[str, int]:
        """Name -> kid of every kernel of the machine, whether it runs or not."""
        return dict(self._kernels)

    def counters(self) -> dict[str, int]:
        """What the program's endpoint counted; see `Endpoint.counters`."""
        return self._endpoint.counters()

    # Streams

    async def open(self, kernel: KernelName, service: str, params: dict[str, Any] | None = None) -> Stream:
        """A stream to *service* of *kernel*, once that has accepted it.

        Raises:
            Refused: this kernel does not let its programs use the service; or the service said no.
            NoSuchKernel, NoSuchService, PeerDied, or whatever PopnetError the service raised.
        """
        kid, params = self._kid(kernel), params or {}
        request = {"kernel": kid, "service": service, "params": params}
        stream = await self._endpoint.open(HOST, routed.OPEN, request)
        stream.service, stream.params, stream.peer = service, params, kid
        return stream

    async def serve(self, service: str, handler: StreamHandler) -> None:
        """Let *handler* have every stream that is opened for *service* of this kernel.

        Raises Refused: the kernel does not let its programs serve it, or another program does.
        """
        await self._register(self._services, service, handler, {"service": service})

    async def unserve(self, service: str) -> None:
        """Take no new streams for *service*; those there are go on."""
        await self._unregister(self._services, service, {"service": service})

    # Messages and calls

    def post(self, kernel: KernelName, kind: int, body: bytes, high: bool = False) -> bool:
        """Send one message of a user's *kind* (from kinds.USER_FIRST). In order for each kernel and priority.

        False: too much waits already, nothing is sent. What the kernel then may not or cannot send on is
        dropped and counted there; use `call` for what must arrive.
        """
        self._check_size(body)
        routed_kind = Routed.SEND_HIGH if high else Routed.SEND
        return self._endpoint.post(HOST, routed_kind, routed.send_body(self._kid(kernel), kind, body), high)

    async def on(self, kind: int, handler: MessageHandler) -> None:
        """Let *handler* have (from kid, body) of every message of *kind* to this kernel. Raises Refused."""
        await self._register(self._handlers, kind, handler, {"messages": kind})

    async def call(
        self, kernel: KernelName, kind: int, body: bytes, timeout_s: float, high: bool = False
    ) -> bytes:
        """The answer of *kernel* to a call of a user's *kind*.

        Raises DeadlineExceeded, PeerDied, NoSuchKernel, NoSuchService (nobody answers that kind there),
        Refused, Unavailable, or the PopnetError that the other end raised.
        """
        self._check_size(body)
        request = routed.call_body(self._kid(kernel), kind, timeout_s, body)
        try:
            routed_kind = Routed.CALL_HIGH if high else Routed.CALL
            return await self._endpoint.call(HOST, routed_kind, request, timeout_s, high)
        except DeadlineExceeded:
            raise DeadlineExceeded(f"kernel {kernel} did not answer within {timeout_s} s") from None

    async def answer(self, kind: int, handler: CallHandler) -> None:
        """Let *handler* answer (from kid, body) of every call of *kind* to this kernel with a body. Raises
        Refused."""
        await self._register(self._answers, kind, handler, {"calls": kind})

    async def flush(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Wait until the kernel has taken everything that was sent before. Raises DeadlineExceeded,
        PeerDied."""
        await self._ask({"op": "flush"}, timeout_s)

    # The end

    async def wait_closed(self) -> None:
        """Wait until the kernel, or the connection to it, is gone."""
        await self._closed.wait()

    async def close(self) -> None:
        """Hand over what was sent, then end every stream and call, and the connection. Idempotent."""
        if self._link is None:
            return
        if not self._closed.is_set():
            with contextlib.suppress(PopnetError):
                await self.flush(1.0)
        await self._stop()

    async def _stop(self) -> None:
        link, self._link = self._link, None
        await self._endpoint.stop()
        self._closed.set()
        if self.attached:
            asyncio.get_running_loop().remove_reader(self._sock)
        if link is not None:
            link.close()
        self._sock.close()
        os.close(self._bell)

    # What is behind

    def _start(self, link: SocketLink | Link) -> None:
        self._link = link
        self._endpoint.add_link(HOST, self.generation, link)
        if self.attached:
            asyncio.get_running_loop().add_reader(self._sock, self._lost)

    def _lost(self) -> None:
        """The socket of an attached program says one thing: the kernel has dropped it."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._endpoint.remove_link(HOST, f"kernel {self.kernel} closed the connection")

    async def _register(self, table: dict[Any, Any], name: Any, handler: Any, what: dict[str, Any]) -> None:
        assert name not in table, f"{name} is registered already"
        table[name] = handler
        try:
            await self._ask({"op": "register", **what}, CONNECT_TIMEOUT_S)
        except BaseException:
            del table[name]
            raise

    async def _unregister(self, table: dict[Any, Any], name: Any, what: dict[str, Any]) -> None:
        if name in table:
            await self._ask({"op": "unregister", **what}, CONNECT_TIMEOUT_S)
            table.pop(name, None)

    async def _ask(self, request: dict[str, Any], timeout_s: float) -> None:
        await self._endpoint.call(HOST, Routed.ASK, codec.json_bytes(request), timeout_s)

    def _kid(self, kernel: KernelName) -> int:
        if isinstance(kernel, int):
            return kernel
        if kernel not in self._kernels:
            names = ", ".join(self._kernels)
            raise NoSuchKernel(
                f"machine {self.machine} has no kernel {kernel!r}", f"Its kernels are {names}."
            )
        return self._kernels[kernel]

    @staticmethod
    def _check_size(body: bytes) -> None:
        most = limits.MESSAGE_SIZE_MAX - routed.HEADER_SIZE_MAX
        if len(body) > most:
            raise ValueError(f"a message of {len(body)} bytes; at most {most} for a program")

    async def _offered(self, stream: Stream) -> None:
        kid, service, params = routed.opened(stream.params, "from")
        handler = self._services.get(service)
        if handler is None:
            raise NoSuchService(f"kernel {self.kernel} has no service {service!r}")
        stream.service, stream.params, stream.peer = service, params, kid
        await handler(stream)

    def _sent(self, kernel: int, body: bytes) -> None:
        kid, kind, inner = routed.sent(body)
        handler = self._handlers.get(kind)
        if handler is not None:  # else it was on its way when the handler went
            handler(kid, inner)

    async def _called(self, kernel: int, body: bytes) -> bytes:
        kid, kind, timeout_s, inner = routed.called(body)
        handler = self._answers.get(kind)
        if handler is None:
            raise NoSuchService(f"kernel {self.kernel} answers no calls of kind {kind}")
        try:
            async with asyncio.timeout(timeout_s):  # whoever asked waits no longer
                return await handler(kid, inner)
        except TimeoutError:
            raise DeadlineExceeded(f"kernel {self.kernel} had no answer within {timeout_s} s") from None


async def open_connection(path: str = SOCKET_PATH, attach: bool = False) -> Connection:
    """Connect to the kernel whose socket is at *path*; see `popnet.connect`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bell = doorbell.create_doorbell()
    connection = None
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            sock.setblocking(False)
            await _dial(sock, path)
            greeting = greeting_of(await _packet(sock))
            connection = Connection(greeting, sock, attach, bell)
            connection._endpoint.start()
            connection._start(await _link(connection, greeting, sock, bell))
            return connection
    except BaseException as error:
        if connection is not None:
            await connection._stop()
        else:
            sock.close()
            os.close(bell)
        if isinstance(error, TimeoutError):
            raise Unavailable(f"the kernel at {path} did not greet within {CONNECT_TIMEOUT_S} s") from None
        raise


async def _link(
    connection: Connection, greeting: Greeting, sock: socket.socket, bell: int
) -> SocketLink | Link:
    if not connection.attached:
        send_packet(sock, {"popnet": VERSION, "attach": False})
        end = f"kernel {greeting.kernel} closed the connection"
        return SocketLink(sock, connection._endpoint.wake, end)
    half = Half((greeting.program, PROGRAM_GENERATION), (HOST, greeting.generation), bell)
    half.offer(sock, {"popnet": VERSION, "attach": True})
    packet, fds = await _packet_and_descriptors(sock)
    if "error" in packet:
        with closing(fds):
            raise codec.error_of(packet["error"])
    return half.complete(fds)


async def _dial(sock: socket.socket, path: str) -> None:
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:  # too many connect at once
            await asyncio.sleep(_RETRY_S)
        except OSError as error:
            raise Unavailable(
                f"no popnet kernel answers at {path}: {error.strerror}",
                "this is for programs inside a kernel: `popnet exec k1 -- python3 program.py`",
            ) from None
        else:
            return


async def _packet(sock: socket.socket) -> dict[str, Any]:
    packet, fds = await _packet_and_descriptors(sock)
    with closing(fds):
        return packet


async def _packet_and_descriptors(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    loop = asyncio.get_running_loop()
    while True:
        try:
            received = receive_packet(sock)
        except BlockingIOError:
            readable = asyncio.Event()
            loop.add_reader(sock, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(sock)
            continue
        if received is None:
            raise PeerDied("the kernel closed the connection")
        return received


async def _never(kid: int) -> None:
    raise PeerDied("the connection to the kernel is gone")
