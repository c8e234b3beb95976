"""The way of one member's messages to another: in order, bounded, behind a hello and before a goodbye.

Theory of operation. A lane sends at once while nothing waits before it in the ring; else a task does, as room
comes. While the other member *holds* the lane its messages wait here, which in the end holds their sender
back. A lane also tells the other member whether ours takes messages (HOLD, GO); these words, and the hello,
never wait for messages: two members that hold each other would wait for ever.

    open --the other says hold--> held --it says go--> open
    open, held --close: one of the two has left--> all that waits, and goodbye
    any --the link is lost, or cannot be made; the member is dead--> broken

A broken lane has lost what it held, which is counted, and so is all that comes, until a view takes the member
out. (A link goes with the kernel at its end, or with the nonsense on it.)
"""

import struct
from collections import deque
from typing import TYPE_CHECKING, Final

from popnet.core import limits
from popnet.core.errors import PeerDied, PopnetError
from popnet.message.kinds import Kind, Ring
from popnet.message.membership import GO, GOODBYE, HELLO, HOLD, Member, following
from popnet.message.peer import Peer

if TYPE_CHECKING:
    from popnet.message.groups import Groups

RING: Final = Ring.NORMAL

HEADER: Final = struct.Struct("<II")
"""Before each message of a group: its number, and the membership of its sender."""

HEADER_SIZE: Final = HEADER.size


class Lane:
    """From membership *own* of this kernel to *member*.

    Args:
        held: the other member wants nothing yet. full: ours takes nothing now.
    """

    def __init__(self, groups: "Groups", own: int, member: Member, held: bool, full: bool) -> None:
        self._groups = groups
        self._own = own
        self._member = member
        self._number = HELLO
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._held = held
        self._full = full
        self._words = deque([HELLO, HOLD] if full else [HELLO])
        self._running = False
        self._peer: Peer | None = None
        self.broken = False
        self._go_on()

    @property
    def idle(self) -> bool:
        """Whether everything is sent that was put."""
        return not self._queue and not self._words and not self._running

    def has_room(self, size: int) -> bool:
        return self.broken or not self._queue or self._size + size <= limits.GROUP_QUEUE_MAX

    def send(self, body: bytes) -> None:
        self._number = following(self._number)
        self._put(self._number, body)

    def close(self) -> None:
        """The last word: nothing comes behind it. Nobody will say go any more, so all that waits goes now."""
        self._put(GOODBYE, b"")
        self.release()

    def drop(self) -> None:
        """The member is dead: nothing need arrive."""
        self.broken = True
        self._queue.clear()
        self._words.clear()
        self._size = 0

    def hold(self) -> None:
        """The other member takes nothing for now."""
        self._held = True

    def release(self) -> None:
        """It does again."""
        self._held = False
        self._go_on()

    def say(self, full: bool) -> None:
        """Tell the other member whether ours takes nothing now."""
        if full is not self._full:
            self._full = full
            if self._words and self._words[-1] != HELLO:
                self._words.pop()  # not sent yet, and not true any more
            else:
                self._words.append(HOLD if full else GO)
            self._go_on()

    def _put(self, number: int, body: bytes) -> None:
        if self.broken or not self._groups.running:
            self._groups.count("group_lost")
            return
        item = self._item(number, body)
        at_once = self.idle and not self._held and self._peer is not None and self._peer.is_drained(RING)
        if at_once and self._peer is not None and self._post(self._peer, item):
            return
        self._queue.append(item)
        self._size += len(item)
        self._go_on()

    def _item(self, number: int, body: bytes = b"") -> bytes:
        return HEADER.pack(number, self._own) + body

    def _post(self, peer: Peer, item: bytes) -> bool:
        return peer.post(RING, Kind.GROUP, 0, self._member.number, item)

    @property
    def _waits(self) -> bool:
        """Whether there is something to send that may be sent."""
        return bool(self._words or (self._queue and not self._held))

    def _go_on(self) -> None:
        if self._waits and not self._running and not self.broken and self._groups.running:
            self._running = True
            self._groups.spawn(self._run())

    async def _run(self) -> None:
        try:
            if self._peer is None:
                self._peer = await self._groups.linked(self._member.kid)
                if self._peer.generation != self._member.generation:
                    raise PeerDied(f"kernel {self._member.kid} runs in another generation")
            while self._waits:
                await self._peer.drained(RING)
                self._send_one(self._peer)
        except PopnetError:
            self._groups.count("group_lost", len(self._queue))
            self.drop()
        finally:
            self._running = False
            self._groups.moved()

    def _send_one(self, peer: Peer) -> None:
        if self._words:
            if self._post(peer, self._item(self._words[0])):
                self._words.popleft()
        elif self._queue and not self._held and self._post(peer, self._queue[0]):
            self._size -= len(self._queue.popleft())
            self._groups.moved()
