"""The way of one member's messages to another: in order, bounded, behind a hello and before a goodbye.

A lane sends at once while nothing waits before it in the ring; else a task does, as room comes. A lane whose
link cannot be made, or is lost, is broken: what it holds is lost and counted, and so is all that comes, until
a view takes the member out. (A link goes with the kernel at its end, or with the nonsense on it.)
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from popnet.core import limits
from popnet.core.errors import PeerDied, PopnetError
from popnet.message import codec
from popnet.message.kinds import Kind, Ring
from popnet.message.membership import GOODBYE, HELLO, Member, following
from popnet.message.peer import Peer

if TYPE_CHECKING:
    from popnet.message.groups import Groups

RING: Final = Ring.NORMAL


class Lane:
    """To *member*, for the groups of one endpoint."""

    def __init__(self, groups: "Groups", member: Member) -> None:
        self._groups = groups
        self._member = member
        self._number = HELLO
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._running = False
        self._peer: Peer | None = None
        self.broken = False
        self._put(HELLO, b"")

    @property
    def idle(self) -> bool:
        """Whether everything is sent that was put."""
        return not self._queue and not self._running

    def has_room(self, size: int) -> bool:
        return self.broken or not self._queue or self._size + size <= limits.GROUP_QUEUE_MAX

    def send(self, body: bytes) -> None:
        self._number = following(self._number)
        self._put(self._number, body)

    def close(self) -> None:
        """The last word: nothing comes behind it."""
        self._put(GOODBYE, b"")

    def drop(self) -> None:
        """The member is dead: nothing need arrive."""
        self.broken = True
        self._queue.clear()
        self._size = 0

    def _put(self, number: int, body: bytes) -> None:
        if self.broken or not self._groups.running:
            self._groups.count("group_lost")
            return
        item = codec.U32.pack(number) + body
        if (
            self.idle
            and self._peer is not None
            and self._peer.is_drained(RING)
            and self._post(self._peer, item)
        ):
            return
        self._queue.append(item)
        self._size += len(item)
        if not self._running:
            self._running = True
            self._groups.spawn(self._run())

    def _post(self, peer: Peer, item: bytes) -> bool:
        return peer.post(RING, Kind.GROUP, 0, self._member[2], item)

    async def _run(self) -> None:
        try:
            if self._peer is None:
                self._peer = await self._groups.linked(self._member[0])
                if self._peer.generation != self._member[1]:
                    raise PeerDied(f"kernel {self._member[0]} runs in another generation")
            while self._queue:
                await self._peer.drained(RING)
                if self._queue and self._post(self._peer, self._queue[0]):
                    self._size -= len(self._queue.popleft())
                    self._groups.moved()
        except PopnetError:
            self._groups.count("group_lost", len(self._queue))
            self.drop()
        finally:
            self._running = False
            self._groups.moved()
