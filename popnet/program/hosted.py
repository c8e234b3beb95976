"""The kernel's end of one program: its greeting, its link, and what it asks for.

Theory of operation. Each program has an Endpoint of its own in the daemon, with one link: over the program's
socket, or over two windows that were exchanged over it. So a program is bounded as any peer is (budget a
turn, credit, outbox), and what it breaks is its own link. Whatever it wants of others goes through the
*house*, which knows what is allowed.

    accepted --greeting, answer--> linked --socket ends, nonsense, or the kernel stops--> over

Forbidden: anything before the answer, anything on the socket of an attached program; both are nonsense. Over
means at once: its streams, in both directions, and its calls end with PeerDied at whoever holds the other
end, and what it had registered is gone. What an attached program left in its ring is taken first: a dead one
adds nothing to it.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from popnet.core.errors import LinkViolation, PeerDied, Refused
from popnet.message import codec
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import Ring
from popnet.message.membership import Member
from popnet.message.notice import Notice
from popnet.message.stream import Stream
from popnet.message.streamshell import LinkStream
from popnet.program import routed
from popnet.program.admission import admit
from popnet.program.greeting import HOST, PROGRAM_GENERATION, Greeting
from popnet.program.house import House
from popnet.program.routed import Routed
from popnet.program.socketlink import SocketLink
from popnet.program.splice import splice
from popnet.transport import doorbell
from popnet.transport._native import Link, LinkClosed, Violation

GREETING_TIMEOUT_S: Final = 5.0
"""Seconds a program has to answer the greeting: until then it holds a place and nothing else."""

WAITING_MAX: Final = 1 << 20
"""Bytes of messages that may wait for a program that does not read; more are dropped, and counted."""

_LAST_TURNS_MAX: Final = 256
"""Turns that what a dead program left in its rings may take; a full ring of the smallest records takes 64."""


Answer: TypeAlias = Callable[[int, bytes], Coroutine[Any, Any, bytes]]


class Hosted:
    """One program.

    Attributes:
        name: as the log and errors show it.
        attached: known once linked.
        over: done, with why, when the program is gone; or with the LinkViolation that made it go.
    """

    def __init__(self, sock: socket.socket, greeting: Greeting, name: str, house: House) -> None:
        sock.setblocking(False)
        self.number = greeting.program
        self.name = name
        self.attached = False
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._sock = sock
        self._greeting = greeting
        self._house = house
        self._bell = doorbell.create_doorbell()
        self._link: SocketLink | Link | None = None
        self._streams: set[LinkStream] = set()
        self._last_turns = _LAST_TURNS_MAX
        self.endpoint = Endpoint(HOST, greeting.generation, self._bell, _never, routed.FORMS)
        self.endpoint.serve(routed.OPEN, self._open)
        self.endpoint.on(Routed.SEND, self._send(high=False))
        self.endpoint.on(Routed.SEND_HIGH, self._send(high=True))
        self.endpoint.answer(Routed.CALL, self._call(high=False))
        self.endpoint.answer(Routed.CALL_HIGH, self._call(high=True))
        for kind, of_kind in ((Routed.TO, self._send_to), (Routed.CALL_OF, self._call_of)):
            self.endpoint.answer(kind, of_kind(high=False))
            self.endpoint.answer(kind + 1, of_kind(high=True))
        self.endpoint.answer(Routed.ASK, self._ask)
        self.endpoint.answer(Routed.GROUP, self._send_group)
        self.endpoint.on(Routed.HOLD, self._hold)
        self.endpoint.on_violation = lambda kid, text: self._end(LinkViolation(text))
        self.endpoint.on_peer_down(lambda kid, reason: self._end(reason))

    async def run(self) -> str:
        """Be the program's kernel until it is gone; why it went. Raises LinkViolation, TimeoutError."""
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                link = await admit(self._sock, self._greeting, self._bell, self.endpoint.wake, self.name)
            if link is None:
                return f"{self.name} ended"
            self._link = link
            self.attached = isinstance(link, Link)
            self.endpoint.start()
            self.endpoint.add_link(self.number, PROGRAM_GENERATION, link)
            if self.attached:
                asyncio.get_running_loop().add_reader(self._sock, self._socket_ended)
            return await self.over
        finally:
            await self._clean_up()

    async def offer(self, stream: LinkStream) -> None:
        """Give the program a stream that was opened for one of its services."""
        with self._house.stream():
            params = {"from": stream.peer, "service": stream.service, "params": stream.params}
            await self._join(
                stream, _link_stream(await self.endpoint.open(self.number, routed.OFFER, params))
            )

    def deliver(self, kid: int, kind: int, body: bytes) -> bool:
        """Give the program a message; False: it is too far behind."""
        if self.behind:
            return False
        return self.endpoint.post(self.number, Routed.SEND, routed.send_body(kid, kind, body))

    async def ask(self, kid: int, kind: int, body: bytes, timeout_s: float) -> bytes:
        """What the program answers to a call."""
        request = routed.call_body(kid, kind, timeout_s, body)
        return await self.endpoint.call(self.number, Routed.CALL, request, timeout_s)

    def deliver_to(self, service: str, kid: int, body: bytes) -> bool:
        """Give the program a message to one of its services; False: it is too far behind."""
        if self.behind:
            return False
        return self.endpoint.post(self.number, Routed.TO, routed.named_body(kid, service, 0, body))

    async def ask_of(self, service: str, kid: int, body: bytes, timeout_s: float) -> bytes:
        """What one of the program's services answers to a call."""
        request = routed.named_body(kid, service, timeout_s, body)
        return await self.endpoint.call(self.number, Routed.CALL_OF, request, timeout_s)

    def notice(self, number: int, notice: Notice) -> None:
        """Tell of a change. A program that is too far behind to be told is let go of: it would never know."""
        body = codec.json_bytes({"watch": number, "notice": notice.to_json()})
        if self.behind or not self.endpoint.post(self.number, Routed.NOTICE, body):
            self.let_go("does not read what it watches")

    def group_message(self, number: int, member: Member, body: bytes) -> None:
        """Give the program a message of a group. One that has no room for it is let go of."""
        if not self.endpoint.post(self.number, Routed.GROUP, routed.group_body(number, member, body)):
            self.let_go("does not read what comes of its groups")

    def view(self, number: int, view: int, members: list[Member]) -> None:
        """Tell who is in a group of the program's now."""
        body = codec.json_bytes({"group": number, "view": view, "members": members})
        if not self.endpoint.post(self.number, Routed.VIEW, body):
            self.let_go("does not read what comes of its groups")

    @property
    def waiting_size(self) -> int:
        """Bytes that wait for the program."""
        return self.endpoint.waiting_size(self.number)

    @property
    def behind(self) -> bool:
        """Whether more waits for the program than should."""
        return self.waiting_size > WAITING_MAX

    def when_read(self, callback: Callable[[], None]) -> None:
        """Call *callback* once nothing waits for the program; never, if it ends before."""

        async def wait() -> None:
            with contextlib.suppress(PeerDied):
                await (await self.endpoint.linked(self.number)).drained(Ring.NORMAL)
                callback()

        if self.endpoint.running:
            self.endpoint.spawn(wait())

    def let_go(self, why: str) -> None:
        """End it: it would miss something, and never know."""
        self._end(f"{self.name} {why}")

    # What it asks for

    async def _open(self, stream: Stream) -> None:
        kid, service, params = routed.opened(stream.params, "kernel")
        with self._house.stream():
            await self._join(_link_stream(stream), await self._house.open(kid, service, params))

    async def _join(self, offered: LinkStream, opened: LinkStream) -> None:
        """Splice them. The end of the program ends the other one at once, whatever direction is still
        open."""
        theirs = opened if offered.peer == self.number else offered
        self._streams.add(theirs)
        try:
            await splice(offered, opened)
        finally:
            self._streams.discard(theirs)

    def _send(self, high: bool) -> Callable[[int, bytes], None]:
        def send(number: int, body: bytes) -> None:
            kid, kind, inner = routed.sent(body)
            self._house.post(kid, kind, inner, high)

        return send

    def _call(self, high: bool) -> Answer:
        async def call(number: int, body: bytes) -> bytes:
            kid, kind, timeout_s, inner = routed.called(body)
            return await self._house.call(kid, kind, inner, timeout_s, high)

        return call

    def _send_to(self, high: bool) -> Answer:
        async def send_to(number: int, body: bytes) -> bytes:
            kid, service, timeout_s, inner = routed.named(body)
            await self._house.send_to(kid, service, inner, timeout_s, high)
            return b""

        return send_to

    def _call_of(self, high: bool) -> Answer:
        async def call_of(number: int, body: bytes) -> bytes:
            kid, service, timeout_s, inner = routed.named(body)
            return await self._house.call_of(kid, service, inner, timeout_s, high)

        return call_of

    async def _ask(self, number: int, body: bytes) -> bytes:
        match codec.json_object(body):
            case {"op": "register", **what}:
                self._house.register(self, what)
            case {"op": "unregister", **what}:
                self._house.unregister(self, what)
            case {"op": "watch", "number": int(watch), "pattern": str(pattern)}:
                self._house.watch(self, watch, pattern)
            case {"op": "unwatch", "number": int(watch)}:
                self._house.unwatch(self, watch)
            case {"op": "join", "number": int(mine), "group": str(name), "ms": int(ms)}:
                member = await self._house.join(self, mine, name, ms / 1000)
                return codec.json_bytes({"member": member})
            case {"op": "leave", "number": int(mine), "ms": int(ms)}:
                await self._house.leave(self, mine, ms / 1000)
            case {"op": "flush"}:
                pass
            case _:
                raise Refused("asked for nothing that there is")
        return b""

    async def _send_group(self, number: int, body: bytes) -> bytes:
        mine, timeout_s, inner = routed.group_send(body)
        await self._house.send_group(self, mine, inner, timeout_s)
        return b""

    def _hold(self, number: int, body: bytes) -> None:
        mine, full = routed.held(body)
        self._house.hold(self, mine, full)

    # Its end

    def _end(self, why: str | LinkViolation) -> None:
        if self.over.done():
            return
        if isinstance(why, LinkViolation):
            self.over.set_exception(why)
        else:
            self.over.set_result(why)

    def _socket_ended(self) -> None:
        """The program is gone, or speaks where it may not; what it left in its rings is taken first."""
        asyncio.get_running_loop().remove_reader(self._sock)
        try:
            said = self._sock.recv(1)
        except OSError:
            said = b""
        if said:
            self._end(LinkViolation("spoke on the socket of an attached program"))
        else:
            self._take_what_is_left()

    def _take_what_is_left(self) -> None:
        link = self._link
        assert isinstance(link, Link)
        if self.over.done():
            return
        self._last_turns -= 1
        try:
            empty = link.arm(Ring.HIGH) and link.arm(Ring.NORMAL)
        except (Violation, LinkClosed):
            empty = True
        if empty or not self._last_turns:
            self._end(f"{self.name} ended")
            return
        self.endpoint.wake()
        asyncio.get_running_loop().call_soon(self._take_what_is_left)

    async def _clean_up(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        reason = f"{self.name} ended"
        for stream in tuple(self._streams):
            stream.fail(PeerDied(reason))
        if self._link is not None:
            self.endpoint.remove_link(self.number, reason)
            self._link.close()
        await self.endpoint.stop()
        self._sock.close()
        os.close(self._bell)


def _link_stream(stream: Stream) -> LinkStream:
    assert isinstance(stream, LinkStream), "endpoints make no others"
    return stream


async def _never(kid: int) -> None:
    raise PeerDied(f"program {kid} is gone")
