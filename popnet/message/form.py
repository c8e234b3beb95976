"""The form of messages: what every header and body between kernels looks like, as docs/messages.md has it.

Only a kernel writes what is checked here, never a program through it: a message that has another form is the
kernel's own nonsense, and costs it its link, before anybody works on it. What rides inside is another matter:
the bytes of a stream, the message of a service, of a group, of a kind that is free for users, and whatever a
call of these is answered with. That may come from a program, and has no form here.

One-way kinds whose bodies are JSON have theirs where they are handled, by raising LinkViolation.
"""

from collections.abc import Callable
from typing import Final

from popnet.core.errors import LinkViolation
from popnet.message import codec
from popnet.message.codec import Record
from popnet.message.kinds import USER_FIRST, Flag, Kind

REQUEST, ANSWER, ERROR = int(Flag.REQUEST), int(Flag.ANSWER), int(Flag.ERROR)

FLAGS: Final = frozenset({0, REQUEST, ANSWER, ANSWER | ERROR})
"""What a whole message may have, MORE apart."""

NAMED: Final = frozenset({Kind.CANCEL, Kind.SEND, Kind.GROUP})
"""Kinds whose one-way messages have an id."""

NAME_MAX: Final = 64
"""Letters of the name of a service or group."""

U32_MAX: Final = (1 << 32) - 1

Form = Callable[[bytes], object]
"""Raises LinkViolation for a body that it does not fit."""


def _sized(*sizes: int) -> Form:
    def check(body: bytes) -> None:
        if len(body) not in sizes:
            raise LinkViolation(f"a body of {len(body)} bytes, expected {' or '.join(map(str, sizes))}")

    return check


def _at_least(size: int) -> Form:
    def check(body: bytes) -> None:
        if len(body) < size:
            raise LinkViolation(f"a body of {len(body)} bytes, expected at least {size}")

    return check


def _member(name: str, kind: type) -> Form:
    def check(body: bytes) -> None:
        if type(codec.json_object(body).get(name)) is not kind:
            raise LinkViolation(f"a body without its {name}")

    return check


def _name(body: bytes) -> None:
    try:
        name = body.decode()
    except UnicodeDecodeError:
        raise LinkViolation("a name that is no UTF-8") from None
    if not 0 < len(name) <= NAME_MAX:
        raise LinkViolation(f"a name of {len(name)} letters, expected 1 to {NAME_MAX}")


FORMS: Final[dict[tuple[int, int], Form]] = {
    (Kind.UNKNOWN, 0): _sized(4, 8),
    (Kind.STALE, 0): _sized(4),
    (Kind.CANCEL, 0): _sized(0),
    (Kind.COUNTERS, REQUEST): _sized(0),
    (Kind.COUNTERS, ANSWER): codec.json_object,
    (Kind.CALL, REQUEST): _at_least(4),
    (Kind.RESOLVE, REQUEST): _name,
    (Kind.RESOLVE, ANSWER): _sized(8),
    (Kind.REGISTRY, REQUEST): _member("kernel", str),
    (Kind.REGISTRY, ANSWER): _member("kid", int),
    (Kind.GROUP, 0): _at_least(8),
}
"""By kind and flags; what is not here may be anything."""


def is_free(kind: int) -> bool:
    """Whether a program may be the author of a body of *kind*, so that its nonsense costs no kernel
    anything."""
    return kind >= USER_FIRST


def check(message: Record, forms: dict[tuple[int, int], Form] = FORMS) -> None:
    """Raises LinkViolation when *message*, which is whole, does not look as it must."""
    kind, flags = message.kind, message.flags
    if flags not in FLAGS:
        raise LinkViolation(f"a message of kind {kind} with the flags {flags:#x}")
    if not flags and message.id and kind not in NAMED:
        raise LinkViolation(f"a message of kind {kind} with the id {message.id}, expected none")
    form = forms.get((kind, flags))
    if form is not None:
        try:
            form(message.body)
        except LinkViolation as violation:
            raise LinkViolation(f"a message of kind {kind}: {violation}") from None
    elif flags == ANSWER | ERROR:
        codec.error_of(codec.json_object(message.body))
