"""Whatever a program writes, its kernel's links to others stay: what of it crosses them is what a kernel may
write."""

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from popnet.core.errors import LinkViolation, NoSuchService, PopnetError
from popnet.message.kinds import USER_FIRST, Flag, Kind, Ring
from popnet.message.stream import Stream
from popnet.message.streamoutputs import Transmit
from popnet.program.connection import Connection
from popnet.program.greeting import HOST
from popnet.program.routed import Routed
from tests.message.ends import deaf, outcome

from .village import Village, until, village

KIND = USER_FIRST


def deep(levels: int) -> str:
    return "[" * levels + "1" + "]" * levels


def ask(mad: Connection, **request: Any) -> Awaitable[Any]:
    return outcome(mad._endpoint.call(HOST, Routed.ASK, json.dumps(request).encode(), 9))


def open_raw(mad: Connection, params: str) -> None:
    """Open a stream to `deaf` of k2 in the program's own words."""
    hub = mad._endpoint._peers[HOST].hub
    stream = hub.open("x", {})
    hub.machine.abort(stream._key)
    number = stream._key >> 1
    hub.machine._opened_last = number + 1
    key = (number + 1) << 1 | 1
    body = '{"service":"open","params":{"kernel":2,"service":"deaf","params":{"a":' + params + "}}}"
    mad._endpoint._peers[HOST]._transmit(Transmit(Kind.OPEN, 0, key, body.encode()))


async def streams(mad: Connection, here: Village) -> None:
    here.ends.b.serve("deaf", deaf)
    await outcome(mad.open("k2", "x" * 65))
    await outcome(mad.open("k2", "\ud800"))
    for params in (deep(63), deep(64), deep(300), '"' + "\u00e4" * 60_000 + '"', "NaN", "1e999"):
        open_raw(mad, params)


async def last_words(mad: Connection, here: Village) -> None:
    for result in ('{"result":{"a":' + deep(n) + "}}" for n in (60, 64, 300)):
        stream = await mad.open("k2", "told")
        hub = mad._endpoint._peers[HOST].hub
        hub._transmit(Transmit(Kind.CLOSE, 0, stream._key, result.encode()))  # type: ignore[attr-defined]
        await outcome(stream.receive())


async def messages(mad: Connection, here: Village) -> None:
    for body in (b"", b"\xff", b"{}", bytes(100_000)):
        mad.post("k2", KIND, body)
        mad.post("k2", KIND + 1, body)
        mad.post("k2", KIND, body, high=True)
        await outcome(mad.send("k2", "liar", body))
        await outcome(mad.send("k2", "no such", body))
        await outcome(mad.call("k2", KIND, body, 9))
        await outcome(mad.call_service("k2", "no such", body, 9))
    for kind in (*Kind, 0, 8, 99):
        mad._endpoint.post(HOST, Routed.SEND, struct.pack("<II", 2, kind) + b"x")
        await outcome(mad._endpoint.call(HOST, Routed.CALL, struct.pack("<III", 2, kind, 9000), 9))
    for name in (b"", b"\xff" * 255, b"x" * 65):
        body = struct.pack("<IIB", 2, 9000, len(name)) + name
        for routed in (Routed.TO, Routed.CALL_OF):
            await outcome(mad._endpoint.call(HOST, routed, body, 9))


async def registrations(mad: Connection, here: Village) -> None:
    for version in (2**70, -1, True, 0):
        await ask(mad, op="register", service=f"s{version}", version=version, messages=True, calls=True)
    for name in ("", "x" * 65, "\ud800", "a\n"):
        await ask(mad, op="register", service=name, version=1, messages=True, calls=False)
        await ask(mad, op="join", number=hash(name) % 99, group=name, ms=100)
    for pattern in ("x" * 129, "[", "\ud800"):
        await ask(mad, op="watch", number=1, pattern=pattern)
    for nothing in ({"op": "nothing"}, {"op": "register"}, {}):
        await ask(mad, **nothing)


async def answers(mad: Connection, here: Village) -> None:
    error = {"code": "link-violation", "message": "\U0001f600" * 9000, "hint": "\U0001f600" * 9000}
    refusal = '{"code":"refused","message":"","hint":"","result":{"a":' + deep(300) + "}}"
    bodies = [b"{", json.dumps(error).encode(), refusal.encode()]

    async def raises(kid: int, body: bytes) -> bytes:
        return b""

    await mad.answer(KIND, raises)
    peer = mad._endpoint._peers[HOST]
    post = peer.post

    def lie(ring: Ring, kind: int, flags: int, id: int, body: bytes) -> bool:
        if flags == Flag.ANSWER:
            return post(ring, kind, Flag.ANSWER | Flag.ERROR, id, bodies.pop())
        return post(ring, kind, flags, id, body)

    peer.post = lie  # type: ignore[method-assign]
    for _ in range(3):  # the last of them, which is no error at all, costs the program its own link
        assert isinstance(await outcome(here.ends.b.call(1, KIND, b"", 9)), PopnetError)


DEEDS: dict[str, Callable[[Connection, Village], Awaitable[None]]] = {
    "streams": streams,
    "last words": last_words,
    "messages": messages,
    "registrations": registrations,
    "answers": answers,
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS.keys())
async def test_no_program_costs_its_kernel_a_link(
    tmp_path: Path, deed: Callable[[Connection, Village], Awaitable[None]]
) -> None:
    def liar(kid: int, body: bytes) -> None:
        raise LinkViolation("a program's nonsense")

    async def told(stream: Stream) -> None:
        await outcome(stream.receive())

    async with village(tmp_path) as here:
        here.ends.b.on(KIND, liar)
        here.ends.b.register("liar", 1, liar)
        here.ends.b.serve("told", told)
        mad = await here.program(1)
        await deed(mad, here)
        await outcome(mad.call("k2", KIND + 5, b"behind all that", 9))
        other = await here.program(1)
        with pytest.raises(NoSuchService):
            await other.call("k2", KIND + 5, b"still there", 9)
        for end in (here.ends.a, here.ends.b):
            assert end.counters().get("violations") is None


async def test_control_a_kernel_that_passes_on_whatever_it_gets_loses_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for guard in ("popnet.kernel.permits.SERVICE_NAME_MAX", "popnet.message.ports.NAME_MAX"):
        monkeypatch.setattr(guard, 999)
    async with village(tmp_path) as here:
        mad = await here.program(1)
        sending = asyncio.create_task(outcome(mad.send("k2", "x" * 65, b"")))
        await until(lambda: here.ends.b.counters().get("violations"))
        sending.cancel()
