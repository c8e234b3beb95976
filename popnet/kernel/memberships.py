"""The groups that the programs of a kernel are in.

Theory of operation. A membership is a program's, and its machine is the kernel's (`popnet.message.group`): a
part of its own in the group, so that two programs of one kernel are two members. What comes for it goes on to
the program, in order, on the program's link; so it is there once, if the program is.

    absent --join--> joined --leave, or the program ends--> absent

*Held back.* A membership holds its senders while its program is `behind`, more than WAITING_MAX bytes, until
it has read all of that; and while the program itself says that it is `full`. What was under way still comes;
a program that cannot be given even that is let go of: it would miss something and never know.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from popnet.core import limits
from popnet.core.errors import IllegalState, LinkViolation, Overloaded
from popnet.kernel.permits import Permits
from popnet.message.endpoint import Endpoint
from popnet.message.group import Group
from popnet.message.membership import Member
from popnet.program.hosted import Hosted

MEMBERSHIPS_MAX: Final = limits.GROUPS_MAX // 2
"""Memberships of all programs: half of what their kernel may have."""

BEHIND_MAX: Final = 128 << 20
"""Bytes that may wait for all programs together before one that is behind is let go of."""


@dataclass(slots=True)
class _Stay:
    """A membership, and why it holds."""

    part: Group
    behind: bool = False
    full: bool = False

    def settle(self) -> None:
        self.part.hold(self.behind or self.full)


class Memberships:
    """See the module.

    Args:
        programs: those that are connected.
    """

    def __init__(
        self, endpoint: Endpoint, permits: Permits, kernel: str, programs: Callable[[], Iterable[Hosted]]
    ) -> None:
        self._endpoint = endpoint
        self._permits = permits
        self._kernel = kernel
        self._programs = programs
        self._stays: dict[tuple[Hosted, int], _Stay] = {}

    def __len__(self) -> int:
        return len(self._stays)

    async def join(self, program: Hosted, number: int, name: str, timeout_s: float) -> Member:
        """Raises Refused, Overloaded, DeadlineExceeded."""
        self._permits.check_group(name)
        part = self._endpoint.groups.part(name)
        if (program, number) in self._stays:
            raise LinkViolation(f"membership {number} is there already")
        if len(self._stays) >= MEMBERSHIPS_MAX:
            raise Overloaded(f"the programs of kernel {self._kernel} are in {MEMBERSHIPS_MAX} groups already")
        stay = self._stays[program, number] = _Stay(part)

        def deliver(member: Member, body: bytes) -> None:
            program.group_message(number, member, body)
            if program.behind and not stay.behind:
                self._fell_behind(program, stay)

        try:
            await part.join(deliver, timeout_s, lambda view, members: program.view(number, view, members))
        except BaseException:
            self._stays.pop((program, number), None)
            raise
        assert part.me is not None
        return part.me

    async def leave(self, program: Hosted, number: int, timeout_s: float) -> None:
        """Raises IllegalState, DeadlineExceeded."""
        stay = self._stay(program, number)
        try:
            await stay.part.leave(timeout_s)
        finally:
            self._stays.pop((program, number), None)
            stay.part.abandon()

    async def send(self, program: Hosted, number: int, body: bytes, timeout_s: float) -> None:
        """Raises IllegalState, Overloaded: then nobody got it."""
        await self._stay(program, number).part.send(body, timeout_s)

    def hold(self, program: Hosted, number: int, full: bool) -> None:
        """The program says that it is full, or not any more."""
        stay = self._stays.get((program, number))
        if stay is not None:  # else it has left meanwhile
            stay.full = full
            stay.settle()

    def let_go(self, program: Hosted) -> None:
        """It has ended: it leaves at once."""
        for key in [key for key in self._stays if key[0] is program]:
            self._stays.pop(key).part.abandon()

    def _stay(self, program: Hosted, number: int) -> _Stay:
        try:
            return self._stays[program, number]
        except KeyError:
            raise IllegalState("not a member of that group") from None

    def _fell_behind(self, program: Hosted, stay: _Stay) -> None:
        if sum(other.waiting_size for other in self._programs()) > BEHIND_MAX:
            program.let_go("does not read what comes of its groups")
            return
        stay.behind = True
        stay.settle()

        def caught_up() -> None:
            stay.behind = False
            stay.settle()

        program.when_read(caught_up)
