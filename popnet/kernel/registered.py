"""What the programs of a kernel have registered, and what comes for it.

A service, or the messages or calls of a kind, belong to one program at a time, and are let go of when that
ends. Others reach them through the kernel's endpoint, as they reach the kernel's own services.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from popnet.core.errors import NoSuchService, Refused
from popnet.kernel.permits import Permits
from popnet.kernel.places import Places
from popnet.message.endpoint import Endpoint
from popnet.message.stream import Stream
from popnet.message.streamshell import LinkStream
from popnet.program.greeting import Greeting
from popnet.program.hosted import Hosted

REGISTERED_MAX: Final = 256
"""Services, kinds of messages and kinds of calls that all programs may have registered."""

CALL_TIMEOUT_S: Final = 60.0
"""Seconds a program may take to answer: how long its caller waits is not on the wire."""


class Registered:
    """See the module; *count* is told what is delivered and dropped."""

    def __init__(
        self,
        endpoint: Endpoint,
        permits: Permits,
        places: Places,
        whoami: Greeting,
        count: Callable[[str], None],
    ) -> None:
        self._endpoint = endpoint
        self._permits = permits
        self._places = places
        self._whoami = whoami
        self._count = count
        self._owners: dict[tuple[str, str | int], Hosted] = {}

    def __len__(self) -> int:
        return len(self._owners)

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

    def let_go(self, program: Hosted) -> None:
        """It has ended: its names are free again."""
        for key in [key for key, owner in self._owners.items() if owner is program]:
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
        raise Refused("a registration names a service, messages or calls")

    # What comes for them

    async def _offered(self, stream: Stream) -> None:
        owner = self._owners.get(("service", stream.service))
        if owner is None:  # it ended since the stream was offered
            raise NoSuchService(f"kernel {self._whoami.kid} has no service {stream.service!r}")
        assert isinstance(stream, LinkStream)
        await owner.offer(stream)

    def _deliver(self, kind: int, kid: int, body: bytes) -> None:
        owner = self._owners.get(("messages", kind))
        self._count("delivered" if owner is not None and owner.deliver(kid, kind, body) else "dropped")

    async def _answer(self, kind: int, kid: int, body: bytes) -> bytes:
        owner = self._owners.get(("calls", kind))
        if owner is None:
            raise NoSuchService(f"kernel {self._whoami.kid} answers no calls of kind {kind}")
        with self._places.call():
            return await owner.ask(kid, kind, body, CALL_TIMEOUT_S)

    def _deliver_to(self, service: str, kid: int, body: bytes) -> None:
        owner = self._owners.get(("service", service))
        went = owner is not None and owner.deliver_to(service, kid, body)
        self._count("delivered" if went else "dropped")

    async def _answer_of(self, service: str, kid: int, body: bytes) -> bytes:
        owner = self._owners.get(("service", service))
        if owner is None:
            raise NoSuchService(f"kernel {self._whoami.kid} has no service {service!r}")
        with self._places.call():
            return await owner.ask_of(service, kid, body, CALL_TIMEOUT_S)


def _said(key: tuple[str, str | int]) -> str:
    what, name = key
    return f"service {name!r}" if what == "service" else f"{what} of kind {name}"
