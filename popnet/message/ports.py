"""Services for messages and calls: registered by name, addressed by port.

Theory of operation. A service has a *port*, a number that its kernel gives out once a generation; a message
names it in its header, so that 48 bytes for a service ride one cache line. Who wants to talk to a service
asks its kernel for the port, once a link (`Peer.ports`). The generation in every header makes a port of an
earlier life worthless, and a service that is registered anew has a new one: so a message reaches the service
that was meant, or is answered (UNKNOWN, `no-such-service`), which makes the sender ask again.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from popnet.core import limits
from popnet.core.errors import LinkViolation, NoSuchService, Overloaded, Refused
from popnet.message import codec
from popnet.message.calls import Calls, TaskHost
from popnet.message.form import NAME_MAX, U32_MAX
from popnet.message.kinds import Kind, Ring
from popnet.message.peer import Peer

log = logging.getLogger(__name__)

OnMessage: TypeAlias = Callable[[int, bytes], None]
OnCall: TypeAlias = Callable[[int, bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A service of this kernel; one of streams has neither handler."""

    name: str
    version: int
    port: int
    on_message: OnMessage | None = None
    on_call: OnCall | None = None


class Ports:
    """The services of one endpoint, and the way to those of others.

    Args:
        changed: called when there is a new service, or one less.
    """

    def __init__(self, host: TaskHost, calls: Calls, changed: Callable[[], None]) -> None:
        self._host = host
        self._calls = calls
        self._changed = changed
        self._last = 0
        self._by_name: dict[str, Entry] = {}
        self._by_port: dict[int, Entry] = {}
        self.on_unknown: Callable[[int, str], None] = lambda kid, service: None
        calls.answer(Kind.CALL, self._called)
        calls.answer(Kind.RESOLVE, self._resolved)

    # Services of this kernel

    def add(
        self, name: str, version: int, on_message: OnMessage | None = None, on_call: OnCall | None = None
    ) -> None:
        """Raises Refused."""
        assert name not in self._by_name, f"service {name} is there already"
        if not 0 < len(name) <= NAME_MAX:
            raise Refused(f"a service's name has 1 to {NAME_MAX} letters")
        if not 0 <= version <= U32_MAX:
            raise Refused(f"a service has a version from 0 to {U32_MAX}, not {version}")
        if len(self._by_name) >= limits.SERVICES_MAX:
            raise Refused(f"more than {limits.SERVICES_MAX} services of one kernel")
        self._last += 1
        entry = Entry(name, version, self._last, on_message, on_call)
        self._by_name[name] = self._by_port[entry.port] = entry
        self._changed()

    def remove(self, name: str) -> None:
        """Nothing happens if there is none."""
        entry = self._by_name.pop(name, None)
        if entry is not None:
            del self._by_port[entry.port]
            self._changed()

    def wishes(self) -> dict[str, tuple[int, int]]:
        """What the registry is told: name -> (version, port)."""
        return {name: (entry.version, entry.port) for name, entry in self._by_name.items()}

    def sent(self, peer: Peer, ring: Ring, message: codec.Record) -> None:
        """A SEND came."""
        entry = self._by_port.get(message.id)
        if entry is None or entry.on_message is None:
            self._host.count("unknown_services")
            peer.post(ring, Kind.UNKNOWN, 0, 0, codec.U32.pack(Kind.SEND) + codec.U32.pack(message.id))
            return
        try:
            entry.on_message(peer.kid, message.body)
        except LinkViolation as error:
            self._host.nonsense(f"a message for service {entry.name!r} from kernel {peer.kid}", error)
        except Exception:
            self._host.count("handler_errors")
            log.exception("kernel %d: service %s failed", self._host.kid, entry.name)

    async def _called(self, kid: int, body: bytes) -> bytes:
        port = codec.u32_of(body[:4])
        entry = self._by_port.get(port)
        if entry is None or entry.on_call is None:
            self._host.count("unknown_services")
            what = f"service at port {port}" if entry is None else f"calls of service {entry.name!r}"
            raise NoSuchService(f"kernel {self._host.kid} has no {what}")
        return await entry.on_call(kid, body[4:])

    async def _resolved(self, kid: int, body: bytes) -> bytes:
        name = body.decode()
        entry = self._by_name.get(name)
        if entry is None:
            self._host.count("unknown_services")
            raise NoSuchService(f"kernel {self._host.kid} has no service {name!r}")
        return codec.U32.pack(entry.port) + codec.U32.pack(entry.version)

    # Services of others

    def unknown(self, peer: Peer, body: bytes) -> None:
        """The peer has no service at a port that we sent to."""
        if len(body) == 8 and codec.u32_of(body[:4]) == Kind.SEND:
            port = codec.u32_of(body[4:])
            name = next((name for name, known in peer.ports.items() if known == port), None)
            if name is not None:
                del peer.ports[name]
                log.warning("kernel %d: kernel %d has no service %r", self._host.kid, peer.kid, name)
                self.on_unknown(peer.kid, name)

    async def port_of(self, peer: Peer, ring: Ring, service: str) -> int:
        """Raises NoSuchService."""
        port = peer.ports.get(service)
        if port is None:
            if not 0 < len(service) <= NAME_MAX:
                raise Refused(f"a service's name has 1 to {NAME_MAX} letters")
            answer = await self._calls.call(peer, ring, Kind.RESOLVE, service.encode())
            port = peer.ports[service] = codec.u32_of(answer[:4])
        return port

    async def send(self, peer: Peer, ring: Ring, service: str, body: bytes) -> None:
        port = await self.port_of(peer, ring, service)
        if not peer.post(ring, Kind.SEND, 0, port, body):
            peer.raise_if_ended()
            raise Overloaded(f"too much waits to be sent to kernel {peer.kid}")

    async def call(self, peer: Peer, ring: Ring, service: str, body: bytes) -> bytes:
        """As Calls.call. A port that is not there any more is asked for once again; nobody was called
        then."""
        port = await self.port_of(peer, ring, service)
        try:
            return await self._calls.call(peer, ring, Kind.CALL, codec.U32.pack(port) + body)
        except NoSuchService:
            if peer.ports.get(service) == port:
                del peer.ports[service]
            again = await self.port_of(peer, ring, service)
            if again == port:
                raise
        return await self._calls.call(peer, ring, Kind.CALL, codec.U32.pack(again) + body)
