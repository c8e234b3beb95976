"""What the services of a NIC need of the frame pump, and a fake of it."""

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from popnet.net.filter import CompiledFilter

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

    def capture_read(self, capture_id: int, budget: int, /) -> list[CapturedFrame]:
        """At most *budget* frames, oldest first."""

    def capture_close(self, capture_id: int, /) -> int:
        """End the capture; returns how many frames were dropped."""

    def inject(self, frame: bytes, /) -> bool:
        """Send *frame*, from its Ethernet header on, as if the guest had; False: the queue is full."""


@dataclass(slots=True)
class _FakeCapture:
    room: int
    snap_length: int
    filter: CompiledFilter | None
    notify_fd: int
    waiting: deque[CapturedFrame] = field(default_factory=deque)
    dropped: int = 0


class FakePump:
    """A pump without threads: frames pass when a test says so.

    It notifies as sparingly as a pump may: only when the first frame comes to wait.

    Attributes:
        injected: frames taken by `inject`, in order.
        refusals: how many calls of `inject` will find the queue full.
        captures_max: how many captures may be open.
        captures: ids of the open ones.
    """

    def __init__(self) -> None:
        self.injected: list[bytes] = []
        self.refusals = 0
        self.captures_max = 16
        self._captures: dict[int, _FakeCapture] = {}
        self._ids: Iterator[int] = count(1)

    @property
    def captures(self) -> list[int]:
        return list(self._captures)

    def frame(self, time_ns: int, direction: int, frame: bytes) -> None:
        """Let a frame pass."""
        for capture in self._captures.values():
            if capture.filter is not None and not capture.filter.matches(frame):
                continue
            kept = frame[: capture.snap_length]
            if len(kept) > capture.room:
                capture.dropped += 1
                continue
            capture.room -= len(kept)
            capture.waiting.append((time_ns, direction, len(frame), kept))
            if len(capture.waiting) == 1:
                os.eventfd_write(capture.notify_fd, 1)

    def capture_open(
        self, size: int, snap_length: int, program: bytes | None, bpf_filter_address: int, notify_fd: int, /
    ) -> int:
        if len(self._captures) == self.captures_max:
            raise RuntimeError(f"there are {self.captures_max} captures already")
        compiled = None if program is None else CompiledFilter(program, bpf_filter_address)
        capture_id = next(self._ids)
        self._captures[capture_id] = _FakeCapture(size, snap_length, compiled, notify_fd)
        return capture_id

    def capture_read(self, capture_id: int, budget: int, /) -> list[CapturedFrame]:
        capture = self._captures[capture_id]
        frames = [capture.waiting.popleft() for _ in range(min(budget, len(capture.waiting)))]
        capture.room += sum(len(kept) for *_, kept in frames)
        return frames

    def capture_close(self, capture_id: int, /) -> int:
        return self._captures.pop(capture_id).dropped

    def inject(self, frame: bytes, /) -> bool:
        if self.refusals:
            self.refusals -= 1
            return False
        self.injected.append(frame)
        return True
