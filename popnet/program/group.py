"""A program's part in a group: as `popnet.message.group.Group`, whose machine is in the program's kernel.

    out --join--> in --leave, or the kernel goes--> out

A membership has a number of the program's choice, never used again: what comes late, of one that is over, is
nobody's.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from popnet.core.errors import IllegalState
from popnet.message.membership import Member

OnMessage: TypeAlias = Callable[[Member, bytes], None]
OnView: TypeAlias = Callable[[int, list[Member]], None]

TIMEOUT_S = 5.0


class GroupEnd(Protocol):
    """What a group needs of its connection."""

    async def join(self, group: "ProgramGroup", number: int, name: str, timeout_s: float) -> Member:
        """Into a group."""

    async def leave(self, number: int, timeout_s: float) -> None:
        """Out of it."""

    def forget(self, number: int) -> None:
        """What comes of that membership is nobody's."""

    async def send_group(self, number: int, body: bytes, timeout_s: float) -> None:
        """To all members."""

    def hold(self, number: int, full: bool) -> bool:
        """Whether the kernel will be told."""


class ProgramGroup:
    """Made by `Connection.group`.

    Attributes:
        me: which member this is; None: it is not.
        view: the number of the view that is installed; it grows with each change of members. 0: no member.
        members: those in that view.
    """

    def __init__(self, end: GroupEnd, name: str, numbers: Iterator[int]) -> None:
        self.name = name
        self.me: Member | None = None
        self.view = 0
        self.members: list[Member] = []
        self._end = end
        self._numbers = numbers
        self._number: int | None = None
        self._on_message: OnMessage = lambda member, body: None
        self._on_view: OnView = lambda view, members: None
        self._full = False

    async def join(
        self, on_message: OnMessage, timeout_s: float = TIMEOUT_S, on_view: OnView | None = None
    ) -> None:
        """From when it returns, *on_message* gets (from member, body) of every message sent, the own
        included; *on_view* is told (view, members) of each view. Neither may block.

        Raises IllegalState (a member already), Refused (not for this kernel's programs), Overloaded (its
        programs are in too many groups), DeadlineExceeded, PeerDied.
        """
        if self._number is not None:
            raise IllegalState(f"group {self.name}: a member, or joining, already")
        number = self._number = next(self._numbers)
        self._on_message = on_message
        self._on_view = on_view or (lambda view, members: None)
        self._full = False
        try:
            self.me = await self._end.join(self, number, self.name, timeout_s)
        except BaseException:
            self._forget(number)
            raise

    async def leave(self, timeout_s: float = TIMEOUT_S) -> None:
        """When it returns nothing more comes, and all that was sent is on its way.

        Raises IllegalState (not a member), DeadlineExceeded (left, but somebody has not said goodbye, or
        takes nothing), PeerDied.
        """
        number = self._member()
        self.me = None
        try:
            await self._end.leave(number, timeout_s)
        finally:
            self._forget(number)

    async def send(self, body: bytes, timeout_s: float = TIMEOUT_S) -> None:
        """Send *body* to every member; waits for room.

        Raises IllegalState (not a member), Overloaded (a member takes nothing; nothing was sent),
        DeadlineExceeded (this kernel did not answer; it may have been sent), PeerDied.
        """
        await self._end.send_group(self._member(), body, timeout_s)

    def check_member(self) -> None:
        """Raises IllegalState if it is none."""
        self._member()

    def hold(self, full: bool) -> None:
        """Ask those that send to this member to keep their messages from now on; or to go on. Some are under
        way still. For a program that queues what it gets."""
        if full is not self._full and self._number is not None and self._end.hold(self._number, full):
            self._full = full

    def received(self, member: Member, body: bytes) -> None:
        """A message came."""
        self._on_message(member, body)

    def installed(self, view: int, members: list[Member]) -> None:
        """A view came."""
        self.view, self.members = view, members
        self._on_view(view, members)

    def _member(self) -> int:
        if self.me is None or self._number is None:
            raise IllegalState(f"group {self.name}: not a member")
        return self._number

    def _forget(self, number: int) -> None:
        self._end.forget(number)
        self.me, self._number, self.view, self.members = None, None, 0, []
