"""How true impairments are, and what they cost where there are none: measured on a machine of its own.

    .venv/bin/python tools/bench/impair.py [--seconds 3] [--rounds 5]

Delay: how much later than asked for a frame leaves, by the pump's own clock, with one ping every 5 ms. Rate:
what iperf3 receives of 1.2 times as much UDP. Loss: of all frames that met it, with its binomial bounds.
Cost: TCP between two kernels that never had an impairment, beside two of another machine whose impairment was
cleared, in turns.
"""

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import popnet

FILE = "apiVersion: popnet/v1\nname: {name}\nkernels: {{k1: {{}}, k2: {{}}}}\n"
FRAME_SHARE = 1470 / (1470 + 42)
"""What of a UDP frame of iperf3's iperf3 counts; the rate counts from the Ethernet header on."""


async def iperf(machine: popnet.Machine, *options: str) -> dict[str, Any]:
    """The report of one run from k1 to k2."""
    server = asyncio.create_task(machine["k2"].run(["iperf3", "-s", "-1"]))
    await machine["k2"].run(["sh", "-c", "until ss -ltn | grep -q 5201; do sleep 0.05; done"])
    result = await machine["k1"].run(["iperf3", "-c", "10.1.2.3", "-J", *options])
    await server
    return dict(json.loads(result.stdout))


async def delay(machine: popnet.Machine, delay_s: float, jitter_s: float, name: str) -> None:
    link = machine.link("k1", "k2")
    await link.impair(
        delay_s=delay_s, jitter_s=jitter_s, distribution=name if jitter_s else "uniform", seed=1
    )
    await machine["k1"].run(["ping", "-q", "-i", "0.005", "-c", "600", "k2"])
    seen = (await link.rows())[0]["observed"]
    asked = f"{delay_s * 1e3:g} ms" + (f" ± {jitter_s * 1e3:g} ms {name}" if jitter_s else "")
    figures = [f"{seen[key] * 1e3:.3f} ms" for key in ("delay_mean_s", "late_p50_s", "late_p99_s")]
    print(f"| delay {asked} | {seen['passed']} frames | " + " | ".join(figures) + " |", flush=True)


SLEEPER = """
import statistics, time
late = []
for _ in range(600):
    due = time.monotonic() + 0.005
    time.sleep(0.005)
    late.append(time.monotonic() - due)
print(statistics.median(late), sorted(late)[-6])
"""


async def sleeps(machine: popnet.Machine) -> None:
    """What the host does to anybody: how late a program in k2 wakes that sleeps for 5 ms, 600 times."""
    told = (await machine["k2"].run([sys.executable, "-c", SLEEPER])).stdout.split()
    p50_s, p99_s = map(float, told)
    print(
        f"| a program that sleeps | 600 times | - | {p50_s * 1e3:.3f} ms | {p99_s * 1e3:.3f} ms |", flush=True
    )


async def rate(machine: popnet.Machine, rate_bps: int, seconds: str) -> None:
    link = machine.link("k1", "k2")
    await link.impair(rate_bps=rate_bps, direction="out")
    report = await iperf(machine, "-u", "-b", str(rate_bps * 6 // 5), "-l", "1470", "-t", seconds, "-O", "1")
    got_bps = report["end"]["sum_received"]["bits_per_second"] / FRAME_SHARE
    print(
        f"| rate {rate_bps / 1e6:g} Mbit/s | {got_bps / 1e6:.2f} Mbit/s | {got_bps / rate_bps - 1:+.2%} |",
        flush=True,
    )


async def loss(machine: popnet.Machine, chance: float, seconds: str) -> None:
    link = machine.link("k1", "k2")
    # not iperf3's own words, or a run ends before it begins
    await link.impair(loss=chance, direction="out", match="udp and greater 200")
    await iperf(machine, "-u", "-b", "200M", "-l", "200", "-t", seconds)
    seen = (await link.rows())[0]["observed"]
    n, lost = seen["frames"], seen["drop_loss"]
    bound = 2.58 * math.sqrt(chance * (1 - chance) / n)
    inside = "inside" if abs(lost / n - chance) < bound else "OUTSIDE"
    print(f"| loss {chance:.2%} | {lost} of {n} | {lost / n:.3%} | ± {bound:.3%} | {inside} |", flush=True)


async def cost(never: popnet.Machine, cleared: popnet.Machine, rounds: int, seconds: str) -> None:
    await cleared.link("k1", "k2").impair(delay_s=0.001)
    await cleared["k1"].run(["ping", "-c", "3", "k2"])
    await cleared.link("k1", "k2").clear()
    figures: dict[str, list[float]] = {"never": [], "cleared": []}
    for _ in range(rounds):
        for name, machine in (("never", never), ("cleared", cleared)):
            report = await iperf(machine, "-t", seconds)
            figures[name].append(report["end"]["sum_received"]["bits_per_second"] / 1e9)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    noise = max(max(values) / min(values) for values in figures.values())
    print(
        f"| TCP | never {medians['never']:.2f} Gbit/s | cleared {medians['cleared']:.2f} Gbit/s | "
        f"ratio {medians['cleared'] / medians['never']:.3f} | largest / smallest round {noise:.2f} |"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", default="2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--delays", action="store_true", help="only these")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory)
        files = [run_dir / f"{name}.yaml" for name in ("never", "impaired")]
        for file in files:
            file.write_text(FILE.format(name=file.stem))
        made = [popnet.Machine.from_file(file, run_dir=run_dir) for file in files]
        async with made[0] as never, made[1] as machine:
            for asked in (
                (0.001, 0.0, ""),
                (0.01, 0.0, ""),
                (0.02, 0.002, "normal"),
                (0.02, 0.002, "pareto"),
            ):
                await sleeps(machine)
                await delay(machine, *asked)
            if options.delays:
                return
            for rate_bps in (10**6, 10**7, 10**8, 3 * 10**8):
                await rate(machine, rate_bps, options.seconds)
            for chance in (0.001, 0.01, 0.1):
                await loss(machine, chance, options.seconds)
            await cost(never, machine, options.rounds, options.seconds)


if __name__ == "__main__":
    asyncio.run(main())
