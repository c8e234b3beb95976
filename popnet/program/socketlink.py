"""A link whose rings are one packet socket: what a program that has no ring of its own sends and receives by.

Why packets (SOCK_SEQPACKET) and not a byte stream with lengths: a record is one packet, whole or not there,
so no parser can lose its place, nobody holds half a record, and descriptors come with the packet they belong
to.

    packet   u8 ring, u32 tag (little endian), payload

Theory of operation. Both rings ride the one socket, in one order; what comes for the ring that is not asked
for waits in its inbox. An inbox that is full stops the reading, so the socket fills, and the sender waits;
that cannot last, because a turn takes from both rings. The event loop watches the socket in place of a
doorbell: readable is the kick for data, and writable, watched only while somebody waits for it, the kick for
room. Readable stays true until all is read, so there is nothing to arm.

The end of the connection is LinkClosed, once everything before it was received.
"""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from popnet.core import limits
from popnet.message.codec import Payload, size_of
from popnet.message.kinds import Ring
from popnet.transport._native import PAYLOAD_MAX, LinkClosed, Violation

_HEADER: Final = struct.Struct("<BI")
_PAYLOAD_MAX: Final = max(PAYLOAD_MAX[Ring.HIGH], PAYLOAD_MAX[Ring.NORMAL])
_INBOX_MAX: Final = limits.BUDGET
"""Records that may wait for one ring while the other is asked for."""


class SocketLink:
    """One end; a LinkPort.

    Args:
        sock: connected, SOCK_SEQPACKET; owned from here on.
        wake: sees to a turn of the endpoint soon.
        end: what LinkClosed says when the other end has gone.
    """

    def __init__(self, sock: socket.socket, wake: Callable[[], None], end: str) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._wake = wake
        self._end_text = end
        self._inboxes: dict[int, deque[tuple[int, bytes]]] = {ring: deque() for ring in Ring}
        self._buffer = bytearray(_HEADER.size + _PAYLOAD_MAX + 1)
        self._view = memoryview(self._buffer)
        self._over = False
        self._violation: str | None = None
        self._waits_for_room = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, wake)
        self._closed = False
        self._sent: dict[int, int] = dict.fromkeys(Ring, 0)
        self._received: dict[int, int] = dict.fromkeys(Ring, 0)

    def send(self, ring: int, data: Payload, /, tag: int = 0) -> bool:
        self._check()
        if size_of(data) > PAYLOAD_MAX[ring]:
            raise ValueError(f"a record of {size_of(data)} bytes; at most {PAYLOAD_MAX[ring]}")
        parts = data if isinstance(data, tuple) else (data,)
        try:
            self._sock.sendmsg((_HEADER.pack(ring, tag), *parts), (), socket.MSG_NOSIGNAL)
            self._sent[ring] += 1
        except BlockingIOError:
            return False
        except OSError:  # the other end has gone; what it sent before is still received
            self._end()
        return True

    def send_many(self, ring: int, items: Sequence[tuple[int, Payload]], /) -> int:
        for count, (tag, payload) in enumerate(items):
            if not self.send(ring, payload, tag):
                return count
        return len(items)

    def receive_many(self, ring: int, budget: int, /) -> list[tuple[int, bytes]]:
        self._check()
        inbox = self._inboxes[ring]
        records = [inbox.popleft() for _ in range(min(budget, len(inbox)))]
        while len(records) < budget and not self._over and self._violation is None:
            packet = self._read()
            if packet is None:
                break
            of, tag, payload = packet
            if of == ring:
                records.append((tag, payload))
                continue
            other = self._inboxes[of]
            other.append((tag, payload))
            if len(other) >= _INBOX_MAX:
                break
        self._received[ring] += len(records)
        if not records and not any(self._inboxes.values()):
            self._check_end()
        return records

    def arm(self, ring: int, /) -> bool:
        self._check()
        return not self._inboxes[ring] and not self._over and self._violation is None

    def arm_room(self, ring: int, size: int, /) -> bool:
        self._check()
        if not self._waits_for_room:
            self._waits_for_room = True
            self._loop.add_writer(self._sock, self._room)
        return True

    def counters(self) -> dict[str, int]:
        """As `Link.counters`; a socket gives no kicks that anybody could count."""
        counters: dict[str, int] = {}
        for ring in Ring:
            name = ring.name.lower()
            counters |= {f"{name}_sent": self._sent[ring], f"{name}_received": self._received[ring]}
            counters[f"{name}_kicks"] = 0
        return counters

    def close(self) -> None:
        """Idempotent."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()

    def _room(self) -> None:
        self._waits_for_room = False
        self._loop.remove_writer(self._sock)
        self._wake()

    def _read(self) -> tuple[int, int, bytes] | None:
        """The next record as (ring, tag, payload); None when there is none, or never will be."""
        try:
            size = self._receive()
        except BlockingIOError:
            return None
        if size == 0:
            self._end()
            return None
        if size < _HEADER.size:
            self._violation = f"a packet of {size} bytes is no record"
            return None
        ring, tag = _HEADER.unpack_from(self._buffer)
        if ring not in self._inboxes or size - _HEADER.size > PAYLOAD_MAX[ring]:
            self._violation = f"a packet of {size} bytes for ring {ring}"
            return None
        return ring, tag, bytes(self._view[_HEADER.size : size])

    def _receive(self) -> int:
        """Bytes of the next packet; 0 at the end."""
        try:
            return self._sock.recv_into(self._buffer)
        except (
            ConnectionResetError
        ):  # told once, before what came earlier: the other end left without reading all
            return self._sock.recv_into(self._buffer)

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._wake()

    def _check(self) -> None:
        if self._closed:
            raise LinkClosed("closed")

    def _check_end(self) -> None:
        if self._violation is not None:
            raise Violation(self._violation)
        if self._over:
            raise LinkClosed(self._end_text)
