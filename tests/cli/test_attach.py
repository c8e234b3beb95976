"""What ends when, among tasks that run at once."""

import asyncio

import pytest

from popnet.cli.attach import first_of


async def forever(cancelled: list[str], name: str) -> int:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.append(name)
        raise
    return 0


async def value(x: int) -> int:
    return x


async def nothing() -> None:
    return


async def fails() -> None:
    raise ZeroDivisionError


async def test_the_first_end_counts_and_the_others_are_cancelled() -> None:
    cancelled: list[str] = []
    assert await first_of(forever(cancelled, "a"), value(7), forever(cancelled, "b")) == 7
    assert sorted(cancelled) == ["a", "b"]


async def test_a_helper_may_end_earlier() -> None:
    done = asyncio.Event()

    async def later() -> int:
        await done.wait()
        return 7

    async def helper() -> None:
        done.set()

    assert await first_of(later(), beside=(nothing(), helper())) == 7


async def test_a_helper_that_fails_ends_all() -> None:
    cancelled: list[str] = []
    with pytest.raises(ZeroDivisionError):
        await first_of(forever(cancelled, "a"), beside=(fails(),))
    assert cancelled == ["a"]


async def test_cancelling_cancels_all() -> None:
    cancelled: list[str] = []
    task = asyncio.create_task(first_of(forever(cancelled, "a"), forever(cancelled, "b")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(cancelled) == ["a", "b"]
