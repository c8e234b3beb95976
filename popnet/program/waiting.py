"""How a script without asyncio waits: a private event loop that runs inside each call, and only then.

Nothing happens behind the script's back, and what it registered runs while some call waits. What runs so may
not wait itself: the loop is taken.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from popnet.core.errors import DeadlineExceeded, IllegalState, PeerDied

T = TypeVar("T")


class Waiting:
    """The loop of one script. One thread at a time.

    Attributes:
        closed, end_text: whether the connection is gone, and what to say of it then.
        over: behind `close`.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._moved = asyncio.Event()
        self.closed: Callable[[], bool] = lambda: False
        self.end_text = ""
        self.over = False

    def now(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """What *work* gives. Raises DeadlineExceeded; PeerDied behind `close`; IllegalState in a handler."""

        async def bounded() -> T:
            try:
                async with asyncio.timeout(timeout_s) as deadline:
                    return await work
            except TimeoutError:
                if not deadline.expired():
                    raise
                raise DeadlineExceeded(f"nothing within {timeout_s} s") from None

        if self.over:
            work.close()
            raise PeerDied("this connection is closed")
        if self._runner.get_loop().is_running():
            work.close()
            raise IllegalState(
                "a handler of a script may not wait", "Note what is to be done, and do it after the call."
            )
        return self._runner.run(bounded())

    def moved(self) -> None:
        """Something happened that `until` may wait for."""
        self._moved.set()

    def until(self, condition: Callable[[], object], timeout_s: float | None) -> None:
        """Wait until *condition* holds. Raises DeadlineExceeded, PeerDied (the connection is gone)."""

        async def wait() -> None:
            while not condition():
                if self.closed():
                    raise PeerDied(self.end_text)
                self._moved.clear()
                await self._moved.wait()

        self.now(wait(), timeout_s)

    def close(self) -> None:
        self.over = True
        self._runner.close()
