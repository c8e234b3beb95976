"""The services `capture` and `inject` of a kernel: see the frames of its NIC, and send some.

Theory of operation. The pump's thread copies frames into a bounded buffer and writes an eventfd; the
capture's task, on the event loop, empties the buffer in batches and sends them down the stream, waiting
there for a slow client. So a slow client fills the buffer, then frames are dropped *from the capture* and
counted, and the NIC never waits.

A capture ends when the client closes its half of the stream: frames captured before are still sent, then the
statistics, then the result. It ends at once when the client is gone. In every case the pump's capture is
closed before the eventfd that it writes.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from popnet.core.errors import PeerDied, Refused, StreamClosed
from popnet.core.limits import BUDGET, CAPTURE_SIZE, FRAME_SIZE_MAX
from popnet.message.stream import Stream
from popnet.net import pcapng
from popnet.net.filter import compile_filter
from popnet.net.pump import PumpLike

FRAME_SIZE_MIN: Final = 14
"""Bytes of an Ethernet header."""

DRAIN_S: Final = 5.0
"""Seconds that a client which has stopped a capture may take to read the rest of it."""

INJECT_WAITS_S: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
"""Waits for room in the pump's queue before a frame is given up."""


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """Parameters of a capture: a filter in tcpdump's language or none, and the bytes to keep of a frame."""

    filter: str
    snap_length: int

    @classmethod
    def parse(cls, params: dict[str, Any]) -> "CaptureRequest":
        """Read `{"filter": str, "snap_length": int}`, both optional; 0 keeps whole frames. Raises Refused."""
        text = params.get("filter", "")
        if not isinstance(text, str):
            raise Refused(f"capture: filter is a string, got {text!r}")
        length = params.get("snap_length", 0)
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= FRAME_SIZE_MAX:
            raise Refused(f"capture: snap_length is 0 to {FRAME_SIZE_MAX} bytes, got {length!r}")
        return cls(text.strip(), length or FRAME_SIZE_MAX)


class _Capture:
    """An open capture of a pump; `ready` is set when frames may wait in it."""

    def __init__(self, pump: PumpLike, capture_id: int, ready: asyncio.Event) -> None:
        self._pump = pump
        self._id = capture_id
        self._dropped: int | None = None
        self.ready = ready
        self.captured = 0
        self.stopped_ns: int | None = None

    def stop(self) -> None:
        """Let the sender end once it has sent what was captured up to now."""
        self.stopped_ns = time.time_ns()
        self.ready.set()

    def read(self) -> list[tuple[int, int, int, bytes]]:
        frames = self._pump.capture_read(self._id, BUDGET)
        self.captured += len(frames)
        return frames

    def close(self) -> int:
        """Returns the number of frames dropped. Idempotent."""
        if self._dropped is None:
            self._dropped = self._pump.capture_close(self._id)
        return self._dropped


async def serve_capture(stream: Stream, pump: PumpLike, interface_name: str, mac: bytes = b"") -> None:
    """Send pcapng blocks, in any number of pieces, until the client closes; result {"captured", "dropped"}.

    Args:
        stream: its params are those of CaptureRequest.
        interface_name: what readers show, such as `k1/eth0`.
        mac: of that interface, 6 octets, or none.

    Raises:
        Refused: bad parameters, a filter that libpcap does not understand, or too many captures.
        Unavailable: there is a filter and no libpcap.
    """
    request = CaptureRequest.parse(stream.params)
    program, address = None, 0
    if request.filter:
        # in a thread, for names in a filter are looked up
        compiled = await asyncio.to_thread(compile_filter, request.filter, request.snap_length)
        program, address = compiled.program, compiled.function_address
    head = pcapng.section_header() + pcapng.interface(
        interface_name, request.snap_length, request.filter, mac
    )
    with _opened(pump, request.snap_length, program, address) as capture:
        try:
            async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
                group.create_task(_stop_when_told(stream, capture, limit))
                group.create_task(_send(stream, capture, head))
        except* (StreamClosed, PeerDied, TimeoutError):
            stream.abort()  # nobody is left who reads


@contextmanager
def _opened(pump: PumpLike, snap_length: int, program: bytes | None, address: int) -> Iterator[_Capture]:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def rung() -> None:
        os.eventfd_read(bell)
        ready.set()

    try:
        try:
            capture_id = pump.capture_open(CAPTURE_SIZE, snap_length, program, address, bell)
        except RuntimeError as error:
            raise Refused(f"capture: {error}", "Stop one of them.") from error
        capture = _Capture(pump, capture_id, ready)
        loop.add_reader(bell, rung)
        try:
            yield capture
        finally:
            loop.remove_reader(bell)
            capture.close()
    finally:
        os.close(bell)


async def _stop_when_told(stream: Stream, capture: _Capture, limit: asyncio.Timeout) -> None:
    while await stream.receive() is not None:
        pass  # nothing that a client says means anything yet
    limit.reschedule(asyncio.get_running_loop().time() + DRAIN_S)
    capture.stop()


async def _send(stream: Stream, capture: _Capture, head: bytes) -> None:
    await stream.send(head)
    while True:
        await capture.ready.wait()
        capture.ready.clear()  # before looking: frames that come while we look set it again
        while frames := capture.read():
            await stream.send(pcapng.packets(frames))
            if capture.stopped_ns is not None and frames[-1][0] >= capture.stopped_ns:
                break
        if capture.stopped_ns is not None:
            break
    dropped = capture.close()
    await stream.send(pcapng.statistics(time.time_ns(), capture.captured, dropped))
    await stream.close({"captured": capture.captured, "dropped": dropped})


async def serve_inject(stream: Stream, pump: PumpLike) -> None:
    """Send each chunk as one frame, from its Ethernet header on; result {"injected", "dropped"}.

    Raises:
        Refused: a chunk is no frame by its size; the frames before it were sent.
    """
    counts = {"injected": 0, "dropped": 0}
    try:
        while (chunk := await stream.receive()) is not None:
            frame = chunk[1]
            if not FRAME_SIZE_MIN <= len(frame) <= FRAME_SIZE_MAX:
                raise Refused(
                    f"inject: a frame has {FRAME_SIZE_MIN} to {FRAME_SIZE_MAX} bytes, not {len(frame)}"
                )
            counts["injected" if await _inject(pump, frame) else "dropped"] += 1
    except (StreamClosed, PeerDied):
        return
    await stream.close(dict(counts))


async def _inject(pump: PumpLike, frame: bytes) -> bool:
    for wait_s in INJECT_WAITS_S:
        if pump.inject(frame):
            return True
        await asyncio.sleep(wait_s)
    return pump.inject(frame)
