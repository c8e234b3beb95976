"""What one end of a link saw of one record: half of a message's story, and how it rides a `trace` stream.

A record is named without anything added to it on its ring: both ends count what went through the ring since
the link began, so (sender, receiver, their generations, ring, number) is the same name on both sides. Times
are CLOCK_MONOTONIC in ns, which all kernels of a machine share; 0 is "not known".

    side    u8   0 sent, 1 received         ring    u8   0 high, 1 normal
    kicked  u8   sent: the publish rang     (pad)   u8
    tag     u32  kind | flags << 16         peer    u32  kid of the other end
    peer's generation u32                   size    u32  bytes of the payload, header included
    kept    u32  bytes of it that follow    number  u64
    times   4 x i64                         payload ...
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from popnet.core.errors import LinkViolation

HEAD: Final = struct.Struct("<BBBxIIIIIQ4q")


@dataclass(frozen=True, slots=True)
class Sent:
    """The sender's half.

    Attributes:
        peer, peer_generation: whom it went to.
        number: records that went through this ring before it.
        enqueue_ns: when it was handed to the link, or began to wait for room; 0: before the trace began.
        publish_ns, sent_ns: around the call that put it into the ring, with the whole batch it was in.
        kicked: that call rang the receiver's doorbell.
        size: bytes of its payload, of which *payload* may be only the beginning.
    """

    ring: int
    peer: int
    peer_generation: int
    number: int
    tag: int
    size: int
    payload: bytes
    enqueue_ns: int
    publish_ns: int
    sent_ns: int
    kicked: bool


@dataclass(frozen=True, slots=True)
class Received:
    """The receiver's half.

    Attributes:
        wake_ns: since when the receiver had been awake: its first look at any ring after it last armed one.
        taken_ns: when the batch with this record was out of the ring.
        begin_ns, handle_ns: around its handler.
    """

    ring: int
    peer: int
    peer_generation: int
    number: int
    tag: int
    size: int
    payload: bytes
    wake_ns: int
    taken_ns: int
    begin_ns: int
    handle_ns: int


def pack(half: Sent | Received) -> bytes:
    if isinstance(half, Sent):
        side, kicked = 0, half.kicked
        times = (half.enqueue_ns, half.publish_ns, half.sent_ns, 0)
    else:
        side, kicked = 1, False
        times = (half.wake_ns, half.taken_ns, half.begin_ns, half.handle_ns)
    head = HEAD.pack(
        side,
        half.ring,
        kicked,
        half.tag,
        half.peer,
        half.peer_generation,
        half.size,
        len(half.payload),
        half.number,
        *times,
    )
    return head + half.payload


def unpack(data: bytes) -> Iterator[Sent | Received]:
    """The halves in *data*, which holds whole ones. Raises LinkViolation for what is none."""
    start = 0
    while start < len(data):
        if len(data) - start < HEAD.size:
            raise LinkViolation(f"a trace that ends with {len(data) - start} bytes of a record's head")
        side, ring, kicked, tag, peer, generation, size, kept, number, *times = HEAD.unpack_from(data, start)
        start += HEAD.size
        payload = data[start : start + kept]
        start += kept
        if len(payload) < kept or side > 1 or ring > 1:
            raise LinkViolation("a trace with nonsense in it")
        about = (ring, peer, generation, number, tag, size, payload)
        if side == 0:
            enqueue, publish, sent, _ = times
            yield Sent(*about, enqueue, publish, sent, bool(kicked))
        else:
            wake, taken, begin, handle = times
            yield Received(*about, wake, taken, begin, handle)
