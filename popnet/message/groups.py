"""Groups: who joins gets every message that is sent to all, from each sender in its order, each once.

Theory of operation. The registry orders memberships (`registry`); `Membership` decides when one has begun and
ended; a `Lane` carries one member's messages to another. A send puts its message into all lanes of the view
that is installed, or into none: if one has no room it waits, which holds the sender back, and past its
deadline it is Overloaded. Sends of one member keep their order by a lock, first come, first served.

A member that dies leaves with the next view. What it had sent to some and not to others is not completed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias

from popnet.core import limits
from popnet.core.errors import DeadlineExceeded, IllegalState, LinkViolation, Overloaded, PeerDied, Refused
from popnet.message import codec
from popnet.message.lane import Lane
from popnet.message.membership import Member, Membership, Phase
from popnet.message.notice import Change, Notice
from popnet.message.peer import Peer
from popnet.message.registryshell import NAME_MAX

if TYPE_CHECKING:
    from popnet.message.endpoint import Endpoint

log = logging.getLogger(__name__)

OnMessage: TypeAlias = Callable[[int, bytes], None]

TIMEOUT_S = 5.0


class Group:
    """A kernel's part in one group; made by `Endpoint.group`. The first to join creates it."""

    def __init__(self, groups: "Groups", name: str) -> None:
        self.name = name
        self._groups = groups
        self._on_message: OnMessage = lambda kid, body: None
        self._sending = asyncio.Lock()
        self.membership: Membership | None = None
        self.lanes: dict[Member, Lane] = {}
        self._closing: list[Lane] = []

    @property
    def view(self) -> int:
        """The number of the view that is installed; it grows with each change of members. 0: not a member."""
        return self.membership.view if self.membership is not None else 0

    @property
    def members(self) -> list[int]:
        """The kids in that view."""
        return sorted({kid for kid, _, _ in self.membership.members}) if self.membership is not None else []

    async def join(self, on_message: OnMessage, timeout_s: float = TIMEOUT_S) -> None:
        """From when it returns, *on_message* gets (from kid, body) of every message sent, the own included.

        Raises IllegalState (a member already), Refused (in too many groups), DeadlineExceeded.
        """
        if self.membership is not None:
            raise IllegalState(f"group {self.name}: {self.membership.phase.value} already")
        self._on_message = on_message
        membership = self.membership = self._groups.begin(self)
        try:
            await self._until(lambda: membership.phase is Phase.IN, timeout_s, "join")
        except BaseException:
            self._forget()
            raise

    async def leave(self, timeout_s: float = TIMEOUT_S) -> None:
        """When it returns nothing more comes, and all that was sent is on its way.

        Raises IllegalState (not a member), DeadlineExceeded (left, but somebody has not said goodbye).
        """
        membership = self._member()
        membership.leave()
        self._groups.end(self)
        try:
            await self._until(lambda: membership.phase is Phase.OUT and self._all_sent(), timeout_s, "leave")
        finally:
            self._forget()

    async def send(self, body: bytes, timeout_s: float = TIMEOUT_S) -> None:
        """Send *body* to every member; waits for room. Raises IllegalState, Overloaded (nothing was sent)."""
        if len(body) > limits.MESSAGE_SIZE_MAX - codec.U32.size:
            raise Refused(
                f"a message of {len(body)} bytes; at most {limits.MESSAGE_SIZE_MAX - codec.U32.size}"
            )
        try:
            async with asyncio.timeout(timeout_s), self._sending:
                self._member()
                while not all(lane.has_room(len(body)) for lane in self.lanes.values()):
                    await self._groups.movement()
                    self._member()
        except TimeoutError:
            raise Overloaded(f"group {self.name}: a member takes nothing") from None
        for lane in self.lanes.values():
            lane.send(body)

    def _member(self) -> Membership:
        if self.membership is None or self.membership.phase is not Phase.IN:
            raise IllegalState(f"group {self.name}: not a member")
        return self.membership

    def _all_sent(self) -> bool:
        return all(lane.idle for lane in self._closing)

    async def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self._groups.movement()
        except TimeoutError:
            raise DeadlineExceeded(f"group {self.name}: {what} took more than {timeout_s} s") from None

    # What the registry and other members say

    def install(self, view: int, members: list[Member]) -> None:
        membership = self.membership
        if membership is None or not membership.install(view, members):
            return
        for member in [member for member in self.lanes if member not in membership.members]:
            lane = self.lanes.pop(member)
            lane.close()
            self._closing = [*(lane for lane in self._closing if not lane.idle), lane]
        for member in sorted(membership.members - self.lanes.keys()):
            self.lanes[member] = Lane(self._groups, member)
        self._groups.moved()

    def received(self, peer: Peer, number: int, body: bytes) -> None:
        assert self.membership is not None
        counted = self.membership.received((peer.kid, peer.generation), number)
        if counted is not None:
            self._groups.count(counted)
        if counted not in (None, "group_gaps"):
            self._groups.moved()
            return
        try:
            self._on_message(peer.kid, body)
        except Exception:
            self._groups.count("handler_errors")
            log.exception("group %s: the handler failed", self.name)

    def dead(self, kid: int, generation: int) -> None:
        for member in [member for member in self.lanes if member[0] == kid and member[1] <= generation]:
            self.lanes.pop(member).drop()
        if self.membership is not None:
            self.membership.dead(kid, generation)
        self._groups.moved()

    def _forget(self) -> None:
        self._groups.end(self)
        self._groups.forget(self)
        self.membership = None
        for lane in self.lanes.values():  # of a join that was given up
            lane.close()
        self.lanes = {}
        self._closing = []


class Groups:
    """The groups of one endpoint."""

    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint
        self._groups: dict[str, Group] = {}
        self._by_number: dict[int, Group] = {}
        self._numbers = 0
        self._watching = False
        self._waiting: list[asyncio.Future[None]] = []
        endpoint.registry.on_view = self._view

    def group(self, name: str) -> Group:
        if not 0 < len(name) <= NAME_MAX:
            raise Refused(f"a group's name has 1 to {NAME_MAX} letters")
        if name not in self._groups:
            self._groups[name] = Group(self, name)
        return self._groups[name]

    def received(self, peer: Peer, message: codec.Record) -> None:
        """A GROUP message came. Raises LinkViolation."""
        if len(message.body) < codec.U32.size:
            raise LinkViolation("a message of a group without its number")
        group = self._by_number.get(message.id)
        if group is None:
            self.count("group_late")
        else:
            group.received(peer, codec.u32_of(message.body[:4]), message.body[4:])

    # What groups and lanes ask

    def begin(self, group: Group) -> Membership:
        if len(self._by_number) >= limits.GROUPS_MAX:
            raise Refused(f"in {limits.GROUPS_MAX} groups already")
        if not self._watching:
            self._watching = True
            self._endpoint.watch("kernel/*", self._noticed)
        self._numbers += 1
        self._by_number[self._numbers] = group
        self._endpoint.registry.groups[group.name] = self._numbers
        self._endpoint.registry.changed()
        return Membership((self._endpoint.kid, self._endpoint.generation, self._numbers))

    def end(self, group: Group) -> None:
        if self._endpoint.registry.groups.pop(group.name, None) is not None:
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
                    found.append((kid, generation, number))
                case _:
                    raise LinkViolation("a view with a member that is none")
        if name in self._groups:
            self._groups[name].install(view, found)

    def _noticed(self, notice: Notice) -> None:
        if notice.change is Change.KERNEL_DOWN:
            for group in list(self._groups.values()):
                group.dead(notice.kid, notice.generation)
