#!/usr/bin/env -S python3
"""Frames between two kernels beside a veth pair: TCP by iperf3 and ping-pong latency, in interleaved rounds
of one run.

Each round measures both, in alternating order; the table shows medians, the ratio of the medians, and each
side's spread. Both sides
run the same programs in two network namespaces on the same CPUs. Needs root (or a user namespace) and iperf3.

    tools/bench/net.py [--rounds 5] [--seconds 3] [--json FILE]
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

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
SERVER, PORT = "10.1.2.3", 5201

Run = Callable[[str, list[str]], Awaitable[tuple[int, str]]]


async def measure(run: Run, seconds: int) -> dict[str, float]:
    """Gbit/s of one and four TCP streams from side `a` to `b`, and microseconds of a ping: back to back
    (the pumps poll), and with pauses (they sleep between two pings, and have to be woken)."""
    figures: dict[str, float] = {}
    for name, streams in (("tcp1_gbit", "1"), ("tcp4_gbit", "4")):
        server = asyncio.create_task(run("b", ["iperf3", "-s", "-1"]))
        command = ["iperf3", "-c", SERVER, "-J", "-C", "cubic", "-t", str(seconds), "-P", streams]
        for _ in range(100):
            _, output = await run("a", command)
            report = json.loads(output)
            if "error" not in report:
                break
            await asyncio.sleep(0.05)
        else:
            raise RuntimeError(report["error"])
        await server
        figures[name] = report["end"]["sum_received"]["bits_per_second"] / 1e9
    for name, options in (
        ("ping_busy_us", ("-f", "-c", "5000")),
        ("ping_idle_us", ("-i", "0.002", "-c", "500")),
    ):
        _, output = await run("a", ["ping", "-4", "-q", *options, SERVER])
        figures[name] = float(output.split("= ")[1].split("/")[1]) * 1e3
    return figures


async def on_popnet(seconds: int, file: str) -> dict[str, float]:
    async with popnet.Machine.from_file(file) as machine:

        async def run(side: str, argv: list[str]) -> tuple[int, str]:
            result = await machine["k1" if side == "a" else "k2"].run(argv)
            return result.status, result.stdout

        await run("a", ["ping", "-4", "-c", "3", "-i", "0.2", SERVER])
        return await measure(run, seconds)


async def on_veth(seconds: int) -> dict[str, float]:
    """The same in two bare namespaces joined by a veth pair, held by two `unshare` processes of our own."""
    holders = [
        await asyncio.create_subprocess_exec(
            "unshare", "-n", "sh", "-c", "echo up; exec sleep 600", stdout=asyncio.subprocess.PIPE
        )
        for _ in "ab"
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None
            await holder.stdout.readline()
        pids = {side: str(holder.pid) for side, holder in zip("ab", holders, strict=True)}

        async def run(side: str, argv: list[str]) -> tuple[int, str]:
            process = await asyncio.create_subprocess_exec(
                "nsenter", "-n", "-t", pids[side], *argv, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
            return process.returncode or 0, output.decode()

        await run("a", ["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", pids["b"]])
        for side, address in (("a", "10.1.2.2/24"), ("b", f"{SERVER}/24")):
            await run(side, ["ip", "addr", "add", address, "dev", "v0"])
            await run(side, ["ip", "link", "set", "v0", "up"])
            await run(side, ["ip", "link", "set", "lo", "up"])
        await run("a", ["ping", "-4", "-c", "3", "-i", "0.2", SERVER])
        return await measure(run, seconds)
    finally:
        for holder in holders:
            holder.kill()
            await holder.wait()


def table(results: dict[str, list[dict[str, float]]]) -> str:
    lines = [f"{'':12}{'popnet':>10}{'veth':>10}{'ratio':>8}  spread (popnet, veth)"]
    for figure in results["veth"][0]:
        ours, theirs = ([round_[figure] for round_ in results[side]] for side in ("popnet", "veth"))
        middle = statistics.median(ours), statistics.median(theirs)
        spread = [f"{(max(x) - min(x)) / statistics.median(x):.0%}" for x in (ours, theirs)]
        lines.append(
            f"{figure:12}{middle[0]:10.1f}{middle[1]:10.1f}{middle[0] / middle[1]:8.2f}  {', '.join(spread)}"
        )
    return "\n".join(lines)


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    results: dict[str, list[dict[str, float]]] = {"popnet": [], "veth": []}
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
    version = platform.release()
    print(
        f"Linux {version}, Python {platform.python_version()}, CPUs {cpus}, {options.rounds} rounds, MTU 1500"
    )
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
