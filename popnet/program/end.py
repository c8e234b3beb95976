"""A program's end of its link, behind `Connection`: what is registered, and what comes from the kernel.

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
from typing import Any, Final, TypeAlias

from popnet.core import limits
from popnet.core.errors import (
    DeadlineExceeded,
    LinkViolation,
    NoSuchKernel,
    NoSuchService,
    PeerDied,
    PopnetError,
)
from popnet.message import codec
from popnet.message.endpoint import Endpoint
from popnet.message.membership import Member
from popnet.message.notice import Notice
from popnet.message.stream import Stream
from popnet.program import routed
from popnet.program.greeting import HOST, PROGRAM_GENERATION, Greeting
from popnet.program.group import ProgramGroup
from popnet.program.routed import Routed
from popnet.program.socketlink import SocketLink
from popnet.transport._native import Link

ASK_TIMEOUT_S: Final = 5.0
"""Seconds that a kernel may take to greet, and to take a registration."""

KernelName: TypeAlias = str | int
"""A kernel by its name, or by its kid."""

StreamHandler: TypeAlias = Callable[[Stream], Awaitable[None]]
MessageHandler: TypeAlias = Callable[[int, bytes], None]
CallHandler: TypeAlias = Callable[[int, bytes], Awaitable[bytes]]
NoticeHandler: TypeAlias = Callable[[Notice], None]


class ProgramEnd:
    """See the module.

    Attributes:
        kid, kernel, generation: of the kernel that the program runs in.
        machine: the machine's name.
        program: the number of this connection in its kernel.
        attached: whether records ride a ring of its own, rather than the socket.
        on_closed: called when the kernel, or the connection to it, is gone.
    """

    def __init__(self, greeting: Greeting, sock: socket.socket, attached: bool, bell: int) -> None:
        """For `dialing`."""
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
        self._closed = asyncio.Event()
        self.on_closed: Callable[[], None] = lambda: None
        self._services: dict[str, StreamHandler] = {}
        self._named: dict[str, tuple[MessageHandler | None, CallHandler | None]] = {}
        self._handlers: dict[int, MessageHandler] = {}
        self._answers: dict[int, CallHandler] = {}
        self._watches: dict[int, NoticeHandler] = {}
        self._groups: dict[int, ProgramGroup] = {}
        self._endpoint = Endpoint(self.program, PROGRAM_GENERATION, bell, _never, routed.FORMS)
        self._endpoint.serve(routed.OFFER, self._offered)
        self._endpoint.on(Routed.SEND, self._sent)
        self._endpoint.answer(Routed.CALL, self._called)
        self._endpoint.on(Routed.TO, self._sent_to)
        self._endpoint.answer(Routed.CALL_OF, self._called_of)
        self._endpoint.on(Routed.NOTICE, self._noticed)
        self._endpoint.on(Routed.GROUP, self._group_message)
        self._endpoint.on(Routed.VIEW, self._viewed)
        self._endpoint.on_peer_down(lambda kid, reason: self._ended())

    # Its life

    def start(self, link: SocketLink | Link) -> None:
        """Begin, with what was agreed on."""
        self._link = link
        self._endpoint.start()
        self._endpoint.add_link(HOST, self.generation, link)
        if self.attached:
            asyncio.get_running_loop().add_reader(self._sock, self._lost)

    def wake(self) -> None:
        """The socket has something."""
        self._endpoint.wake()

    async def stop(self) -> None:
        """End every stream and call, and the connection."""
        link, self._link = self._link, None
        await self._endpoint.stop()
        self._ended()
        if self.attached:
            asyncio.get_running_loop().remove_reader(self._sock)
        if link is not None:
            link.close()
        self._sock.close()
        os.close(self._bell)

    @property
    def closed(self) -> bool:
        """Whether the kernel, or the connection to it, is gone."""
        return self._closed.is_set()

    def _ended(self) -> None:
        self._closed.set()
        self.on_closed()

    def _lost(self) -> None:
        """The socket of an attached program says one thing: the kernel has dropped it."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._endpoint.remove_link(HOST, f"kernel {self.kernel} closed the connection")

    # Registrations, and calls of the kernel

    async def _register(self, table: dict[Any, Any], name: Any, handler: Any, what: dict[str, Any]) -> None:
        assert name not in table, f"{name} is registered already"
        table[name] = handler
        try:
            await self._ask({"op": "register", **what}, ASK_TIMEOUT_S)
        except BaseException:
            del table[name]
            raise

    async def _unregister(self, table: dict[Any, Any], name: Any, what: dict[str, Any]) -> None:
        if name in table:
            await self._ask({"op": "unregister", **what}, ASK_TIMEOUT_S)
            table.pop(name, None)

    async def _ask(self, request: dict[str, Any], timeout_s: float) -> bytes:
        return await self._endpoint.call(HOST, Routed.ASK, codec.json_bytes(request), timeout_s)

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

    async def _call(
        self, kind: Routed, kernel: KernelName, request: bytes, timeout_s: float, high: bool
    ) -> bytes:
        try:
            return await self._endpoint.call(HOST, kind, request, timeout_s, high)
        except DeadlineExceeded:
            raise DeadlineExceeded(f"kernel {kernel} did not answer within {timeout_s} s") from None

    # What comes from the kernel

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
            self._hand(f"a message of kind {kind}", lambda: handler(kid, inner))

    def _sent_to(self, kernel: int, body: bytes) -> None:
        kid, service, _, inner = routed.named(body)
        on_message, _ = self._named.get(service, (None, None))
        if on_message is not None:
            self._hand(f"a message for service {service!r}", lambda: on_message(kid, inner))

    def _hand(self, what: str, handle: Callable[[], None]) -> None:
        """What a handler of the program's finds is nonsense of some other program, not of the kernel."""
        try:
            handle()
        except LinkViolation as error:
            self._endpoint.nonsense(what, error)

    async def _called(self, kernel: int, body: bytes) -> bytes:
        kid, kind, timeout_s, inner = routed.called(body)
        return await self._answered(self._answers.get(kind), f"calls of kind {kind}", kid, inner, timeout_s)

    async def _called_of(self, kernel: int, body: bytes) -> bytes:
        kid, service, timeout_s, inner = routed.named(body)
        _, on_call = self._named.get(service, (None, None))
        return await self._answered(on_call, f"calls of service {service!r}", kid, inner, timeout_s)

    async def _answered(
        self, handler: CallHandler | None, what: str, kid: int, body: bytes, timeout_s: float
    ) -> bytes:
        if handler is None:
            raise NoSuchService(f"kernel {self.kernel} answers no {what}")
        try:
            async with asyncio.timeout(timeout_s):  # whoever asked waits no longer
                return await handler(kid, body)
        except TimeoutError:
            raise DeadlineExceeded(f"kernel {self.kernel} had no answer within {timeout_s} s") from None

    def _noticed(self, kernel: int, body: bytes) -> None:
        match codec.json_object(body):
            case {"watch": int(number), "notice": list(value)} if number in self._watches:
                self._watches[number](Notice.of_json(value))

    # What groups ask

    async def join(self, group: "ProgramGroup", number: int, name: str, timeout_s: float) -> Member:
        """Into a group; for ProgramGroup."""
        self._groups[number] = group
        request = {"op": "join", "number": number, "group": name, "ms": routed.milliseconds(timeout_s)}
        try:
            answer = await self._ask(request, timeout_s)
        except (DeadlineExceeded, asyncio.CancelledError):  # the kernel may have joined just then
            if self._endpoint.running:
                self._endpoint.spawn(self._withdraw(number))
            raise
        return routed.member_of(codec.json_object(answer).get("member"))

    async def _withdraw(self, number: int) -> None:
        with contextlib.suppress(PopnetError):
            await self.leave(number, ASK_TIMEOUT_S)

    async def leave(self, number: int, timeout_s: float) -> None:
        """Out of it; for ProgramGroup."""
        await self._ask({"op": "leave", "number": number, "ms": routed.milliseconds(timeout_s)}, timeout_s)

    def forget(self, number: int) -> None:
        """What comes of that membership is nobody's."""
        self._groups.pop(number, None)

    async def send_group(self, number: int, body: bytes, timeout_s: float) -> None:
        """To all members; for ProgramGroup."""
        self._check_size(body)
        request = routed.group_send_body(number, timeout_s, body)
        await self._endpoint.call(HOST, Routed.GROUP, request, timeout_s)

    def hold(self, number: int, full: bool) -> bool:
        """Whether the kernel will be told; for ProgramGroup."""
        return self._endpoint.post(HOST, Routed.HOLD, routed.hold_body(number, full))

    def _group_message(self, kernel: int, body: bytes) -> None:
        number, member, inner = routed.group_message(body)
        if number in self._groups:
            self._hand("a message of a group", lambda: self._groups[number].received(member, inner))

    def _viewed(self, kernel: int, body: bytes) -> None:
        number, view, members = routed.group_view(body)
        if number in self._groups:
            self._groups[number].installed(view, members)


async def _never(kid: int) -> None:
    raise PeerDied("the connection to the kernel is gone")
