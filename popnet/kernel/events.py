"""What happened: the machine's event stream and the logs of its kernels, kept in bounded memory and followed
by many."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any


class Journal:
    """A bounded list of numbered entries that any number of followers read at their own pace.

    Numbers (`seq`) only grow. A follower that falls behind the oldest kept entry continues there; the gap
    shows in the numbers.
    """

    def __init__(self, length_max: int) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=length_max)
        self._next = 1
        self._grown = asyncio.Event()
        self._closed = False

    def append(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Number *entry* and keep it; wakes the followers."""
        numbered = {"seq": self._next, **entry}
        self._next += 1
        self._entries.append(numbered)
        self._wake()
        return numbered

    def close(self) -> None:
        """End every follower once it has read what there is."""
        self._closed = True
        self._wake()

    async def read(self, since: int = 0, follow: bool = False) -> AsyncIterator[dict[str, Any]]:
        """The entries after number *since*; with *follow* also those to come."""
        position = since
        while True:
            grown = self._grown
            for entry in self._after(position):
                position = entry["seq"]
                yield entry
            if not follow or self._closed:
                return
            if position + 1 >= self._next:
                await grown.wait()

    def last(self, count: int) -> list[dict[str, Any]]:
        """The newest *count* entries, oldest first."""
        return list(self._entries)[-count:] if count else []

    def _after(self, position: int) -> list[dict[str, Any]]:
        if not self._entries or self._entries[-1]["seq"] <= position:
            return []
        first = self._entries[0]["seq"]
        skip = max(0, position - first + 1)
        return [self._entries[i] for i in range(skip, len(self._entries))]

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()
