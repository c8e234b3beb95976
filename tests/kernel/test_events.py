"""Journals: numbered, bounded, followed by many."""

import asyncio

from popnet.kernel.events import Journal


async def _texts(journal: Journal, since: int = 0, follow: bool = False) -> list[str]:
    return [entry["text"] async for entry in journal.read(since, follow)]


async def test_numbers_only_grow_and_since_skips_what_was_read() -> None:
    journal = Journal(10)
    for text in "abc":
        journal.append({"text": text})
    assert [entry["seq"] async for entry in journal.read()] == [1, 2, 3]
    assert await _texts(journal, since=2) == ["c"]
    assert await _texts(journal, since=99) == []


async def test_a_follower_gets_what_comes_and_ends_with_the_journal() -> None:
    journal = Journal(10)
    journal.append({"text": "before"})
    following = asyncio.create_task(_texts(journal, follow=True))
    await asyncio.sleep(0)
    journal.append({"text": "after"})
    await asyncio.sleep(0)
    journal.append({"text": "later"})
    journal.close()
    assert await following == ["before", "after", "later"]


async def test_the_oldest_entries_go_and_the_gap_shows() -> None:
    journal = Journal(3)
    for number in range(1, 8):
        journal.append({"text": str(number)})
    assert [entry["seq"] async for entry in journal.read(since=2)] == [5, 6, 7]
    assert [entry["seq"] for entry in journal.last(2)] == [6, 7]


async def test_many_followers_each_get_everything() -> None:
    journal = Journal(100)
    followers = [asyncio.create_task(_texts(journal, follow=True)) for _ in range(5)]
    await asyncio.sleep(0)
    for number in range(50):
        journal.append({"text": str(number)})
        if number % 7 == 0:
            await asyncio.sleep(0)
    journal.close()
    expected = [str(number) for number in range(50)]
    assert [await follower for follower in followers] == [expected] * 5
