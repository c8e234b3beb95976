"""Flood the network of a machine, and compare its daemons before and after: the body of tools/soak.

Each kernel sends a TCP stream, datagrams of 64 and of 20,000 bytes (which are fragmented) and a ping flood
to the next, all the time. One more is killed in mid-flood and booted again, every few seconds, and a capture
comes and goes. Measured are the primary and the daemons that live all the time, once the flood has settled,
now and then, and again at its end, with the same going on.

As fast as it goes, this takes all CPUs. --gentle sends less of each, so that an hour of it can run beside
other work: about a quarter of a core in all.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import popnet

SETTLE_S: Final = 20.0
CHURN_S: Final = 5.0
NEWS_S: Final = 300.0
"""Between two lines that tell how it goes."""
RSS_MAY_GROW_KB: Final = 4096
"""An allocator may keep so much more at one moment than at another."""

FLOOD: Final = """
import os, socket, sys, threading, time
to, end, pause_s = sys.argv[1], time.monotonic() + float(sys.argv[2]), float(sys.argv[3])
def rest():
    if pause_s:
        time.sleep(pause_s)
def tcp():
    data = bytes(1 << 17)
    while time.monotonic() < end:
        try:
            with socket.create_connection((to, 7000), timeout=5) as s:
                s.settimeout(5)
                for _ in range(500):
                    s.sendall(data)
                    rest()
                    if time.monotonic() >= end:
                        break
        except OSError:
            time.sleep(0.1)
def udp(size):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while time.monotonic() < end:
        for _ in range(20):
            try:
                s.sendto(bytes(size), (to, 7001))
            except OSError:
                time.sleep(0.01)
        rest()
def sink():
    listener = socket.create_server(("", 7000))
    listener.settimeout(1)
    while time.monotonic() < end:
        try:
            s = listener.accept()[0]
        except TimeoutError:
            continue
        with s:
            s.settimeout(5)
            try:
                while s.recv(1 << 17):
                    pass
            except OSError:
                pass
def swallow():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", 7001))
    s.settimeout(1)
    while time.monotonic() < end:
        try:
            s.recv(1 << 17)
        except TimeoutError:
            pass
os.nice(19)
threads = [threading.Thread(target=f, args=a) for f, a in
           ((tcp, ()), (udp, (64,)), (udp, (20000,)), (sink, ()), (swallow, ()))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is sent.

    Attributes:
        pause_s: of each sender, after 128 KiB of its stream, or 20 datagrams.
        ping: its words that say how often.
        churn_s: that a kernel which is to be killed lives.
    """

    pause_s: float
    ping: tuple[str, ...]
    churn_s: float


FAST: Final = Pace(0.0, ("-f",), CHURN_S)
GENTLE: Final = Pace(0.05, ("-i", "0.02"), 2 * CHURN_S)


@dataclass(frozen=True, slots=True)
class Use:
    """What a process holds."""

    fds: int
    rss_kb: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Use":
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return cls(
            len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 (names only)
            int(status["VmRSS"].split()[0]),
            int(status["Threads"]),
        )

    def verdict(self, then: "Use") -> str:
        grown = []
        if self.fds > then.fds:
            grown.append("descriptors")
        if self.threads > then.threads:
            grown.append("threads")
        if self.rss_kb > then.rss_kb + RSS_MAY_GROW_KB:
            grown.append("memory")
        return f"GREW: {', '.join(grown)}" if grown else "same"


def machine_file(name: str, kernels: int) -> str:
    lines = "".join(f"  k{i}: {{image: full}}\n" for i in range(1, kernels + 2))
    return f"apiVersion: popnet/v1\nname: {name}\nmachine: {{overcommit: true}}\nkernels:\n{lines}"


async def flood(machine: popnet.Machine, kernel: str, to: str, seconds: float, pace: Pace) -> None:
    with contextlib.suppress(popnet.PopnetError):  # the kernel may be killed meanwhile
        await machine[kernel].run([sys.executable, "-c", FLOOD, to, str(seconds), str(pace.pause_s)])


async def ping(machine: popnet.Machine, kernel: str, to: str, seconds: float, pace: Pace) -> None:
    words = ["ping", "-4", "-q", *pace.ping, "-s", "1400", "-w", str(int(seconds)), to]
    await machine[kernel].run(words)


async def churn(
    machine: popnet.Machine, kernel: str, to: str, until: float, still: asyncio.Lock, pace: Pace
) -> int:
    """Kill *kernel* in mid-flood, and boot it, again and again; how often.

    *still* can be had for a moment in each flood, just before it is killed.
    """
    count = 0
    await still.acquire()
    while time.monotonic() < until:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flood(machine, kernel, to, pace.churn_s + 1, pace))
            await asyncio.sleep(pace.churn_s)
            still.release()  # a lock is fair: whoever waits has it first
            await still.acquire()
            await machine[kernel].kill()
        await machine[kernel].boot()
        count += 1
    still.release()
    return count


async def capture(machine: popnet.Machine, kernel: str, until: float, still: asyncio.Lock) -> int:
    """A capture that sees a frame and ends, again and again; how often. *still* can be had in between."""
    count = 0
    while time.monotonic() < until:
        async with still, machine[kernel].capture("icmp") as some:
            async for _ in some:
                break
        count += 1
        await asyncio.sleep(1)
    return count


async def uses(machine: popnet.Machine, without: str, still: list[asyncio.Lock]) -> dict[str, Use]:
    """Of every daemon but one, at a moment when all links are up and no capture is open."""
    async with still[0], still[1]:
        return {row["name"]: Use.of(row["pid"]) for row in await machine.kernels() if row["name"] != without}


async def watch(
    machine: popnet.Machine, without: str, still: list[asyncio.Lock], seconds: float
) -> list[dict[str, Use]]:
    """What is used at once, every NEWS_S (and told then), and after *seconds*."""
    began = time.monotonic()
    samples = []
    while True:
        sample = await uses(machine, without, still)
        samples.append(sample)
        passed_s = time.monotonic() - began
        fds = " ".join(f"{name} {use.fds} fds {use.rss_kb / 1024:.1f} MB" for name, use in sample.items())
        print(f"{passed_s:6.0f} s: {fds}", file=sys.stderr, flush=True)
        if passed_s >= seconds:
            return samples
        await asyncio.sleep(min(NEWS_S, seconds - passed_s))


async def soak(machine: popnet.Machine, seconds: float, kernels: int, pace: Pace) -> dict[str, Any]:
    """Flood for *seconds*; what was used when it had settled and at the end, and what was moved."""
    ring, outsider = [f"k{i}" for i in range(1, kernels + 1)], f"k{kernels + 1}"
    addresses = {row["name"]: row["ipv4"] for row in await machine.kernels()}
    until = time.monotonic() + seconds
    still = [asyncio.Lock(), asyncio.Lock()]
    quiet_s = until - 2 * pace.churn_s
    async with asyncio.TaskGroup() as tasks:
        for i, kernel in enumerate(ring):
            to = addresses[ring[(i + 1) % kernels]]
            tasks.create_task(flood(machine, kernel, to, seconds, pace))
            tasks.create_task(ping(machine, kernel, to, seconds, pace))
        churned = tasks.create_task(churn(machine, outsider, addresses["k1"], quiet_s, still[0], pace))
        captured = tasks.create_task(capture(machine, "k1", quiet_s, still[1]))
        await asyncio.sleep(SETTLE_S)
        samples = await watch(machine, outsider, still, seconds - SETTLE_S - 5 * pace.churn_s)
    counters = (await machine.counters())["kernels"]
    return {
        "seconds": seconds,
        "samples": samples,
        "killed": churned.result(),
        "captures": captured.result(),
        "counters": counters,
        "cpu_s": sum(cpu_s(row["pid"]) for row in await machine.kernels()),
    }


def cpu_s(pid: int) -> float:
    """Seconds of CPU time that a process had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(result: dict[str, Any]) -> int:
    grew = False
    killed, captures = result["killed"], result["captures"]
    print(f"{result['seconds']:.0f} s; one killed and booted {killed} times, {captures} captures")
    print(f"the daemons took {result['cpu_s']:.0f} s of CPU time")
    print(f"{len(result['samples'])} samples: first - last (most)")
    print(f"{'KERNEL':10}{'FDS':>16}{'RSS, MB':>22}{'THREADS':>12}  VERDICT")
    for name, then in result["samples"][0].items():
        all_of_it = [sample[name] for sample in result["samples"]]
        now = all_of_it[-1]
        verdict = now.verdict(then)
        grew |= verdict != "same"
        most_fds, most_kb = max(use.fds for use in all_of_it), max(use.rss_kb for use in all_of_it)
        fds, threads = f"{then.fds} - {now.fds} ({most_fds})", f"{then.threads} - {now.threads}"
        rss = f"{then.rss_kb / 1024:.1f} - {now.rss_kb / 1024:.1f} ({most_kb / 1024:.1f})"
        print(f"{name:10}{fds:>16}{rss:>22}{threads:>12}  {verdict}")
    for name, counters in result["counters"].items():
        print(name, {key: value for key, value in counters["nic"].items() if value})
    return int(grew)


def options_of(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "tools/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", nargs="?", type=float, default=600.0, help="how long; 600 unless given")
    parser.add_argument("kernels", nargs="?", type=int, default=4, help="in the ring; 4 unless given")
    parser.add_argument("--gentle", action="store_true", help="send little, so that other work can go on")
    options = parser.parse_args(words)
    options.pace = GENTLE if options.gentle else FAST
    least_s = SETTLE_S + 6 * options.pace.churn_s
    if options.seconds < least_s or options.kernels < 2:
        parser.error(f"at least {least_s:.0f} seconds and 2 kernels")
    return options


async def main() -> int:
    options = options_of(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="popnet-soak-") as directory:
        file = Path(directory) / "soak.yaml"
        file.write_text(machine_file(f"soak-{os.getpid()}", options.kernels))
        async with popnet.Machine.from_file(file, run_dir=Path(directory) / "run") as machine:
            result = await soak(machine, options.seconds, options.kernels, options.pace)
    return report(result)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
