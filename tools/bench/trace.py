"""What tracing costs a message: never traced, traced and stopped again, and while it is traced.

    python tools/bench/trace.py [--rounds N] [--messages N] [--beside DIRECTORY]

Two endpoints in one process, joined by a real link; a message is posted, the other end has its turn and its
handler runs: all that Python does for a message, without the sleep between two processes, whose noise would
hide what is looked for. All cases are measured in every round, in a new order each; the medians of the
rounds are compared. *--beside* names a checkout, such as one of before there were traces, and may be given
again, such as with this one: each is measured in a process of its own, in the same rounds.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
KIND = 0x8000
BATCH = 16


def pair() -> tuple[Any, Any]:
    """Two endpoints, joined; kernels 1 and 2."""
    from popnet.message.endpoint import Endpoint
    from popnet.transport._native import Link
    from popnet.transport.doorbell import create_doorbell
    from popnet.transport.window import attach_window, create_window

    async def no_connect(kid: int) -> None:
        raise AssertionError

    bells = create_doorbell(), create_doorbell()
    (window_a, fd_a), (window_b, fd_b) = create_window(1, 1, 2), create_window(2, 1, 1)
    ends = Endpoint(1, 1, bells[0], no_connect), Endpoint(2, 1, bells[1], no_connect)
    for end in ends:
        end.start()
    ends[0].add_link(2, 1, Link(window_a, attach_window(fd_b), bells[1], -1))
    ends[1].add_link(1, 1, Link(window_b, attach_window(fd_a), bells[0], -1))
    os.close(fd_a)
    os.close(fd_b)
    return ends


def ns_a_message(ends: tuple[Any, Any], messages: int) -> float:
    """Processor time of one post and its turn, in batches as an event loop makes them."""
    sender, receiver = ends
    peer = receiver._peers[1]
    body = bytes(56)
    start = time.process_time_ns()
    for _ in range(messages // BATCH):
        for _ in range(BATCH):
            sender.post(2, KIND, body)
        peer.turn()
    return (time.process_time_ns() - start) / (messages // BATCH * BATCH)


def forget(half: object) -> None:
    return


async def measure(rounds: int, messages: int, beside: list[Path]) -> dict[str, list[float]]:
    plain, stopped, traced = pair(), pair(), pair()
    got = 0

    def count(kid: int, body: bytes) -> None:
        nonlocal got
        got += 1

    for ends in (plain, stopped, traced):
        ends[1].on(KIND, count)
    for end in stopped:
        end.start_trace(forget)
    ns_a_message(stopped, messages)
    for end in stopped:
        end.stop_trace(forget)
    for end in traced:
        end.start_trace(forget)
    cases = {"never traced": plain, "stopped again": stopped, "traced": traced}
    results: dict[str, list[float]] = {name: [] for name in cases}
    others = {f"process of {directory}": start_beside(directory, messages) for directory in beside}
    results |= {name: [] for name in others}
    for number in range(rounds + 1):
        names = list(results)
        random.Random(number).shuffle(names)
        for name in names:
            value = ns_a_message(cases[name], messages) if name in cases else ask(others[name])
            if number:  # the first round warms up
                results[name].append(value)
    for other in others.values():
        other.communicate("")
    assert got == (3 * (rounds + 1) + 1) * (messages // BATCH * BATCH), "messages are missing"
    return results


def start_beside(directory: Path, messages: int) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "--serve", "--messages", str(messages)]
    environ = {**os.environ, "PYTHONPATH": str(directory)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ, cwd=directory)


def ask(other: "subprocess.Popen[str]") -> float:
    assert other.stdin and other.stdout
    other.stdin.write("go\n")
    other.stdin.flush()
    return float(other.stdout.readline())


async def serve(messages: int) -> None:
    """Measure one round for each line of stdin."""
    ends = pair()
    ends[1].on(KIND, lambda kid, body: None)
    for _ in sys.stdin:
        print(ns_a_message(ends, messages), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--beside", type=Path, action="append", default=[])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.messages))
        return
    sys.path.insert(0, str(ROOT))
    results = asyncio.run(measure(options.rounds, options.messages, options.beside))
    if options.json:
        print(json.dumps(results))
        return
    base = results["never traced"]
    print(f"{options.rounds} rounds of {options.messages} messages of 56 bytes; ns of processor time each")
    for name, values in results.items():
        quarter, median, last = statistics.quantiles(values, n=4)
        ratio = statistics.median(value / plain for value, plain in zip(values, base, strict=True))
        print(f"{name:<40} {median:8.0f}   middle half {quarter:.0f}-{last:.0f}   ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
