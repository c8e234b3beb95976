"""The programs inside a kernel that talk to other kernels: who they are, what they may, and what they
registered.

Theory of operation. Init makes the socket /run/popnet.sock in the kernel's root, because only init is in
there, and hands it over, listening, with its `ready`; the daemon accepts. The socket is everybody's inside
(mode 0666, owner root): a kernel's list of services is for all its programs alike. Who connects is known by
SO_PEERCRED, for the log and for the share that one user may have of the places.

Each program is a `Hosted`, with a link and an endpoint of its own; this is their house. It owns the names: a
service, or the messages or calls of a kind, belong to one program at a time, and are let go of when that
ends. Others reach them through the kernel's endpoint, as they reach the kernel's own services; a program may
use, and be, none of those.

A program is bounded by its link, and all together by PLACES; so the kernel's own calls and streams always
find room.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from popnet.core import limits
from popnet.core.errors import (
    LinkViolation,
    NoSuchService,
    Overloaded,
    PopnetError,
    Refused,
)
from popnet.kernel.memberships import Memberships
from popnet.kernel.permits import Permits
from popnet.kernel.poster import Poster
from popnet.message.endpoint import Endpoint
from popnet.message.membership import Member
from popnet.message.notice import Notice
from popnet.message.stream import Stream
from popnet.message.streamshell import LinkStream
from popnet.program.greeting import PROGRAM_FIRST, Greeting, refusal
from popnet.program.hosted import Hosted
from popnet.transport.handover import send_packet

log = logging.getLogger(__name__)

PROGRAMS_MAX: Final = 64
"""Programs of a kernel that may be connected at once; each has at most two windows and three descriptors."""

PROGRAMS_OF_USER_MAX: Final = 16
"""Of these, those of one user who is not root."""

PLACES: Final = limits.STREAMS_MAX // 2
"""Streams, and as many calls, that all programs of a kernel may have at once: half of what a peer grants a
kernel."""

REGISTERED_MAX: Final = 256
"""Services, kinds of messages and kinds of calls that all programs may have registered."""

WATCHES_MAX: Final = limits.WATCHES_MAX // 2
"""Patterns that all programs may watch: half of what their kernel may."""

CALL_TIMEOUT_S: Final = 60.0
"""Seconds a program may take to answer: how long its caller waits is not on the wire."""

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
        self._owners: dict[tuple[str, str | int], Hosted] = {}
        self._watches: dict[tuple[Hosted, int], int] = {}  # program and its number -> the endpoint's number
        self._memberships = Memberships(endpoint, self._permits, whoami.kernel, self._connected)
        self._streams = 0
        self._calls = 0
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
            "streams": self._streams,
            "calls": self._calls,
            "registered": len(self._owners),
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
            for key in [key for key, owner in self._owners.items() if owner is hosted]:
                self._let_go(key)
            for program, number in [key for key in self._watches if key[0] is hosted]:
                self.unwatch(program, number)
            self._memberships.let_go(hosted)

    def _connected(self) -> list[Hosted]:
        return [hosted for hosted, _ in self._programs.values()]

    # What they register

    def register(self, program: Hosted, what: Mapping[str, Any]) -> None:
        key = self._key(what)
        if key in self._owners:
            raise Refused(f"{_said(key)} belongs to {self._owners[key].name} already")
        if len(self._owners) >= REGISTERED_MAX:
            raise Refused(
                f"programs of kernel {self._whoami.kernel} have registered {REGISTERED_MAX} already"
            )
        match key:
            case ("service", str(name)):
                self._serve(name, what)
            case ("messages", int(kind)):
                self._endpoint.on(kind, partial(self._deliver, kind))
            case ("calls", int(kind)):
                self._endpoint.answer(kind, partial(self._answer, kind))
        self._owners[key] = program

    def _serve(self, name: str, what: Mapping[str, Any]) -> None:
        """Streams, or messages and calls, of a service."""
        match what:
            case {"version": int(version), "messages": bool(messages), "calls": bool(calls)}:
                on_message = partial(self._deliver_to, name) if messages else None
                on_call = partial(self._answer_of, name) if calls else None
                self._endpoint.register(name, version, on_message, on_call)
            case _:
                self._endpoint.serve(name, self._offered)

    def unregister(self, program: Hosted, what: Mapping[str, Any]) -> None:
        key = self._key(what)
        if self._owners.get(key) is program:
            self._let_go(key)

    def _let_go(self, key: tuple[str, str | int]) -> None:
        del self._owners[key]
        match key:
            case ("service", str(name)):
                self._endpoint.unserve(name)
            case ("messages", int(kind)):
                self._endpoint.off(kind)
            case ("calls", int(kind)):
                self._endpoint.unanswer(kind)

    def _key(self, what: Mapping[str, Any]) -> tuple[str, str | int]:
        match what:
            case {"service": str(name)}:
                self._permits.check_service(name)
                return "service", name
            case {"messages": int(kind)}:
                self._permits.check_kind(kind)
                return "messages", kind
            case {"calls": int(kind)}:
                self._permits.check_kind(kind)
                return "calls", kind
        raise LinkViolation("a registration names a service, messages or calls")

    # What comes for them

    async def _offered(self, stream: Stream) -> None:
        owner = self._owners.get(("service", stream.service))
        if owner is None:  # it ended since the stream was offered
            raise NoSuchService(f"kernel {self._whoami.kid} has no service {stream.service!r}")
        assert isinstance(stream, LinkStream)
        await owner.offer(stream)

    def _deliver(self, kind: int, kid: int, body: bytes) -> None:
        owner = self._owners.get(("messages", kind))
        self.count("delivered" if owner is not None and owner.deliver(kid, kind, body) else "dropped")

    async def _answer(self, kind: int, kid: int, body: bytes) -> bytes:
        owner = self._owners.get(("calls", kind))
        if owner is None:
            raise NoSuchService(f"kernel {self._whoami.kid} answers no calls of kind {kind}")
        with self._call_place():
            return await owner.ask(kid, kind, body, CALL_TIMEOUT_S)

    def _deliver_to(self, service: str, kid: int, body: bytes) -> None:
        owner = self._owners.get(("service", service))
        went = owner is not None and owner.deliver_to(service, kid, body)
        self.count("delivered" if went else "dropped")

    async def _answer_of(self, service: str, kid: int, body: bytes) -> bytes:
        owner = self._owners.get(("service", service))
        if owner is None:
            raise NoSuchService(f"kernel {self._whoami.kid} has no service {service!r}")
        with self._call_place():
            return await owner.ask_of(service, kid, body, CALL_TIMEOUT_S)

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
        with self._call_place():
            return await self._endpoint.call(kid, kind, body, timeout_s, high)

    async def send_to(self, kid: int, service: str, body: bytes, timeout_s: float, high: bool) -> None:
        self._permits.check_service(service)
        self._permits.check_kid(kid)
        if not self._poster.has_room(kid):
            raise Overloaded(f"too much waits to be sent to kernel {kid}")
        with self._call_place():
            await self._endpoint.send(kid, service, body, high, timeout_s)
        self.count("posted")

    async def call_of(self, kid: int, service: str, body: bytes, timeout_s: float, high: bool) -> bytes:
        self._permits.check_service(service)
        self._permits.check_kid(kid)
        with self._call_place():
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
        with self._call_place():
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

    # Places

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        if self._streams >= PLACES:
            raise Overloaded(f"the programs of kernel {self._whoami.kernel} have {PLACES} streams already")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    @contextlib.contextmanager
    def _call_place(self) -> Iterator[None]:
        if self._calls >= PLACES:
            raise Overloaded(
                f"the programs of kernel {self._whoami.kernel} have {PLACES} calls under way already"
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def count(self, name: str) -> None:
        self._counters[name] += 1


def _said(key: tuple[str, str | int]) -> str:
    what, name = key
    return f"service {name!r}" if what == "service" else f"{what} of kind {name}"
