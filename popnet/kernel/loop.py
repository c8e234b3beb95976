"""The event loop of a daemon: uvloop, or asyncio's own where $POPNET_LOOP says so. The only door to
uvloop."""

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

import uvloop

from popnet.tty.promptness import take_short_turns


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run *main* to its end on a new loop, as `asyncio.run` does, in short turns: keystrokes pass here."""
    take_short_turns()
    factory = asyncio.new_event_loop if os.environ.get("POPNET_LOOP") == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)
