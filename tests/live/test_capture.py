"""Captures as others see them: tshark reads the files, tcpdump agrees on filters and on what frames are."""

import asyncio
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from popnet.core import addresses
from popnet.message.stream import pair
from popnet.net import pcapng, tap
from popnet.net.capture import serve_capture, serve_inject
from popnet.net.decode import decode_line
from popnet.net.filter import compile_filter
from popnet.net.nic import configure
from popnet.net.pump import FakePump, PumpLike
from popnet.transport._native import Pump
from tests.net import frames
from tests.net.namespace import in_namespace
from tests.net.test_decode import KNOWN

SNAP_LENGTH = 65535
TIME_NS = 1_700_000_000_123_456_789

FRAMES = [
    frames.arp(1),
    frames.arp(2, 2, 1),
    frames.with_ipv4_checksum(frames.ipv4(1, frames.echo())),
    frames.with_ipv4_checksum(frames.ipv4(6, frames.tcp(40000, 22, 2))),
    frames.with_ipv4_checksum(frames.ipv4(17, frames.udp(40000, 9999, b"hello"))),
    frames.ipv6(17, frames.udp(40000, 9999, bytes(1400))),
]

INJECTED = frames.with_ipv4_checksum(frames.ipv4(17, frames.udp(40000, 9999, b"injected")))

FILTERS = [
    "",
    "icmp",
    "arp or icmp6",
    "icmp or port 22",
    "tcp port 80 and host 10.1.2.3",
    "udp dst portrange 5000-5010",
    "ether host 02:70:6f:70:6e:01",
    "ip6 and not icmp6",
    "net 10.1.2.0/24 and not broadcast",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "vlan 5 and ip",
    "greater 1000 or len < 60",
    "ether proto 0x88b5",
    "src host fd70:6f70:6e65:1::2 and dst port 22",
]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def shark(path: Path, *fields: str) -> list[list[str]]:
    """The values of *fields* for each frame, as tshark reads them."""
    wanted = [word for field in fields for word in ("-e", field)]
    text = run(
        "tshark",
        "-n",
        "-o",
        "udp.check_checksum:TRUE",
        "-r",
        str(path),
        "-T",
        "fields",
        "-E",
        "separator=|",
        *wanted,
    )
    return [line.split("|") for line in text.splitlines()]


async def captured(**params: Any) -> bytes:
    """What a client of `capture` gets when FRAMES pass, in and out by turns, and it then stops."""
    near, far = pair("capture", params)
    pump = FakePump()
    task = asyncio.create_task(serve_capture(far, pump, "k1/eth0", 1))
    first = await near.receive()
    assert first is not None
    data = first[1]
    for number, frame in enumerate(FRAMES):
        pump.frame(TIME_NS + number, number % 2, frame)
    await near.close()
    while (item := await near.receive()) is not None:
        data += item[1]
    await task
    return data


async def test_tshark_reads_a_capture(tmp_path: Path) -> None:
    path = tmp_path / "k1.pcapng"
    path.write_bytes(await captured())
    rows = shark(
        path,
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.time_epoch",
        "frame.len",
        "frame.protocols",
        "_ws.malformed",
    )
    assert [row[0] for row in rows] == ["k1/eth0"] * len(FRAMES)
    assert [int(row[1], 0) for row in rows] == [1, 2] * (len(FRAMES) // 2)  # inbound, outbound
    assert [row[2] for row in rows] == [f"1700000000.{123_456_789 + n}" for n in range(len(FRAMES))]
    assert [int(row[3]) for row in rows] == [len(frame) for frame in FRAMES]
    assert [row[4].split(":")[2] for row in rows] == ["arp", "arp", "ip", "ip", "ip", "ipv6"]
    assert [row[5] for row in rows] == [""] * len(FRAMES)


async def test_tshark_reads_a_capture_that_was_filtered_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "k1.pcapng"
    path.write_bytes(await captured(filter="udp port 9999", snap_length=64))
    rows = shark(path, "frame.len", "frame.cap_len", "frame.interface_name")
    assert rows == [
        [str(len(FRAMES[4])), str(len(FRAMES[4])), "k1/eth0"],
        [str(len(FRAMES[5])), "64", "k1/eth0"],
    ]


async def test_wiresharks_tools_read_what_stands_beside_the_frames(tmp_path: Path) -> None:
    path = tmp_path / "k1.pcapng"
    path.write_bytes(await captured(filter="arp"))
    text = run("capinfos", str(path))
    assert "Capture application: popnet" in text
    assert "Name = k1/eth0" in text
    assert "Filter string = arp" in text
    assert "Time precision = nanoseconds (9)" in text
    assert "Number of stat entries = 1" in text
    assert "Number of packets = 2" in text
    assert "Encapsulation = Ethernet" in text


def test_the_frames_of_a_real_nic(tmp_path: Path) -> None:
    """A TAP, its pump and the services; checksums that the guest left to do are done in the capture."""
    path = tmp_path / "live.pcapng"

    def body() -> dict[str, Any] | None:
        opened = tap.open_tap()
        configure(opened.name, 1, mtu=1500)
        bell, upcall = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        pump = Pump(opened.fd, bell, upcall, 1, False)
        threading.Thread(target=pump.run, daemon=True).start()
        result, data = asyncio.run(traffic(pump))
        path.write_bytes(data)
        pump.stop()
        return result

    assert in_namespace(body) == {"captured": 3, "dropped": 0}
    rows = shark(path, "frame.packet_flags_direction", "udp.length", "udp.checksum.status", "_ws.malformed")
    assert [[int(row[0], 0), *map(int, row[1:3]), row[3]] for row in rows] == [
        [2, 8 + 5, 1, ""],  # sent by the guest, the checksum good
        [2, 8 + 1000, 1, ""],
        [2, 8 + 8, 3, ""],  # injected, and without one
    ]


async def traffic(pump: PumpLike) -> tuple[dict[str, Any] | None, bytes]:
    """Broadcast two datagrams from the guest and inject one; the result and the bytes of their capture."""
    near, far = pair("capture", {"filter": "udp port 9999"})
    async with asyncio.TaskGroup() as group:
        group.create_task(serve_capture(far, pump, "k1/eth0", 1))
        first = await near.receive()
        assert first is not None
        data = first[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
            guest.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            guest.sendto(bytes(5), ("10.1.2.255", 9999))
            guest.sendto(bytes(1000), ("10.1.2.255", 9999))
        while data.count(addresses.ipv4(1).packed + b"\x0a\x01\x02\xff") < 2:
            item = await near.receive()
            assert item is not None
            data += item[1]
        injecting, injected = pair("inject")
        await injecting.send(INJECTED)
        await injecting.close()
        await serve_inject(injected, pump)
        await near.close()
        while (item := await near.receive()) is not None:
            data += item[1]
    return near.result, data


@pytest.mark.parametrize("text", FILTERS)
def test_filters_are_those_of_tcpdump(text: str) -> None:
    lines = run("tcpdump", "-ddd", "-n", "-y", "EN10MB", "-s", str(SNAP_LENGTH), text).splitlines()
    program = b"".join(struct.pack("=HBBI", *map(int, line.split())) for line in lines[1:])
    assert len(lines) == int(lines[0]) + 1
    assert compile_filter(text, SNAP_LENGTH).program == program


def test_lines_are_those_of_tcpdump(tmp_path: Path) -> None:
    path = tmp_path / "known.pcapng"
    path.write_bytes(
        pcapng.section_header()
        + pcapng.interface("k1/eth0", SNAP_LENGTH)
        + pcapng.packets((TIME_NS, 1, len(frame), frame) for frame, _ in KNOWN)
    )
    theirs = run("tcpdump", "-n", "-t", "-S", "-r", str(path)).splitlines()
    ours = [decode_line(TIME_NS, 1, frame, len(frame)).split(" Out ")[1] for frame, _ in KNOWN]
    assert ours == theirs
