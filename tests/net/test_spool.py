"""The ring that a capture and its client share: both ends, in one process."""

import asyncio
import gc
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from popnet.control.spoolreader import SpoolReader
from popnet.core.errors import LinkViolation, Refused
from popnet.net import spool as module
from popnet.net.spool import DONE, NO, PIECE_MAX, PLACE, SIZE, YES, Spool


def joined() -> tuple[Spool, SpoolReader]:
    spool, reader = Spool(), SpoolReader()
    blocks, answer = reader.take(spool.where())
    assert (blocks, answer) == (b"", YES)
    spool.take(answer)
    assert spool.shared
    return spool, reader


async def test_pieces_arrive_as_they_were_over_many_rounds_of_the_ring() -> None:
    spool, reader = joined()
    dice = random.Random(1)
    waiting: list[tuple[bytes, bytes]] = []
    for _ in range(100):
        piece = dice.randbytes(dice.choice((1, 100, 300_000, PIECE_MAX)))
        place = await spool.put(piece)
        assert place is not None
        waiting.append((piece, place))
        while waiting and (len(waiting) > 8 or dice.random() < 0.5):
            expected, told = waiting.pop(0)
            blocks, answer = reader.take(told)
            assert blocks == expected
            spool.take(answer)
    reader.close()
    spool.close()


async def test_a_full_ring_waits_for_its_reader() -> None:
    spool, reader = joined()
    places = [await spool.put(bytes(PIECE_MAX)) for _ in range(SIZE // PIECE_MAX)]
    more = asyncio.create_task(spool.put(b"more"))
    await asyncio.sleep(0)
    assert not more.done()
    assert places[0] is not None
    spool.take(reader.take(places[0])[1])
    place = await more
    assert place is not None and PLACE.unpack(place)[1:] == (0, 4)
    assert reader.take(place)[0] == b"more"
    reader.close()
    spool.close()


async def test_who_stops_waits_for_nothing() -> None:
    spool, reader = joined()
    for _ in range(SIZE // PIECE_MAX):
        await spool.put(bytes(PIECE_MAX))
    more = asyncio.create_task(spool.put(b"more"))
    await asyncio.sleep(0)
    spool.stop()
    assert await more is None
    reader.close()
    spool.close()


@contextmanager
def memfd() -> Iterator[int]:
    """One of the right name and size, but not sealed."""
    file = os.memfd_create("popnet-capture")
    os.ftruncate(file, SIZE)
    yield file
    os.close(file)


def test_a_client_that_cannot_open_it_says_so() -> None:
    spool = Spool()
    where = json.loads(spool.where())
    for wrong in (
        {"pid": 1 << 30},
        {"fd": 0},
        {"fd": 999_999},
        {"size": 1 << 40},
        {"size": -5},
        {"pid": "x"},
    ):
        assert SpoolReader().take(json.dumps({**where, **wrong}).encode()) == (b"", NO)
    assert SpoolReader().take(b"{}") == (b"", NO)
    with memfd() as plain:
        assert SpoolReader().take(json.dumps({**where, "fd": plain}).encode()) == (b"", NO), "it may shrink"
    spool.take(NO)
    assert spool.answered.is_set() and not spool.shared
    spool.close()


async def test_nonsense_of_either_end() -> None:
    spool, reader = joined()
    place = await spool.put(b"piece")
    assert place is not None
    for wrong in (DONE.pack(6), DONE.pack(1 << 60), b"", b"short"):
        with pytest.raises(Refused, match="never got"):
            spool.take(wrong)
    for wrong in (PLACE.pack(9, SIZE, 1), PLACE.pack(9, 0, SIZE + 1), b"short"):
        with pytest.raises(LinkViolation):
            reader.take(wrong)
    reader.close()
    spool.close()


def test_nothing_is_left_open() -> None:
    gc.collect()  # those of earlier tests
    before = len(list(Path("/proc/self/fd").iterdir()))
    spool, reader = joined()
    reader.close()
    spool.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert module.CHANNEL == 3
