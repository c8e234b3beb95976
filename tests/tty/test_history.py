"""The history against a model that keeps everything."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.tty.history import History, Piece


def test_a_new_history_is_empty() -> None:
    history = History(8)
    assert (history.produced, history.oldest, history.read(0, 100)) == (0, 0, Piece(b"", 0))


def test_a_reader_gets_what_was_appended_in_pieces() -> None:
    history = History(8)
    history.append(b"abcdef")
    assert history.read(0, 4) == Piece(b"abcd", 4)
    assert history.read(4, 4) == Piece(b"ef", 6)
    assert history.read(6, 4) == Piece(b"", 6)


def test_a_reader_that_fell_behind_learns_how_many_bytes_it_missed() -> None:
    history = History(4)
    history.append(b"abcdefg")
    assert history.read(1, 10) == Piece(b"defg", 7, missed=2)


@pytest.mark.parametrize("position", [-1, 4])
def test_a_position_never_reached_is_an_error(position: int) -> None:
    history = History(8)
    history.append(b"abc")
    with pytest.raises(ValueError, match="outside"):
        history.read(position, 1)


def test_a_history_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        History(0)


@given(
    size=st.integers(1, 20),
    appended=st.lists(st.binary(max_size=50), max_size=12),
    readers=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 60)), max_size=8),
)
def test_it_holds_the_last_bytes_of_everything(
    size: int, appended: list[bytes], readers: list[tuple[int, int]]
) -> None:
    history = History(size)
    everything = b""
    for data in appended:
        before = history.produced
        history.append(data)
        everything += data
        assert history.produced == before + len(data)
    assert history.produced == len(everything)
    assert history.oldest == max(0, len(everything) - size)
    for wish, limit in readers:
        position = min(wish, history.produced)
        piece = history.read(position, limit)
        start = position + piece.missed
        assert piece.missed == max(0, history.oldest - position)
        assert piece.data == everything[start : start + limit]
        assert piece.position == start + len(piece.data)


@given(
    size=st.integers(1, 16),
    steps=st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.integers(1, 10)), max_size=40),
)
def test_a_reader_accounts_for_every_byte_whenever_it_reads(size: int, steps: list[bytes | int]) -> None:
    """Bytes read and bytes missed, laid end to end, are the whole stream."""
    history, everything, position, seen = History(size), b"", 0, 0
    for step in [*steps, 10_000]:
        if isinstance(step, bytes):
            history.append(step)
            everything += step
            continue
        piece = history.read(position, step)
        seen += piece.missed
        assert everything[seen : seen + len(piece.data)] == piece.data
        seen += len(piece.data)
        position = piece.position
        assert position == seen
    assert position == len(everything)
