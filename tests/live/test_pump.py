"""Pumps on real TAPs, each in a process and a network namespace of its own."""

import base64
import contextlib
import itertools
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from popnet.core.addresses import ipv4
from popnet.core.limits import FRAME_SIZE_MAX, POLL_US
from popnet.transport._native import RING_OFFSETS, WORD_OFFSETS
from popnet.transport.handover import create_handover, receive_packet, send_packet
from tests.live.pump_host import digest, frame_of

FRAMES = 2
TO_GUEST, FROM_GUEST = 0, 1
ROOT = Path(__file__).parents[2]
PATIENCE_S = 60


class Host:
    """The test's end of one pump_host: its methods are those of the process."""

    def __init__(self, kid: int, *options: Any) -> None:
        self.kid = kid
        self.sock, theirs = create_handover()
        self.sock.settimeout(PATIENCE_S)
        command = [sys.executable, "-m", "tests.live.pump_host", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
        theirs.close()
        self.fds: list[int] = []
        self.bells = self.take("start", kid, kid == 0, *options)

    def call(self, name: str, *args: Any, fds: list[int] | tuple[int, ...] = ()) -> Any:
        send_packet(self.sock, {"call": name, "args": args}, fds)
        packet = receive_packet(self.sock)
        assert packet is not None, f"kernel {self.kid} died in {name}"
        message, received = packet
        self.fds += received
        assert "error" not in message, f"kernel {self.kid}, {name}: {message['error']}"
        return message["result"]

    def take(self, name: str, *args: Any) -> list[int]:
        """Call what hands out descriptors."""
        before = len(self.fds)
        self.call(name, *args)
        return self.fds[before:]

    def count(self, name: str) -> int:
        return int(self.call("counters")[name])

    def ping(self, kid: int, count: int = 5) -> None:
        argv = ["ping", "-q", "-n", "-c", str(count), "-i", "0.01", "-W", "10", str(ipv4(kid))]
        done = self.call("run", argv)
        assert done["status"] == 0, done

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self.sock.close()
        for fd in self.fds:
            os.close(fd)


class Lab:
    def __init__(self) -> None:
        self.hosts: dict[int, Host] = {}

    def __getitem__(self, kid: int) -> Host:
        return self.hosts[kid]

    def connect(self, one: int, other: int) -> None:
        a, b = self[one], self[other]
        ours, theirs = a.take("make_window", other), b.take("make_window", one)
        a.call("join", other, fds=theirs + b.bells)
        b.call("join", one, fds=ours + a.bells)


@contextlib.contextmanager
def lab_of(
    *kids: int,
    mesh: bool = True,
    mtu: Mapping[int, int] | None = None,
    plain: tuple[int, ...] = (),
    held: tuple[int, ...] = (),
) -> Iterator[Lab]:
    """Hosts, all linked with each other, or only with kernel 0.

    Args:
        mtu: what pumps know of their guests, by kid.
        plain: kids whose NICs have no offloads.
        held: kids whose pumps do nothing before they are told to `go`.
    """
    lab = Lab()
    try:
        for kid in kids:
            lab.hosts[kid] = Host(kid, POLL_US, (mtu or {}).get(kid, 0), kid not in plain, kid in held)
        for one, other in itertools.combinations(kids, 2):
            if mesh or one == 0:
                lab.connect(one, other)
        yield lab
    finally:
        for host in lab.hosts.values():
            host.close()


def know_each_other(lab: Lab) -> None:
    for host, other in itertools.permutations(lab.hosts.values(), 2):
        host.call("neighbour", other.kid)


def until(condition: Any) -> None:
    """Wait for what only counters tell; each look is a round trip to the other process."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"


def test_ping_by_way_of_the_relay_then_directly() -> None:
    with lab_of(0, 1, 2, mesh=False) as lab:
        lab[1].ping(2)
        assert lab[0].count("relayed_frames") >= 10
        assert lab[1].call("wanted") == [2]
        assert lab[2].call("wanted") == [1]
        lab[1].ping(0)
        lab.connect(1, 2)
        relayed = lab[0].count("relayed_frames")
        lab[1].ping(2, count=50)
        assert lab[0].count("relayed_frames") == relayed


def test_tcp_carries_every_byte_in_large_frames() -> None:
    with lab_of(0, 1, 2) as lab:
        lab[2].call("serve_tcp", 7000)
        assert lab[1].call("send_tcp", str(ipv4(2)), 7000, 50_000_000)
        counters = lab[1].call("counters")
        assert counters["tx_bytes"] > 50_000_000
        assert counters["tx_bytes"] / counters["tx_frames"] > 5000, "segmentation is left to nobody"


@pytest.mark.skipif(shutil.which("iperf3") is None, reason="iperf3 is not installed")
def test_iperf3_in_both_directions() -> None:
    with lab_of(0, 1, 2) as lab:
        lab[2].call("spawn", ["iperf3", "-s"])
        server = ["iperf3", "-c", str(ipv4(2)), "--connect-timeout", "10000", "-J"]
        until(lambda: lab[1].call("run", [*server, "-n", "1K"])["status"] == 0)
        for extra in (
            ["-n", "200M"],
            ["-n", "200M", "-R"],
            ["-n", "100M", "-P", "4"],
            ["-u", "-b", "50M", "-n", "5M"],
        ):
            done = lab[1].call("run", [*server, *extra])
            assert done["status"] == 0, done
        assert lab[1].call("violations") == lab[2].call("violations") == []


def test_injected_frames_of_every_length_are_captured_as_they_were() -> None:
    lengths = [
        *range(14, 150),
        *range(150, FRAME_SIZE_MAX, 997),
        1514,
        8192,
        8193,
        FRAME_SIZE_MAX - 1,
        FRAME_SIZE_MAX,
    ]
    with lab_of(1, 2) as lab:
        capture = lab[2].call("capture_open", 32 << 20, 0, "ether proto 0x88b5")
        frames = [(length, seed) for seed, length in enumerate(lengths)]
        for some in batches(frames, 50):
            lab[1].call("inject", list(some), 2)
            got = lab[2].call("capture_wait", capture, len(some), PATIENCE_S)
            expected = [
                [TO_GUEST, length, length, digest(frame_of(length, seed, 2))] for length, seed in some
            ]
            assert got == expected
        assert lab[2].call("capture_close", capture) == 0
        received = lab[2].call("counters")
        assert received["drop_refused"] == received["drop_no_memory"] == 0


def batches(items: list[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def ones_sum(data: bytes) -> int:
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def transport_sum(frame: bytes) -> int:
    """The Internet checksum's sum over pseudo header and segment of an IPv4 frame: ffff if it is right."""
    header = (frame[14] & 15) * 4
    segment = frame[14 + header : 14 + int.from_bytes(frame[16:18])]
    pseudo = frame[26:34] + bytes([0, frame[23]]) + len(segment).to_bytes(2)
    return ones_sum(pseudo + segment)


def test_a_filtered_capture_has_whole_checksums() -> None:
    with lab_of(0, 1, 2) as lab:
        icmp = lab[1].call("capture_open", 1 << 20, 0, "icmp")
        tcp = lab[1].call("capture_open", 1 << 20, 0, "tcp port 7000 and ip")
        for _ in range(3):  # one after the other, however late an answer is
            lab[1].ping(2, count=1)
        lab[2].call("serve_tcp", 7000)
        assert lab[1].call("send_tcp", str(ipv4(2)), 7000, 20_000)
        pings = lab[1].call("capture_raw", icmp, 1000)
        assert [way for _, way, _, _ in pings] == [FROM_GUEST, TO_GUEST] * 3
        segments = [base64.b64decode(data) for _, _, _, data in lab[1].call("capture_raw", tcp, 40)]
        assert len(segments) > 6
        assert {frame[23] for frame in segments} == {6}
        assert {transport_sum(frame) for frame in segments} == {0xFFFF}


def test_a_peer_killed_in_mid_flood_harms_nobody_else() -> None:
    with lab_of(0, 1, 2, 3) as lab:
        know_each_other(lab)
        lab[1].call("spawn", ["ping", "-q", "-f", "-s", "1400", str(ipv4(2))])
        lab[2].call("spawn", ["ping", "-q", "-f", "-s", "1400", str(ipv4(1))])
        until(lambda: lab[1].count("rx_frames") > 2000)
        lab[2].kill()
        sent = lab[1].count("tx_frames")
        lab[1].call("inject", [(60_000, seed) for seed in range(50)], 2)
        until(lambda: lab[1].count("tx_frames") >= sent + 50)
        lab[1].ping(3)
        lab[1].call("leave", 2)
        lab[1].ping(3)
        assert lab[1].call("violations") == []


@pytest.mark.parametrize("word", ["produced_frames", "consumed_frames"])
def test_garbage_from_one_peer_closes_that_link_only(word: str) -> None:
    with lab_of(0, 1, 2, 3) as lab:
        lab[1].ping(2)
        lab[2].call("stop")  # or it would put the words right again
        lab[2].call("poke", 1, RING_OFFSETS[FRAMES], "ff" * 4096)
        lab[2].call("poke", 1, WORD_OFFSETS[word], "0100000000000000")
        lab[1].call("inject", [(60_000, 1)] * 20, 2)
        os.eventfd_write(lab[1].bells[1], 1)
        until(lambda: lab[1].count("violations") == 1)
        assert lab[1].call("violations") == [2]
        assert "frames ring" in lab[1].call("violation", 2)
        for peer in (0, 3):
            lab[1].ping(peer)
        lab[1].call("leave", 2)
        lab[3].ping(1)


def test_a_tap_that_is_down_drops_and_counts() -> None:
    with lab_of(1, 2) as lab:
        know_each_other(lab)
        lab[1].ping(2)
        lab[2].call("run", ["ip", "link", "set", "p0", "down"])
        lab[1].call("inject", [(100, seed) for seed in range(10)], 2)
        until(lambda: lab[2].count("drop_nic_down") >= 10)
        lab[2].call("run", ["ip", "link", "set", "p0", "up"])
        know_each_other(lab)
        lab[1].ping(2)


def test_a_tap_that_is_deleted_leaves_a_sleeping_pump() -> None:
    with lab_of(1, 2) as lab:
        lab[2].call("run", ["ip", "link", "del", "p0"])
        lab[1].call("inject", [(100, seed) for seed in range(10)], 2)
        until(lambda: lab[2].count("drop_nic_gone") >= 10)
        until(lambda: len({lab[2].count("rounds") for _ in range(200)}) == 1)
        lab[2].call("stop")


def test_the_carrier_is_python_s_to_switch() -> None:
    with lab_of(1, 2) as lab:
        know_each_other(lab)
        lab[1].call("set_link_up", False)
        done = lab[1].call("run", ["ping", "-c", "1", "-W", "1", str(ipv4(2))])
        assert done["status"] == 1
        assert lab[1].count("drop_link_down") > 0
        lab[1].call("set_link_up", True)
        lab[1].ping(2)
