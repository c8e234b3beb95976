"""What is measured of every wire, in the same way: round trips, and a stream of messages in one direction.

Two processes hold one end each. The leader says over a side channel (`Control`) what comes next, so that no
measured message carries more than its bytes; the follower echoes, or counts and reports. Every echo is
compared with what was sent, outside the measured time; of a stream the follower reports count, bytes and
whether the last message was the right one. A wire that loses or changes a byte fails, it is not "fast".

Each measurement is as long as its budget: what a trip costs is found by trying.
"""

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter_ns
from typing import Any, Final, Protocol

DISTINCT: Final = 16
"""Different messages in turn, so that an echo of an old one is noticed."""

VERIFIED: Final = 64
"""Echoes before any clock runs: they warm up caches, and fail a broken wire early."""

TRIPS: Final = (50, 50_000)
STREAMED: Final = (64, 5_000_000)
"""Least and most round trips, and streamed messages, of one measurement."""

REPORT: Final = struct.Struct("<QQ?")
"""What a follower says about a stream: messages, bytes, and whether the last one was right."""

SIZE_MIN: Final = REPORT.size


class WireFault(Exception):
    """A wire that did not carry what it was given."""


class Wire(Protocol):
    """One end of what is measured. Messages have one size, so that byte streams need no framing."""

    def send(self, data: bytes, /) -> object: ...
    def receive(self) -> bytes: ...
    def send_stream(self, data: bytes, count: int) -> None:
        """Send *data* *count* times, as fast as a user of this wire would."""

    def receive_stream(self, count: int) -> tuple[int, bytes]:
        """Receive *count* messages; their bytes together, and the last one."""


class Control(Protocol):
    """The side channel: the leader tells, the follower hears; never while a clock runs."""

    def tell(self, task: str, count: int) -> None: ...
    def hear(self) -> tuple[str, int]: ...


class Roles(Protocol):
    """Both ends of a wire before the fork; each process then plays one of them, and makes its end first."""

    def lead(self, control: Control, size: int, budget_s: float) -> "Figures":
        """Measure, once the follower has made its end."""

    def follow(self, control: Control, size: int) -> None:
        """Tell `made`, then do as the leader tells."""


class Base:
    """A wire's streams, one message after the other; wires that batch have their own."""

    def send(self, data: bytes, /) -> object:
        raise NotImplementedError

    def receive(self) -> bytes:
        raise NotImplementedError

    def send_stream(self, data: bytes, count: int) -> None:
        send = self.send
        for _ in range(count):
            send(data)

    def receive_stream(self, count: int) -> tuple[int, bytes]:
        receive = self.receive
        size, last = 0, b""
        for _ in range(count):
            last = receive()
            size += len(last)
        return size, last


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement: microseconds one way (half a round trip), and messages a second in one direction."""

    p50_us: float
    p99_us: float
    rate: float | None
    trips: int
    streamed: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def messages(size: int) -> list[bytes]:
    """The same in both processes: DISTINCT messages of *size* bytes. ValueError if a report does not fit."""
    if size < SIZE_MIN:
        raise ValueError(f"messages of {size} bytes are too small: at least {SIZE_MIN}")
    dice = random.Random(size)
    return [dice.randbytes(size) for _ in range(DISTINCT)]


def lead(wire: Wire, control: Control, size: int, budget_s: float) -> Figures:
    """Measure *wire* with its `follow`er. Half of *budget_s* goes to the round trips, half to the stream.

    Raises:
        WireFault: something else came back than was sent.
    """
    sent = messages(size)
    tried = _trips(wire, control, sent, VERIFIED)
    trips = fitting(sum(tried) / len(tried), budget_s / 2, TRIPS)
    taken = _trips(wire, control, sent, trips)
    count = STREAMED[0]
    took = _stream(wire, control, sent[0], count)
    while took < budget_s * 1e9 / 20 and count < STREAMED[1]:  # a short one tells little about a long one
        count = min(fitting(took / count, budget_s / 2, STREAMED), count * 16)
        took = _stream(wire, control, sent[0], count)
    streamed = fitting(took / count, budget_s / 2, STREAMED)
    took = _stream(wire, control, sent[0], streamed)
    control.tell("end", 0)
    return figures(taken, streamed, took)


def follow(wire: Wire, control: Control, size: int) -> None:
    """Do what the leader says, until it says `end`."""
    right = messages(size)[0]
    while (task := control.hear())[0] != "end":
        count = task[1]
        if task[0] == "echo":
            send, receive = wire.send, wire.receive
            for _ in range(count):
                send(receive())
        else:
            total, last = wire.receive_stream(count)
            wire.send(report(count, total, last == right, size))


def wait_for_follower(control: Control) -> None:
    """RuntimeError if it could not make its end."""
    if control.hear()[0] != "made":
        raise RuntimeError("the other end could not be made")


class BlockingRoles:
    """Ends that are made after the fork, and block."""

    def __init__(self, make_leader: Callable[[], Wire], make_follower: Callable[[], Wire]) -> None:
        self._make_leader, self._make_follower = make_leader, make_follower

    def lead(self, control: Control, size: int, budget_s: float) -> Figures:
        wire = self._make_leader()
        wait_for_follower(control)
        return lead(wire, control, size, budget_s)

    def follow(self, control: Control, size: int) -> None:
        wire = self._make_follower()
        control.tell("made", 0)
        follow(wire, control, size)


def figures(taken_ns: list[int], streamed: int, stream_ns: int) -> Figures:
    """Of round trips and a stream; without a stream there is no rate."""
    one_way = sorted(taken_ns)
    return Figures(
        p50_us=percentile(one_way, 0.5) / 2e3,
        p99_us=percentile(one_way, 0.99) / 2e3,
        rate=streamed / (stream_ns / 1e9) if streamed else None,
        trips=len(one_way),
        streamed=streamed,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that *share* of the *ordered* values do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def fitting(each_ns: float, budget_s: float, limits: tuple[int, int]) -> int:
    """How many fit the budget at *each_ns*, within the limits."""
    return max(limits[0], min(limits[1], int(budget_s * 1e9 / max(each_ns, 1.0))))


def report(count: int, total: int, right: bool, size: int) -> bytes:
    """A follower's word about a stream, as long as any message."""
    return REPORT.pack(count, total, right).ljust(size, b"\0")


def check_echo(sent: bytes, received: bytes) -> None:
    if received != sent:
        raise WireFault(f"sent {len(sent)} bytes, and {len(received)} others came back")


def check_report(answer: bytes, count: int, size: int) -> None:
    if answer != report(count, count * size, True, size):
        arrived = REPORT.unpack_from(answer) if len(answer) >= REPORT.size else answer
        raise WireFault(f"streamed {count} messages of {size} bytes; the other end reports {arrived!r}")


def _trips(wire: Wire, control: Control, sent: list[bytes], count: int) -> list[int]:
    control.tell("echo", count)
    send, receive, clock = wire.send, wire.receive, perf_counter_ns
    taken = []
    for number in range(count):
        data = sent[number % DISTINCT]
        start = clock()
        send(data)
        answer = receive()
        taken.append(clock() - start)
        check_echo(data, answer)
    return taken


def _stream(wire: Wire, control: Control, data: bytes, count: int) -> int:
    control.tell("count", count)
    start = perf_counter_ns()
    wire.send_stream(data, count)
    answer = wire.receive()
    took = perf_counter_ns() - start
    check_report(answer, count, len(data))
    return took
