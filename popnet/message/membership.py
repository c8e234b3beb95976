"""One membership of a group, as its member sees it: who sends to it, when it has begun, and ended. Pure.

Theory of operation. A membership has a number, its own for ever, which every message to it names. The
registry tells *views*: who is in the group now. Whoever installs a view says hello to each member that is new
in it, and goodbye to each that is no longer, on the way its messages take; so a hello comes before every
message of that sender, and a goodbye behind the last.

    joining --in the view, a hello from each member of it--> in
    in --leave--> leaving --not in the view, a goodbye from each that was or is sending--> out

So when a join returns, every member sends to the new one; when a leave returns, nothing is under way to it.
The dead say nothing: they are waited for no more once they are known to be.

Forbidden: to be joined again while it still leaves (the next membership has another number).
"""

from collections.abc import Collection
from enum import Enum
from typing import Final, TypeAlias

HELLO: Final = 0
GOODBYE: Final = 0xFFFF_FFFF

Sender: TypeAlias = tuple[int, int]
"""Kid and generation."""

Member: TypeAlias = tuple[int, int, int]
"""Kid, generation, and number of its membership."""


def following(number: int) -> int:
    """The number of the message after *number* of one sender to one membership."""
    return number % (GOODBYE - 1) + 1


class Phase(Enum):
    """Where a membership is: see the module."""

    JOINING = "joining"
    IN = "in"
    LEAVING = "leaving"
    OUT = "out"


class Membership:
    """The state machine of the member *me*."""

    def __init__(self, me: Member) -> None:
        self.me = me
        self.phase = Phase.JOINING
        self.view = 0
        self.members: frozenset[Member] = frozenset()
        self._excluded = False
        self._expected: dict[Sender, int] = {}
        self._owed: set[Sender] = set()
        self._said_goodbye: set[Sender] = set()

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
            self._owed |= {(kid, generation) for kid, generation, _ in self.members} - self._said_goodbye
            self.members = frozenset()
            self._excluded = True
        self._move()
        return True

    def leave(self) -> None:
        assert self.phase is Phase.IN, f"left while {self.phase.value}"
        self.phase = Phase.LEAVING

    def received(self, sender: Sender, number: int) -> str | None:
        """A message came. What to count, if it is not to be delivered; else None."""
        if number == HELLO:
            self._expected[sender] = following(HELLO)
            self._said_goodbye.discard(sender)
            self._move()
            return "group_hellos"
        if number == GOODBYE:
            self._expected.pop(sender, None)
            self._said_goodbye.add(sender)
            self._owed.discard(sender)
            self._move()
            return "group_goodbyes"
        expected = self._expected.get(sender)
        if expected is None:
            return "group_strays"
        self._expected[sender] = following(number)
        return None if number == expected else "group_gaps"

    def dead(self, kid: int, generation: int) -> None:
        """A kernel, and its earlier generations, say nothing any more."""
        for senders in (self._owed, self._said_goodbye):
            senders.difference_update({s for s in senders if s[0] == kid and s[1] <= generation})
        for sender in [s for s in self._expected if s[0] == kid and s[1] <= generation]:
            del self._expected[sender]
        self.members = frozenset(m for m in self.members if not (m[0] == kid and m[1] <= generation))
        self._move()

    def _move(self) -> None:
        if self.phase is Phase.JOINING and self.me in self.members:
            if all((kid, generation) in self._expected for kid, generation, _ in self.members):
                self.phase = Phase.IN
        elif self.phase is Phase.LEAVING and self._excluded and not self._owed:
            self.phase = Phase.OUT
