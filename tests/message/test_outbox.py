"""What waits for room: in order within streams and within messages, taking turns between the two."""

from collections.abc import Iterator

from popnet.message.outbox import BATCH, Outbox


def drained(box: Outbox, at_a_time: int) -> list[int]:
    tags = []
    while staged := box.staged():
        count = min(at_a_time, len(staged))
        tags += [tag for tag, _ in staged[:count]]
        box.sent(count)
    return tags


def test_empty() -> None:
    box = Outbox()
    assert not box
    assert not box.staged()


def test_order_is_kept_whatever_the_ring_takes() -> None:
    for at_a_time in (1, 3, BATCH, 100):
        box = Outbox()
        for tag in range(50):
            box.put(tag, b"")
        assert box
        assert drained(box, at_a_time) == list(range(50))
        assert not box


def test_streams_and_messages_take_turns() -> None:
    box = Outbox()
    for tag in range(100):
        box.put(tag, b"")
    box.put_message(iter([(tag, b"") for tag in range(1000, 1003)]), 0)
    assert drained(box, 1)[:8] == [0, 1000, 1, 1001, 2, 1002, 3, 4]


def test_messages_are_bounded_and_streams_are_not_their_concern() -> None:
    box = Outbox(size_max=10)
    assert box.has_place(10)
    box.put(0, bytes(100))
    box.put_message(iter([(1, b"123456")]), 6)
    assert box.has_place(4)
    assert not box.has_place(5)
    assert len(drained(box, BATCH)) == 2
    assert box.has_place(10)


def test_what_is_staged_waits_still() -> None:
    box = Outbox(size_max=10)
    box.put(0, bytes(100))
    box.put_message(iter([(1, b"1234"), (2, b"56")]), 6)
    assert [tag for tag, _ in box.staged()] == [0, 1, 2]
    assert box.messages_size == 6 and not box.has_place(5)
    box.sent(1)
    assert box.messages_size == 6, "that was a stream's"
    box.sent(1)
    assert box.messages_size == 2 and box.has_place(8)
    box.sent(1)
    assert box.messages_size == 0 and not box


def test_what_waits_of_a_message_is_its_body() -> None:
    """Its records are made one at a time, and headers do not count."""
    made: list[int] = []

    def records() -> Iterator[tuple[int, tuple[bytes, memoryview]]]:
        for number in range(100):
            made.append(number)
            yield number, (bytes(8), memoryview(bytes(1000)))

    box = Outbox()
    box.put_message(records(), 100_000)
    assert box.messages_size == 100_000 and len(made) == 1
    assert len(box.staged()) == BATCH and len(made) == BATCH + 1
    assert drained(box, 1) == list(range(100))
    assert box.messages_size == 0 and not box
