"""A real TAP in a namespace of its own: addresses, MTU, frames with vnet headers, and refusals."""

import errno
import os
import re
import selectors
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from popnet.core import addresses
from popnet.core.errors import Unavailable
from popnet.core.limits import TX_QUEUE_LENGTH, VNET_HEADER_SIZE
from popnet.net.netlink import RouteSocket
from popnet.net.nic import configure
from popnet.net.tap import OFFLOAD_STEPS, Tap, open_tap
from tests.net.namespace import in_namespace

SUBNET = IPv4Network("10.1.2.0/24")
SUBNET6 = IPv6Network("fd70:6f70:6e65:1::/64")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def frames_until(tap: Tap, wanted: Any, limit_s: float = 60.0) -> tuple[bytes, bytes]:
    """(vnet header, frame) of the first frame from *tap* of which `wanted(frame)` is true."""
    with selectors.DefaultSelector() as selector:
        selector.register(tap.fd, selectors.EVENT_READ)
        end = time.monotonic() + limit_s
        while (left := end - time.monotonic()) > 0:
            if selector.select(left):
                data = os.read(tap.fd, 70_000)
                if wanted(data[VNET_HEADER_SIZE:]):
                    return data[:VNET_HEADER_SIZE], data[VNET_HEADER_SIZE:]
    raise AssertionError("no such frame")


def test_a_configured_nic_has_what_its_kid_says() -> None:
    def body() -> None:
        tap = open_tap()
        nic = configure(tap.name, 2, SUBNET, SUBNET6, 4000)
        assert (nic.ipv4, nic.ipv6) == (SUBNET[3], SUBNET6[3])
        setting = Path("/proc/sys/net/ipv4/tcp_tso_rtt_log")  # since Linux 5.18
        assert nic.skipped == (() if setting.exists() else ("tcp_tso_rtt_log",))
        assert not setting.exists() or setting.read_text() == "12\n"
        shown = run("ip", "-d", "address", "show", "dev", "eth0")
        assert "mtu 4000" in shown
        assert f"qlen {TX_QUEUE_LENGTH}" in shown
        assert f"link/ether {addresses.mac_text(2)}" in shown
        assert "inet 10.1.2.3/24 brd 10.1.2.255" in shown
        assert re.search(r"inet6 fd70:6f70:6e65:1::3/64 scope global nodad", shown)
        assert "inet6 fe80::70:6fff:fe70:6e02/64" in shown
        assert "tentative" not in shown
        assert "<BROADCAST,MULTICAST,UP,LOWER_UP>" in shown
        assert "vnet_hdr on" in shown
        assert "inet 127.0.0.1/8" in run("ip", "address", "show", "dev", "lo", "up")
        with RouteSocket() as route:
            info = route.link("eth0")
            assert (info.index, info.up, info.mac, info.mtu) == (nic.index, True, nic.mac, 4000)
            assert info.tx_queue_length == TX_QUEUE_LENGTH
            assert {link.name for link in route.links()} >= {"lo", "eth0"}
            usable = route.addresses(nic.index, tentative=False)
            assert {IPv4Interface("10.1.2.3/24"), IPv6Interface("fd70:6f70:6e65:1::3/64")} < set(usable)

    in_namespace(body)


def test_a_nic_answers_a_ping_to_its_own_addresses() -> None:
    def body() -> None:
        tap = open_tap()
        nic = configure(tap.name, 1)
        for address in (nic.ipv4, nic.ipv6):
            assert address is not None
            assert " 0% packet loss" in run("ping", "-c", "1", "-W", "30", str(address))

    in_namespace(body)


def test_a_small_mtu_means_no_ipv6() -> None:
    def body() -> None:
        tap = open_tap()
        nic = configure(tap.name, 1, mtu=1279)
        assert nic.ipv6 is None
        with RouteSocket() as route:
            assert route.addresses(nic.index) == [IPv4Interface("10.1.2.2/24")]
            assert route.link("eth0").mtu == 1279

    in_namespace(body)


def test_frames_read_from_it_start_with_a_vnet_header() -> None:
    def body() -> None:
        tap = open_tap()
        assert tap.offloads in OFFLOAD_STEPS
        nic = configure(tap.name, 1)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(b"hello popnet", ("10.1.2.255", 7))
        header, frame = frames_until(tap, lambda frame: frame.endswith(b"hello popnet"))
        assert frame[:14] == b"\xff" * 6 + nic.mac + b"\x08\x00"
        flags, gso, _header_length, _gso_size, start, offset, _buffers = struct.unpack("<BBHHHHH", header)
        assert (flags, gso) == (1, 0)  # VIRTIO_NET_HDR_F_NEEDS_CSUM: the sum was left to do
        assert (start, offset) == (14 + 20, 6)

    in_namespace(body)


def test_a_frame_written_to_it_reaches_a_socket() -> None:
    def body() -> None:
        tap = open_tap()
        nic = configure(tap.name, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.settimeout(60)
            receiver.bind(("10.1.2.2", 9000))
            source, destination = socket.inet_aton("10.1.2.3"), socket.inet_aton("10.1.2.2")
            ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 33, 0, 0, 64, 17, 0, source, destination)
            total = sum(struct.unpack(">10H", ip))
            ip = ip[:10] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + ip[12:]
            udp = struct.pack(">HHHH", 9001, 9000, 13, 0) + b"knock"
            frame = nic.mac + addresses.mac(2) + b"\x08\x00" + ip + udp
            os.write(tap.fd, bytes(VNET_HEADER_SIZE) + frame)
            assert receiver.recvfrom(100) == (b"knock", ("10.1.2.3", 9001))
        with RouteSocket() as route:
            # the link counts from its own side: what we wrote, it received
            assert route.link("eth0").rx_frames == 1

    in_namespace(body)


def test_it_is_gone_when_closed() -> None:
    def body() -> None:
        tap = open_tap()
        tap.close()
        with RouteSocket() as route, pytest.raises(OSError) as caught:
            route.link("eth0")
        assert caught.value.errno == errno.ENODEV
        assert caught.value.filename == "look up link eth0"

    in_namespace(body)


def test_a_name_in_use_is_unavailable() -> None:
    def body() -> None:
        tap = open_tap()
        for name in (tap.name, "lo"):
            with pytest.raises(Unavailable, match="exists already"):
                open_tap(name)

    in_namespace(body)


def test_the_kernel_says_why_it_refuses() -> None:
    def body() -> list[str]:
        tap = open_tap()
        nic = configure(tap.name, 1)
        said = []
        with RouteSocket() as route:
            attempts: tuple[Callable[[], None], ...] = (
                lambda: route.add_address(nic.index, nic.ipv4, 24),
                lambda: route.add_address(999, nic.ipv4, 24),
                lambda: route.set_link("eth9", up=False),
                lambda: route.set_link("eth0", mtu=1_000_000),
            )
            for attempt in attempts:
                with pytest.raises(OSError) as caught:
                    attempt()
                said.append(f"{errno.errorcode[caught.value.errno or 0]}: {caught.value}")
            route.set_link("eth0", up=False)  # the conversation goes on after a refusal
            assert not route.link("eth0").up
        return said

    again, no_link, no_name, large = in_namespace(body)
    assert again.startswith("EEXIST: ")
    assert "add address 10.1.2.2/24 to link number" in again
    assert no_link.startswith("ENODEV: ")
    assert no_name.startswith("ENODEV: ")
    assert "set link eth9 down" in no_name
    assert large.startswith("EINVAL: ")
    assert "mtu greater than device maximum" in large
