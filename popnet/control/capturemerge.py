"""Captures of several NICs as one pcapng, in the order of time: pure, fed with what each kernel sends.

Theory of operation. Each interface of the file is a *feed*. What it sends is in order, but the feeds are not
in step: a frame may be given out only when no feed can still bring an older one. Of each feed we know a time
up to which it has sent everything, its *mark*: the time of its last frame, or of an answer to a question (see
`popnet.net.capture`). `take` gives out what is not newer than the oldest mark. A feed that is silent is asked
(`lagging` says which); one that does not answer for PATIENCE_NS holds up nobody: what it brings then, comes
late. A feed alone waits for nothing.

Blocks are looked at, and passed on as they are: kernels write the place of their interface into them.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter

from popnet.core.errors import LinkViolation
from popnet.net import pcapng

TYPE_CHECKING = False  # not from typing: that import alone would cost 3 ms
if TYPE_CHECKING:
    from typing import Final

PATIENCE_NS: Final = 1_000_000_000
"""How much older than now a mark may be before others do not wait for it any more."""

_PACKET: Final = 6
_STATISTICS: Final = 5
_HEAD: Final = struct.Struct("<II3I")  # type, length, interface, time high, time low: of both kinds
_MINIMAL: Final = struct.Struct("<II")
_OPTION: Final = struct.Struct("<HHQ")
_DROPPED: Final = 5
_LENGTH_MIN: Final = 12
_LENGTH_MAX: Final = 1 << 20

_time = itemgetter(0)


@dataclass(slots=True)
class Feed:
    """One interface of the file, and what is known of it.

    Attributes:
        name: as it reads in Wireshark, such as `k1/eth0`.
        captured, dropped: frames that it sent, and that its kernel had to drop.
        live: more may come.
        mark_ns: nothing from before this time comes any more.
    """

    name: str
    description: bytes
    captured: int = 0
    dropped: int = 0
    live: bool = True
    mark_ns: int = 0
    waiting: deque[tuple[int, int, bytes]] = field(default_factory=deque)  # time in ns, packets, their blocks
    partial: bytes = b""


class Merger:
    """Gives out whole blocks of packets. What a file needs beside them, a `Section` of it has.

    Attributes:
        feeds: all there have been, by their places.
        size: bytes that wait.
        taken: packets that were given out.
        late: packets that came after newer ones were given out.
    """

    def __init__(self) -> None:
        self.feeds: list[Feed] = []
        self.size = 0
        self.taken = 0
        self.late = 0
        self._given_ns = 0

    def add(self, name: str, snap_length: int, filter: str, mac: bytes, description: str) -> int:
        """A new interface; returns its place, for the kernel to write into its blocks."""
        block = pcapng.interface(name, snap_length, filter, mac, description=description)
        self.feeds.append(Feed(name, block))
        return len(self.feeds) - 1

    def feed(self, place: int, data: bytes) -> None:
        """Takes what the kernel of that interface sent. Raises LinkViolation for what is no pcapng."""
        feed = self.feeds[place]
        buffer = feed.partial + data if feed.partial else data
        alone = not any(other.live or other.waiting for other in self.feeds if other is not feed)
        start = at = frames = first_ns = 0
        while len(buffer) - at >= _LENGTH_MIN:
            kind, length = _MINIMAL.unpack_from(buffer, at)
            if length % 4 or not _LENGTH_MIN <= length <= _LENGTH_MAX:
                raise LinkViolation(f"the kernel sent no pcapng: a block of {length} bytes")
            if at + length > len(buffer):
                break
            if kind == _PACKET:
                _, _, _, high, low = _HEAD.unpack_from(buffer, at)
                feed.mark_ns = high << 32 | low
                first_ns = first_ns or feed.mark_ns
                frames += 1
            elif kind == _STATISTICS:
                self._count(feed, buffer[at : at + length])
            at += length
            if frames and (kind != _PACKET or not alone):
                end = at if kind == _PACKET else at - length
                self._wait(feed, first_ns, frames, buffer[start:end])
                frames = first_ns = 0
            if not frames:
                start = at
        if frames:
            self._wait(feed, first_ns, frames, buffer[start:at])
        feed.partial = buffer[at:]

    def end(self, place: int, dropped: int | None = None) -> None:
        """Nothing more comes from it. *dropped* is the last count, if there is one."""
        feed = self.feeds[place]
        feed.live = False
        feed.partial = b""
        feed.dropped = dropped if dropped is not None else feed.dropped

    def take(self, now_ns: int) -> bytes:
        """What can be given out at *now_ns*, joined; b"" if nothing can."""
        live = [feed for feed in self.feeds if feed.live]
        if len(live) > 1 or (live and any(feed.waiting for feed in self.feeds if not feed.live)):
            until_ns = max(min(feed.mark_ns for feed in live), now_ns - PATIENCE_NS)
        else:
            until_ns = 1 << 64
        ready = [chosen for feed in self.feeds if (chosen := _until(feed, until_ns))]
        ordered = merge(*ready, key=_time) if len(ready) > 1 else ready[0] if ready else []
        parts: list[bytes] = []
        for time_ns, frames, blocks in ordered:
            self.late += time_ns < self._given_ns
            self._given_ns = max(self._given_ns, time_ns)
            parts.append(blocks)
            self.size -= len(blocks)
            self.taken += frames
        return b"".join(parts)

    def lagging(self) -> list[int]:
        """Places of feeds that others wait for."""
        newest_ns = max((feed.waiting[-1][0] for feed in self.feeds if feed.waiting), default=0)
        return [place for place, feed in enumerate(self.feeds) if feed.live and feed.mark_ns < newest_ns]

    def _wait(self, feed: Feed, time_ns: int, frames: int, blocks: bytes) -> None:
        feed.captured += frames
        feed.waiting.append((time_ns, frames, blocks))
        self.size += len(blocks)

    @staticmethod
    def _count(feed: Feed, block: bytes) -> None:
        _, _, _, high, low = _HEAD.unpack_from(block)
        feed.mark_ns = max(feed.mark_ns, high << 32 | low)
        for at in range(_HEAD.size, len(block) - _OPTION.size - 3, _OPTION.size):
            kind, length, value = _OPTION.unpack_from(block, at)
            if length != 8:
                break  # not as our kernels write it
            if kind == _DROPPED:
                feed.dropped = value


class Section:
    """What one file needs beside packets: a head, each interface before its packets, counts at the end."""

    def __init__(self, merger: Merger) -> None:
        self._merger = merger
        self._described = 0
        self._begun = False

    def news(self) -> bytes:
        """What is to be written before packets that were taken just now."""
        head = b"" if self._begun else pcapng.section_header()
        new = self._merger.feeds[self._described :]
        self._begun = True
        self._described += len(new)
        return head + b"".join(feed.description for feed in new)

    def statistics(self, now_ns: int) -> bytes:
        """The counts of its interfaces since the capture began, not this file."""
        return b"".join(
            pcapng.statistics(now_ns, feed.captured, feed.dropped, place)
            for place, feed in enumerate(self._merger.feeds[: self._described])
        )


def _until(feed: Feed, until_ns: int) -> list[tuple[int, int, bytes]]:
    chosen = []
    while feed.waiting and feed.waiting[0][0] <= until_ns:
        chosen.append(feed.waiting.popleft())
    return chosen
