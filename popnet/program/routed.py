"""What rides the link between a program and its kernel: the records of docs/messages.md, with a destination.

A program is a peer of its kernel's daemon, which forwards: so what it sends says where to, and what it gets
says where from. Streams to other kernels are opened for the service OPEN, those from others come for the
service OFFER; messages and calls are of one kind each, with a header before the body. All else (ids, credit,
deadlines, fragments, errors) is what it is on every link.

    SEND     u32 kid, u32 kind, body        a message: program -> kernel: to kid;  kernel -> program: from kid
    CALL     u32 kid, u32 kind, u32 ms, body
                                            a call, likewise; ms is what is left of its deadline
    TO       u32 kid, u32 ms, u8 length, name, body
                                            a message to, or from, a service by name; of a program it is a
                                            call, whose answer says that the message is on its way
    CALL_OF  as TO                          a call of a service by name
    NOTICE   {"watch": n, "notice": [...]}  kernel -> program: what it watches has changed
    ASK      {"op": name, ...}              a call of the program's: `register`, `unregister`, `watch`,
                                            `unwatch`, `join`, `leave`, `flush`
    GROUP    u32 number, u32 ms, body       a call of a program's: to all members of a group; the number is
                                            that of the program's membership
             u32 number, u32 kid, u32 generation, u32 membership, body
                                            kernel -> program: a message of that member
    VIEW     {"group": number, "view": n, "members": [[kid, generation, membership], ...]}
                                            kernel -> program: who is in the group now
    HOLD     {"group": number, "full": bool}
                                            program -> kernel: enough for now, or not any more

The kinds with HIGH, of a program only, ask for the high ring between the kernels.
"""

import struct
from enum import IntEnum
from typing import Any, Final

from popnet.core.errors import LinkViolation, Refused
from popnet.message import codec, form
from popnet.message.membership import Member

OPEN: Final = "open"
"""Service of a kernel: {"kernel": kid, "service": name, "params": {...}}."""

OFFER: Final = "offer"
"""Service of a program: {"from": kid, "service": name, "params": {...}}."""


class Routed(IntEnum):
    """The kinds of messages on such a link. They are apart from those between kernels, whose numbers end
    below."""

    SEND = 256
    SEND_HIGH = 257
    CALL = 258
    CALL_HIGH = 259
    ASK = 260
    TO = 261
    TO_HIGH = 262
    CALL_OF = 263
    CALL_OF_HIGH = 264
    NOTICE = 265
    GROUP = 266
    VIEW = 267
    HOLD = 268


_SEND: Final = struct.Struct("<II")
_CALL: Final = struct.Struct("<III")

_NAMED: Final = struct.Struct("<IIB")

_GROUP: Final = struct.Struct("<IIII")

HEADER_SIZE_MAX: Final = _NAMED.size + 255
"""Bytes by which the largest message of a program is shorter than that of a kernel."""

_MS_MAX: Final = (1 << 32) - 1


def send_body(kid: int, kind: int, body: bytes) -> bytes:
    return b"".join((_SEND.pack(kid, kind), body))


def sent(body: bytes) -> tuple[int, int, bytes]:
    """(kid, kind, body) of a SEND. Raises LinkViolation."""
    if len(body) < _SEND.size:
        raise LinkViolation("a message without its destination")
    kid, kind = _SEND.unpack_from(body)
    return kid, kind, body[_SEND.size :]


def call_body(kid: int, kind: int, timeout_s: float, body: bytes) -> bytes:
    return b"".join((_CALL.pack(kid, kind, _milliseconds(timeout_s)), body))


def called(body: bytes) -> tuple[int, int, float, bytes]:
    """(kid, kind, timeout_s, body) of a CALL. Raises LinkViolation."""
    if len(body) < _CALL.size:
        raise LinkViolation("a call without its destination")
    kid, kind, ms = _CALL.unpack_from(body)
    return kid, kind, ms / 1000, body[_CALL.size :]


def named_body(kid: int, service: str, timeout_s: float, body: bytes) -> bytes:
    """Raises Refused."""
    name = service.encode()
    if not 0 < len(name) < 256:
        raise Refused("a service's name has 1 to 255 bytes")
    return b"".join((_NAMED.pack(kid, _milliseconds(timeout_s), len(name)), name, body))


def named(body: bytes) -> tuple[int, str, float, bytes]:
    """(kid, service, timeout_s, body) of a TO or a CALL_OF. Raises LinkViolation."""
    if len(body) < _NAMED.size:
        raise LinkViolation("a message to a service without its destination")
    kid, ms, length = _NAMED.unpack_from(body)
    end = _NAMED.size + length
    if len(body) < end:
        raise LinkViolation("a message to a service without its name")
    name = body[_NAMED.size : end].decode(errors="replace")
    return kid, name, ms / 1000, body[end:]


def group_send_body(number: int, timeout_s: float, body: bytes) -> bytes:
    return b"".join((_SEND.pack(number, milliseconds(timeout_s)), body))


def group_send(body: bytes) -> tuple[int, float, bytes]:
    """(number, timeout_s, body) of a program's GROUP. Raises LinkViolation."""
    if len(body) < _SEND.size:
        raise LinkViolation("a message to a group without its number")
    number, ms = _SEND.unpack_from(body)
    return number, ms / 1000, body[_SEND.size :]


def group_body(number: int, member: Member, body: bytes) -> bytes:
    return b"".join((_GROUP.pack(number, *member), body))


def group_message(body: bytes) -> tuple[int, Member, bytes]:
    """(number, from member, body) of a kernel's GROUP. Raises LinkViolation."""
    if len(body) < _GROUP.size:
        raise LinkViolation("a message of a group without its sender")
    number, *member = _GROUP.unpack_from(body)
    return number, Member(*member), body[_GROUP.size :]


def group_view(body: bytes) -> tuple[int, int, list[Member]]:
    """(number, view, members) of a VIEW. Raises LinkViolation."""
    match codec.json_object(body):
        case {"group": int(number), "view": int(view), "members": list(members)}:
            return number, view, [member_of(member) for member in members]
    raise LinkViolation("a view that is none")


def hold_body(number: int, full: bool) -> bytes:
    return codec.json_bytes({"group": number, "full": full})


def held(body: bytes) -> tuple[int, bool]:
    """(number, full) of a HOLD. Raises LinkViolation."""
    match codec.json_object(body):
        case {"group": int(number), "full": bool(full)}:
            return number, full
    raise LinkViolation("a hold of nothing")


def member_of(value: object) -> Member:
    """Raises LinkViolation."""
    match value:
        case [int(kid), int(generation), int(number)]:
            return Member(kid, generation, number)
    raise LinkViolation("a member that is none")


def milliseconds(timeout_s: float) -> int:
    """How long the kernel may take with a group, so that its own word comes before the program stops waiting
    for it."""
    return _milliseconds(timeout_s - min(0.1, timeout_s / 4))


def _milliseconds(timeout_s: float) -> int:
    return min(_MS_MAX, max(0, round(timeout_s * 1000)))


def opened(params: dict[str, Any], whom: str) -> tuple[int, str, dict[str, Any]]:
    """(kid, service, params) of a stream for OPEN (*whom* is "kernel") or OFFER ("from"). Raises Refused."""
    match params:
        case {"service": str(service), "params": dict(inner)} if type(kid := params.get(whom)) is int:
            return kid, service, inner
    raise Refused(f"a stream needs {whom}, service and params")


FORMS: Final[dict[tuple[int, int], form.Form]] = {
    **form.FORMS,
    **{(kind, form.REQUEST): called for kind in (Routed.CALL, Routed.CALL_HIGH)},
    **{
        (kind, form.REQUEST): named
        for kind in (Routed.TO, Routed.TO_HIGH, Routed.CALL_OF, Routed.CALL_OF_HIGH)
    },
    (Routed.ASK, form.REQUEST): codec.json_object,
    (Routed.GROUP, form.REQUEST): group_send,
}
"""What calls on such a link look like; messages have their form where they are handled."""
