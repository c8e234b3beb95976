"""What a stream machine puts out: one command, Transmit, and the events of its streams. A key names a stream
at this end."""

from dataclasses import dataclass
from typing import Any, TypeAlias

from popnet.core.errors import PopnetError
from popnet.message.kinds import Kind


@dataclass(frozen=True, slots=True)
class Transmit:
    """Command: send this record to the peer."""

    kind: Kind
    flags: int
    id: int
    body: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Offered:
    """The peer wants a stream: accept or refuse it."""

    key: int
    service: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The peer accepted what we opened."""

    key: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """Data came; call `consumed` once the reader has taken it."""

    key: int
    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Writable:
    """There is more credit."""

    key: int


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The peer sends no more, with its last word: a result, or the error its handler raised."""

    key: int
    result: dict[str, Any] | None
    error: PopnetError | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream is over: nothing can be sent, and nothing more arrives (behind PeerClosed: nothing was
    missing)."""

    key: int
    error: PopnetError


Output: TypeAlias = Transmit | Offered | Accepted | Arrived | Writable | PeerClosed | Failed
