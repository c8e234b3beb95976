"""Groups: who joins gets every message that is sent to all, from each sender in its order, each once.

Theory of operation. The registry orders memberships (`registry`); `Membership` decides when one has begun and
ended; a `Lane` carries one member's messages to another. A send puts its message into all lanes of the view
that is installed, or into none: if one has no room it waits, which holds the sender back, and past its
deadline it is Overloaded. Sends of one member keep their order by a lock, first come, first served. A member
that cannot take messages as fast as they come (a program's, say) says `hold`, and its senders keep them.

A kernel may be in a group several times: once itself, and once for each of its programs. Each is a member of
its own, with lanes of its own.

A member that dies leaves with the next view. What it had sent to some and not to others is not completed.
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from popnet.core import limits
from popnet.core.errors import LinkViolation, PeerDied, Refused
from popnet.message import codec
from popnet.message.form import NAME_MAX
from popnet.message.group import Group
from popnet.message.lane import HEADER, HEADER_SIZE
from popnet.message.membership import Member, Membership
from popnet.message.notice import Change, Notice
from popnet.message.peer import Peer

if TYPE_CHECKING:
    from popnet.message.endpoint import Endpoint


class Groups:
    """The groups of one endpoint."""

    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint
        self._own: dict[str, Group] = {}
        self._by_number: dict[int, Group] = {}
        self._numbers = 0
        self._watching = False
        self._waiting: list[asyncio.Future[None]] = []
        endpoint.registry.on_view = self._view

    def group(self, name: str) -> Group:
        """The kernel's own part in the group of that name. Raises Refused."""
        if name not in self._own:
            self._own[name] = self.part(name)
        return self._own[name]

    def part(self, name: str) -> Group:
        """One more part in that group, a member of its own once it has joined. Raises Refused."""
        if not 0 < len(name) <= NAME_MAX:
            raise Refused(f"a group's name has 1 to {NAME_MAX} letters")
        return Group(self, name)

    def received(self, peer: Peer, message: codec.Record) -> None:
        """A GROUP message came. Raises LinkViolation."""
        group = self._by_number.get(message.id)
        if group is None:
            self.count("group_late")
            return
        number, of = HEADER.unpack_from(message.body)
        group.received(Member(peer.kid, peer.generation, of), number, message.body[HEADER_SIZE:])

    # What groups and lanes ask

    def begin(self, group: Group) -> Membership:
        if len(self._by_number) >= limits.GROUPS_MAX:
            raise Refused(
                f"kernel {self._endpoint.kid} has {limits.GROUPS_MAX} memberships of groups already"
            )
        if not self._watching:
            self._watching = True
            self._endpoint.watch("kernel/*", self._noticed)
        self._numbers += 1
        self._by_number[self._numbers] = group
        me = Member(self._endpoint.kid, self._endpoint.generation, self._numbers)
        self._wish(group.name, (*self._wished(group.name), me.number))
        return Membership(me)

    def end(self, group: Group) -> None:
        """Wish to be a member no more. Idempotent."""
        wished = self._wished(group.name)
        if group.me is not None and group.me.number in wished:
            self._wish(group.name, tuple(number for number in wished if number != group.me.number))

    def _wished(self, name: str) -> tuple[int, ...]:
        return self._endpoint.registry.groups.get(name, ())

    def _wish(self, name: str, numbers: tuple[int, ...]) -> None:
        if numbers:
            self._endpoint.registry.groups[name] = numbers
        else:
            del self._endpoint.registry.groups[name]
        self._endpoint.registry.changed()

    def forget(self, group: Group) -> None:
        for number in [number for number, known in self._by_number.items() if known is group]:
            del self._by_number[number]

    @property
    def running(self) -> bool:
        return self._endpoint.running

    async def linked(self, kid: int) -> Peer:
        return await self._endpoint.linked(kid)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._endpoint.spawn(work)

    def count(self, name: str, number: int = 1) -> None:
        self._endpoint.counters_total[name] += number

    def nonsense(self, what: str, error: LinkViolation) -> None:
        self._endpoint.nonsense(what, error)

    def moved(self) -> None:
        """Something changed that somebody may wait for."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def movement(self) -> None:
        """Wait for `moved`. Raises PeerDied when the endpoint stops."""
        if not self._endpoint.running:
            raise PeerDied(f"kernel {self._endpoint.kid} stops")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future
        if not self._endpoint.running:
            raise PeerDied(f"kernel {self._endpoint.kid} stops")

    # What the registry says

    def _view(self, name: str, view: int, members: list[Any]) -> None:
        found: list[Member] = []
        for member in members:
            match member:
                case [int(kid), int(generation), int(number)]:
                    found.append(Member(kid, generation, number))
                case _:
                    raise LinkViolation("a view with a member that is none")
        for group in [group for group in self._by_number.values() if group.name == name]:
            group.install(view, found)

    def _noticed(self, notice: Notice) -> None:
        if notice.change is Change.KERNEL_DOWN:
            for group in list(self._by_number.values()):
                group.dead(notice.kid, notice.generation)
