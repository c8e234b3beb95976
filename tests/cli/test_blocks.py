"""Whole blocks out of bytes that come as they like."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.cli.blocks import Blocks, cut
from popnet.core.errors import LinkViolation
from popnet.net import pcapng

HEAD = pcapng.section_header() + pcapng.interface("k1/eth0", 65_535)
PACKETS = [pcapng.packets([(n, 0, 60 + n, bytes(60 + n))]) for n in range(5)]
TAIL = pcapng.statistics(9, 5, 0)
WHOLE = HEAD + b"".join(PACKETS) + TAIL


@given(st.lists(st.integers(0, len(WHOLE))))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(WHOLE)})
    blocks = Blocks()
    pieces = [blocks.feed(WHOLE[a:b]) for a, b in pairwise(places)]
    assert b"".join(pieces) == WHOLE
    assert blocks.packets == 5 and not blocks.done
    again = Blocks()
    assert [again.feed(piece) for piece in pieces if piece] == [piece for piece in pieces if piece]


def test_nothing_behind_the_last_packet_that_is_wanted() -> None:
    blocks = Blocks(2)
    assert blocks.feed(WHOLE) == HEAD + PACKETS[0] + PACKETS[1]
    assert blocks.done and blocks.packets == 2
    assert blocks.feed(WHOLE) == b""


@pytest.mark.parametrize("length", [0, 8, 13, 1 << 30])
def test_nonsense(length: int) -> None:
    with pytest.raises(LinkViolation):
        Blocks().feed((6).to_bytes(4, "little") + length.to_bytes(4, "little") + bytes(20))


def test_a_cut_is_between_blocks() -> None:
    ends = [len(b"".join(PACKETS[:n])) for n in range(6)]
    whole = b"".join(PACKETS)
    for room in range(len(whole) + 9):
        assert cut(whole, room) == max(end for end in ends if end <= room)
