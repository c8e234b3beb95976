"""Flood the network of a machine, and compare its daemons before and after: the body of tools/soak.

Each kernel sends a TCP stream, datagrams of 64 and of 20,000 bytes (which are fragmented) and a ping flood
to the next, all the time. One more is killed in mid-flood and booted again, every few seconds, and a capture
comes and goes. Measured are the primary and the daemons that live all the time, once the flood has settled,
and again at its end, with the same going on.
"""

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
RSS_MAY_GROW_KB: Final = 4096
"""An allocator may keep so much more at one moment than at another."""

FLOOD: Final = """
import os, socket, sys, threading, time
to, end = sys.argv[1], time.monotonic() + float(sys.argv[2])
def tcp():
    data = bytes(1 << 17)
    while time.monotonic() < end:
        try:
            with socket.create_connection((to, 7000), timeout=5) as s:
                s.settimeout(5)
                for _ in range(500):
                    s.sendall(data)
        except OSError:
            time.sleep(0.1)
def udp(size):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while time.monotonic() < end:
        for _ in range(100):
            try:
                s.sendto(bytes(size), (to, 7001))
            except OSError:
                time.sleep(0.01)
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


async def flood(machine: popnet.Machine, kernel: str, to: str, seconds: float) -> None:
    with contextlib.suppress(popnet.PopnetError):  # the kernel may be killed meanwhile
        await machine[kernel].run([sys.executable, "-c", FLOOD, to, str(seconds)])


async def ping(machine: popnet.Machine, kernel: str, to: str, seconds: float) -> None:
    await machine[kernel].run(["ping", "-4", "-q", "-f", "-s", "1400", "-w", str(int(seconds)), to])


async def churn(machine: popnet.Machine, kernel: str, to: str, until: float, still: asyncio.Lock) -> int:
    """Kill *kernel* in mid-flood, and boot it, again and again; how often.

    *still* can be had for a moment in each flood, just before it is killed.
    """
    count = 0
    await still.acquire()
    while time.monotonic() < until:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flood(machine, kernel, to, CHURN_S + 1))
            await asyncio.sleep(CHURN_S)
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


async def soak(machine: popnet.Machine, seconds: float, kernels: int) -> dict[str, Any]:
    """Flood for *seconds*; what was used when it had settled and at the end, and what was moved."""
    ring, outsider = [f"k{i}" for i in range(1, kernels + 1)], f"k{kernels + 1}"
    addresses = {row["name"]: row["ipv4"] for row in await machine.kernels()}
    until = time.monotonic() + seconds
    still = [asyncio.Lock(), asyncio.Lock()]
    async with asyncio.TaskGroup() as tasks:
        for i, kernel in enumerate(ring):
            to = addresses[ring[(i + 1) % kernels]]
            tasks.create_task(flood(machine, kernel, to, seconds))
            tasks.create_task(ping(machine, kernel, to, seconds))
        churned = tasks.create_task(churn(machine, outsider, addresses["k1"], until - 2 * CHURN_S, still[0]))
        captured = tasks.create_task(capture(machine, "k1", until - 2 * CHURN_S, still[1]))
        await asyncio.sleep(SETTLE_S)
        before = await uses(machine, outsider, still)
        await asyncio.sleep(seconds - SETTLE_S - 5 * CHURN_S)
        after = await uses(machine, outsider, still)
    counters = (await machine.counters())["kernels"]
    return {
        "seconds": seconds,
        "before": before,
        "after": after,
        "killed": churned.result(),
        "captures": captured.result(),
        "counters": counters,
    }


def report(result: dict[str, Any]) -> int:
    grew = False
    killed, captures = result["killed"], result["captures"]
    print(f"{result['seconds']:.0f} s; one killed and booted {killed} times, {captures} captures")
    print(f"{'KERNEL':10}{'FDS':>12}{'RSS, MB':>16}{'THREADS':>12}  VERDICT")
    for name, then in result["before"].items():
        now = result["after"][name]
        verdict = now.verdict(then)
        grew |= verdict != "same"
        fds, threads = f"{then.fds} - {now.fds}", f"{then.threads} - {now.threads}"
        rss = f"{then.rss_kb / 1024:.1f} - {now.rss_kb / 1024:.1f}"
        print(f"{name:10}{fds:>12}{rss:>16}{threads:>12}  {verdict}")
    for name, counters in result["counters"].items():
        print(name, {key: value for key, value in counters["nic"].items() if value})
    return int(grew)


async def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    kernels = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    if seconds < SETTLE_S + 6 * CHURN_S or kernels < 2:
        print(f"at least {SETTLE_S + 6 * CHURN_S:.0f} seconds and 2 kernels", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="popnet-soak-") as directory:
        file = Path(directory) / "soak.yaml"
        file.write_text(machine_file(f"soak-{os.getpid()}", kernels))
        async with popnet.Machine.from_file(file, run_dir=Path(directory) / "run") as machine:
            result = await soak(machine, seconds, kernels)
    return report(result)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
