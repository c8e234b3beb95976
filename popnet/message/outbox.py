"""What waits for room in one ring of one link: pure, bounded, and fair between streams and messages.

Two queues: records of streams, bounded by the streams' credit, and messages, bounded in bytes here. They take
turns, so that a message of 16 MiB does not hold up a keystroke, nor a flood of streams a call. Within each,
order is kept.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from popnet.core import limits

BATCH: Final = 16
"""Records that are staged, and offered to the ring, at a time."""


class Outbox:
    """Records as (tag, payload), oldest first."""

    def __init__(self, size_max: int = limits.QUEUE_SIZE_MAX) -> None:
        self._size_max = size_max
        self._streams: deque[tuple[int, bytes]] = deque()
        self._messages: deque[tuple[int, bytes]] = deque()
        self._messages_size = 0
        self._staged: list[tuple[int, bytes]] = []
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

    def put_message(self, records: Iterable[tuple[int, bytes]]) -> None:
        """All records of one message."""
        for record in records:
            self._messages.append(record)
            self._messages_size += len(record[1])

    def staged(self) -> Sequence[tuple[int, bytes]]:
        """The records to send next; empty when there are none. Tell `sent` how many went."""
        if not self._staged:
            while len(self._staged) < BATCH and (self._streams or self._messages):
                if self._streams:
                    self._staged.append(self._streams.popleft())
                    self._staged_sizes.append(0)
                if self._messages:
                    self._staged.append(self._messages.popleft())
                    self._staged_sizes.append(len(self._staged[-1][1]))
        return self._staged

    def sent(self, count: int) -> None:
        """The first *count* of the staged records are in the ring."""
        self._messages_size -= sum(self._staged_sizes[:count])
        del self._staged[:count], self._staged_sizes[:count]
