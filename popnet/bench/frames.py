"""The same as c/frames.c where there is no C compiler: echo, trips, sink and flood, a system call each.

    python -m popnet.bench.frames echo PORT | trips ADDRESS PORT SIZE SECONDS | sink PORT
                                  | flood ADDRESS PORT SIZE SECONDS RATE

Python is slower than most wires, so small datagrams a second tell about Python; round trips are fair.
"""

import contextlib
import json
import socket
import sys
import time
from typing import Final

from popnet.bench.timing import percentile

SILENCE_S: Final = 0.15
PATIENCE_S: Final = 5.0
RETRY_S: Final = 0.05
BUFFER: Final = 8 << 20
WARM_UP: Final = 200


def listener(port: int) -> socket.socket:
    """A bound datagram socket, with as much buffer as its user gets."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.bind(("", port))
    print("ready", flush=True)
    return sock


def sender(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, port))
    return sock


def echo(port: int) -> None:
    sock = listener(port)
    while True:
        with contextlib.suppress(OSError):
            data, origin = sock.recvfrom(65536)
            sock.sendto(data, origin)


def answered(sock: socket.socket, number: int, size: int) -> bool:
    """Whether the request *number* came back; late answers to others do not count."""
    request = number.to_bytes(8, "little").ljust(size, b"\0")
    try:
        sock.send(request)
        while sock.recv(65536) != request:
            pass
    except OSError:
        return False
    return True


def trips(address: str, port: int, size: int, seconds: float) -> dict[str, float]:
    """TimeoutError if nothing comes back at all."""
    sock, number, lost = sender(address, port), 1, 0
    sock.settimeout(RETRY_S)
    limit = time.monotonic() + PATIENCE_S
    while not answered(sock, number, size):
        number += 1
        if time.monotonic() > limit:
            raise TimeoutError("nothing came back")
        time.sleep(RETRY_S / 5)
    for _ in range(WARM_UP):
        number += 1
        answered(sock, number, size)
    taken: list[int] = []
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        number += 1
        start = time.perf_counter_ns()
        if answered(sock, number, size):
            taken.append(time.perf_counter_ns() - start)
        else:
            lost += 1
    taken.sort()
    p50, p99 = percentile(taken, 0.5) / 1e3, percentile(taken, 0.99) / 1e3
    return {"trips": len(taken), "lost": lost, "p50_us": p50, "p99_us": p99}


def sink(port: int) -> dict[str, float]:
    sock, count, first, last = listener(port), 0, 0.0, 0.0
    sock.settimeout(PATIENCE_S)
    with contextlib.suppress(TimeoutError):
        while True:
            sock.recv(65536)
            last = time.monotonic()
            if not count:
                first = last
                sock.settimeout(SILENCE_S)
            count += 1
    return {"received": count, "seconds": last - first}


def flood(address: str, port: int, size: int, seconds: float, rate: float) -> dict[str, float]:
    sock, data, sent = sender(address, port), bytes(size), 0
    start = now = time.monotonic()
    while now < start + seconds:
        if rate and sent >= (now - start) * rate:
            time.sleep(20e-6)
        else:
            with contextlib.suppress(OSError):
                sock.send(data)
                sent += 1
        now = time.monotonic()
    return {"sent": sent, "seconds": now - start}


def main(arguments: list[str]) -> None:
    match arguments:
        case ["echo", port]:
            echo(int(port))
        case ["trips", address, port, size, seconds]:
            print(json.dumps(trips(address, int(port), int(size), float(seconds))))
        case ["sink", port]:
            print(json.dumps(sink(int(port))))
        case ["flood", address, port, size, seconds, rate]:
            print(json.dumps(flood(address, int(port), int(size), float(seconds), float(rate))))
        case _:
            sys.exit("usage: see the head of popnet/bench/frames.py")


if __name__ == "__main__":
    main(sys.argv[1:])
