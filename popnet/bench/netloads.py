"""What is measured of a network: TCP streams, floods of datagrams, round trips; each a few figures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from popnet.bench.bed import CONGESTION, Bed, Broken, cpu_s, spent_s
from popnet.bench.netwires import Ends

TCP_PORT: Final = 5201
ECHO_PORT, SINK_PORT = 7001, 7002
TRIP_SIZE: Final = 64

CLEAN_LOSS: Final = 0.001
"""The share of datagrams that may be lost at a rate that still counts as clean."""

FLOODS: Final = {"udp64": 64, "udp1472": 1472}
STREAMS: Final = {"tcp1": 1, "tcp4": 4}
METRICS: Final = (*STREAMS, *FLOODS, "trips")


@dataclass(frozen=True, slots=True)
class Load:
    """How long things take.

    Attributes:
        helper: the command of frames.c, or of frames.py.
        tcp_s: seconds of a TCP measurement; iperf3 takes whole ones.
        udp_s, trips_s: seconds of a flood, and of round trips.
        tries: rates that are tried to find the clean one.
        cpus: of the client and of the server in floods and round trips; empty: wherever Linux puts them.
    """

    helper: Sequence[str]
    tcp_s: int = 1
    udp_s: float = 0.3
    trips_s: float = 0.4
    tries: int = 4
    cpus: Sequence[int] = ()

    def program(self, end: int, *words: object) -> list[str]:
        """The helper with *words*, on the CPU of *end* (0: the client)."""
        pinned = ["taskset", "-c", str(self.cpus[end])] if self.cpus else []
        return [*pinned, *self.helper, *map(str, words)]


class CleanRate:
    """Looks for the highest rate at which no more than CLEAN_LOSS is lost, by halving.

    It begins below what arrived of an unlimited flood: more than that cannot be clean.
    """

    def __init__(self, arrived: float) -> None:
        self.best = 0.0
        self._ceiling = arrived
        self.rate = arrived * 0.9

    def tell(self, arrived: float, loss: float) -> None:
        """What came of `rate`; sets the next one."""
        if loss <= CLEAN_LOSS:
            self.best = max(self.best, arrived)
            self.rate = (self.rate + self._ceiling) / 2
        else:
            self._ceiling = self.rate
            self.rate = (self.best + self._ceiling) / 2 if self.best else self.rate * 0.7


def take(metric: str, bed: Bed, ends: Ends, load: Load) -> dict[str, float]:
    """The figures of one of METRICS. Raises Broken."""
    if metric in STREAMS:
        return tcp(bed, ends, load, metric, STREAMS[metric])
    if metric in FLOODS:
        return udp(bed, ends, load, metric, FLOODS[metric])
    return trips(bed, ends, load, load.trips_s)


def trips(bed: Bed, ends: Ends, load: Load, seconds: float) -> dict[str, float]:
    """Microseconds of a request and its answer, 64 bytes each by UDP, one at a time."""
    with bed.running(load.program(1, "echo", ECHO_PORT), ends.server, "ready"):
        words = ("trips", ends.address, ECHO_PORT, TRIP_SIZE, seconds)
        found = json.loads(bed.run(load.program(0, *words), ends.client))
    return {"trip_p50_us": found["p50_us"], "trip_p99_us": found["p99_us"]}


def tcp(bed: Bed, ends: Ends, load: Load, name: str, streams: int) -> dict[str, float]:
    """Gbit/s from client to server by iperf3, and CPU seconds a gigabyte of everything involved."""
    server = ["iperf3", "-s", "-1", "--forceflush", "-p", str(TCP_PORT)]
    client = [
        "iperf3",
        "-c",
        ends.address,
        "-p",
        str(TCP_PORT),
        "-J",
        "-C",
        CONGESTION,
        "-t",
        str(load.tcp_s),
    ]
    before = cpu_s()
    with bed.running(server, ends.server, "listening"):
        report = json.loads(bed.run([*client, "-P", str(streams)], ends.client, timeout_s=load.tcp_s + 20))
    spent = spent_s(before, cpu_s())
    received: Mapping[str, Any] = report["end"]["sum_received"]
    if not received["bytes"]:
        raise Broken("iperf3: nothing arrived")
    return {
        f"{name}_gbit": received["bits_per_second"] / 1e9,
        f"{name}_cpu_s_per_gb": spent / (received["bytes"] / 1e9),
    }


def udp(bed: Bed, ends: Ends, load: Load, name: str, size: int) -> dict[str, float]:
    """Thousands of datagrams a second that arrive of a flood, the share lost of it, and the clean rate."""
    arrived, loss = flood(bed, ends, load, size, load.udp_s, 0)
    figures = {f"{name}_kpps": arrived / 1e3, f"{name}_loss": loss}
    if loss <= CLEAN_LOSS:
        return {**figures, f"{name}_clean_kpps": arrived / 1e3}
    search = CleanRate(arrived)
    for _ in range(load.tries):
        search.tell(*flood(bed, ends, load, size, load.udp_s * 2 / 3, search.rate))
    return {**figures, f"{name}_clean_kpps": search.best / 1e3}


def flood(bed: Bed, ends: Ends, load: Load, size: int, seconds: float, rate: float) -> tuple[float, float]:
    """Datagrams a second that arrived, and the share that did not. Raises Broken if none arrived."""
    with bed.running(load.program(1, "sink", SINK_PORT), ends.server, "ready") as sink:
        words = (ends.address, SINK_PORT, size, seconds, f"{rate:.0f}")
        sent = json.loads(bed.run(load.program(0, "flood", *words), ends.client))
        assert sink.stdout is not None
        got = json.loads(sink.stdout.readline())
    if not got["received"]:
        raise Broken("none of the datagrams arrived")
    took = max(got["seconds"], sent["seconds"])  # what waited in queues arrives later than it was sent
    return got["received"] / took, max(0.0, 1 - got["received"] / sent["sent"])
