"""Round trips of high messages, idle and while normal ones flood the same link: how much of it they feel.

    python tools/bench/priority.py [--rounds N] [--pings N] [--size BYTES] [--mode adaptive|interrupt|poll]

Two processes, each an endpoint on the event loop of a kernel, on two CPUs. One pings, PAUSE_S apart, and in
every other measurement floods as well, as fast as the other takes it; the other echoes what is high and
counts the rest. In every round idle and flood are measured in turn; the medians of the rounds are compared.
Our goal: a 99th percentile under the flood of at most 3 times the idle one.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Final

from popnet.bench.ring import links
from popnet.bench.rounds import spread
from popnet.bench.timing import percentile
from popnet.bench.wires import two_cpus
from popnet.kernel.loop import run
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import USER_FIRST, Ring
from popnet.transport._native import Link, look
from popnet.transport.modes import SPIN_MAX_US

PING, FLOOD, DONE = USER_FIRST, USER_FIRST + 1, USER_FIRST + 2
PAUSE_S: Final = 0.001
CHUNK: Final = 32
"""Messages that the flood posts before the sender's loop has its turn."""
QUEUE_MAX: Final = 64 << 10
"""Bytes of the flood that wait for room at its sender, which looks, as it should."""


async def no_connect(kid: int) -> None:
    raise AssertionError


def start(kid: int, end: tuple[Link, int], mode: str) -> Endpoint:
    link, bell = end
    for ring in Ring:
        link.set_mode(ring, mode)
    endpoint = Endpoint(kid, 1, bell, no_connect)
    endpoint.look = lambda: look([link], SPIN_MAX_US)
    endpoint.start()
    endpoint.add_link(3 - kid, 1, link)
    return endpoint


async def follow(end: tuple[Link, int], mode: str) -> None:
    endpoint = start(2, end, mode)
    flooded = 0

    def count(kid: int, body: bytes) -> None:
        nonlocal flooded
        flooded += 1

    over = asyncio.get_running_loop().create_future()
    endpoint.on(PING, lambda kid, body: endpoint.post(1, PING, body, high=True))
    endpoint.on(FLOOD, count)
    endpoint.on(DONE, lambda kid, body: over.set_result(None))
    await over
    await endpoint.stop()


class Leader:
    def __init__(self, end: tuple[Link, int], mode: str, size: int) -> None:
        self.endpoint = start(1, end, mode)
        self.body = bytes(size)
        self.came = asyncio.Event()
        self.flooded = 0
        self.endpoint.on(PING, lambda kid, body: self.came.set())

    async def ping(self, pings: int) -> list[float]:
        took_us = []
        for _ in range(pings):
            await asyncio.sleep(PAUSE_S)
            self.came.clear()
            began = time.perf_counter_ns()
            assert self.endpoint.post(2, PING, self.body, high=True)
            await self.came.wait()
            took_us.append((time.perf_counter_ns() - began) / 1e3)
        return sorted(took_us)

    async def flood(self) -> None:
        while True:
            for _ in range(CHUNK):
                if self.endpoint.waiting_size(2) > QUEUE_MAX:
                    break
                self.flooded += self.endpoint.post(2, FLOOD, self.body)
            await asyncio.sleep(0)

    async def measure(self, rounds: int, pings: int) -> dict[str, object]:
        figures: dict[str, list[float]] = {"idle p50": [], "idle p99": [], "flood p50": [], "flood p99": []}
        rates = []
        await self.ping(50)
        for _ in range(rounds):
            for case in ("idle", "flood"):
                flood = asyncio.ensure_future(self.flood()) if case == "flood" else None
                before, began = self.flooded, time.monotonic()
                took_us = await self.ping(pings)
                if flood:
                    rates.append((self.flooded - before) / (time.monotonic() - began))
                    flood.cancel()
                figures[f"{case} p50"].append(percentile(took_us, 0.5))
                figures[f"{case} p99"].append(percentile(took_us, 0.99))
        assert self.endpoint.post(2, DONE, b"")
        while self.endpoint.waiting_size(2):  # noqa: ASYNC110  the endpoint tells nobody about room
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        medians = {name: round(statistics.median(values), 1) for name, values in figures.items()}
        ratios = [flood / idle for flood, idle in zip(figures["flood p99"], figures["idle p99"], strict=True)]
        return {
            "us": medians,
            "noise": {name: round(spread(values), 2) for name, values in figures.items()},
            "flood messages/s": round(statistics.median(rates)),
            "flood p99 / idle p99": round(statistics.median(ratios), 2),
            "each round": [round(ratio, 2) for ratio in ratios],
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pings", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--mode", choices=("adaptive", "interrupt", "poll"), default="adaptive")
    options = parser.parse_args()
    ends, cpus = links(), two_cpus()
    child = os.fork()

    def be(number: int, work: Callable[[], object]) -> None:
        if cpus:
            os.sched_setaffinity(0, {cpus[number]})
        work()

    if child == 0:
        status = 1
        try:
            be(1, lambda: run(follow(ends[1], options.mode)))
            status = 0
        finally:
            os._exit(status)

    async def lead() -> None:
        leader = Leader(ends[0], options.mode, options.size)
        print(json.dumps(await leader.measure(options.rounds, options.pings), indent=1))

    try:
        be(0, lambda: run(lead()))
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.waitpid(child, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
