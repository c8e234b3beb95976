"""What the services of a NIC need of the frame pump, and a fake of it."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from popnet.net.filter import CompiledFilter
from popnet.net.pcapng import packets

CapturedFrame = tuple[int, int, int, bytes]
"""Time (ns since 1970), direction (0 to the guest, 1 from it), original length, bytes kept."""


class PumpLike(Protocol):
    """The part of the native frame pump that captures and injects; callable while it runs."""

    def capture_open(
        self,
        size: int,
        snap_length: int,
        program: bytes | None,
        bpf_filter_address: int,
        notify_fd: int,
        /,
    ) -> int:
        """Copy frames from now on, and return the id of this capture.

        Args:
            size: bytes of frames that may wait to be read; more are dropped and counted.
            snap_length: bytes kept of a frame.
            program: of a CompiledFilter, or None for all frames.
            bpf_filter_address: of a CompiledFilter, or 0.
            notify_fd: eventfd that is written when frames wait; not owned.

        Raises:
            RuntimeError: as many captures are open as the pump can serve.
        """

    def capture_divert(self, capture_id: int, to_guest: bool, from_guest: bool, /) -> None:
        """From now on frames that this capture accepts end in it, those of the directions given."""

    def capture_whole(self, capture_id: int, whole: bool, /) -> None:
        """Whether it keeps super-frames as guests hand them over; else it cuts them into segments."""

    def capture_blocks(self, capture_id: int, interface_id: int, size: int, /) -> tuple[bytes, int, int]:
        """Frames as blocks of pcapng, oldest first: (blocks, how many frames, time of the last in ns).

        As many as *size* bytes hold, but one if any waits; (b"", 0, 0) says that every frame which had passed
        before this call was read.
        """

    def capture_dropped(self, capture_id: int, /) -> int:
        """How many frames were dropped so far."""

    def capture_close(self, capture_id: int, /) -> int:
        """End the capture; returns how many frames were dropped."""

    def inject(self, frame: bytes, to_guest: bool = False) -> bool:
        """Send *frame*, from its Ethernet header on, as if the guest had; False: the queue is full.

        With *to_guest*, hand it to the guest, as if it had come over a link. No capture diverts it.
        """


@dataclass(slots=True)
class _FakeCapture:
    room: int
    snap_length: int
    filter: CompiledFilter | None
    notify_fd: int
    waiting: deque[CapturedFrame] = field(default_factory=deque)
    dropped: int = 0
    diverts: tuple[bool, bool] = (False, False)  # by direction
    whole: bool = False


class FakePump:
    """A pump without threads: frames pass when a test says so.

    It notifies as sparingly as a pump may: only when the first frame comes to wait.

    Attributes:
        injected: frames taken by `inject`, in order; `given`: those for the guest.
        passed: frames that no capture diverted, as (direction, frame).
        refusals: how many calls of `inject` will find the queue full.
        captures_max: how many captures may be open.
        captures: ids of the open ones; `keeping_whole`: of those that keep super-frames.
    """

    def __init__(self) -> None:
        self.injected: list[bytes] = []
        self.given: list[bytes] = []
        self.passed: list[tuple[int, bytes]] = []
        self.refusals = 0
        self.captures_max = 16
        self._captures: dict[int, _FakeCapture] = {}
        self._ids: Iterator[int] = count(1)

    @property
    def captures(self) -> list[int]:
        return list(self._captures)

    @property
    def keeping_whole(self) -> list[int]:
        return [capture_id for capture_id, capture in self._captures.items() if capture.whole]

    def frame(self, time_ns: int, direction: int, frame: bytes) -> None:
        """Let a frame pass, unless a capture diverts it."""
        diverted = False
        for capture in self._captures.values():
            if capture.filter is not None and not capture.filter.matches(frame):
                continue
            diverted |= capture.diverts[direction]
            kept = frame[: capture.snap_length]
            if len(kept) > capture.room:
                capture.dropped += 1
                continue
            capture.room -= len(kept)
            capture.waiting.append((time_ns, direction, len(frame), kept))
            if len(capture.waiting) == 1:
                os.eventfd_write(capture.notify_fd, 1)
        if not diverted:
            self.passed.append((direction, frame))

    def capture_open(
        self, size: int, snap_length: int, program: bytes | None, bpf_filter_address: int, notify_fd: int, /
    ) -> int:
        if len(self._captures) == self.captures_max:
            raise RuntimeError(f"there are {self.captures_max} captures already")
        compiled = None if program is None else CompiledFilter(program, bpf_filter_address)
        capture_id = next(self._ids)
        self._captures[capture_id] = _FakeCapture(size, snap_length, compiled, notify_fd)
        return capture_id

    def capture_divert(self, capture_id: int, to_guest: bool, from_guest: bool, /) -> None:
        self._captures[capture_id].diverts = (to_guest, from_guest)

    def capture_whole(self, capture_id: int, whole: bool, /) -> None:
        self._captures[capture_id].whole = whole

    def capture_blocks(self, capture_id: int, interface_id: int, size: int, /) -> tuple[bytes, int, int]:
        capture = self._captures[capture_id]
        blocks, frames, last_ns = b"", 0, 0
        while capture.waiting:
            frame = capture.waiting[0]
            block = packets([frame], interface_id)
            if blocks and len(blocks) + len(block) > size:
                break
            blocks, frames, last_ns = blocks + block, frames + 1, frame[0]
            capture.room += len(capture.waiting.popleft()[3])
        return blocks, frames, last_ns

    def capture_dropped(self, capture_id: int, /) -> int:
        return self._captures[capture_id].dropped

    def capture_close(self, capture_id: int, /) -> int:
        return self._captures.pop(capture_id).dropped

    def inject(self, frame: bytes, to_guest: bool = False) -> bool:
        if self.refusals:
            self.refusals -= 1
            return False
        (self.given if to_guest else self.injected).append(frame)
        return True
