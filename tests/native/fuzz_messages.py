"""A mad peer, one storey up: records of messages that are nearly right, and what takes them apart.

An execution is one conversation: a stream machine and a reassembly are fed what a mutating peer sends, while
their own side opens, accepts, sends, reads and closes. What may come out is outputs, and LinkViolation. Any
other exception, or a machine that stores more than its window lets a peer send, is found.
"""

import random
from collections import Counter
from collections.abc import Sequence

from popnet.core import limits
from popnet.core.errors import LinkViolation
from popnet.message import codec, form
from popnet.message.codec import Reassembly
from popnet.message.kinds import Kind, Ring
from popnet.message.streammachine import NUMBER_MAX, State, StreamMachine
from popnet.message.streamoutputs import Accepted, Arrived, Failed, Offered, Output, Transmit

WINDOW, STREAMS_MAX, SIZE_MAX = 4096, 4, 1000
LIES = 0.05
"""The first that is nonsense ends a conversation."""
STREAM_KINDS = (Kind.OPEN, Kind.ACCEPT, Kind.REFUSE, Kind.DATA, Kind.CREDIT, Kind.CLOSE, Kind.ABORT)
BODIES = (
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"[" * 5000,
    b'{"service":"echo"}',
    b'{"service":"echo","params":{"a":1}}',
    b'{"service":1}',
    b'{"service":"echo","params":[]}',
    b'{"service":"' + b"x" * 100 + b'"}',
    b'{"result":{}}',
    b'{"result":7}',
    b'{"error":{"code":"refused","message":"no","hint":"","result":{}}}',
    b'{"error":{"code":1}}',
    b'{"code":"no-such-service","message":"no"}',
    b'{"code":"refused","message":"no","result":[]}',
    (64).to_bytes(4, "little"),
    (WINDOW + 1).to_bytes(4, "little"),
    (2**32 - 1).to_bytes(4, "little"),
)


class Found(Exception):
    """What no peer should be able to do."""


def mutated(dice: random.Random, body: bytes) -> bytes:
    """*body*, or something close to it."""
    match dice.randrange(6):
        case 0 if body:
            at = dice.randrange(len(body))
            return body[:at] + bytes([dice.randrange(256)]) + body[at + 1 :]
        case 1:
            return body[: dice.randrange(len(body) + 1)]
        case 2:
            return body + dice.randbytes(dice.randrange(9))
    return body


def lie(dice: random.Random) -> tuple[int, bytes]:
    """A record as the ring hands it over."""
    kind = dice.choice(STREAM_KINDS) if dice.random() < 0.9 else dice.choice((0, 16, 17, 32, 0xFFFF))
    flags = dice.choice((0, 0, 0, 1, 2, 255, 256, 0xFFFF))
    id = dice.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2**31, 2**32 - 1))
    body = dice.randbytes(dice.randrange(3000)) if dice.random() < 0.2 else dice.choice(BODIES)
    payload = codec.payload_of(id, dice.choice((1, 0)), mutated(dice, body))
    return codec.tag_of(kind, flags), payload if dice.random() < 0.99 else payload[: dice.randrange(9)]


def truths(machine: StreamMachine) -> list[tuple[Kind, int, bytes]]:
    """What a good peer may say next: (kind, id, body); it knows of every stream what the machine knows."""
    number = min(machine._offered_last + 1, NUMBER_MAX)
    told = [(Kind.OPEN, number << 1 | 1, b'{"service":"echo","params":{}}')]
    for key, stream in machine._streams.items():
        id = key ^ 1
        told.append((Kind.ABORT, id, b""))
        if stream.state is State.OPENING:
            told += [(Kind.ACCEPT, id, b""), (Kind.REFUSE, id, b'{"code":"refused","message":"no"}')]
        if stream.state is State.OPEN and not stream.peer_closed:
            told.append((Kind.CLOSE, id, b'{"result":{}}'))
            if stream.may_arrive >= limits.RECORD_ALIGN:
                told += [(Kind.DATA, id, bytes(min(900, stream.may_arrive)))] * 3
        if stream.state is State.OPEN and stream.may_send < WINDOW:
            told += [(Kind.CREDIT, id, codec.U32.pack(WINDOW - stream.may_send))] * 2
    return told


class Conversation:
    def __init__(self, dice: random.Random, told: Counter[str]) -> None:
        self.dice, self.told = dice, told
        self.machine = StreamMachine(WINDOW, STREAMS_MAX)
        self.reassembly = Reassembly(SIZE_MAX)
        self.stored: Counter[int] = Counter()
        """Bytes of each stream that arrived and were not read."""
        self.keys: list[int] = []
        self.open: set[int] = set()
        """Those that this end may send on."""

    def take(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self.told[type(output).__name__.lower()] += 1
            match output:
                case Offered(key):
                    self.keys.append(key)
                case Arrived(key, _, data):
                    self.stored[key] += max(len(data), limits.RECORD_ALIGN)
                    if self.stored[key] > WINDOW:
                        raise Found(f"stream {key} stores {self.stored[key]} bytes")
                case Accepted(key) | Transmit(Kind.ACCEPT, _, key):
                    self.open.add(key)
                case Failed(key):
                    self.stored.pop(key, None)
                    self.open.discard(key)
                case Transmit(_, _, _, body) if (
                    len(body) > codec.FRAGMENT_SIZE[Ring.NORMAL] + codec.HEADER.size
                ):
                    raise Found("a record longer than a ring takes")
        if len(self.machine) > 2 * STREAMS_MAX + 8:
            raise Found(f"{len(self.machine)} streams")

    def say(self) -> tuple[int, bytes]:
        if self.dice.random() < LIES:
            return lie(self.dice)
        kind, id, body = self.dice.choice(truths(self.machine))
        return codec.tag_of(kind), codec.payload_of(id, 1, body)

    def hear(self, tag: int, payload: bytes) -> None:
        """What the endpoint does with a record: it may raise LinkViolation, and then the link is over."""
        record = codec.record_of(tag, payload)
        if record.kind in STREAM_KINDS:
            self.told["streams"] += 1
            self.take(self.machine.handle(record))
            return
        whole = self.reassembly.feed(record)
        if whole is not None:
            self.told["messages"] += 1
            if len(whole.body) > max(SIZE_MAX, len(record.body)):
                raise Found(f"a message of {len(whole.body)} bytes")
            form.check(whole)

    def act(self) -> None:
        dice, machine = self.dice, self.machine
        key = dice.choice(self.keys) if self.keys else 0
        match dice.randrange(7):
            case 0 if len(machine) < STREAMS_MAX + 4:
                key, outputs = machine.open("echo", {})
                self.keys.append(key)
                self.take(outputs)
            case 1:
                self.take(machine.accept(key))
            case 2 if key in self.open and machine.room(key) >= limits.RECORD_ALIGN:
                self.take(machine.send(key, 0, bytes(dice.randrange(limits.RECORD_ALIGN))))
            case 3 if size := self.stored.pop(key, 0):
                self.take(machine.consumed(key, size))
            case 4 if dice.random() < 0.3:
                self.open.discard(key)
                self.take(machine.abort(key))
            case 5 if key in self.open and dice.random() < 0.3:
                self.open.discard(key)
                self.take(machine.close(key, {}))


def fuzz(dice: random.Random, executions: int) -> Counter[str]:
    """So many conversations; what came of them. Raises Found."""
    told: Counter[str] = Counter()
    for _ in range(executions):
        conversation = Conversation(dice, told)
        for _ in range(dice.randrange(60)):
            conversation.act()
            tag, payload = conversation.say()
            try:
                conversation.hear(tag, payload)
            except LinkViolation:
                told["violations"] += 1
                break
            except Exception as error:
                said = f"kind={tag & 0xFFFF} flags={tag >> 16} payload={payload!r}"
                raise Found(f"{type(error).__name__}: {error}: {said}") from error
        told["executions"] += 1
    return told
