"""The stream machine: every legal move, every forbidden one, and random conversations of two machines."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popnet.core import limits
from popnet.core.errors import LinkViolation, NoSuchService, PeerDied, PopnetError, Refused, StreamClosed
from popnet.message import codec
from popnet.message.codec import Record
from popnet.message.form import NAME_MAX
from popnet.message.kinds import Kind, ring_of
from popnet.message.streammachine import NUMBER_MAX, StreamMachine, cost
from popnet.message.streamoutputs import (
    Accepted,
    Arrived,
    Failed,
    Offered,
    Output,
    PeerClosed,
    Transmit,
    Writable,
)

WINDOW = 1024
OURS, THEIRS = 3, 2  # keys of the first stream that this end, or the peer, opens


def machine() -> StreamMachine:
    return StreamMachine(window=WINDOW, streams_max=3)


def record(kind: int, wire_id: int, body: bytes = b"", flags: int = 0) -> Record:
    return Record(kind, flags, wire_id, 1, body)


def open_body(service: Any = "echo", **more: Any) -> bytes:
    return codec.json_bytes({"service": service, **more})


def opening() -> StreamMachine:
    made = machine()
    made.open("echo", {})
    return made


def offered() -> StreamMachine:
    made = machine()
    made.handle(record(Kind.OPEN, 3, open_body()))
    return made


def opened() -> StreamMachine:
    made = opening()
    made.handle(record(Kind.ACCEPT, 2))
    return made


def peer_closed() -> StreamMachine:
    made = opened()
    made.handle(record(Kind.CLOSE, 2, b"{}"))
    return made


def we_closed() -> StreamMachine:
    made = opened()
    made.close(OURS, None)
    return made


# Legal moves


def test_opening_tells_the_service_and_its_parameters() -> None:
    key, outputs = machine().open("exec", {"argv": ["ls"]})
    assert key == OURS
    assert outputs == [Transmit(Kind.OPEN, 0, 3, b'{"service":"exec","params":{"argv":["ls"]}}')]


def test_what_is_opened_is_offered_at_the_other_end() -> None:
    body = open_body("exec", params={"tty": True})
    assert machine().handle(record(Kind.OPEN, 3, body)) == (Offered(THEIRS, "exec", {"tty": True}),)


def test_accepting() -> None:
    accepter = offered()
    assert accepter.accept(THEIRS) == [Transmit(Kind.ACCEPT, 0, 2, b"")]
    assert accepter.accept(THEIRS) == [], "once is enough"
    opener = opening()
    assert opener.handle(record(Kind.ACCEPT, 2)) == (Accepted(OURS),)


def test_refusing_forgets_the_stream_at_both_ends() -> None:
    accepter, opener = offered(), opening()
    [refusal] = accepter.refuse(THEIRS, NoSuchService("none here", "look elsewhere"))
    assert isinstance(refusal, Transmit)
    [failed] = opener.handle(record(Kind.REFUSE, refusal.id, bytes(refusal.body)))
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NoSuchService)
    assert (str(failed.error), failed.error.hint) == ("none here", "look elsewhere")
    assert len(accepter) == len(opener) == 0


def test_data_goes_with_its_channel() -> None:
    made = opened()
    assert made.send(OURS, 2, b"hello") == [Transmit(Kind.DATA, 2, 3, b"hello")]
    assert made.handle(record(Kind.DATA, 2, b"hi", flags=255)) == (Arrived(OURS, 255, b"hi"),)


def test_credit_is_spent_by_sending_and_given_back_by_the_reader() -> None:
    made = opened()
    assert made.room(OURS) == WINDOW
    made.send(OURS, 0, bytes(1000))
    assert made.room(OURS) == 24
    assert made.handle(record(Kind.CREDIT, 2, codec.U32.pack(1000))) == (Writable(OURS),)
    assert made.room(OURS) == WINDOW


def test_small_records_cost_a_cache_line() -> None:
    made = opened()
    made.send(OURS, 0, b"x")
    assert made.room(OURS) == WINDOW - limits.RECORD_ALIGN


def test_credit_is_given_back_in_quarters_of_the_window() -> None:
    made = opened()
    for _ in range(4):
        made.handle(record(Kind.DATA, 2, bytes(255)))
    assert made.consumed(OURS, 255) == []
    assert made.consumed(OURS, 255) == [Transmit(Kind.CREDIT, 0, 3, codec.U32.pack(510))]


def test_the_last_quarter_that_is_not_given_back_never_stops_the_largest_record() -> None:
    assert cost(limits.STREAM_RECORD_MAX) <= limits.STREAM_WINDOW - limits.STREAM_WINDOW // 4


def test_closing_tells_the_result_and_leaves_the_other_half_open() -> None:
    made = opened()
    assert made.close(OURS, {"status": 3}) == [Transmit(Kind.CLOSE, 0, 3, b'{"result":{"status":3}}')]
    assert made.close(OURS, {"status": 4}) == [], "the first word is the last"
    assert made.handle(record(Kind.DATA, 2, b"late news")) == (Arrived(OURS, 0, b"late news"),)
    assert made.handle(record(Kind.CLOSE, 2, b'{"result":{"n":1}}')) == (PeerClosed(OURS, {"n": 1}, None),)
    assert len(made) == 0


def test_the_peer_closes_first() -> None:
    made = peer_closed()
    assert made.send(OURS, 0, b"more") == [Transmit(Kind.DATA, 0, 3, b"more")]
    made.close(OURS, None)
    assert len(made) == 0


def test_closing_an_offered_stream_accepts_it() -> None:
    kinds = [output.kind for output in offered().close(THEIRS, None) if isinstance(output, Transmit)]
    assert kinds == [Kind.ACCEPT, Kind.CLOSE]


def test_an_error_is_a_last_word_too() -> None:
    [close] = opened().close(OURS, None, Refused("no more", result={"x": 1}))
    assert isinstance(close, Transmit)
    [closed] = opened().handle(record(Kind.CLOSE, 2, bytes(close.body)))
    assert isinstance(closed, PeerClosed)
    assert isinstance(closed.error, Refused)
    assert closed.error.result == {"x": 1}


@pytest.mark.parametrize("made", [opening, opened, peer_closed, we_closed], ids=lambda made: made.__name__)
def test_aborting_forgets_the_stream_at_once(made: Any) -> None:
    either: StreamMachine = made()
    assert either.abort(OURS) == [Transmit(Kind.ABORT, 0, 3, b"")]
    assert len(either) == 0
    assert either.abort(OURS) == []


@pytest.mark.parametrize("made", [opening, opened, peer_closed, we_closed], ids=lambda made: made.__name__)
def test_the_peer_aborts(made: Any) -> None:
    either: StreamMachine = made()
    [failed] = either.handle(record(Kind.ABORT, 2))
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, StreamClosed)
    assert len(either) == 0


def test_everything_that_arrives_for_a_stream_of_the_past_is_late_not_wrong() -> None:
    made = opened()
    made.abort(OURS)
    for kind in (Kind.ACCEPT, Kind.REFUSE, Kind.DATA, Kind.CREDIT, Kind.CLOSE, Kind.ABORT):
        assert list(made.handle(record(kind, 2, b"?"))) == []
    assert made.counters["late_records"] == 6


def test_calls_for_a_stream_of_the_past_do_nothing() -> None:
    made = opened()
    made.abort(OURS)
    assert made.room(OURS) == 0
    calls: list[Sequence[Output]] = [
        made.send(OURS, 0, b"x"),
        made.consumed(OURS, 1),
        made.close(OURS, None),
        made.accept(OURS),
        made.refuse(OURS, Refused("no")),
    ]
    assert not any(calls)


def test_every_stream_ends_when_the_peer_dies() -> None:
    made = opened()
    made.handle(record(Kind.OPEN, 3, open_body()))
    error = PeerDied("killed")
    assert made.lost(error) == [Failed(OURS, error), Failed(THEIRS, error)]
    assert len(made) == 0


def test_a_machine_may_talk_to_itself() -> None:
    made = machine()
    key, [opens] = made.open("echo", {})
    assert isinstance(opens, Transmit)
    [offer] = made.handle(record(opens.kind, opens.id, bytes(opens.body)))
    assert isinstance(offer, Offered)
    assert offer.key != key
    assert len(made) == 2


def test_numbers_run_out_with_an_error() -> None:
    made = machine()
    made._opened_last = NUMBER_MAX
    with pytest.raises(PopnetError, match="used up"):
        made.open("echo", {})


def deep(levels: int) -> Any:
    """Lists inside each other."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# Forbidden moves: each is a LinkViolation, which ends the link

FORBIDDEN = {
    "data before accept": (opening, record(Kind.DATA, 2, b"x")),
    "close before accept": (opening, record(Kind.CLOSE, 2, b"{}")),
    "credit before accept": (opening, record(Kind.CREDIT, 2, codec.U32.pack(1))),
    "accepted twice": (opened, record(Kind.ACCEPT, 2)),
    "refused after accept": (opened, record(Kind.REFUSE, 2, b'{"code":"refused","message":"x"}')),
    "refused without an error": (opening, record(Kind.REFUSE, 2, b"{}")),
    "refused in bad JSON": (opening, record(Kind.REFUSE, 2, b"}")),
    "data behind close": (peer_closed, record(Kind.DATA, 2, b"x")),
    "closed twice": (peer_closed, record(Kind.CLOSE, 2, b"{}")),
    "close in bad JSON": (opened, record(Kind.CLOSE, 2, b"nope")),
    "close with a result that is no object": (opened, record(Kind.CLOSE, 2, b'{"result":[1]}')),
    "close with an error that is none": (opened, record(Kind.CLOSE, 2, b'{"error":{}}')),
    "more than the credit": (opened, record(Kind.DATA, 2, bytes(WINDOW + 1))),
    "more credit than the window": (opened, record(Kind.CREDIT, 2, codec.U32.pack(1))),
    "credit that is no number": (opened, record(Kind.CREDIT, 2, b"123")),
    "accepted with a body": (opening, record(Kind.ACCEPT, 2, b"x")),
    "aborted with a body": (opened, record(Kind.ABORT, 2, b"x")),
    "a channel that is none": (opened, record(Kind.DATA, 2, b"x", flags=256)),
}


@pytest.mark.parametrize(("made", "wrong"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_forbidden_moves(made: Any, wrong: Record) -> None:
    either: StreamMachine = made()
    either.handle(record(Kind.OPEN, 3, open_body()))
    with pytest.raises(LinkViolation):
        either.handle(wrong)


def test_credit_is_overrun_by_many_small_records_too() -> None:
    made = opened()
    for _ in range(WINDOW // limits.RECORD_ALIGN):
        [arrived] = made.handle(record(Kind.DATA, 2, b"x"))
        assert isinstance(arrived, Arrived)
    with pytest.raises(LinkViolation, match="of credit"):
        made.handle(record(Kind.DATA, 2, b"x"))


@pytest.mark.parametrize("kind", [Kind.ACCEPT, Kind.DATA, Kind.CREDIT, Kind.CLOSE, Kind.REFUSE, Kind.ABORT])
@pytest.mark.parametrize("wire_id", [0, 1, 2, 3, 2**32 - 1])
def test_what_belongs_to_no_stream_ever_opened_is_forbidden(kind: Kind, wire_id: int) -> None:
    with pytest.raises(LinkViolation, match="never was"):
        machine().handle(record(kind, wire_id, b"x"))


@pytest.mark.parametrize("wire_id", [2, 0, 3, 1], ids=["ours", "zero of ours", "again", "zero"])
def test_an_open_out_of_turn(wire_id: int) -> None:
    made = offered()
    with pytest.raises(LinkViolation, match="out of turn"):
        made.handle(record(Kind.OPEN, wire_id, open_body()))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        open_body(None),
        open_body(7),
        open_body("x" * (NAME_MAX + 1)),
        open_body(params=[1]),
    ],
)
def test_an_open_that_cannot_be_understood_is_forbidden(body: bytes) -> None:
    with pytest.raises(LinkViolation):
        machine().handle(record(Kind.OPEN, 3, body))


@pytest.mark.parametrize(
    ("service", "params"),
    [("x" * (NAME_MAX + 1), {}), ("x", {"a": "x" * codec.JSON_SIZE_MAX}), ("x", {"a": deep(64)})],
    ids=["name", "size", "depth"],
)
def test_what_the_other_end_would_not_understand_is_not_sent(service: str, params: dict[str, Any]) -> None:
    made = machine()
    with pytest.raises(Refused):
        made.open(service, params)
    assert len(made) == 0
    _, [opens] = made.open("x" * NAME_MAX, {"a": deep(61)})
    assert isinstance(opens, Transmit)
    [offer] = machine().handle(record(opens.kind, opens.id, bytes(opens.body)))
    assert isinstance(offer, Offered)


def test_a_peer_may_open_only_so_many_streams() -> None:
    made = machine()
    for number in (1, 2, 3):
        [offer] = made.handle(record(Kind.OPEN, number << 1 | 1, open_body()))
        assert isinstance(offer, Offered)
    [refusal] = made.handle(record(Kind.OPEN, 9, open_body()))
    assert isinstance(refusal, Transmit)
    assert refusal.kind is Kind.REFUSE
    made.open("echo", {})
    made.abort(THEIRS)
    [offer] = made.handle(record(Kind.OPEN, 11, open_body()))
    assert isinstance(offer, Offered)


@given(
    st.lists(
        st.builds(
            record,
            st.sampled_from(sorted(k for k in Kind if k < Kind.UNKNOWN)),
            st.integers(0, 9) | st.integers(0, 2**32 - 1),
            st.binary(max_size=80) | st.just(open_body()) | st.just(codec.U32.pack(100)) | st.just(b"{}"),
            st.integers(0, 300),
        ),
        max_size=40,
    )
)
def test_whatever_a_peer_sends_the_machine_stands_and_stays_bounded(records: list[Record]) -> None:
    made = opened()
    stored = 0
    for each in records:
        try:
            outputs = made.handle(each)
        except LinkViolation:
            break
        for output in outputs:
            if isinstance(output, Arrived):
                stored += cost(len(output.data))
            if isinstance(output, Offered):
                made.accept(output.key)
    opened_ever = 1 + made.counters["streams_offered"]
    assert stored <= WINDOW * opened_ever
    assert len(made) <= 1 + 3


# Two machines, and a link that delivers when it likes


@dataclass
class Talk:
    """One stream as its two users see it."""

    sent: list[tuple[int, bytes]] = field(default_factory=list)
    waiting: deque[tuple[int, bytes]] = field(default_factory=deque)
    received: list[tuple[int, bytes]] = field(default_factory=list)
    open: bool = False
    closed: bool = False
    peer_closed: bool = False
    failed: PopnetError | None = None


class End:
    def __init__(self) -> None:
        self.machine = machine()
        self.talks: dict[int, Talk] = {}
        self.out: dict[int, deque[Record]] = {0: deque(), 1: deque()}

    def do(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case Transmit(kind, flags, id, body):
                    self.out[ring_of(kind)].append(Record(kind, flags, id, 1, bytes(body)))
                case Offered(key):
                    self.talks[key] = Talk()
                case Accepted(key):
                    self.talks[key].open = True
                case Arrived(key, channel, data):
                    self.talks[key].waiting.append((channel, data))
                case PeerClosed(key):
                    self.talks[key].peer_closed = True
                case Failed(key, error):
                    self.talks[key].failed = error
                case Writable():
                    pass

    def act(self, action: str, pick: int, size: int) -> None:
        if action == "open":
            key, outputs = self.machine.open("echo", {})
            self.talks[key] = Talk()
            self.do(outputs)
            return
        if not self.talks:
            return
        key = sorted(self.talks)[pick % len(self.talks)]
        talk = self.talks[key]
        offered = not key & 1 and not talk.open
        if action == "accept" and offered:
            talk.open = True
            self.do(self.machine.accept(key))
        elif action == "send" and talk.open and not talk.closed and not talk.failed:
            if cost(size) <= self.machine.room(key):
                item = (size % 3, bytes([len(talk.sent) % 256]) * size)
                talk.sent.append(item)
                self.do(self.machine.send(key, *item))
        elif action == "receive" and talk.waiting:
            item = talk.waiting.popleft()
            talk.received.append(item)
            self.do(self.machine.consumed(key, len(item[1])))
        elif action == "close" and talk.open and not talk.closed:
            talk.closed = True
            self.do(self.machine.close(key, {}))
        elif action == "abort" and not offered:
            talk.closed = True
            talk.failed = talk.failed or StreamClosed("here")
            self.do(self.machine.abort(key))


ACTIONS = st.tuples(
    st.sampled_from(["deliver"] * 6 + ["send"] * 5 + ["receive"] * 3 + ["open", "accept", "accept", "close"]),
    st.integers(0, 1),
    st.integers(0, 5),
    st.integers(1, WINDOW),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(ACTIONS | ACTIONS.map(lambda a: ("abort", *a[1:])), max_size=120))
def test_random_conversations(actions: list[tuple[str, int, int, int]]) -> None:
    """Whatever the two ends do, and whenever each ring delivers: no end ever takes the other's behaviour for
    nonsense, credit is never exceeded, and every stream that is not aborted delivers every byte in order,
    once."""
    ends = End(), End()

    def deliver(direction: int, ring: int) -> None:
        queue = ends[direction].out[ring]
        if queue:
            ends[1 - direction].do(ends[1 - direction].machine.handle(queue.popleft()))

    for action, who, pick, size in actions:
        if action == "deliver":
            deliver(who, pick % 2)
        else:
            ends[who].act(action, pick, size)
        for end in ends:
            for talk in end.talks.values():
                assert sum(cost(len(data)) for _, data in talk.waiting) <= WINDOW
    while any(queue for end in ends for queue in end.out.values()) or any(
        talk.waiting for end in ends for talk in end.talks.values()
    ):
        for direction in (0, 1):
            deliver(direction, 0)
            deliver(direction, 1)
            for pick in range(len(ends[direction].talks)):
                ends[direction].act("receive", pick, 0)
    for end, other in (ends, ends[::-1]):
        for key, talk in end.talks.items():
            if (twin := other.talks.get(key ^ 1)) is None:
                continue
            assert twin.received == talk.sent[: len(twin.received)]
            if not talk.failed and not twin.failed:
                assert twin.received == talk.sent
                assert twin.peer_closed == talk.closed
            if talk.failed and not twin.closed:
                assert isinstance(twin.failed, StreamClosed)
            if talk.closed and twin.closed:
                assert key not in end.machine
