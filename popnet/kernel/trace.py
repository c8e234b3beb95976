"""The service `trace` of a kernel: what its ends of its links see of each record, as it happens.

Theory of operation. The tracer of the endpoint puts halves into a buffer, on the event loop, in the midst of
sending and receiving; so all it does there is pack and append. The task of the stream empties the buffer in
batches, BATCH_S after the first half came, and waits for its client at the stream. So a slow client fills
the buffer, then halves are lost *from the trace* and counted, and no message waits.

A trace ends when the client closes its half: what was traced before is still sent, then the result. It ends
at once when the client is gone. In every case the endpoint's links are plain again afterwards, unless there
is another trace.
"""

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Final

from popnet.core.errors import PeerDied, Refused, StreamClosed
from popnet.core.limits import MESSAGE_SIZE_MAX, STREAM_RECORD_MAX
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import KIND_MAX
from popnet.message.stream import Stream
from popnet.message.tracehalf import HEAD, Received, Sent, pack

DATA: Final = 0
NOTES: Final = 2
"""Channel of JSON: first what kernel this is, later how many halves are lost."""

BUFFER_SIZE: Final = 4 << 20
"""Bytes of halves that may wait for a slow client: as much as a capture has."""

TRACES_MAX: Final = 8
"""Traces of one kernel at a time; each may take BUFFER_SIZE."""

BATCH_S: Final = 0.02
"""Seconds that halves gather before they are sent: one wake-up for many, and nobody sees the difference."""

DRAIN_S: Final = 5.0
"""Seconds that a client which has stopped a trace may take to read the rest of it."""

PAYLOAD_MAX: Final = STREAM_RECORD_MAX - HEAD.size
"""Bytes of a payload that are kept at most: a half rides one record of the stream."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """Parameters of a trace.

    Attributes:
        kids: only messages from or to these kernels; empty: all.
        kinds: only messages of these kinds; empty: all.
        snap_length: bytes of each payload to keep, its header of 8 bytes included.
    """

    kids: frozenset[int]
    kinds: frozenset[int]
    snap_length: int

    @classmethod
    def parse(cls, params: dict[str, Any]) -> "TraceRequest":
        """Read `{"kids": [int], "kinds": [int], "snap_length": int}`, all optional; a length of 0 keeps all.
        Raises Refused."""
        length = params.get("snap_length", 0)
        if not _is_number(length, MESSAGE_SIZE_MAX):
            raise Refused(f"trace: snap_length is a number of bytes, got {length!r}")
        return cls(
            _numbers(params, "kids"), _numbers(params, "kinds"), min(length or PAYLOAD_MAX, PAYLOAD_MAX)
        )

    def wants(self, half: Sent | Received, kid: int) -> bool:
        """Whether the half that kernel *kid* saw is asked for."""
        if self.kinds and half.tag & 0xFFFF not in self.kinds:
            return False
        return not self.kids or kid in self.kids or half.peer in self.kids


def _numbers(params: dict[str, Any], name: str) -> frozenset[int]:
    value = params.get(name, [])
    if not isinstance(value, list) or not all(_is_number(number) for number in value):
        raise Refused(f"trace: {name} is a list of numbers, got {value!r}")
    return frozenset(value)


def _is_number(value: object, most: int = KIND_MAX) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


class TraceService:
    """`trace`, for the streams of one endpoint."""

    def __init__(self, endpoint: Endpoint, buffer_size: int = BUFFER_SIZE) -> None:
        self._endpoint = endpoint
        self._buffer_size = buffer_size
        self._running = 0

    async def __call__(self, stream: Stream) -> None:
        request = TraceRequest.parse(stream.params)
        if self._running >= TRACES_MAX:
            raise Refused(f"trace: {self._running} traces are running already", "Stop one of them.")
        buffer = _Buffer(request, self._endpoint.kid, self._buffer_size)
        self._running += 1
        self._endpoint.start_trace(buffer.put)
        try:
            async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
                group.create_task(self._stop_when_told(stream, buffer, limit))
                group.create_task(self._send(stream, buffer))
        except* (StreamClosed, PeerDied, TimeoutError):
            stream.abort()  # nobody is left who reads
        finally:
            self._endpoint.stop_trace(buffer.put)
            self._running -= 1

    async def _send(self, stream: Stream, buffer: "_Buffer") -> None:
        endpoint = self._endpoint
        offset_ns = time.time_ns() - time.monotonic_ns()
        about = {"kid": endpoint.kid, "generation": endpoint.generation, "wall_offset_ns": offset_ns}
        await stream.send(json.dumps(about).encode(), NOTES)
        told = 0
        while not buffer.stopped:
            await buffer.ready.wait()
            if not buffer.stopped:
                await asyncio.sleep(BATCH_S)
            buffer.ready.clear()
            while batch := buffer.take():
                await stream.send(batch, DATA)
            if buffer.lost != told:
                told = buffer.lost
                await stream.send(json.dumps({"lost": told}).encode(), NOTES)
        await stream.close({"traced": buffer.traced, "lost": buffer.lost})

    async def _stop_when_told(self, stream: Stream, buffer: "_Buffer", limit: asyncio.Timeout) -> None:
        while await stream.receive() is not None:
            pass  # nothing that a client says means anything yet
        limit.reschedule(asyncio.get_running_loop().time() + DRAIN_S)
        self._endpoint.stop_trace(buffer.put)
        buffer.stop()


class _Buffer:
    """Packed halves that wait for their client.

    Attributes:
        ready: set when there are some, or the trace is stopped.
        traced, lost: halves that were put, and those of them that had no room.
    """

    def __init__(self, request: TraceRequest, kid: int, size_max: int) -> None:
        self.ready = asyncio.Event()
        self.stopped = False
        self.traced = 0
        self.lost = 0
        self._request = request
        self._kid = kid
        self._size_max = size_max
        self._size = 0
        self._halves: deque[bytes] = deque()

    def put(self, half: Sent | Received) -> None:
        if not self._request.wants(half, self._kid):
            return
        self.traced += 1
        kept = half.payload[: self._request.snap_length]
        packed = pack(replace(half, payload=kept))
        if self._size + len(packed) > self._size_max:
            self.lost += 1
            return
        self._halves.append(packed)
        self._size += len(packed)
        self.ready.set()

    def take(self) -> bytes:
        """Whole halves, as many as one record of a stream holds."""
        batch: list[bytes] = []
        room = STREAM_RECORD_MAX
        while self._halves and len(self._halves[0]) <= room:
            batch.append(self._halves.popleft())
            room -= len(batch[-1])
        self._size -= STREAM_RECORD_MAX - room
        return b"".join(batch)

    def stop(self) -> None:
        self.stopped = True
        self.ready.set()
