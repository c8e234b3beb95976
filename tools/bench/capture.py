#!/usr/bin/env -S python3
"""Capture at full speed: `popnet capture` beside tcpdump on a veth pair, in interleaved rounds of one run.

A program on one side floods the other with datagrams for a few seconds, once unobserved and once while every
frame is captured into a file on a tmpfs; both captures have a buffer of 4 MiB. The table shows medians:
frames/s that the wire carried unobserved and observed, what of them got into the file, and what was dropped
by the capture; and the spread. Needs root (or a user namespace), tcpdump, and room in /dev/shm.

    tools/bench/capture.py [--rounds 5] [--seconds 2] [--json FILE]
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import signal
import statistics
import struct
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import popnet

MACHINE = """\
apiVersion: popnet/v1
name: {name}
machine: {{overcommit: true}}
kernels:
  primary: {{cpus: {cpus}}}
  k1: {{image: full, cpus: {cpus}}}
  k2: {{image: full, cpus: {cpus}}}
"""
SINK, PORT = "10.1.2.3", 9
UDP_HEADERS = 14 + 20 + 8

FLOOD = r"""
import ctypes, socket, sys, time
size, seconds, batch = int(sys.argv[1]), float(sys.argv[2]), 64
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint), ("vectors", ctypes.c_void_p),
                ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("padding", ctypes.c_int), ("sent", ctypes.c_uint)]
payload = ctypes.create_string_buffer(size)
vector = Vector(ctypes.addressof(payload), size)
messages = (Message * batch)(*[Message(None, 0, ctypes.addressof(vector), 1) for _ in range(batch)])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(("10.1.2.3", 9))
sendmmsg = ctypes.CDLL(None).sendmmsg
sent, end = 0, time.monotonic() + seconds
while time.monotonic() < end:
    sent += max(sendmmsg(sender.fileno(), messages, batch, 0), 0)
print(sent)
"""
SINK_PROGRAM = f"""
import socket, time
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
sink.bind(("{SINK}", {PORT}))
time.sleep(600)
"""

Run = Callable[[str, list[str]], Awaitable[str]]
Figures = dict[str, float]


async def observed(command: list[str], begun: bytes, flood: Awaitable[str], env: dict[str, str]) -> str:
    """What *command*, a capture, said on stderr when it was interrupted after the *flood*."""
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, env={**os.environ, **env}
    )
    assert process.stderr is not None
    said = b""
    while begun not in said:
        said += await process.stderr.readline()
    await flood
    process.send_signal(signal.SIGINT)
    return (said + (await process.communicate())[1]).decode()


async def measure(
    run: Run, carried: Callable[[], Awaitable[int]], capture: list[str], begun: bytes, seconds: float
) -> Figures:
    """Frames/s by what became of them. *carried* counts those that passed the wire so far."""
    figures: Figures = {}
    for frame in (64, 1514):
        flood = [sys.executable, "-c", FLOOD, str(frame - UDP_HEADERS), str(seconds)]
        before = await carried()
        await run("a", flood)
        figures[f"{frame} unobserved"] = (await carried() - before) / seconds
        path = Path(f"/dev/shm/popnet-bench-{os.getpid()}.pcap")
        try:
            before = await carried()
            said = await observed([*capture, str(path)], begun, run("a", flood), {})
            figures[f"{frame} observed"] = (await carried() - before) / seconds
            words = (
                re.search(r"(\d+) (?:frames|packets) captured", said),
                re.search(r"(\d+) (?:packets )?dropped", said),
            )
            assert words[0] and words[1], said
            figures[f"{frame} captured"] = int(words[0][1]) / seconds
            figures[f"{frame} dropped"] = int(words[1][1]) / seconds
            check_size(path, int(words[0][1]), frame)
        finally:
            path.unlink(missing_ok=True)
    return figures


def check_size(path: Path, packets: int, frame: int) -> None:
    """A capture that counts what it did not write is no capture: the file has room for all of them."""
    with path.open("rb") as file:
        magic = struct.unpack("<I", file.read(4))[0]
    overhead = 44 if magic == 0x0A0D0D0A else 16
    assert path.stat().st_size >= packets * (frame + overhead) * 0.98, f"{packets} packets in {path.stat()}"


async def on_popnet(seconds: float, file: str) -> Figures:
    async with popnet.Machine.from_file(file) as machine:

        async def run(side: str, argv: list[str]) -> str:
            result = await machine["k1" if side == "a" else "k2"].run(argv, check=True)
            return result.stdout

        async def carried() -> int:
            nic: dict[str, Any] = (await machine.counters())["kernels"]["k1"]["nic"]
            return int(nic["tx_frames"])

        sink = asyncio.create_task(run("b", [sys.executable, "-c", SINK_PROGRAM]))
        await run("a", ["ping", "-4", "-c", "3", "-i", "0.2", SINK])
        command = [
            sys.executable,
            "-m",
            "popnet.cli.main",
            "-m",
            machine.client.machine,
            "capture",
            "k1",
            "-w",
        ]
        try:
            return await measure(run, carried, command, b"capturing on", seconds)
        finally:
            sink.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sink


async def on_veth(seconds: float) -> Figures:
    """The same in two bare namespaces joined by a veth pair, held by two `unshare` processes of our own."""
    holders = [
        await asyncio.create_subprocess_exec(
            "unshare", "-n", "sh", "-c", "echo up; exec sleep 600", stdout=asyncio.subprocess.PIPE
        )
        for _ in "ab"
    ]
    sink = None
    try:
        for holder in holders:
            assert holder.stdout is not None
            await holder.stdout.readline()
        pids = {side: str(holder.pid) for side, holder in zip("ab", holders, strict=True)}

        def inside(side: str, argv: list[str]) -> list[str]:
            return ["nsenter", "-n", "-t", pids[side], *argv]

        async def run(side: str, argv: list[str]) -> str:
            process = await asyncio.create_subprocess_exec(
                *inside(side, argv), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
            return output.decode()

        async def carried() -> int:
            links = json.loads(await run("a", ["ip", "-j", "-s", "link", "show", "v0"]))
            return int(links[0]["stats64"]["tx"]["packets"])

        await run("a", ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", pids["b"]])
        for side, address in (("a", "10.1.2.2/24"), ("b", f"{SINK}/24")):
            await run(side, ["ip", "addr", "add", address, "dev", "v0"])
            await run(side, ["ip", "link", "set", "v0", "up"])
        sink = await asyncio.create_subprocess_exec(*inside("b", [sys.executable, "-c", SINK_PROGRAM]))
        await run("a", ["ping", "-4", "-c", "3", "-i", "0.2", SINK])
        command = inside("a", ["tcpdump", "-i", "v0", "-B", "4096", "-Z", "root", "-w"])
        return await measure(run, carried, command, b"listening on", seconds)
    finally:
        for process in (*holders, *([sink] if sink else [])):
            process.kill()
            await process.wait()


def table(results: dict[str, list[Figures]]) -> str:
    lines = [f"{'frames/s':18}{'popnet':>12}{'veth':>12}{'ratio':>8}  spread (popnet, veth)"]
    for figure in results["veth"][0]:
        ours, theirs = ([round_[figure] for round_ in results[side]] for side in ("popnet", "veth"))
        middle = statistics.median(ours), statistics.median(theirs)
        spread = [
            f"{(max(x) - min(x)) / statistics.median(x):.0%}" if any(x) and statistics.median(x) else "-"
            for x in (ours, theirs)
        ]
        ratio = f"{middle[0] / middle[1]:8.2f}" if middle[1] else f"{'-':>8}"
        lines.append(f"{figure:18}{middle[0]:12.0f}{middle[1]:12.0f}{ratio}  {', '.join(spread)}")
    return "\n".join(lines)


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    results: dict[str, list[Figures]] = {"popnet": [], "veth": []}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "bench.yaml"
        file.write_text(MACHINE.format(name=f"bench-{os.getpid()}", cpus=f'"{cpus}"'))
        for number in range(options.rounds):
            sides = ["popnet", "veth"] if number % 2 == 0 else ["veth", "popnet"]
            for side in sides:
                figures = await (
                    on_popnet(options.seconds, str(file)) if side == "popnet" else on_veth(options.seconds)
                )
                results[side].append(figures)
                print(f"round {number + 1}: {side}: {figures}", file=sys.stderr)
    print(
        f"Linux {platform.release()}, Python {platform.python_version()}, CPUs {cpus}, "
        f"{options.rounds} rounds of {options.seconds:g} s"
    )
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
