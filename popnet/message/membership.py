"""One membership of a group, as its member sees it: who sends to it, when it has begun, and ended. Pure.

Theory of operation. A membership has a number, its own for ever, which every message to it names, and every
message of it. The registry tells *views*: who is in the group now. Whoever installs a view says hello to each
member that is new in it, and goodbye to each that is no longer, on the way its messages take; so a hello
comes before every message of that sender, and a goodbye behind the last.

    joining --in the view, a hello from each member of it--> in
    in --leave--> leaving --not in the view, a goodbye from each that was or is sending--> out

So when a join returns, every member sends to the new one; when a leave returns, nothing is under way to it.
The dead say nothing: they are waited for no more once they are known to be.

A member that cannot take more says *hold* to those that send to it, and *go* when it can: see `lane`. Both
come behind its hello, and bind nobody behind its goodbye.

Forbidden: to be joined again while it still leaves (the next membership has another number); more senders of
one kernel than it may have memberships.
"""

from collections import deque
from collections.abc import Collection
from enum import Enum
from typing import Final, NamedTuple

from popnet.core import limits
from popnet.core.errors import LinkViolation

HELLO: Final = 0
GOODBYE: Final = 0xFFFF_FFFF
HOLD: Final = 0xFFFF_FFFE
GO: Final = 0xFFFF_FFFD


class Member(NamedTuple):
    """One member: a kernel in one of its lives, and the number of the membership."""

    kid: int
    generation: int
    number: int


def following(number: int) -> int:
    """The number of the message after *number* of one sender to one membership."""
    return number % (GO - 1) + 1


class Phase(Enum):
    """Where a membership is: see the module."""

    JOINING = "joining"
    IN = "in"
    LEAVING = "leaving"
    OUT = "out"


class Membership:
    """The state machine of the member *me*.

    Attributes:
        holding: the members that want nothing more now.
    """

    def __init__(self, me: Member) -> None:
        self.me = me
        self.phase = Phase.JOINING
        self.view = 0
        self.members: frozenset[Member] = frozenset()
        self.holding: set[Member] = set()
        self._excluded = False
        self._expected: dict[Member, int] = {}
        self._owed: set[Member] = set()
        self._said_goodbye: dict[int, deque[Member]] = {}  # by kid: the last few, which are the live ones

    def install(self, view: int, members: Collection[Member]) -> bool:
        """A view came. False: it is no news."""
        if view <= self.view or self._excluded:
            return False
        inside = self.me in members
        if not inside and not self.members:
            return False  # from before this membership
        self.view = view
        if inside:
            self.members = frozenset(members)
        else:
            # Whoever has sent to us, or was to, still owes a goodbye, unless it has said it.
            self._owed |= set(self._expected)
            self._owed |= {member for member in self.members if not self._has_gone(member)}
            self.members = frozenset()
            self._excluded = True
        self._move()
        return True

    def leave(self) -> None:
        assert self.phase is Phase.IN, f"left while {self.phase.value}"
        self.phase = Phase.LEAVING

    def received(self, sender: Member, number: int) -> str | None:
        """A message came. What to count, if it is not to be delivered; else None. Raises LinkViolation."""
        if number == HELLO:
            self._hello(sender)
            return "group_hellos"
        expected = self._expected.get(sender)
        if expected is None:
            return "group_strays"
        if number == GOODBYE:
            self._goodbye(sender)
            return "group_goodbyes"
        if number == HOLD:
            self.holding.add(sender)
            return "group_holds"
        if number == GO:
            self.holding.discard(sender)
            return "group_goes"
        self._expected[sender] = following(number)
        return None if number == expected else "group_gaps"

    def dead(self, kid: int, generation: int) -> None:
        """A kernel, and its earlier generations, say nothing any more."""

        def lives(member: Member) -> bool:
            return member.kid != kid or member.generation > generation

        self._owed = {member for member in self._owed if lives(member)}
        self.holding = {member for member in self.holding if lives(member)}
        self.members = frozenset(member for member in self.members if lives(member))
        self._expected = {member: n for member, n in self._expected.items() if lives(member)}
        self._move()

    def _hello(self, sender: Member) -> None:
        if sender not in self._expected:
            if sum(known.kid == sender.kid for known in self._expected) >= limits.GROUPS_MAX:
                raise LinkViolation(
                    f"more than {limits.GROUPS_MAX} members of kernel {sender.kid} said hello"
                )
            self._expected[sender] = following(HELLO)
        self._move()

    def _goodbye(self, sender: Member) -> None:
        del self._expected[sender]
        self.holding.discard(sender)
        self._owed.discard(sender)
        gone = self._said_goodbye.setdefault(sender.kid, deque(maxlen=limits.GROUPS_MAX))
        gone.append(sender)
        self._move()

    def _has_gone(self, member: Member) -> bool:
        return member in self._said_goodbye.get(member.kid, ())

    def _move(self) -> None:
        if self.phase is Phase.JOINING and self.me in self.members:
            if all(member in self._expected for member in self.members):
                self.phase = Phase.IN
        elif self.phase is Phase.LEAVING and self._excluded and not self._owed:
            self.phase = Phase.OUT
