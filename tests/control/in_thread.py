"""A fake machine served by an event loop in a thread, for clients that have none."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.control.fakes import Served, serving


@contextmanager
def serving_in_thread(run_dir: Path) -> Iterator[tuple[Served, Callable[..., Any]]]:
    """The machine, and a function that calls another one (with the machine) on its event loop, and waits."""
    loop = asyncio.new_event_loop()
    ready: list[Served] = []
    up, down = threading.Event(), asyncio.Event()

    async def main() -> None:
        async with serving(run_dir) as served:
            ready.append(served)
            up.set()
            await down.wait()

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(function(*arguments), loop).result(20)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    up.wait(20)
    try:
        yield ready[0], call
    finally:
        loop.call_soon_threadsafe(down.set)
        thread.join()
        loop.close()
