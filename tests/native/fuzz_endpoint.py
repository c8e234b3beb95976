"""A mad kernel against a whole endpoint: registry, services, ports, calls, groups, streams, full rings.

An execution is one life of an endpoint, by the dice the primary's or that of a kernel whose primary is mad.
Its peer sends what fuzz_messages sends, and nearly right messages of every kind; several before the endpoint
has a turn, or until the ring is full, or takes nothing of what it is told; writes nonsense into its window,
or comes back in another generation. Meanwhile the endpoint does what a kernel does. What may come out is an
end of the link. An exception that nobody awaited, a handler that failed, and what is left after the end, are
found.
"""

import asyncio
import json
import logging
import os
import random
import struct
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from popnet.core import limits
from popnet.core.errors import PeerDied, PopnetError
from popnet.message import codec
from popnet.message.endpoint import Endpoint
from popnet.message.fake import FakeLink, fake_links
from popnet.message.kinds import Kind, Ring
from popnet.message.registryshell import RegistryShell
from popnet.message.stream import Stream
from popnet.transport.doorbell import create_doorbell
from tests.native import fuzz_messages
from tests.native.fuzz_messages import Found

TURNS, SETTLE, STREAMS_SENT = 40, 30, 200
RINGS = {Ring.HIGH: limits.RING_HIGH_SIZE, Ring.NORMAL: limits.RING_NORMAL_SIZE}

NOTICE = ["kernel-up", 2, 1, "k2", 0, 0, ""]
WISHES: dict[str, Any] = {
    "generation": 1,
    "session": 1,
    "services": {"echo": [1, 1]},
    "watches": {"1": ["*", None]},
    "groups": {"g": [1]},
}
OBJECTS: tuple[Any, ...] = (
    WISHES,
    WISHES | {"session": 2, "watches": {"1": ["service/*", 0], "2": ["kernel/?", 1]}},
    WISHES | {"services": {}, "groups": {"g": [1, 2], "h": [3]}},
    {"kernel": "k1"},
    {"resync": True},
    {"session": 1, "watch": 1, "seq": 2, "notice": NOTICE},
    {"session": 1, "watch": 1, "seq": 1, "snapshot": [NOTICE, ["service-up", 2, 1, "echo", 1, 1, ""]]},
    {"session": 1, "group": "g", "view": 1, "members": [[0, 1, 1], [1, 1, 1], [2, 1, 1]]},
    {"session": 1, "group": "g", "view": 2, "members": [[0, 1, 1]]},
    {"kid": 2},
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**70,
    1.5,
    "",
    "*",
    "[",
    "x" * 100,
    [],
    {},
    [[1]],
    {"a": 1},
    [1, 1],
)
NUMBERS = struct.Struct("<II")


def deformed(dice: random.Random, value: Any) -> Any:
    """*value*, or one with another value somewhere inside."""
    if dice.randrange(4) == 0:
        return dice.choice(VALUES)
    if isinstance(value, dict) and value:
        key = dice.choice(sorted(value))
        return value | {key: deformed(dice, value[key])}
    if isinstance(value, list) and value:
        at = dice.randrange(len(value))
        return [*value[:at], deformed(dice, value[at]), *value[at + 1 :]]
    return value


def body_of(dice: random.Random) -> bytes:
    match dice.randrange(5):
        case 0 | 1:
            value = dice.choice(OBJECTS)
            return json.dumps(deformed(dice, value) if dice.randrange(2) else value).encode()
        case 2:
            number = dice.choice((0, 1, 2, 3, 2**32 - 1, 2**32 - 2, 2**32 - 3))
            return NUMBERS.pack(number, dice.randrange(3)) + bytes(dice.randrange(9))
        case 3:
            return codec.U32.pack(dice.randrange(4)) + b"x"
    return dice.choice((b"echo", b"call", b"\xff", b"", bytes(3000), *fuzz_messages.BODIES))


def message(dice: random.Random) -> tuple[int, bytes]:
    kind = dice.choice((*Kind, 0x8000, 0x8001))
    flags = dice.choice((0, 0, 0, 1, 2, 2, 4, 4, 8, 12, 0xFFFF))
    payload = codec.payload_of(dice.randrange(5), int(dice.randrange(8) > 0), body_of(dice))
    return codec.tag_of(kind, flags), payload


async def no_connect(kid: int) -> None:
    raise PeerDied(f"kernel {kid} does not run")


async def echo(stream: Stream) -> None:
    while (item := await stream.receive()) is not None:
        await stream.send(item[1], item[0])


async def answer(kid: int, body: bytes) -> bytes:
    if body == b"x":
        raise PopnetError("no")
    await asyncio.sleep(0)
    return body


def ignore(*_: object) -> None:
    """A handler."""


class Life:
    """One endpoint, and the peer's end of its link."""

    def __init__(self, dice: random.Random, told: Counter[str]) -> None:
        self.dice, self.told = dice, told
        self.bells = create_doorbell(), create_doorbell()
        self.kid = dice.randrange(2)
        self.peer = 2 if self.kid == 0 else 0
        self.endpoint = Endpoint(self.kid, 1, self.bells[0], no_connect)
        self.registry = (
            RegistryShell(self.endpoint, {0: "primary", 1: "k1", 2: "k2"}) if self.kid == 0 else None
        )
        self.link: FakeLink | None = None
        self.generation = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.joined = self.endpoint.group("g")

    def begin(self) -> None:
        self.endpoint.start()
        self.endpoint.serve("echo", echo)
        self.endpoint.register("call", 1, ignore, answer)
        self.endpoint.on(0x8000, ignore)
        self.endpoint.watch("*", ignore)
        self.connect()

    def connect(self) -> None:
        self.generation += 1
        ours, self.link = fake_links(*self.bells, RINGS)
        self.endpoint.add_link(self.peer, self.generation, ours)
        self.ours = ours

    def lie(self) -> None:
        """One record; in one of sixteen cases many."""
        assert self.link is not None
        dice = self.dice
        tag, payload = message(dice) if dice.randrange(4) else fuzz_messages.lie(dice)
        ring = Ring(dice.randrange(2))
        payload = payload[: RINGS[ring] // 2]
        for _ in range(100 if dice.randrange(16) == 0 else 1):
            if not self.link.send(ring, payload, tag):
                self.told["full"] += 1
                return

    async def safely(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except PopnetError as error:
            self.told[error.code] += 1

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(self.safely(work))
        self.tasks.add(task)

    async def converse(self) -> None:
        stream = await self.endpoint.open(self.peer, "echo")
        for _ in range(3):
            await stream.send(bytes(30_000))
        await stream.receive()
        await stream.close()

    async def act(self) -> None:
        dice, endpoint, peer = self.dice, self.endpoint, self.peer
        match dice.randrange(12):
            case 0:
                self.start(self.converse())
            case 1:
                self.start(endpoint.call(peer, 0x8000, b"x", 9))
            case 2:
                self.start(endpoint.call_service(peer, "call", b"x", 9))
            case 3:
                self.start(endpoint.send(peer, "call", b"x", timeout_s=9))
            case 4 if self.joined.me is None:
                self.start(self.joined.join(ignore, 9))
            case 5 if self.joined.me is not None:
                self.start(self.joined.send(b"all"))
            case 6 if self.joined.me is not None and dice.randrange(2):
                self.start(self.joined.leave(9))
            case 7:
                endpoint.post(peer, 0x8000, bytes(dice.choice((0, 100, 40_000, 200_000))))
            case 8 if self.registry is not None:
                self.registry.down(peer, dice.randrange(3), "killed")
            case 9 if dice.randrange(4) == 0:
                self.ours.violate("nonsense") if dice.randrange(2) else self.ours.close()
            case 10 if dice.randrange(2) or not endpoint.has_link(peer):
                self.connect()
            case 11 if self.link is not None:
                for ring in Ring:
                    self.link.receive_many(ring, dice.choice((1, 1000)))
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)

    def check(self) -> None:
        counters = self.endpoint.counters()
        if counters.get("handler_errors"):
            raise Found("a handler failed")
        if (
            counters["streams"] > 2 * limits.STREAMS_MAX + 8
            or counters["tasks"] > STREAMS_SENT + limits.CALLS_MAX
        ):
            raise Found(f"too much of {counters}")
        if self.endpoint.waiting_size(self.peer) > 2 * (limits.QUEUE_SIZE_MAX + limits.MESSAGE_SIZE_MAX):
            raise Found("too much waits")

    async def end(self) -> None:
        for _ in range(SETTLE):
            await asyncio.sleep(0)
        self.check()
        await self.endpoint.stop()
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        for _ in range(3):
            await asyncio.sleep(0)
        counters = self.endpoint.counters()
        if counters["streams"] or counters["calls"] or counters["tasks"]:
            raise Found(f"left at the end: {counters}")
        self.told["violations"] += counters.get("violations", 0)
        self.told.update({name: counters.get(name, 0) for name in ("received", "budget_exhausted")})


class Fuzzer:
    """An event loop for many executions, and an ear for what goes wrong inside it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.wrong: list[BaseException | str] = []
        self.loop.set_exception_handler(self._heard)
        logging.getLogger("popnet").addHandler(self._Ear(self.wrong))
        logging.getLogger("popnet").propagate = False

    class _Ear(logging.Handler):
        def __init__(self, wrong: list[BaseException | str]) -> None:
            super().__init__(logging.ERROR)
            self.wrong = wrong

        def emit(self, record: logging.LogRecord) -> None:
            cause = record.exc_info[1] if record.exc_info else None
            self.wrong.append(cause or record.getMessage())

    def _heard(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.wrong.append(context.get("exception") or context["message"])

    def execute(self, dice: random.Random, told: Counter[str]) -> None:
        """Raises Found."""
        self.wrong.clear()
        life = Life(dice, told)
        try:
            self.loop.run_until_complete(self._lived(life))
        except Exception as error:
            told_wrong = ", ".join(f"{type(wrong).__name__}: {wrong}" for wrong in self.wrong)
            raise Found(f"{type(error).__name__}: {error}; {told_wrong}") from error
        finally:
            for bell in life.bells:
                os.close(bell)
        if self.wrong:
            raise Found(f"{type(self.wrong[0]).__name__}: {self.wrong[0]}")
        told["executions"] += 1

    async def _lived(self, life: Life) -> None:
        life.begin()
        for _ in range(life.dice.randrange(TURNS)):
            for _ in range(life.dice.randrange(4)):
                life.lie()
            await life.act()
            life.check()
        await life.end()


def fuzz(dice: random.Random, executions: int) -> Counter[str]:
    """So many lives; what came of them. Raises Found."""
    told: Counter[str] = Counter()
    fuzzer = Fuzzer()
    try:
        for _ in range(executions):
            fuzzer.execute(dice, told)
    finally:
        fuzzer.loop.close()
    return told
