"""A machine from its start to its end in the event loop of its primary, and who is told how it goes.

Told are: whoever started it, until it is up; the log; the service manager.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from popnet.control import server
from popnet.control.metricsserver import MetricsServer
from popnet.control.notify import Notifier, status_text
from popnet.kernel import logs
from popnet.kernel.primary import Primary

Progress = Callable[[dict[str, Any]], None]


class Outcome:
    """How a machine ended. Attributes: status, the exit status; 1 if it did not want to end."""

    def __init__(self) -> None:
        self.status = 0

    def event(self, row: Mapping[str, Any]) -> None:
        """Take note of an event of the machine."""
        if row["kind"] == "machine.failed" or (row["kind"] == "kernel.failed" and row.get("kid") == 0):
            self.status = 1


async def serve_machine(
    primary: Primary,
    directory: Path,
    started_at_s: float,
    progress: Progress,
    notifier: Notifier,
    metrics: socket.socket | None,
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> Outcome:
    """Starts *primary*, serves its control socket in *directory*, and returns once it is down.

    Args:
        started_at_s: monotonic time at which the process began, to tell what it all took.
        metrics: a bound socket to serve metrics on.
        beside: runs as long as the control socket is served, and is cancelled then.

    Raises BootFailed if it could not start; it is down then.
    """
    outcome = Outcome()
    booting = True

    def event(row: dict[str, Any]) -> None:
        if booting:
            progress({"event": row})
        logs.event(row)
        outcome.event(row)
        if row["kind"] == "machine.down":
            notifier.stopping()
        notifier.status(status_text([kernel["state"] for kernel in primary.kernels()]))

    primary.on_event = event
    async with contextlib.AsyncExitStack() as running:
        feeding = asyncio.create_task(notifier.feed())
        running.callback(feeding.cancel)
        try:
            await primary.start()
            api = await server.serve(primary, directory / "control.sock")
            running.push_async_callback(api.close)
            if metrics is not None:
                scraped = MetricsServer(primary, metrics)
                running.push_async_callback(scraped.close)
                await scraped.start()
        except BaseException:
            await primary.down()
            raise
        if beside is not None:
            running.push_async_callback(_cancelled, asyncio.create_task(beside()))
        took_ms = round((time.monotonic() - started_at_s) * 1e3, 1)
        name = primary.machine()["name"]
        progress({"ready": {"name": name, "socket": str(api.path), "took_ms": took_ms}})
        booting = False
        notifier.ready()
        await primary.wait()
    return outcome


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
