"""The programs inside a kernel that talk to other kernels: who they are, what they may, and what they
registered.

Theory of operation. Init makes the socket /run/popnet.sock in the kernel's root, because only init is in
there, and hands it over, listening, with its `ready`; the daemon accepts. The socket is everybody's inside
(mode 0666, owner root): a kernel's list of services is for all its programs alike. Who connects is known by
SO_PEERCRED, for the log and for the share that one user may have of the places.

Each program is a `Hosted`, with a link and an endpoint of its own; this is their house. What they registered
is in `registered`, their groups are in `memberships`, what they post is in `poster`; a program may use, and
be, none of the kernel's own services.

A program is bounded by its link, and all together by PLACES; so the kernel's own calls and streams always
find room.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from popnet.core import limits
from popnet.core.errors import (
    LinkViolation,
    Overloaded,
    PopnetError,
)
from popnet.kernel.memberships import Memberships
from popnet.kernel.permits import Permits
from popnet.kernel.places import Places
from popnet.kernel.poster import Poster
from popnet.kernel.registered import Registered
from popnet.message.endpoint import Endpoint
from popnet.message.membership import Member
from popnet.message.notice import Notice
from popnet.message.streamshell import LinkStream
from popnet.program.greeting import PROGRAM_FIRST, Greeting, refusal
from popnet.program.hosted import Hosted
from popnet.transport.handover import send_packet

log = logging.getLogger(__name__)

PROGRAMS_MAX: Final = 64
"""Programs of a kernel that may be connected at once; each has at most two windows and three descriptors."""

PROGRAMS_OF_USER_MAX: Final = 16
"""Of these, those of one user who is not root."""

WATCHES_MAX: Final = limits.WATCHES_MAX // 2
"""Patterns that all programs may watch: half of what their kernel may."""

_CREDENTIALS: Final = struct.Struct("3i")
"""struct ucred of SO_PEERCRED (unix(7)): pid, uid, gid."""

_ACCEPTED_MAX: Final = 16
"""Connections that one wake-up takes before others get their turn."""


class Programs:
    """The programs of one kernel.

    Args:
        endpoint: the kernel's own.
        connect: makes a link to a kernel.
        whoami: what every program is told; its `program` is not looked at.
        services, groups: what programs may use and join, see Permits.
        say: takes (level, text) of the kernel's log.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        connect: Callable[[int], Awaitable[None]],
        whoami: Greeting,
        services: tuple[str, ...] | None,
        groups: tuple[str, ...] | None,
        say: Callable[[str, str], None],
    ) -> None:
        self._endpoint = endpoint
        self._poster = Poster(endpoint, connect, self.count)
        self._whoami = whoami
        self._permits = Permits(whoami, services, groups, self.count)
        self._say = say
        self._listener: socket.socket | None = None
        self._programs: dict[int, tuple[Hosted, int]] = {}  # by number, with the uid
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_number = PROGRAM_FIRST - 1
        self._places = Places(whoami.kernel)
        self._registered = Registered(endpoint, self._permits, self._places, whoami, self.count)
        self._watches: dict[tuple[Hosted, int], int] = {}  # program and its number -> the endpoint's number
        self._memberships = Memberships(endpoint, self._permits, whoami.kernel, self._connected)
        self._counters: Counter[str] = Counter()

    def start(self, listener: socket.socket) -> None:
        """Accept programs at *listener*, which is this object's from now on."""
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def stop(self) -> None:
        """Let go of every program. Idempotent."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await self._poster.stop()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def counters(self) -> dict[str, int]:
        """`connected` to `memberships` are of now; the rest counts since the start."""
        return {
            **self._counters,
            "connected": len(self._programs),
            "streams": self._places.streams,
            "calls": self._places.calls,
            "registered": len(self._registered),
            "memberships": len(self._memberships),
        }

    # They come and go

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTED_MAX):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # out of descriptors, say: the program waits
                self.count("accept_failed")
                log.warning("programs: cannot accept: %s", error)
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(credentials)
        of_user = sum(other == uid for _, other in self._programs.values())
        if len(self._programs) >= PROGRAMS_MAX or (uid != 0 and of_user >= PROGRAMS_OF_USER_MAX):
            self.count("turned_away")
            error = Overloaded(
                f"kernel {self._whoami.kernel} has {len(self._programs)} programs connected already"
            )
            with sock, contextlib.suppress(OSError):
                send_packet(sock, refusal(error))
            return
        self._last_number += 1
        greeting = Greeting(**{**self._identity(), "program": self._last_number})
        name = f"program {pid} of kernel {self._whoami.kernel}"
        hosted = Hosted(sock, greeting, name, self)
        self._programs[hosted.number] = (hosted, uid)
        self.count("accepted")
        task = asyncio.get_running_loop().create_task(self._attend(hosted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _identity(self) -> dict[str, Any]:
        packet = self._whoami.packet()
        del packet["popnet"]
        return packet

    async def _attend(self, hosted: Hosted) -> None:
        """From a program's first packet to its end."""
        try:
            await hosted.run()
        except LinkViolation as error:
            self.count("violations")
            self._say("err", f"{hosted.name} dropped: {error}")
        except TimeoutError:
            self.count("silent")
        finally:
            del self._programs[hosted.number]
            self._registered.let_go(hosted)
            for program, number in [key for key in self._watches if key[0] is hosted]:
                self.unwatch(program, number)
            self._memberships.let_go(hosted)

    def _connected(self) -> list[Hosted]:
        return [hosted for hosted, _ in self._programs.values()]

    # What they register

    def register(self, program: Hosted, what: Mapping[str, Any]) -> None:
        self._registered.register(program, what)

    def unregister(self, program: Hosted, what: Mapping[str, Any]) -> None:
        self._registered.unregister(program, what)

    # What they want of others

    async def open(self, kid: int, service: str, params: dict[str, Any]) -> LinkStream:
        self._permits.check_service(service)
        self._permits.check_kid(kid)
        stream = await self._endpoint.open(kid, service, params)
        assert isinstance(stream, LinkStream)
        return stream

    async def call(self, kid: int, kind: int, body: bytes, timeout_s: float, high: bool) -> bytes:
        self._permits.check_kind(kind)
        self._permits.check_kid(kid)
        with self._places.call():
            return await self._endpoint.call(kid, kind, body, timeout_s, high)

    async def send_to(self, kid: int, service: str, body: bytes, timeout_s: float, high: bool) -> None:
        self._permits.check_service(service)
        self._permits.check_kid(kid)
        if not self._poster.has_room(kid):
            raise Overloaded(f"too much waits to be sent to kernel {kid}")
        with self._places.call():
            await self._endpoint.send(kid, service, body, high, timeout_s)
        self.count("posted")

    async def call_of(self, kid: int, service: str, body: bytes, timeout_s: float, high: bool) -> bytes:
        self._permits.check_service(service)
        self._permits.check_kid(kid)
        with self._places.call():
            return await self._endpoint.call_service(kid, service, body, timeout_s, high)

    def watch(self, program: Hosted, number: int, pattern: str) -> None:
        if len(self._watches) >= WATCHES_MAX:
            raise Overloaded(
                f"the programs of kernel {self._whoami.kernel} watch {WATCHES_MAX} patterns already"
            )
        if (program, number) in self._watches:
            raise LinkViolation(f"watch {number} is there already")

        def noticed(notice: Notice) -> None:
            if self._permits.may_see(notice):
                program.notice(number, notice)

        self._watches[program, number] = self._endpoint.watch(pattern, noticed)

    def unwatch(self, program: Hosted, number: int) -> None:
        watch = self._watches.pop((program, number), None)
        if watch is not None:
            self._endpoint.unwatch(watch)

    async def join(self, program: Hosted, number: int, name: str, timeout_s: float) -> Member:
        return await self._memberships.join(program, number, name, timeout_s)

    async def leave(self, program: Hosted, number: int, timeout_s: float) -> None:
        await self._memberships.leave(program, number, timeout_s)

    async def send_group(self, program: Hosted, number: int, body: bytes, timeout_s: float) -> None:
        with self._places.call():
            await self._memberships.send(program, number, body, timeout_s)

    def hold(self, program: Hosted, number: int, full: bool) -> None:
        self._memberships.hold(program, number, full)

    def post(self, kid: int, kind: int, body: bytes, high: bool) -> None:
        try:
            self._permits.check_kind(kind)
            self._permits.check_kid(kid)
        except PopnetError:
            self.count("dropped")
        else:
            self._poster.post(kid, kind, body, high)

    def stream(self) -> AbstractContextManager[None]:
        return self._places.stream()

    def count(self, name: str) -> None:
        self._counters[name] += 1
