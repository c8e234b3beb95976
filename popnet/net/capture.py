"""The services `capture` and `inject` of a kernel: see the frames of its NIC, and send some.

Theory of operation. The pump's thread copies frames into a bounded buffer and writes an eventfd; the
capture's task, on the event loop, empties the buffer in batches, already made into blocks of pcapng by native
code, and sends them down the stream, waiting there for a slow client; or, if the client can, into memory that
both share (see `spool`), and waits there. So a slow client fills the buffer, then frames are dropped *from
the capture* and counted, and the NIC never waits.

Statistics follow the frames: whenever some were dropped since the last, and whenever the client asks, by any
data. Those that answer carry the time of the question: every frame from before it has been sent. Who merges
captures of several kernels by time asks those that are silent.

A capture may *divert*: the frames that it accepts, of one direction or both, end in it, and neither the guest
nor the wire gets them. Frames of `inject` are captured and never diverted, so that who diverts may put back
what it likes. When the capture ends, frames go their way again.

A capture ends when the client closes its half of the stream: frames captured before are still sent, then the
statistics, then the result. It ends at once when the client is gone. In every case the pump's capture is
closed before the eventfd that it writes.
"""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from popnet.core.addresses import mac, mac_text
from popnet.core.errors import PeerDied, Refused, StreamClosed
from popnet.core.limits import CAPTURE_SIZE, FRAME_SIZE_MAX, STREAM_RECORD_MAX
from popnet.message.stream import Stream
from popnet.net import pcapng
from popnet.net.filter import compile_filter
from popnet.net.pump import PumpLike
from popnet.net.spool import CHANNEL, PIECE_MAX, Spool

FRAME_SIZE_MIN: Final = 14
"""Bytes of an Ethernet header."""

KID_MAX: Final = 254

INTERFACES_MAX: Final = 1 << 20
"""Places of interfaces in one file: far more than there are generations of kernels while one is written."""

DRAIN_S: Final = 5.0
"""Seconds that a client which has stopped a capture may take to read the rest of it."""

INJECT_WAITS_S: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
"""Waits for room in the pump's queue before a frame is given up."""


DIRECTIONS: Final = {"": (False, False), "in": (True, False), "out": (False, True), "both": (True, True)}
"""What may be diverted: by name, whether frames to the guest, and frames from it."""


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """Parameters of a capture.

    Attributes:
        filter: in tcpdump's language, or empty.
        snap_length: bytes to keep of a frame.
        peer: only frames between this kernel and the one of this kid, its broadcasts included; None: all.
        interface: place of the interface in the file that the client writes, from 0.
        divert: which of the frames to divert, one of DIRECTIONS.
        spool: the client can read from memory that it shares with us.
        super_frames: keep frames of up to 64 KiB as guests hand them over; else what a wire would carry.
    """

    filter: str
    snap_length: int
    peer: int | None = None
    interface: int = 0
    divert: str = ""
    spool: bool = False
    super_frames: bool = False

    @classmethod
    def parse(cls, params: dict[str, Any]) -> "CaptureRequest":
        """Read `{"filter": str, "snap_length": int, "peer": int, "interface": int, "divert": str,
        "spool": bool, "super_frames": bool}`, all optional; a length of 0 keeps whole frames.

        Raises Refused."""
        text = params.get("filter", "")
        if not isinstance(text, str):
            raise Refused(f"capture: filter is a string, got {text!r}")
        length = _number(params, "snap_length", FRAME_SIZE_MAX, " bytes")
        peer = _number(params, "peer", KID_MAX) if params.get("peer") is not None else None
        interface = _number(params, "interface", INTERFACES_MAX)
        divert = params.get("divert", "")
        if divert not in tuple(DIRECTIONS):
            raise Refused(f"capture: divert is in, out or both, got {divert!r}")
        spool = params.get("spool") is True
        whole = params.get("super_frames", False)
        if not isinstance(whole, bool):
            raise Refused(f"capture: super_frames is true or false, got {whole!r}")
        return cls(text.strip(), length or FRAME_SIZE_MAX, peer, interface, divert, spool, whole)

    def program_text(self, kid: int) -> str:
        """What libpcap is to compile, at kernel *kid*; empty: nothing, every frame is wanted."""
        if self.peer is None:
            return self.filter
        link = link_filter(kid, self.peer)
        return f"({link}) and ({self.filter})" if self.filter else link


def link_filter(kid: int, peer: int) -> str:
    """Frames between two kernels: from either, to the other or to all."""
    here, there = mac_text(kid), mac_text(peer)
    return " or ".join(
        f"(ether src {source} and (ether dst {destination} or ether multicast))"
        for source, destination in ((here, there), (there, here))
    )


def _number(params: dict[str, Any], name: str, most: int, unit: str = "") -> int:
    value = params.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise Refused(f"capture: {name} is 0 to {most}{unit}, got {value!r}")
    return value


class _Capture:
    """An open capture of a pump.

    Attributes:
        ready: set when frames may wait in it, or there is something else to do.
        asked_ns: when the client asked for statistics that it has not got; None: it did not.
        stopped_ns: when the client stopped it; None: it did not.
    """

    def __init__(self, pump: PumpLike, capture_id: int, interface: int, ready: asyncio.Event) -> None:
        self._pump = pump
        self._id = capture_id
        self._interface = interface
        self._dropped: int | None = None
        self._told = 0
        self.ready = ready
        self.captured = 0
        self.asked_ns: int | None = None
        self.stopped_ns: int | None = None

    def stop(self) -> None:
        """Let the sender end once it has sent what was captured up to now."""
        self.stopped_ns = time.time_ns()
        self.ready.set()

    def ask(self) -> None:
        """Let the sender send statistics once it has sent what was captured up to now."""
        if self.asked_ns is None:
            self.asked_ns = time.time_ns()
        self.ready.set()

    def read(self, size: int) -> tuple[bytes, int]:
        """Blocks of frames, and the time in ns of the last of them; b"" if none waits."""
        blocks, frames, last_ns = self._pump.capture_blocks(self._id, self._interface, size)
        self.captured += frames
        return blocks, last_ns

    def statistics(self, last_ns: int | None) -> bytes:
        """A block of statistics if there is a reason for one: drops, or an answer that is due.

        *last_ns* is the time of the last frame that was read; None: all were.
        """
        asked_ns = self.asked_ns
        if asked_ns is not None and (last_ns is None or last_ns >= asked_ns):
            self.asked_ns = None
            return self._block(asked_ns)
        if last_ns is None and self._pump.capture_dropped(self._id) != self._told:
            return self._block(time.time_ns())
        return b""

    def last_statistics(self) -> bytes:
        """To be sent last; ends the capture."""
        self.close()
        return self._block(time.time_ns())

    def _block(self, time_ns: int) -> bytes:
        self._told = self._pump.capture_dropped(self._id) if self._dropped is None else self._dropped
        return pcapng.statistics(time_ns, self.captured, self._told, self._interface)

    def close(self) -> int:
        """Returns the number of frames dropped. Idempotent."""
        if self._dropped is None:
            self._dropped = self._pump.capture_close(self._id)
        return self._dropped


async def serve_capture(stream: Stream, pump: PumpLike, interface_name: str, kid: int) -> None:
    """Send pcapng blocks, in any number of pieces, until the client closes; result {"captured", "dropped"}.

    Args:
        stream: its params are those of CaptureRequest.
        interface_name: what readers show, such as `k1/eth0`.
        kid: of this kernel.

    Raises:
        Refused: bad parameters, a filter that libpcap does not understand, or too many captures.
        Unavailable: there is a filter and no libpcap.
    """
    request = CaptureRequest.parse(stream.params)
    program, address = None, 0
    if text := request.program_text(kid):
        # in a thread, for names in a filter are looked up
        if request.peer is not None and request.filter:
            await asyncio.to_thread(compile_filter, request.filter, request.snap_length)  # its own errors
        compiled = await asyncio.to_thread(compile_filter, text, request.snap_length)
        program, address = compiled.program, compiled.function_address
    head = pcapng.section_header() + pcapng.interface(
        interface_name, request.snap_length, request.filter, mac(kid)
    )
    with ExitStack() as stack:
        spool = stack.enter_context(closing(Spool())) if request.spool else None
        capture = stack.enter_context(_opened(pump, request, program, address))
        try:
            async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
                group.create_task(_listen(stream, capture, spool, limit))
                group.create_task(_send(stream, capture, spool, head))
        except* (StreamClosed, PeerDied, TimeoutError):
            stream.abort()  # nobody is left who reads


@contextmanager
def _opened(
    pump: PumpLike, request: CaptureRequest, program: bytes | None, address: int
) -> Iterator[_Capture]:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def rung() -> None:
        os.eventfd_read(bell)
        ready.set()

    try:
        try:
            capture_id = pump.capture_open(CAPTURE_SIZE, request.snap_length, program, address, bell)
        except RuntimeError as error:
            raise Refused(f"capture: {error}", "Stop one of them.") from error
        capture = _Capture(pump, capture_id, request.interface, ready)
        loop.add_reader(bell, rung)
        try:
            if request.super_frames:
                pump.capture_whole(capture_id, True)
            if request.divert:
                pump.capture_divert(capture_id, *DIRECTIONS[request.divert])
            yield capture
        finally:
            loop.remove_reader(bell)
            capture.close()
    finally:
        os.close(bell)


async def _listen(stream: Stream, capture: _Capture, spool: Spool | None, limit: asyncio.Timeout) -> None:
    while (received := await stream.receive()) is not None:
        channel, data = received
        if spool is not None and channel == CHANNEL:
            spool.take(data)
        else:
            capture.ask()
    limit.reschedule(asyncio.get_running_loop().time() + DRAIN_S)
    capture.stop()
    if spool is not None:
        spool.stop()


async def _send(stream: Stream, capture: _Capture, spool: Spool | None, head: bytes) -> None:
    await stream.send(head)
    if spool is not None:
        await stream.send(spool.where(), CHANNEL)
        await spool.answered.wait()
    shared = spool if spool is not None and spool.shared else None
    size = PIECE_MAX if shared is not None else STREAM_RECORD_MAX
    while True:
        await capture.ready.wait()
        capture.ready.clear()  # before looking: frames that come while we look set it again
        while (read := capture.read(size))[0]:
            blocks, last_ns = read
            place = await shared.put(blocks) if shared is not None else None
            await (stream.send(blocks) if place is None else stream.send(place, CHANNEL))
            if capture.stopped_ns is not None and last_ns >= capture.stopped_ns:
                break
            await stream.send(capture.statistics(last_ns))
        if capture.stopped_ns is not None:
            break
        await stream.send(capture.statistics(None))
    captured = capture.captured
    await stream.send(capture.last_statistics())
    await stream.close({"captured": captured, "dropped": capture.close()})


async def serve_inject(stream: Stream, pump: PumpLike) -> None:
    """Send each chunk as one frame, from its Ethernet header on; result {"injected", "dropped"}.

    The parameter `direction` is "out" (the default), as if the guest had sent it, or "in": to the guest, as
    if it had come over a link.

    Raises:
        Refused: another direction; or a chunk is no frame by its size, and the frames before it were sent.
    """
    direction = stream.params.get("direction", "out")
    if direction not in ("in", "out"):
        raise Refused(f"inject: direction is in or out, got {direction!r}")
    counts = {"injected": 0, "dropped": 0}
    try:
        while (chunk := await stream.receive()) is not None:
            frame = chunk[1]
            if not FRAME_SIZE_MIN <= len(frame) <= FRAME_SIZE_MAX:
                raise Refused(
                    f"inject: a frame has {FRAME_SIZE_MIN} to {FRAME_SIZE_MAX} bytes, not {len(frame)}"
                )
            counts["injected" if await _inject(pump, frame, direction == "in") else "dropped"] += 1
    except (StreamClosed, PeerDied):
        return
    await stream.close(dict(counts))


async def _inject(pump: PumpLike, frame: bytes, to_guest: bool) -> bool:
    for wait_s in INJECT_WAITS_S:
        if pump.inject(frame, to_guest):
            return True
        await asyncio.sleep(wait_s)
    return pump.inject(frame, to_guest)
