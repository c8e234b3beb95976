"""A program's connection to its kernel, for asyncio: the API of a kernel's endpoint, through its kernel."""

import contextlib
import itertools
from typing import Any, Self

from popnet.core.errors import PopnetError
from popnet.message.stream import Stream
from popnet.program import routed
from popnet.program.end import (
    ASK_TIMEOUT_S,
    CallHandler,
    KernelName,
    MessageHandler,
    NoticeHandler,
    ProgramEnd,
    StreamHandler,
)
from popnet.program.greeting import HOST
from popnet.program.group import ProgramGroup
from popnet.program.routed import Routed


class Connection(ProgramEnd):
    """What a program says to other kernels, and hears of them. For one event loop; its attributes are those
    of ProgramEnd."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._last_watch = 0
        self._parts: dict[str, ProgramGroup] = {}
        self._memberships = itertools.count(1)

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
        Refused, Overloaded, or the PopnetError that the other end raised.
        """
        self._check_size(body)
        request = routed.call_body(self._kid(kernel), kind, timeout_s, body)
        on_link = Routed.CALL_HIGH if high else Routed.CALL
        return await self._call(on_link, kernel, request, timeout_s, high)

    async def answer(self, kind: int, handler: CallHandler) -> None:
        """Let *handler* answer (from kid, body) of every call of *kind* to this kernel with a body. Raises
        Refused."""
        await self._register(self._answers, kind, handler, {"calls": kind})

    # Services by name

    async def register(
        self,
        name: str,
        version: int,
        on_message: MessageHandler | None = None,
        on_call: CallHandler | None = None,
    ) -> None:
        """Serve *name* in this kernel: messages (from kid, body) go to *on_message*, which must not block;
        calls are answered by *on_call*. Raises Refused, as `serve` does."""
        what = {
            "service": name,
            "version": version,
            "messages": on_message is not None,
            "calls": on_call is not None,
        }
        await self._register(self._named, name, (on_message, on_call), what)

    async def unregister(self, name: str) -> None:
        """Serve *name* no more."""
        await self._unregister(self._named, name, {"service": name})

    async def send(
        self,
        kernel: KernelName,
        service: str,
        body: bytes,
        high: bool = False,
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> None:
        """Send one message to *service* of *kernel*; those that wait for each other stay in order.

        Returns when this kernel has sent it on. Raises NoSuchService, NoSuchKernel, PeerDied, Overloaded,
        Refused, DeadlineExceeded.
        """
        kind = Routed.TO_HIGH if high else Routed.TO
        await self._call_named(kind, kernel, service, body, timeout_s, high)

    async def call_service(
        self, kernel: KernelName, service: str, body: bytes, timeout_s: float, high: bool = False
    ) -> bytes:
        """The answer of *service* of *kernel*. Raises as `call` does."""
        kind = Routed.CALL_OF_HIGH if high else Routed.CALL_OF
        return await self._call_named(kind, kernel, service, body, timeout_s, high)

    async def _call_named(
        self, kind: Routed, kernel: KernelName, service: str, body: bytes, timeout_s: float, high: bool
    ) -> bytes:
        self._check_size(body)
        request = routed.named_body(self._kid(kernel), service, timeout_s, body)
        return await self._call(kind, kernel, request, timeout_s, high)

    async def watch(self, pattern: str, callback: NoticeHandler) -> int:
        """Tell *callback* of kernels and services that come up and go down, each once, in order; what is
        there comes first, and services that this kernel's programs may not use never. *pattern* is a glob for
        `kernel/NAME` and `service/NAME`. The number is for `unwatch`. Raises Overloaded, Refused."""
        self._last_watch += 1
        number = self._last_watch
        self._watches[number] = callback
        try:
            await self._ask({"op": "watch", "number": number, "pattern": pattern}, ASK_TIMEOUT_S)
        except BaseException:
            del self._watches[number]
            raise
        return number

    async def unwatch(self, number: int) -> None:
        """No callback of this watch comes any more."""
        if self._watches.pop(number, None) is not None:
            await self._ask({"op": "unwatch", "number": number}, ASK_TIMEOUT_S)

    # Groups

    def group(self, name: str) -> ProgramGroup:
        """This program's part in the group of that name, for joining, sending and leaving. Two programs of
        one kernel are two members."""
        if name not in self._parts:
            self._parts[name] = ProgramGroup(self, name, self._memberships)
        return self._parts[name]

    # The end

    async def flush(self, timeout_s: float = ASK_TIMEOUT_S) -> None:
        """Wait until the kernel has taken everything that was sent before. Raises DeadlineExceeded,
        PeerDied."""
        await self._ask({"op": "flush"}, timeout_s)

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
        await self.stop()
