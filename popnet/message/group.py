"""A part in one group: the member's own view of it, its lanes, and its sends. See `groups`."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from popnet.core import limits
from popnet.core.errors import DeadlineExceeded, IllegalState, LinkViolation, Overloaded, Refused
from popnet.message.lane import HEADER_SIZE, Lane
from popnet.message.membership import Member, Membership, Phase

if TYPE_CHECKING:
    from popnet.message.groups import Groups

log = logging.getLogger(__name__)

OnMessage: TypeAlias = Callable[[Member, bytes], None]
OnView: TypeAlias = Callable[[int, list[Member]], None]

TIMEOUT_S = 5.0


class Group:
    """A part in one group, of a kernel or of one of its programs. The first to join creates the group."""

    def __init__(self, groups: "Groups", name: str) -> None:
        self.name = name
        self._groups = groups
        self._on_message: OnMessage = lambda member, body: None
        self._on_view: OnView = lambda view, members: None
        self._full = False
        self._sending = asyncio.Lock()
        self.membership: Membership | None = None
        self.lanes: dict[Member, Lane] = {}
        self._closing: list[Lane] = []

    @property
    def view(self) -> int:
        """The number of the view that is installed; it grows with each change of members. 0: not a member."""
        return self.membership.view if self.membership is not None else 0

    @property
    def members(self) -> list[Member]:
        """The members in that view."""
        return sorted(self.membership.members) if self.membership is not None else []

    @property
    def me(self) -> Member | None:
        """Which member this is; None: it is not."""
        return self.membership.me if self.membership is not None else None

    async def join(
        self, on_message: OnMessage, timeout_s: float = TIMEOUT_S, on_view: OnView | None = None
    ) -> None:
        """From when it returns, *on_message* gets (from member, body) of every message sent, the own
        included; *on_view* is told (view, members) of each view.

        Raises IllegalState (a member already), Refused (in too many groups), DeadlineExceeded.
        """
        if self.membership is not None:
            raise IllegalState(f"group {self.name}: {self.membership.phase.value} already")
        self._on_message = on_message
        self._on_view = on_view or (lambda view, members: None)
        self._full = False
        membership = self.membership = self._groups.begin(self)
        try:
            await self._until(lambda: membership.phase is Phase.IN, timeout_s, "join")
        except BaseException:
            self._forget()
            raise

    async def leave(self, timeout_s: float = TIMEOUT_S) -> None:
        """When it returns nothing more comes, and all that was sent is on its way.

        Raises IllegalState (not a member), DeadlineExceeded (left, but somebody has not said goodbye, or
        takes nothing).
        """
        membership = self._member()
        membership.leave()
        self._groups.end(self)
        try:
            await self._until(lambda: membership.phase is Phase.OUT and self._all_sent(), timeout_s, "leave")
        finally:
            self._forget()

    def abandon(self) -> None:
        """Leave, and wait for nobody: nothing more comes. What was sent is sent. Idempotent."""
        if self.membership is not None:
            self._forget()
            self._groups.moved()

    def hold(self, full: bool) -> None:
        """Ask those that send to this member to keep their messages from now on; or to go on. Some are under
        way still."""
        if full is not self._full:
            self._full = full
            for lane in self.lanes.values():
                lane.say(full)

    async def send(self, body: bytes, timeout_s: float = TIMEOUT_S) -> None:
        """Send *body* to every member; waits for room. Raises IllegalState, Overloaded (nothing was sent)."""
        most = limits.MESSAGE_SIZE_MAX - HEADER_SIZE
        if len(body) > most:
            raise Refused(f"a message of {len(body)} bytes; at most {most}")
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
        own = membership.me.number
        for member in sorted(membership.members - self.lanes.keys()):
            self.lanes[member] = Lane(self._groups, own, member, member in membership.holding, self._full)
        self._groups.moved()
        self._safely(lambda: self._on_view(view, sorted(members)))

    def received(self, sender: Member, number: int, body: bytes) -> None:
        """A message came. Raises LinkViolation."""
        assert self.membership is not None
        counted = self.membership.received(sender, number)
        if counted is not None:
            self._groups.count(counted)
        if counted in (None, "group_gaps"):
            self._safely(lambda: self._on_message(sender, body))
            return
        lane = self.lanes.get(sender)
        if lane is not None and counted == "group_holds":
            lane.hold()
        elif lane is not None and counted == "group_goes":
            lane.release()
        self._groups.moved()

    def dead(self, kid: int, generation: int) -> None:
        for member in [m for m in self.lanes if m.kid == kid and m.generation <= generation]:
            self.lanes.pop(member).drop()
        if self.membership is not None:
            self.membership.dead(kid, generation)
        self._groups.moved()

    def _safely(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except LinkViolation as error:
            self._groups.nonsense(f"a message of group {self.name!r}", error)
        except Exception:
            self._groups.count("handler_errors")
            log.exception("group %s: the handler failed", self.name)

    def _forget(self) -> None:
        self.hold(False)
        self._groups.end(self)
        self._groups.forget(self)
        self.membership = None
        for lane in self.lanes.values():  # of a join that was given up, or a member that is abandoned
            lane.close()
        self.lanes = {}
        self._closing = []
