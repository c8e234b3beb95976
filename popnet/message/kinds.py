"""The kinds of messages: what the low 16 bits of a record's tag say, and the flags in the high 16.

A number is for life: a kind that goes leaves a hole, and a new one takes a number never used before, so that
kernels of different ages misunderstand each other loudly (UNKNOWN) and never silently. Bodies are JSON
objects unless said otherwise.
"""

from enum import IntEnum, IntFlag
from typing import Final


class Ring(IntEnum):
    """The rings of a link that carry messages, as the transport numbers them; high is drained first."""

    HIGH = 0
    NORMAL = 1


class Kind(IntEnum):
    """Every kind of message. Below 16: streams. From 16: the layer's own. From 32: kernels. From 0x8000:
    free for users."""

    OPEN = 1
    """Open a stream: {"service": name, "params": {...}}; answered by ACCEPT or REFUSE. Only its opener may
    send it."""

    ACCEPT = 2
    """The stream is open; no body. From now on both ends may send STREAM_WINDOW bytes."""

    REFUSE = 3
    """There will be no stream: {"code", "message", "hint", "result"}, as in the control API."""

    DATA = 4
    """Bytes of a stream; the flags are the channel (0-255). Costs its length in credit, but at least one
    cache line."""

    CREDIT = 5
    """The reader took this much: u32 bytes more may be sent. Rides the high ring: it must pass the bytes it
    lets flow."""

    CLOSE = 6
    """The sender sends no more: {"result": {...} or null} or {"error": {...}}. It comes behind the data sent
    before."""

    ABORT = 7
    """The sender neither sends nor reads any more; no body. Behind a CLOSE it only says that nobody reads."""

    UNKNOWN = 16
    """You sent a kind that nobody here handles: u32 kind; of SEND also u32 port. Never answered."""

    STALE = 17
    """You sent to another generation of this kernel: u32 the generation that runs. Never answered."""

    CANCEL = 18
    """The caller of the call that the id names has given up; no body. Comes behind it, on its ring. Never
    answered."""

    CHECK_IN = 32
    """A kernel to the primary: it is there, and what it is."""

    CONTROL = 33
    """The primary to a kernel: do this."""

    NOTIFY = 34
    """To whom it may concern: a kernel or a service came up or went down."""

    EVENT = 35
    """A kernel to the primary: one entry of the machine's event stream."""

    LOG = 36
    """A kernel to the primary: one line of its log."""

    COUNTERS = 37
    """A call of the primary to a kernel: tell your counters; no body."""

    SEND = 38
    """A message to a service. Its port is the id; the body is the service's own."""

    CALL = 39
    """A call of a service: u32 port, then the body, which is the service's own, as is that of the answer."""

    RESOLVE = 40
    """A call: which port has the service of this name (UTF-8)? Answered with u32 port, u32 version."""

    REGISTRY = 41
    """A kernel to the primary: its wishes, all of them; see Registry. As a call: which kid has {"kernel":
    name}?"""

    NOTICE = 42
    """The primary to a kernel that watches or is in a group: what changed; see Registry."""

    GROUP = 43
    """A message of a group. The id is the receiver's membership; the body u32 number, u32 the sender's
    membership, then the member's own; see Groups."""


KERNEL_FIRST: Final = 32
"""The first kind that is not the message layer's own."""


USER_FIRST: Final = 0x8000
"""The first kind that popnet itself will never use."""

KIND_MAX: Final = 0xFFFF


class Flag(IntFlag):
    """Flags of every kind but DATA."""

    MORE = 1
    """The body goes on in the next record of this kind on this ring."""

    REQUEST = 2
    """An answer is awaited; the id of the header names the call."""

    ANSWER = 4
    """The answer to the call that the id names."""

    ERROR = 8
    """With ANSWER: the body is {"code", "message", "hint", "result"}."""


STREAM_KINDS: Final = frozenset(kind for kind in Kind if kind < Kind.UNKNOWN)
"""What a link's stream machine handles."""

CHANNEL_MAX: Final = 255
"""Channels of a stream are numbered 0 to this."""


def ring_of(kind: Kind) -> Ring:
    """The ring a stream's record rides. All that must stay in order with its data rides the ring of the
    data."""
    return Ring.HIGH if kind is Kind.CREDIT else Ring.NORMAL
