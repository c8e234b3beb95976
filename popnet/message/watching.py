"""What one kernel knows of the registry: a mirror for each of its watches. Pure.

Theory of operation. A watch sees each change once, in order. Within a session notices come in order and none
is missing; what belongs to an earlier session is late and dropped, since the new session has asked for it
again by the number seen last. A snapshot is compared with the mirror: what is gone goes down (services before
their kernels), what is new comes up.
"""

from collections.abc import Iterator

from popnet.message.notice import Change, Notice


class Watch:
    """One pattern, and what is up among what it matches."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.seen: int | None = None
        self._up: dict[tuple[int, int, str, int, int], Notice] = {}

    def notice(self, seq: int, notice: Notice) -> Iterator[Notice]:
        """A change: what to tell, which is nothing if it is known already."""
        if self.seen is None or seq <= self.seen:
            return
        self.seen = seq
        if notice.change is Change.KERNEL_CHANGED:
            yield notice  # it is up, before and after
            return
        if notice.change.up:
            self._up[notice.identity] = notice
        else:
            self._up.pop(notice.identity, None)
        yield notice

    def snapshot(self, seq: int, ups: list[Notice]) -> Iterator[Notice]:
        """All that is up: what to tell."""
        if self.seen is not None and seq < self.seen:
            return
        self.seen = seq
        now = {notice.identity: notice for notice in ups}
        gone = [notice for identity, notice in self._up.items() if identity not in now]
        for notice in sorted(gone, key=lambda notice: notice.change is Change.KERNEL_UP):
            yield notice.down("gone while nobody could tell")
        yield from (notice for identity, notice in now.items() if identity not in self._up)
        self._up = now
