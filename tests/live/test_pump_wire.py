"""What goes over the pumps between real stacks: mixed MTUs, guests without offloads, every family of packets,
and peers that lie."""

import base64
import os
import struct

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from popnet.core.addresses import ipv4, ipv6, mac_text
from tests.live.pump_host import digest
from tests.live.test_pump import Host, Lab, know_each_other, lab_of, transport_sum, until

NO_OFFLOAD = bytes(12)


def run(host: Host, *argv: str) -> str:
    """Run it to its end; it must succeed."""
    done = host.call("run", argv)
    assert done["status"] == 0, done
    return str(done["output"])


def sh(host: Host, text: str) -> None:
    for command in text.split(";"):
        run(host, *command.split())


def udp_frame(payload: bytes, to: int = 2, source: int = 1) -> bytes:
    """Whole and right, to port 7000."""
    headers = Ether(dst=mac_text(to), src=mac_text(source)) / IP(src=str(ipv4(source)), dst=str(ipv4(to)))
    return bytes(headers / UDP(sport=7000, dport=7000) / Raw(payload))


def carries_tcp(lab: Lab, one: int, other: int, size: int = 3_000_000) -> None:
    port = 7000 + one * 10 + other
    lab[other].call("serve_tcp", port)
    assert lab[one].call("send_tcp", str(ipv4(other)), port, size)


def test_kernels_with_different_mtus_reach_each_other() -> None:
    with lab_of(0, 1, 2, 3, mtu={0: 1500, 1: 9000, 2: 1500, 3: 576}) as lab:
        know_each_other(lab)
        for one, other in ((1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)):
            carries_tcp(lab, one, other)
        for to, mtu in ((2, 1500), (3, 576)):
            address = str(ipv4(to))
            done = lab[1].call("run", ["ping", "-n", "-c", "1", "-M", "do", "-s", "8000", address])
            assert f"mtu = {mtu}" in done["output"], done
            assert f"mtu {mtu}" in run(lab[1], "ip", "route", "get", address)
            run(lab[1], "ping", "-n", "-c", "2", "-i", "0.01", "-s", "8000", address)
            lab[to].call("receive_udp", 9000)
            assert lab[1].call("send_udp", address, 9000, 20_000) == lab[to].call("received_udp")
        assert lab[1].count("too_big_answers") >= 2


def test_a_path_mtu_is_learnt_over_ipv6_too() -> None:
    with lab_of(1, 2, mtu={1: 9000, 2: 1500}) as lab:
        for kid in (1, 2):
            sh(lab[kid], f"ip addr add {ipv6(kid)}/64 dev p0 nodad")
            other = 3 - kid
            sh(lab[kid], f"ip neigh replace {ipv6(other)} lladdr {mac_text(other)} dev p0")
        lab[1].call("run", ["ping", "-n", "-c", "1", "-s", "8000", str(ipv6(2))])
        assert "mtu 1500" in run(lab[1], "ip", "route", "get", str(ipv6(2)))
        run(lab[1], "ping", "-n", "-c", "2", "-i", "0.01", "-s", "8000", str(ipv6(2)))


def test_neighbours_are_found_over_both_families() -> None:
    """ARP and neighbour discovery, broadcast and multicast, by way of the relay."""
    with lab_of(0, 1, 2) as lab:
        for kid in (1, 2):
            sh(lab[kid], f"ip addr add {ipv6(kid)}/64 dev p0 nodad")
        run(lab[1], "ping", "-n", "-c", "2", "-i", "0.01", str(ipv4(2)))
        run(lab[1], "ping", "-n", "-c", "2", "-i", "0.01", str(ipv6(2)))
        for address in (ipv4(2), ipv6(2)):
            assert mac_text(2) in run(lab[1], "ip", "neigh", "show", str(address))


def test_multicast_reaches_its_members() -> None:
    with lab_of(0, 1, 2, 3) as lab:
        for kid in (0, 2, 3):
            lab[kid].call("receive_udp", 9001, "239.1.2.3")
        sh(lab[1], "ip route add 239.0.0.0/8 dev p0")
        sent = lab[1].call("send_udp", "239.1.2.3", 9001, 1000)
        assert [lab[kid].call("received_udp") for kid in (0, 2, 3)] == [sent] * 3


@pytest.mark.parametrize("tags", [1, 2])
def test_vlan_tags_pass(tags: int) -> None:
    frame = udp_frame(b"x" * 1400)
    tagged = frame[:12] + bytes.fromhex("88a80005810000068100e007")[-4 * tags :] + frame[12:]
    with lab_of(1, 2, mtu={1: 1500, 2: 1500}) as lab:
        capture = lab[2].call("capture_open", 1 << 20, 0, "vlan")
        lab[1].call("send_raw", tagged.hex())
        ((way, length, _, seen),) = lab[2].call("capture_wait", capture, 1, 60)
        assert (way, length, seen) == (0, len(tagged), digest(tagged))
        until(lambda: lab[2].count("rx_frames") >= 1)
        assert lab[2].count("drop_refused") == lab[1].count("drop_too_big") == 0


@pytest.mark.parametrize("plain", [(2,), (1,), (1, 2)], ids=str)
def test_guests_without_offloads_see_packets_as_on_a_wire(plain: tuple[int, ...]) -> None:
    with lab_of(1, 2, plain=plain) as lab:
        know_each_other(lab)
        lab[2].call("sniff")
        carries_tcp(lab, 1, 2, 2_000_000)
        carries_tcp(lab, 2, 1, 2_000_000)
        sniffed = lab[2].call("sniffed")
        assert sniffed["count"] > 500
        assert sniffed["longest"] == 1514
        assert {transport_sum(bytes.fromhex(frame)) for frame in sniffed["some"]} == {0xFFFF}
        assert lab[1].call("snmp", "Tcp", "InCsumErrors") == lab[2].call("snmp", "Tcp", "InCsumErrors") == 0


def test_a_frame_damaged_in_a_ring_is_refused_by_the_receiving_stack() -> None:
    with lab_of(1, 2) as lab:
        know_each_other(lab)
        lab[2].call("receive_udp", 7000)
        good = udp_frame(bytes(range(100)))
        lab[1].call("stop")
        damaged = [
            bytes(x ^ (1 << at % 8) if i == at else x for i, x in enumerate(good)) for at in range(42, 142)
        ]
        lab[1].call("forge", 2, [(NO_OFFLOAD + frame).hex() for frame in [*damaged, good]])
        os.eventfd_write(lab[2].bells[1], 1)
        lab[2].call("received_udp")
        assert lab[2].call("snmp", "Udp", "InCsumErrors") == len(damaged)
        assert lab[2].call("snmp", "Udp", "InDatagrams") == 1, "the whole one"


def test_lying_vnet_headers_do_not_reach_a_tap() -> None:
    good = udp_frame(bytes(100))
    kinds = ("flags", "gso", "header", "size", "start", "offset")
    lies = []
    for name in kinds:
        for value in (1, 2, 3, 5, 40, 0x80, 0xFF, 0x7FFF, 0xFFFF):
            fields = {"flags": 1, "gso": 0, "header": 42, "size": 0, "start": 34, "offset": 6} | {name: value}
            fields["flags"] &= 0xFF
            fields["gso"] &= 0xFF
            lies.append(struct.pack("=BBHHHHH", *(fields[kind] for kind in kinds), 0))
    with lab_of(0, 1, 2, 3) as lab:
        know_each_other(lab)
        lab[1].call("stop")
        records = [lie + good[:length] for lie in lies for length in (14, 34, 41, len(good))]
        lab[1].call("forge", 2, [record.hex() for record in records])
        os.eventfd_write(lab[2].bells[1], 1)
        until(lambda: total(lab[2], "rx_frames", "drop_bad_header", "drop_refused") >= len(records))
        assert lab[2].count("drop_bad_header") > 100
        lab[3].ping(2)
        carries_tcp(lab, 3, 2)
        assert lab[2].count("drop_nic_gone") == lab[2].count("drop_no_memory") == 0


def total(host: Host, *names: str) -> int:
    counters = host.call("counters")
    return sum(int(counters[name]) for name in names)


def test_a_tap_set_down_and_up_under_flood_goes_on() -> None:
    with lab_of(1, 2) as lab:
        know_each_other(lab)
        lab[1].call("spawn", ["ping", "-q", "-f", "-s", "1400", str(ipv4(2))])
        until(lambda: lab[2].count("rx_frames") > 100)
        for _ in range(15):
            dropped, came = lab[2].count("drop_nic_down"), lab[2].count("rx_frames")
            run(lab[2], "ip", "link", "set", "p0", "down")
            lab[1].call("inject", [(100, seed) for seed in range(10)], 2)
            until(lambda: lab[2].count("drop_nic_down") > dropped)  # noqa: B023
            run(lab[2], "ip", "link", "set", "p0", "up")
            know_each_other(lab)
            until(lambda: lab[2].count("rx_frames") > came + 10)  # noqa: B023
        lab[1].ping(2)


def test_a_flooding_link_leaves_the_others_their_fair_share() -> None:
    """All that is sent is there before the receiver's pump starts, so no clock decides who has how much."""
    backlogs = {2: (64, 4000), 3: (1400, 300), 4: (64, 300)}  # the flood, and two who send little
    with lab_of(1, *backlogs, held=(1,)) as lab:
        for kid, (size, count) in backlogs.items():
            lab[kid].call("stop")
            lab[kid].call("backlog", 1, size, count)
        capture = lab[1].call("capture_open", 4 << 20, 60, "ether proto 0x88b5")
        lab[1].call("go")
        came: list[tuple[int, int]] = []  # sender, bytes
        until(lambda: came.extend(captured(lab[1], capture)) or len(came) == 4600)
        left = {kid: count for kid, (_, count) in backlogs.items()}
        cost = dict.fromkeys(backlogs, 0)
        for kid, size in came:
            cost[kid] += size + FRAME_COST
            left[kid] -= 1
            if not left[kid]:
                break  # from here on there is less to share
        fair = sum(cost.values()) / len(cost)
        assert {kid for kid in (3, 4) if cost[kid] < 0.8 * fair} == set(), cost
        assert sum(cost.values()) > 3 * 250 * FRAME_COST, "and that was no short while"
        until(lambda: lab[1].count("rx_frames") == 4600)


FRAME_COST = 8192
"""Bytes that cost a pump as much as a frame does, as it counts them."""


def captured(host: Host, capture: int) -> list[tuple[int, int]]:
    """(kid of the sender, length) of some frames to the guest, in their order."""
    frames = host.call("capture_raw", capture, 200)
    return [(base64.b64decode(data)[11], length) for _, _, length, data in frames]
