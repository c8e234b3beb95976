"""Records of a ring to and from messages: the tag, the 8-byte header, JSON bodies, and long bodies cut into
fragments.

    tag      u32   kind (low 16 bits) | flags (high 16 bits; of DATA: the channel)
    payload  u32   id: of a stream or a call, else 0
             u32   the generation of the receiver that the sender believes in
             ...   body

All numbers are little endian. Nothing here trusts what it decodes: whatever is wrong raises LinkViolation,
once.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from popnet.core import limits
from popnet.core.errors import LinkViolation, PopnetError, Refused, by_code
from popnet.message.kinds import STREAM_KINDS, Flag, Ring

MORE: Final = int(Flag.MORE)  # operators of plain numbers are many times faster than those of flags

HEADER: Final = struct.Struct("<II")
U32: Final = struct.Struct("<I")

FRAGMENT_SIZE: Final = {Ring.HIGH: 16 << 10, Ring.NORMAL: 64 << 10}
"""Bytes of a body that ride one record: a quarter of the ring, so that others find room between two of
them."""

JSON_SIZE_MAX: Final = 64 << 10
"""Bytes of a JSON body: it rides one record."""

JSON_DEPTH_MAX: Final = 64
"""Objects and lists inside each other in a JSON body: how much a reader takes depends on where it stands, and
what a program wrote must not cost the kernel that passes it on its link."""

TEXT_SIZE_MAX: Final = 4096
"""Letters of an error's message: more is cut off, so that an error always rides one record."""

HINT_SIZE_MAX: Final = 1024
CODE_SIZE_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it came out of a ring."""

    kind: int
    flags: int
    id: int
    generation: int
    body: bytes


def tag_of(kind: int, flags: int = 0) -> int:
    return kind | flags << 16


Payload: TypeAlias = bytes | tuple[bytes, memoryview]
"""What a link sends: whole, or a header and a fragment, which it puts together in the ring without a further
copy."""


def size_of(payload: Payload) -> int:
    return len(payload[0]) + len(payload[1]) if isinstance(payload, tuple) else len(payload)


def whole(payload: Payload) -> bytes:
    """The payload in one piece of memory."""
    return b"".join(payload) if isinstance(payload, tuple) else payload


def payload_of(id: int, generation: int, body: bytes | memoryview) -> bytes:
    """Header and body in one piece of memory: the only copy before the ring's own."""
    return b"".join((HEADER.pack(id, generation), body))


def record_of(tag: int, payload: bytes) -> Record:
    """What a peer sent, taken apart; of a fragment that is not the last the body is a view, for `Reassembly`
    alone. Raises LinkViolation when it is too short to be a message."""
    if len(payload) < HEADER.size:
        raise LinkViolation(f"a record of {len(payload)} bytes is too short for a message")
    id, generation = HEADER.unpack_from(payload)
    kind, flags = tag & 0xFFFF, tag >> 16
    body: Any = payload[HEADER.size :]
    if flags & MORE and kind not in STREAM_KINDS:
        body = memoryview(payload)[HEADER.size :]
    return Record(kind, flags, id, generation, body)


def u32_of(body: bytes) -> int:
    if len(body) != U32.size:
        raise LinkViolation(f"a number of {len(body)} bytes, expected {U32.size}")
    return int(U32.unpack(body)[0])


def json_bytes(value: dict[str, Any]) -> bytes:
    """Raises Refused when *value* does not fit one record or is too deep, TypeError when it is not JSON."""
    if not _is_flat(value, JSON_DEPTH_MAX):
        raise Refused(f"parameters more than {JSON_DEPTH_MAX} levels deep may not ride a message")
    body = json.dumps(value, separators=(",", ":")).encode()
    if len(body) > JSON_SIZE_MAX:
        raise Refused(f"{len(body)} bytes of parameters; at most {JSON_SIZE_MAX} may ride one message")
    return body


def _is_flat(value: object, levels: int) -> bool:
    """Whether *value* has at most *levels* objects and lists inside each other."""
    if isinstance(value, dict):
        return levels > 0 and all(_is_flat(member, levels - 1) for member in value.values())
    if isinstance(value, list | tuple):
        return levels > 0 and all(_is_flat(member, levels - 1) for member in value)
    return True


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in *body*. Raises LinkViolation when there is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise LinkViolation(f"bad JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise LinkViolation(f"bad JSON: expected an object, got {type(value).__name__}")
    return value


def optional_object(value: dict[str, Any], key: str) -> dict[str, Any] | None:
    """Member *key* of *value*: an object, or None when it is null or missing."""
    member = value.get(key)
    if member is not None and not isinstance(member, dict):
        raise LinkViolation(f"bad JSON: {key} is a {type(member).__name__}, expected an object")
    return member


def error_object(error: PopnetError) -> dict[str, Any]:
    """How an error crosses a link; a result that would not fit is left out."""
    value: dict[str, Any] = {
        "code": error.code[:CODE_SIZE_MAX],
        "message": str(error)[:TEXT_SIZE_MAX],
        "hint": error.hint[:HINT_SIZE_MAX],
    }
    if isinstance(error, Refused) and error.result:
        whole = {**value, "result": error.result}
        try:
            json_bytes({"error": whole})
        except Refused:
            return value
        return whole
    return value


def error_of(value: dict[str, Any]) -> PopnetError:
    """The error that crossed as *value*. Raises LinkViolation when it is none."""
    texts = [value.get("code"), value.get("message"), value.get("hint", "")]
    if not all(isinstance(text, str) for text in texts):
        raise LinkViolation("bad error: code, message and hint must be texts")
    code, message, hint = map(str, texts)
    error = by_code(code, message, hint)
    if isinstance(error, Refused):
        error.result = optional_object(value, "result") or {}
    return error


def fragments(
    ring: Ring, kind: int, flags: int, id: int, generation: int, body: bytes
) -> Iterator[tuple[int, Payload]]:
    """A message of any size up to MESSAGE_SIZE_MAX as (tag, payload) of one or more records. Fragments are
    views of *body*, made one at a time."""
    size = FRAGMENT_SIZE[ring]
    if len(body) <= size:
        yield tag_of(kind, flags), payload_of(id, generation, body)
        return
    view, header = memoryview(body), HEADER.pack(id, generation)
    for start in range(0, len(body), size):
        more = MORE if start + size < len(body) else 0
        yield tag_of(kind, flags | more), (header, view[start : start + size])


class Reassembly:
    """Puts the fragments of one ring together again.

    A sender sends the fragments of one message after the other: messages of a ring are handled in the order
    in which they were sent, so one that overtook another could do nothing but wait for it. So there is at
    most one unfinished message a ring, and its memory is bounded by MESSAGE_SIZE_MAX. What must not wait
    rides the high ring, or a stream, whose records may come in between; they never get here.
    """

    def __init__(self, size_max: int = limits.MESSAGE_SIZE_MAX) -> None:
        self._size_max = size_max
        self._of: tuple[int, int, int] | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, record: Record) -> Record | None:
        """The whole message that *record* completes, or None. Raises LinkViolation; this object is of no use
        then."""
        more = record.flags & MORE
        if not more and self._of is None:
            return record
        flags = record.flags & ~MORE
        of = (record.kind, flags, record.id)
        if self._of is not None and self._of != of:
            raise LinkViolation(f"a message of kind {record.kind} inside another of kind {self._of[0]}")
        self._size += len(record.body)
        if self._size > self._size_max:
            raise LinkViolation(f"a message longer than {self._size_max} bytes")
        if more and not record.body:
            raise LinkViolation("an empty fragment")
        self._parts.append(record.body)
        self._of = of
        if more:
            return None
        body = b"".join(self._parts)
        self._of, self._parts, self._size = None, [], 0
        return Record(record.kind, flags, record.id, record.generation, body)
