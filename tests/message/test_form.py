"""The form of messages: what a kernel may write, and what costs it its link."""

from typing import Final

import pytest

from popnet.core.errors import LinkViolation
from popnet.message.codec import Record
from popnet.message.form import FORMS, check, is_free
from popnet.message.kinds import USER_FIRST, Flag, Kind, Ring

from .ends import Alone, everywhere, settle, until

REQUEST, ANSWER, ERROR = int(Flag.REQUEST), int(Flag.ANSWER), int(Flag.ANSWER | Flag.ERROR)

GOOD: Final = {
    "unknown": (Kind.UNKNOWN, 0, 0, b"\x20\0\0\0"),
    "unknown port": (Kind.UNKNOWN, 0, 0, b"\x26\0\0\0\7\0\0\0"),
    "stale": (Kind.STALE, 0, 0, b"\2\0\0\0"),
    "cancel": (Kind.CANCEL, 0, 7, b""),
    "counters": (Kind.COUNTERS, REQUEST, 7, b""),
    "counters answered": (Kind.COUNTERS, ANSWER, 7, b"{}"),
    "call": (Kind.CALL, REQUEST, 7, b"\1\0\0\0\xff\xfe"),
    "call answered": (Kind.CALL, ANSWER, 7, b"\xff"),
    "call failed": (Kind.CALL, ERROR, 7, b'{"code":"refused","message":"no","result":{"a":1}}'),
    "resolve": (Kind.RESOLVE, REQUEST, 7, "größe".encode()),
    "resolve answered": (Kind.RESOLVE, ANSWER, 7, bytes(8)),
    "registry": (Kind.REGISTRY, REQUEST, 7, b'{"kernel":"k1"}'),
    "registry answered": (Kind.REGISTRY, ANSWER, 7, b'{"kid":1}'),
    "group": (Kind.GROUP, 0, 7, bytes(8)),
    "send": (Kind.SEND, 0, 7, b""),
    "of a user": (USER_FIRST, 0, 0, b"\xff"),
    "of nobody": (99, 0, 0, b"\xff"),
}

WRONG: Final = {
    "flags of nothing": (USER_FIRST, 16, 0, b""),
    "a request that answers": (USER_FIRST, REQUEST | ANSWER, 7, b""),
    "an error that answers nothing": (USER_FIRST, int(Flag.ERROR), 0, b"{}"),
    "an id of nothing": (USER_FIRST, 0, 7, b""),
    "an error that is none": (USER_FIRST, ERROR, 7, b"{}"),
    "an error whose result is none": (USER_FIRST, ERROR, 7, b'{"code":"refused","message":"","result":1}'),
    "an error in bad JSON": (Kind.CALL, ERROR, 7, b"{"),
    "unknown of nothing": (Kind.UNKNOWN, 0, 0, b""),
    "stale without a number": (Kind.STALE, 0, 0, b"123"),
    "cancel with a body": (Kind.CANCEL, 0, 7, b"x"),
    "counters with a body": (Kind.COUNTERS, REQUEST, 7, b"x"),
    "counters that are none": (Kind.COUNTERS, ANSWER, 7, b"[1, 2"),
    "call without a port": (Kind.CALL, REQUEST, 7, b"\1\0\0"),
    "resolve nothing": (Kind.RESOLVE, REQUEST, 7, b""),
    "resolve too much": (Kind.RESOLVE, REQUEST, 7, b"x" * 65),
    "resolve no text": (Kind.RESOLVE, REQUEST, 7, b"\xff"),
    "resolved to no port": (Kind.RESOLVE, ANSWER, 7, bytes(7)),
    "which kernel": (Kind.REGISTRY, REQUEST, 7, b'{"kernel":5}'),
    "registry answered nothing": (Kind.REGISTRY, ANSWER, 7, b'{"kid":true}'),
    "group without sender": (Kind.GROUP, 0, 7, bytes(7)),
}


def record(kind: int, flags: int, id: int, body: bytes) -> Record:
    return Record(kind, flags, id, 1, body)


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD.keys())
def test_what_a_kernel_writes(good: tuple[int, int, int, bytes]) -> None:
    check(record(*good))


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_what_no_kernel_writes(wrong: tuple[int, int, int, bytes]) -> None:
    with pytest.raises(LinkViolation):
        check(record(*wrong))


def test_each_form_has_an_example_and_a_counterexample() -> None:
    for examples in (GOOD, WRONG):
        assert {(kind, flags) for kind, flags, _, _ in examples.values()} >= FORMS.keys()


def test_what_a_program_may_write_has_no_form() -> None:
    assert is_free(USER_FIRST) and not any(is_free(kind) for kind in Kind)
    assert not any(is_free(kind) for kind, _ in FORMS)


@everywhere
async def test_the_first_that_has_another_form_ends_the_link(ends: Alone) -> None:
    """Also of a kind that nobody here handles, and of a call that nobody made."""
    for name, (kind, flags, id, body) in GOOD.items():
        if name != "stale":  # which ends it in another way
            ends.say(Ring.NORMAL, kind, flags, id, body)
    await settle()
    assert ends.a.has_link(2) and not ends.violations
    kind, flags, id, body = WRONG["counters that are none"]
    ends.say(Ring.NORMAL, kind, flags, id, body)
    await until(lambda: ends.violations)
    assert ends.a.counters()["violations"] == 1
    assert not ends.a.has_link(2)
