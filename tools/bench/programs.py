"""Round trips between programs of two kernels, by the socket and by a ring of their own.

    popnet exec k1 -- python tools/bench/programs.py serve socket        (or: attach)
    popnet exec k2 -- python tools/bench/programs.py measure socket k1

Prints, for each size, the median and the 99th percentile of a stream's echo and of a call, in microseconds.
Four processes take part: two programs and two daemons.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

import popnet
from popnet.message.kinds import USER_FIRST
from popnet.message.stream import Stream

SIZES: Final = (64, 1024, 65_000)
ROUNDS: Final = 2000
WARM_UP: Final = 300


async def echo(stream: Stream) -> None:
    while (item := await stream.receive()) is not None:
        await stream.send(item[1], item[0])


async def answer(kid: int, body: bytes) -> bytes:
    return body


async def serve(attach: bool) -> None:
    async with popnet.connect(attach=attach) as me:
        await me.serve("bench", echo)
        await me.answer(USER_FIRST, answer)
        print("ready", flush=True)
        await me.wait_closed()


async def timed(work: Callable[[], Awaitable[object]]) -> str:
    took_us = []
    for _ in range(ROUNDS + WARM_UP):
        began = time.perf_counter()
        await work()
        took_us.append((time.perf_counter() - began) * 1e6)
    took_us = sorted(took_us[WARM_UP:])
    return f"p50 {took_us[len(took_us) // 2]:6.0f}  p99 {took_us[len(took_us) * 99 // 100]:6.0f}"


async def measure(attach: bool, kernel: str) -> None:
    async with popnet.connect(attach=attach) as me:
        for size in SIZES:
            body = os.urandom(size)
            stream = await me.open(kernel, "bench")

            async def there_and_back(stream: Stream = stream, body: bytes = body) -> None:
                await stream.send(body)
                await stream.receive()

            async def call(body: bytes = body) -> None:
                await me.call(kernel, USER_FIRST, body, 10)

            print(f"{size:6d} B  stream {await timed(there_and_back)}  call {await timed(call)}", flush=True)


if __name__ == "__main__":
    role, way, *kernels = sys.argv[1:]
    asyncio.run(serve(way == "attach") if role == "serve" else measure(way == "attach", kernels[0]))
