"""Records to messages and back; whatever a peer may send, only LinkViolation comes of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.core import limits
from popnet.core.errors import LinkViolation, NoSuchService, PopnetError, Refused
from popnet.message import codec
from popnet.message.codec import Reassembly, Record
from popnet.message.kinds import Flag, Ring

IDS = st.integers(0, 2**32 - 1)
HALVES = st.integers(0, 2**16 - 1)


@given(HALVES, HALVES, IDS, IDS, st.binary(max_size=200))
def test_a_record_survives_the_ring(kind: int, flags: int, id: int, generation: int, body: bytes) -> None:
    tag, payload = codec.tag_of(kind, flags), codec.payload_of(id, generation, body)
    assert codec.record_of(tag, payload) == Record(kind, flags, id, generation, body)


def test_the_layout_is_the_documented_one() -> None:
    assert codec.tag_of(4, 2) == 0x0002_0004
    assert codec.payload_of(3, 7, b"hi") == bytes.fromhex("03000000 07000000") + b"hi"


@pytest.mark.parametrize("size", range(8))
def test_a_payload_without_its_header_is_a_violation(size: int) -> None:
    with pytest.raises(LinkViolation):
        codec.record_of(4, bytes(size))


@pytest.mark.parametrize("body", [b"", b"1", b"12345"])
def test_a_number_has_four_bytes(body: bytes) -> None:
    with pytest.raises(LinkViolation):
        codec.u32_of(body)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff{}", b"[" * 100_000, b'{"a":' * 50_000]
)
def test_what_is_no_json_object_is_a_violation(body: bytes) -> None:
    with pytest.raises(LinkViolation):
        codec.json_object(body)


def test_json_survives_even_with_names_that_are_no_unicode() -> None:
    value = {"argv": ["ls", b"\xff\xfe".decode(errors="surrogateescape"), "ä"], "n": None}
    assert codec.json_object(codec.json_bytes(value)) == value


def test_json_that_fits_no_record_is_refused_where_it_is_made() -> None:
    with pytest.raises(Refused):
        codec.json_bytes({"argv": "x" * codec.JSON_SIZE_MAX})


def test_an_error_crosses_with_its_type_hint_and_result() -> None:
    for error in (
        NoSuchService("no", "try sshd"),
        Refused("not found", result={"status": 127}),
        PopnetError("x"),
    ):
        crossed = codec.error_of(codec.json_object(codec.json_bytes(codec.error_object(error))))
        assert type(crossed) is type(error)
        assert (str(crossed), crossed.hint) == (str(error), error.hint)
        assert getattr(crossed, "result", None) == getattr(error, "result", None)


def test_a_long_text_of_an_error_is_cut() -> None:
    assert len(codec.json_bytes(codec.error_object(PopnetError("\0" * 1_000_000)))) < codec.JSON_SIZE_MAX


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"code": 1, "message": "x"},
        {"code": "refused"},
        {"code": "refused", "message": "x", "result": [1]},
    ],
)
def test_what_is_no_error_is_a_violation(value: dict[str, Any]) -> None:
    with pytest.raises(LinkViolation):
        codec.error_of(value)


@pytest.mark.parametrize("ring", list(Ring))
@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_body_of_any_size_is_cut_and_put_together(ring: Ring, count: int, extra: int) -> None:
    size = max(0, codec.FRAGMENT_SIZE[ring] * count + extra)
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    parts = Reassembly()
    cut = list(codec.fragments(ring, 40, int(Flag.REQUEST), 9, 5, body))
    records = [codec.record_of(tag, codec.whole(payload)) for tag, payload in cut]
    assert all(codec.size_of(payload) == len(codec.whole(payload)) for _, payload in cut)
    assert len(records) == max(1, -(-size // codec.FRAGMENT_SIZE[ring]))
    assert all(len(record.body) <= codec.FRAGMENT_SIZE[ring] for record in records)
    whole = [parts.feed(record) for record in records]
    assert whole == [None] * (len(records) - 1) + [Record(40, int(Flag.REQUEST), 9, 5, body)]


def test_fragments_leave_room_for_others_in_the_ring() -> None:
    assert codec.FRAGMENT_SIZE[Ring.HIGH] * 4 <= limits.RING_HIGH_SIZE
    assert codec.FRAGMENT_SIZE[Ring.NORMAL] * 4 <= limits.RING_NORMAL_SIZE


def fragment(more: bool = True, kind: int = 40, id: int = 0, body: bytes = b"x") -> Record:
    return Record(kind, int(Flag.MORE) if more else 0, id, 5, body)


@pytest.mark.parametrize(
    "second",
    [fragment(kind=41), fragment(id=1), fragment(kind=41, more=False), fragment(body=b"")],
    ids=["another kind", "another id", "another message", "nothing in it"],
)
def test_what_is_not_the_next_fragment_is_a_violation(second: Record) -> None:
    parts = Reassembly()
    assert parts.feed(fragment()) is None
    with pytest.raises(LinkViolation):
        parts.feed(second)


def test_memory_of_reassembly_is_bounded() -> None:
    parts = Reassembly(size_max=10)
    assert parts.feed(fragment(body=b"12345")) is None
    assert parts.feed(fragment(body=b"12345")) is None
    with pytest.raises(LinkViolation):
        parts.feed(fragment(body=b"1"))


def test_the_next_message_starts_anew() -> None:
    parts = Reassembly(size_max=10)
    for _ in range(3):
        assert parts.feed(fragment(body=b"12345")) is None
        assert parts.feed(fragment(more=False, body=b"67890")) == Record(40, 0, 0, 5, b"1234567890")
