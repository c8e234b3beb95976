"""The service `jitter`: how punctual the CPUs of this kernel are, measured inside it by a child of its init.

Parameters: seconds (2 halves: timers, then looking at the clock), interval_us, fifo (a priority, or none),
fifo_wanted (true: without it where the host allows none), cpu. Result: what `_native.jitter` tells, with the
CPU, the policy and the settings.
"""

import asyncio
import contextlib
import json
import os
from typing import Any, Final

from popnet.core.errors import Refused
from popnet.kernel import realtime
from popnet.kernel.initclient import InitClient
from popnet.message.stream import Stream
from popnet.transport._native import jitter

SECONDS_MAX: Final = 3600
INTERVAL_MAX_US: Final = 1_000_000
THRESHOLD_NS: Final = 1000
"""A gap is what is longer: reading the clock twice takes a hundredth of that."""

_MORE_S: Final = 30.0
"""Seconds that a measurement may take beside what it was asked to, on a host that is busy."""


class JitterService:
    """Measures by *init*, in a kernel that has *cpus*, alone if *isolated*."""

    def __init__(self, init: InitClient, cpus: tuple[int, ...], isolated: bool) -> None:
        self._init = init
        self._cpus = cpus
        self._isolated = isolated
        self._busy = False

    async def __call__(self, stream: Stream) -> None:
        settings = checked(stream.params, self._cpus, self._isolated)
        if self._busy:
            raise Refused("jitter: a measurement is under way in this kernel already")
        self._busy = True
        try:
            await stream.accept()
            await stream.close(await self._measured(settings, stream.params.get("fifo_wanted") is True))
        finally:
            self._busy = False

    async def _measured(self, settings: dict[str, Any], wanted: bool) -> dict[str, Any]:
        """The measurement; if the priority is only *wanted*, without one where the host allows none."""
        try:
            return await self._measure(settings)
        except Refused:
            if not wanted or settings["fifo"] is None:
                raise
            return await self._measure({**settings, "fifo": None})

    async def _measure(self, settings: dict[str, Any]) -> dict[str, Any]:
        told, tells = os.pipe2(os.O_CLOEXEC)
        starts, start = os.pipe2(os.O_CLOEXEC)
        program = None
        try:
            program = await self._init.measure(settings, (starts, tells), settings["fifo"])
            os.close(tells)
            tells = -1
            os.write(start, b"+")
            whole_s = settings["seconds"] + _MORE_S
            text = await asyncio.wait_for(asyncio.to_thread(_read_all, told), whole_s)
            await program.ended
        except TimeoutError:
            raise Refused(f"jitter: it did not end in {whole_s:.0f} s") from None
        finally:
            if program is not None and not program.ended.done():
                self._init.signal(program, 9)
            for fd in (tells, starts, start):
                if fd >= 0:
                    os.close(fd)
            if program is None:
                os.close(told)
        return {**settings, **json.loads(text)}


def _read_all(fd: int) -> bytes:
    with open(fd, "rb") as pipe:
        return pipe.read()


def checked(params: dict[str, Any], cpus: tuple[int, ...], isolated: bool) -> dict[str, Any]:
    """The settings that *params* ask for. Raises Refused."""
    seconds, interval_us = params.get("seconds", 5), params.get("interval_us", 1000)
    if not _is_number(seconds) or not 0.1 <= seconds <= SECONDS_MAX:
        raise Refused(f"seconds: got {seconds!r}; allowed: 0.1 to {SECONDS_MAX}")
    if not _is_number(interval_us) or not 50 <= interval_us <= INTERVAL_MAX_US:
        raise Refused(f"interval_us: got {interval_us!r}; allowed: 50 to {INTERVAL_MAX_US}")
    cpu = params.get("cpu", cpus[-1])
    if cpu not in cpus:
        raise Refused(f"cpu: got {cpu!r}; allowed: those of the kernel, {', '.join(map(str, cpus))}")
    fifo = realtime.check_priority(params.get("fifo"), isolated)
    return {"seconds": seconds, "interval_us": interval_us, "cpu": cpu, "fifo": fifo}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def run(settings: dict[str, Any], start: int, answer: int) -> None:
    """Measure in this process once *start* says so, and write what came of it to *answer*, as JSON."""
    os.sched_setaffinity(0, {settings["cpu"]})
    if os.read(start, 1) != b"+":
        return
    half_ns = int(settings["seconds"] * 5e8)
    found = jitter(half_ns, int(settings["interval_us"] * 1000), half_ns, THRESHOLD_NS)
    with contextlib.suppress(BrokenPipeError), open(answer, "w") as pipe:
        json.dump({**found, "threshold_ns": THRESHOLD_NS}, pipe)
