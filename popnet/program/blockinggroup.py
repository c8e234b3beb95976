"""A script's part in a group: messages queue until `recv`.

The queue drops nothing. When more than QUEUE_MAX messages or QUEUE_SIZE_MAX bytes wait, the member holds its
senders back, until half of it is read; what was under way still comes.
"""

from collections import deque
from typing import Final

from popnet.message.membership import Member
from popnet.program.group import TIMEOUT_S, ProgramGroup
from popnet.program.waiting import Waiting

QUEUE_MAX: Final = 1024

QUEUE_SIZE_MAX: Final = 4 << 20


class BlockingGroup:
    """As `popnet.program.group.ProgramGroup`, with the same errors."""

    def __init__(self, group: ProgramGroup, waiting: Waiting) -> None:
        self._group = group
        self._waiting = waiting
        self._messages: deque[tuple[Member, bytes]] = deque()
        self._size = 0

    @property
    def name(self) -> str:
        return self._group.name

    @property
    def me(self) -> Member | None:
        return self._group.me

    @property
    def view(self) -> int:
        """As of the last call that waited."""
        return self._group.view

    @property
    def members(self) -> list[Member]:
        """As of the last call that waited."""
        return self._group.members

    def join(self, timeout_s: float = TIMEOUT_S) -> None:
        """From when it returns, every message that is sent, the own included, comes from `recv`."""
        self._messages.clear()
        self._size = 0
        self._waiting.now(
            self._group.join(self._take, timeout_s, lambda view, members: self._waiting.moved())
        )

    def leave(self, timeout_s: float = TIMEOUT_S) -> None:
        """When it returns nothing more comes; what had come is still there for `recv`."""
        self._group.hold(False)
        self._waiting.now(self._group.leave(timeout_s))

    def send(self, body: bytes, timeout_s: float = TIMEOUT_S) -> None:
        """Send *body* to every member. A script that only sends, and never reads, holds itself back in the
        end: Overloaded."""
        self._waiting.now(self._group.send(body, timeout_s))

    def recv(self, timeout_s: float | None = None) -> tuple[Member, bytes]:
        """The next message as (from member, body). Raises DeadlineExceeded, PeerDied, IllegalState (not a
        member, and nothing is left)."""
        if not self._messages:
            self._group.check_member()
            self._waiting.until(lambda: self._messages, timeout_s)
        member, body = self._messages.popleft()
        self._size -= len(body)
        if len(self._messages) <= QUEUE_MAX // 2 and self._size <= QUEUE_SIZE_MAX // 2:
            self._group.hold(False)
        return member, body

    def _take(self, member: Member, body: bytes) -> None:
        self._messages.append((member, body))
        self._size += len(body)
        if len(self._messages) > QUEUE_MAX or self._size > QUEUE_SIZE_MAX:
            self._group.hold(True)
        self._waiting.moved()
