"""A keystroke and its echo on a kernel's console: idle, and while another kernel floods its network; beside a
pseudo-terminal without anything in between.

    python tools/bench/console.py [--rounds N] [--keys N]

A machine of three kernels is booted; k2 floods k1 with datagrams of 64 bytes, k3 with a TCP stream. Keys go
to `cat` on k1's console, PAUSE_S apart, through the control API as any console client's do; the terminal
itself echoes them. The direct pty is this process's own, with `cat` at its other end; it is measured during
the flood, too, as what the host then does to anybody. This process asks for short turns, as `popnet console`
does. In every round all are measured in turn; medians of the rounds. Our goals: idle at most 2.5 times the
direct pty, and a 99th percentile below 5 ms while the network is flooded.
"""

import argparse
import asyncio
import json
import os
import pty
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import popnet
from popnet.bench.rounds import spread
from popnet.bench.timing import percentile
from popnet.control.stream import ClientStream
from popnet.tty.promptness import take_short_turns

PAUSE_S: Final = 0.005
MACHINE: Final = """\
apiVersion: popnet/v1
name: {name}
machine: {{overcommit: true}}
kernels:
  k1: {{image: full}}
  k2: {{image: full}}
  k3: {{image: full}}
"""
DATAGRAMS: Final = """\
import socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.connect((sys.argv[1], 9))
while True:
    try:
        out.send(bytes(64))
    except OSError:
        pass
"""
STREAM: Final = """\
import socket, sys
out = socket.create_connection((sys.argv[1], 5001))
while True:
    out.sendall(bytes(1 << 16))
"""
SINK: Final = """\
import socket
listener = socket.create_server(("0.0.0.0", 5001))
print("ready", flush=True)
come, _ = listener.accept()
while come.recv(1 << 20):
    pass
"""


async def keys(
    count: int, press: Callable[[bytes], Awaitable[object]], read: Callable[[], Awaitable[bytes]]
) -> list[float]:
    """Microseconds until each of *count* keys was echoed, sorted."""
    took_us = []
    for n in range(count):
        await asyncio.sleep(PAUSE_S)
        key = b"abcdefghijklmnopqrstuvwxyz"[n % 26 :][:1]
        began = time.perf_counter_ns()
        await press(key)
        while key not in await read():
            pass
        took_us.append((time.perf_counter_ns() - began) / 1e3)
        if n % 60 == 59:
            await press(b"\x15")  # erase the line: a terminal takes 4096 letters
            await asyncio.sleep(PAUSE_S)
    return sorted(took_us)


async def on_console(console: ClientStream, count: int) -> list[float]:
    async def read() -> bytes:
        received = await console.receive()
        assert received is not None, "the console ended"
        return received[1]

    return await keys(count, console.send, read)


async def on_pty(count: int) -> list[float]:
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp("cat", ["cat"])
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)

    async def press(key: bytes) -> None:
        os.write(fd, key)

    async def read() -> bytes:
        while True:
            try:
                return os.read(fd, 4096)
            except BlockingIOError:
                readable.clear()
                await readable.wait()

    try:
        return await keys(count, press, read)
    finally:
        loop.remove_reader(fd)
        os.close(fd)  # hangs `cat` up
        os.waitpid(pid, 0)  # noqa: ASYNC222  it is gone


async def measure(machine: popnet.Machine, rounds: int, count: int) -> dict[str, object]:
    address = next(row["ipv4"] for row in await machine.kernels() if row["name"] == "k1")
    figures: dict[str, list[list[float]]] = {
        "direct pty": [],
        "idle": [],
        "direct pty, flooded": [],
        "flooded": [],
    }
    console = await machine["k1"].console()
    await console.send(b"stty sane; exec cat\r")
    await asyncio.sleep(1)
    await on_console(console, 20)
    for _ in range(rounds):
        figures["direct pty"].append(await on_pty(count))
        figures["idle"].append(await on_console(console, count))
        floods = [
            asyncio.create_task(machine[kernel].run([sys.executable, "-c", program, *words]))
            for kernel, program, words in (
                ("k1", SINK, []),
                ("k2", DATAGRAMS, [address]),
                ("k3", f"import time; time.sleep(0.5)\n{STREAM}", [address]),
            )
        ]
        await asyncio.sleep(1.5)
        assert not any(task.done() for task in floods), [task.result() for task in floods if task.done()]
        figures["direct pty, flooded"].append(await on_pty(count))
        figures["flooded"].append(await on_console(console, count))
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
        await asyncio.sleep(0.5)
    nic = (await machine.counters())["kernels"]["k1"]["nic"]
    await console.close()
    p50 = {name: [percentile(one, 0.5) for one in series] for name, series in figures.items()}
    p99 = {name: [percentile(one, 0.99) for one in series] for name, series in figures.items()}
    return {
        name: {
            "p50_us": round(statistics.median(p50[name])),
            "p99_us": round(statistics.median(p99[name])),
            "noise": [round(spread(p50[name]), 2), round(spread(p99[name]), 2)],
        }
        for name in figures
    } | {"frames that reached k1": nic["rx_frames"]}


async def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=500)
    options = parser.parse_args()
    take_short_turns()
    with tempfile.TemporaryDirectory(prefix="popnet-console-") as directory:
        file = Path(directory) / "machine.yaml"
        file.write_text(MACHINE.format(name=f"console-{os.getpid()}"))
        async with popnet.Machine.from_file(file, run_dir=Path(directory) / "run") as machine:
            print(json.dumps(await measure(machine, options.rounds, options.keys), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
