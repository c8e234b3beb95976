"""What waits for room in one ring of one link: pure, bounded, and fair between streams and messages.

Two queues: records of streams, bounded by the streams' credit, and messages, bounded in bytes here. They take
turns, so that a message of 16 MiB does not hold up a keystroke, nor a flood of streams a call. Within each,
order is kept. The records of a message are made when it is their turn: what waits of it is its body.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from popnet.core import limits
from popnet.message.codec import Payload, size_of

BATCH: Final = 16
"""Records that are staged, and offered to the ring, at a time."""


class _Message:
    """One that waits: its next record, those behind it, and the bytes of it that wait."""

    __slots__ = ("next", "records", "size")

    def __init__(self, records: Iterator[tuple[int, Payload]], size: int) -> None:
        self.next: tuple[int, Payload] | None = next(records)
        self.records = records
        self.size = size

    def take(self) -> tuple[tuple[int, Payload], int]:
        """The next record, and what waits no more when it has gone."""
        assert self.next is not None
        taken, self.next = self.next, next(self.records, None)
        size = self.size if self.next is None else min(size_of(taken[1]), self.size)
        self.size -= size
        return taken, size


class Outbox:
    """Records as (tag, payload), oldest first."""

    def __init__(self, size_max: int = limits.QUEUE_SIZE_MAX) -> None:
        self._size_max = size_max
        self._streams: deque[tuple[int, bytes]] = deque()
        self._messages: deque[_Message] = deque()
        self._messages_size = 0
        self._staged: list[tuple[int, Payload]] = []
        self._staged_sizes: list[int] = []
        """What `messages_size` loses when each of the staged goes: nothing for a record of a stream."""

    def __bool__(self) -> bool:
        return bool(self._staged or self._streams or self._messages)

    def put(self, tag: int, payload: bytes) -> None:
        """A record of a stream: its credit is its place."""
        self._streams.append((tag, payload))

    def has_place(self, size: int) -> bool:
        """Whether a message of *size* bytes may still be put."""
        return self._messages_size + size <= self._size_max

    @property
    def messages_size(self) -> int:
        """Bytes of messages that wait, staged or not."""
        return self._messages_size

    def put_message(self, records: Iterator[tuple[int, Payload]], size: int) -> None:
        """All records of one message, or what is left of them: at least one, and *size* bytes of body."""
        self._messages.append(_Message(records, size))
        self._messages_size += size

    def staged(self) -> Sequence[tuple[int, Payload]]:
        """The records to send next; empty when there are none. Tell `sent` how many went."""
        if not self._staged:
            while len(self._staged) < BATCH and (self._streams or self._messages):
                if self._streams:
                    self._staged.append(self._streams.popleft())
                    self._staged_sizes.append(0)
                if self._messages:
                    record, size = self._messages[0].take()
                    if self._messages[0].next is None:
                        self._messages.popleft()
                    self._staged.append(record)
                    self._staged_sizes.append(size)
        return self._staged

    def sent(self, count: int) -> None:
        """The first *count* of the staged records are in the ring."""
        self._messages_size -= sum(self._staged_sizes[:count])
        del self._staged[:count], self._staged_sizes[:count]
