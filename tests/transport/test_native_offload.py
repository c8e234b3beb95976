"""What the pump does in a NIC's place: judge vnet headers, cut super-frames, finish checksums, know an MTU.

Frames are made and read by scapy and checked by our own sums; the guests are sockets.
"""

import random
import struct
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from popnet.core.addresses import ipv4, ipv6, mac_text
from popnet.core.limits import VNET_HEADER_SIZE
from popnet.transport._native import WORD_OFFSETS
from tests.transport.lab import NO_OFFLOAD, Kernel, Lab, ethernet, eventually, running

NEEDS_SUM, DATA_VALID = 1, 2
TCP4, UFO, TCP6, UDP_L4 = 1, 3, 4, 5
FIN, PUSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80


def vnet(
    flags: int = 0, gso: int = 0, header: int = 0, size: int = 0, start: int = 0, offset: int = 0
) -> bytes:
    return struct.pack("=BBHHHHH", flags, gso, header, size, start, offset, 0)


def ones_sum(data: bytes) -> int:
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def sums_are_right(frame: bytes) -> bool:
    """Of a whole frame: the IPv4 header's, and that of TCP, UDP or ICMP."""
    packet = Ether(frame)
    ip = packet[IP] if IP in packet else packet[IPv6]
    raw = bytes(ip.original)
    if ip.version == 4:
        header = ip.ihl * 4
        if ones_sum(raw[:header]) != 0xFFFF or ip.len != len(raw):
            return False
        pseudo = raw[12:20] + struct.pack(">HH", ip.proto, len(raw) - header)
        return ones_sum((pseudo if ip.proto != 1 else b"") + raw[header:]) == 0xFFFF
    header, protocol = 40, ip.nh
    if protocol == 60:
        header, protocol = 48, raw[40]
    pseudo = raw[8:40] + struct.pack(">HH", protocol, len(raw) - header)
    return ip.plen == len(raw) - 40 and ones_sum(pseudo + raw[header:]) == 0xFFFF


def ether(to: int = 2, source: int = 1) -> Packet:
    return Ether(dst=mac_text(to), src=mac_text(source))


def ip4(to: int = 2, source: int = 1, **more: Any) -> Packet:
    return IP(src=str(ipv4(source)), dst=str(ipv4(to)), **more)


def ip6(to: int = 2, source: int = 1) -> Packet:
    return IPv6(src=str(ipv6(source)), dst=str(ipv6(to)))


def super_frame(headers: Packet, payload: bytes, size: int) -> bytes:
    """As a stack with offloads hands it over: lengths of the whole, and only the pseudo header summed."""
    frame = bytearray(bytes(headers / Raw(payload)))
    packet = Ether(bytes(frame))
    layer = packet[TCP] if TCP in packet else packet[UDP]
    start = len(frame) - len(layer.original)
    offset = 16 if TCP in packet else 6
    kind = UDP_L4 if UDP in packet else TCP4 if IP in packet else TCP6
    frame[start + offset : start + offset + 2] = b"\x12\x34"  # whatever: it is made anew
    head = len(frame) - len(payload)
    return vnet(NEEDS_SUM, kind, head, size, start, offset) + bytes(frame)


HEADERS = {
    "tcp4": ether() / ip4(flags="DF", id=65535) / TCP(sport=7, dport=8, seq=2**32 - 2000, flags="CPAF"),
    "tcp4-options": ether() / ip4(options=[IPOption_Router_Alert()]) / TCP(options=[("Timestamp", (1, 2))]),
    "tcp6": ether() / ip6() / TCP(seq=5, flags="PA"),
    "tcp6-extension": ether() / ip6() / IPv6ExtHdrDestOpt() / TCP(flags="A"),
    "tcp4-vlan": ether() / Dot1Q(vlan=5) / ip4() / TCP(flags="A"),
    "udp4": ether() / ip4(id=9) / UDP(sport=1, dport=2),
    "udp6-two-vlans": ether() / Dot1Q(vlan=5, type=0x8100) / Dot1Q(vlan=6) / ip6() / UDP(sport=1, dport=2),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize(("length", "size"), [(10_000, 1448), (1448, 1448), (1449, 1448), (60_000, 536)])
def test_a_guest_without_offloads_gets_segments_as_on_the_wire(kind: str, length: int, size: int) -> None:
    payload = random.Random(length).randbytes(length)
    with running((1, 2), plain=(2,)) as lab:
        lab.connect(1, 2)
        record = super_frame(HEADERS[kind], payload, size)
        lab[1].guest.send(record)
        pieces = [lab[2].receive() for _ in range(-(-length // size))]
        assert not lab[2].has_frame()
        assert lab[2].count("cut_frames") == 1
    whole = Ether(record[VNET_HEADER_SIZE:])
    came = b""
    for number, piece in enumerate(pieces):
        assert piece.startswith(NO_OFFLOAD)
        frame = piece[VNET_HEADER_SIZE:]
        assert sums_are_right(frame)
        packet = Ether(frame)
        if IP in packet:
            assert packet[IP].id == (whole[IP].id + number) % 65536
        if TCP in packet:
            assert packet[TCP].seq == (whole[TCP].seq + number * size) % 2**32
            flags, last = int(whole[TCP].flags), number == len(pieces) - 1
            expected = flags & ~(0 if last else FIN | PUSH) & ~(CWR if number else 0)
            assert int(packet[TCP].flags) == expected
            came += bytes(packet[TCP].payload)
        else:
            came += bytes(packet[UDP].payload)
    assert came == payload


def test_a_guest_without_offloads_gets_finished_checksums() -> None:
    with running((1, 2), plain=(2,)) as lab:
        lab.connect(1, 2)
        frame = bytes(ether() / ip4() / UDP(sport=1, dport=2) / Raw(b"odd"))
        wrong = (
            frame[:40] + struct.pack(">H", ones_sum(frame[26:34] + struct.pack(">HH", 17, 11))) + frame[42:]
        )
        lab[1].guest.send(vnet(NEEDS_SUM, start=34, offset=6) + wrong)
        assert lab[2].receive() == NO_OFFLOAD + frame
        lab[1].guest.send(vnet(DATA_VALID) + frame)
        assert lab[2].receive() == NO_OFFLOAD + frame


def test_a_guest_with_offloads_gets_frames_as_they_were_made() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        record = super_frame(HEADERS["tcp4"], bytes(20_000), 1448)
        lab[1].guest.send(record)
        assert lab[2].receive() == record


LIES = {
    "unknown flag": vnet(0x40),
    "header beyond the frame": vnet(DATA_VALID, header=5000),
    "sum beyond the frame": vnet(NEEDS_SUM, start=1000, offset=16),
    "sum at its very end": vnet(NEEDS_SUM, start=113, offset=0),
    "sum in the Ethernet header": vnet(NEEDS_SUM, start=4, offset=2),
    "sum offset around the corner": vnet(NEEDS_SUM, start=65535, offset=65535),
    "fragmentation offload, which is gone": vnet(NEEDS_SUM, UFO, 42, 500, 34, 6),
    "an unknown offload": vnet(NEEDS_SUM, 0x33, 42, 500, 34, 6),
    "65,000 segments": vnet(NEEDS_SUM, TCP4, 54, 1, 34, 16),
    "segments of nothing": vnet(NEEDS_SUM, UDP_L4, 42, 0, 34, 6),
}


@pytest.mark.parametrize("plain", [False, True], ids=["offloads", "plain"])
def test_a_lying_vnet_header_never_reaches_a_guest(plain: bool) -> None:
    with running((1, 2), bare=(1,), plain=(2,) if plain else ()) as lab:
        lab.connect(1, 2)
        mad = lab[1].links[2]
        frame = bytes(ether() / ip4() / TCP() / Raw(bytes(60)))
        assert len(frame) == 114
        for lie in LIES.values():
            assert mad.send(2, lie + frame)
        assert mad.send(2, NO_OFFLOAD + frame)
        assert lab[2].receive() == NO_OFFLOAD + frame, "the first to arrive is the honest one"
        assert lab[2].count("drop_bad_header") == len(LIES)
        assert lab[2].count("violations") == 0


def test_a_super_frame_that_is_none_is_not_cut() -> None:
    with running((1, 2), bare=(1,), plain=(2,)) as lab:
        lab.connect(1, 2)
        mad, sent = lab[1].links[2], 0
        for headers in (HEADERS["tcp6"], HEADERS["udp4"], ether() / ip4(frag=5) / Raw(bytes(40))):
            frame = bytes(headers / Raw(bytes(3000)))
            mad.send(2, vnet(NEEDS_SUM, TCP4, 0, 1448, 34, 16) + frame)
            sent += 1
        for cut in range(14, 54):  # headers that end too early
            mad.send(2, vnet(DATA_VALID, TCP4, 0, 1448) + bytes(HEADERS["tcp4"])[:cut])
            sent += 1
        eventually(lambda: lab[2].count("drop_bad_header") == sent)
        assert not lab[2].has_frame()


def test_random_vnet_headers_never_crash_a_pump() -> None:
    chance = random.Random(3)
    with running((0, 1, 2), bare=(1,), plain=(2,), mtu={2: 1500, 0: 576}) as lab:
        lab.connect_all()
        for _ in range(3000):
            base = bytes(chance.choice(list(HEADERS.values())) / Raw(bytes(chance.choice((0, 100, 3000)))))
            frame = bytearray(base[: chance.randrange(14, len(base) + 1)])
            for _ in range(chance.randrange(4)):
                frame[chance.randrange(12, len(frame))] = chance.randrange(256)
            header = vnet(
                chance.choice((0, 1, 2, 3, 255)),
                chance.choice((0, 1, 3, 4, 5, 0x81)),
                chance.choice((0, 54, 65535)),
                chance.choice((0, 1, 40, 1448, 65535)),
                chance.choice((0, 14, 34, len(frame), 65535)),
                chance.choice((0, 6, 16, 65535)),
            )
            record = header + bytes(frame)
            for kid in (0, 2):
                while not lab[1].links[kid].send(2, record):
                    drain(lab[0])
                    drain(lab[2])
            drain(lab[2])
            drain(lab[0])
        sent = lab[1].links[2].send(2, NO_OFFLOAD + ethernet(2, b"still there"))
        assert sent
        while lab[2].receive() != NO_OFFLOAD + ethernet(2, b"still there"):
            continue
        assert lab[2].count("drop_bad_header") > 100
        assert lab[2].count("violations") == lab[0].count("violations") == 0


def drain(kernel: Kernel) -> None:
    while kernel.has_frame():
        kernel.receive()


# ---- MTU


def narrow(*kids: int) -> Any:
    """Kernel 1 has jumbo frames; 2 has not, 3 has the least there is; 0, if there, relays."""
    return running(kids, mtu={0: 9000, 1: 9000, 2: 1500, 3: 576})


def received(kernel: Kernel) -> Packet:
    record = kernel.receive()
    assert record.startswith(NO_OFFLOAD)
    assert sums_are_right(record[VNET_HEADER_SIZE:])
    return Ether(record[VNET_HEADER_SIZE:])


def sent_by(lab: Lab, packet: Packet) -> bytes:
    frame = bytes(packet)
    lab[1].guest.send(NO_OFFLOAD + frame)
    return frame


@pytest.mark.parametrize(("to", "mtu"), [(2, 1500), (3, 576)])
def test_who_sends_too_much_is_told_the_mtu_of_the_receiver(to: int, mtu: int) -> None:
    with narrow(1, 2, 3) as lab:
        lab.connect_all()
        just = NO_OFFLOAD + sent_by(lab, ether(to) / ip4(to, flags="DF") / UDP() / Raw(bytes(mtu - 28)))
        assert lab[to].receive() == just
        frame = sent_by(lab, ether(to) / ip4(to, flags="DF") / UDP() / Raw(bytes(mtu - 27)))
        answer = received(lab[1])
        assert (answer.src, answer.dst) == (mac_text(to), mac_text(1))
        assert (answer[IP].src, answer[IP].dst) == (str(ipv4(to)), str(ipv4(1)))
        assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, mtu)
        assert answer[ICMP].original[8:] == frame[14 : 14 + 512]
        assert not lab[to].has_frame()
        assert lab[1].count("drop_too_big") == lab[1].count("too_big_answers") == 1


def test_ipv6_is_told_packet_too_big_with_its_vlan() -> None:
    with narrow(1, 2) as lab:
        lab.connect(1, 2)
        frame = sent_by(lab, ether() / Dot1Q(vlan=7) / ip6() / UDP() / Raw(bytes(2000)))
        answer = received(lab[1])
        assert answer[Dot1Q].vlan == 7
        assert (answer[IPv6].src, answer[IPv6].dst) == (str(ipv6(2)), str(ipv6(1)))
        assert answer[ICMPv6PacketTooBig].mtu == 1500
        assert answer[ICMPv6PacketTooBig].original[8:] == frame[18 : 18 + 512]


@pytest.mark.parametrize("more", [0, 1], ids=["whole", "fragment"])
def test_what_may_be_cut_is_cut(more: int) -> None:
    body = random.Random(1).randbytes(8000)
    options = [IPOption_Router_Alert(), IPOption_NOP(), IPOption_NOP()]
    with narrow(1, 2, 3) as lab:
        lab.connect_all()
        sent_by(lab, ether(3) / ip4(3, id=77, proto=200, frag=11, flags=more, options=options) / Raw(body))
        came, at = b"", 11
        while len(came) < len(body):
            record = lab[3].receive()
            packet = Ether(record[VNET_HEADER_SIZE:])
            ip = packet[IP]
            assert record.startswith(NO_OFFLOAD) and ones_sum(bytes(ip.original)[: ip.ihl * 4]) == 0xFFFF
            assert ip.len <= 576 and (ip.id, ip.frag, ip.proto) == (77, at, 200)
            came += bytes(ip.payload)
            assert int(ip.flags) == (1 if len(came) < len(body) else more)
            at += len(bytes(ip.payload)) // 8
        assert came == body
        assert lab[1].count("cut_frames") == 1


def test_a_checksum_that_is_cut_is_finished_before() -> None:
    with narrow(1, 2) as lab:
        lab.connect(1, 2)
        frame = bytes(ether() / ip4() / UDP(sport=1, dport=2) / Raw(bytes(range(256)) * 10))
        partial = struct.pack(">H", ones_sum(frame[26:34] + struct.pack(">HH", 17, len(frame) - 34)))
        lab[1].guest.send(vnet(NEEDS_SUM, start=34, offset=6) + frame[:40] + partial + frame[42:])
        came = b"".join(bytes(Ether(lab[2].receive()[12:])[IP].payload) for _ in range(2))
        assert came == frame[34:]


@pytest.mark.parametrize(("kind", "size", "passes"), [
    ("tcp4", 1448, True), ("tcp6", 1440, True), ("tcp4-vlan", 1460, True), ("udp4", 1472, True),
    ("tcp4", 1461, False), ("tcp6", 1441, False), ("udp4", 1473, False),
])  # fmt: skip
def test_a_super_frame_is_as_large_as_its_segments(kind: str, size: int, passes: bool) -> None:
    with narrow(1, 2) as lab:
        lab.connect(1, 2)
        record = super_frame(HEADERS[kind], bytes(30_000), size)
        lab[1].guest.send(record)
        if passes:
            assert lab[2].receive() == record
        else:
            assert ICMP in (answer := received(lab[1])) or answer[ICMPv6PacketTooBig].mtu == 1500
            assert lab[1].count("drop_too_big") == 1


SILENCE = {
    "not IP": ethernet(2, bytes(1501)),
    "an error about an error": bytes(ether() / ip4(flags="DF") / ICMP(type=3) / Raw(bytes(2000))),
    "an IPv6 error": bytes(ether() / ip6() / ICMPv6DestUnreach() / Raw(bytes(2000))),
    "from nobody": bytes(ether() / IP(src="0.0.0.0", dst="10.1.2.3", flags="DF") / UDP() / Raw(bytes(2000))),
    "from a group": bytes(
        ether() / IP(src="224.0.0.1", dst="10.1.2.3", flags="DF") / UDP() / Raw(bytes(2000))
    ),
    "a later fragment": bytes(ether() / ip4(flags="DF", frag=9) / Raw(bytes(2000))),
}


@pytest.mark.parametrize("why", SILENCE)
def test_some_are_not_told(why: str) -> None:
    with narrow(1, 2) as lab:
        lab.connect(1, 2)
        lab[1].guest.send(NO_OFFLOAD + SILENCE[why])
        good = lab[1].send(2)
        assert lab[2].receive() == good
        assert (lab[1].count("drop_too_big"), lab[1].count("too_big_answers")) == (1, 0)
        assert not lab[1].has_frame()


def test_an_echo_request_is_no_error() -> None:
    with narrow(1, 2) as lab:
        lab.connect(1, 2)
        sent_by(lab, ether() / ip6() / ICMPv6EchoRequest() / Raw(bytes(2000)))
        assert received(lab[1])[ICMPv6PacketTooBig].mtu == 1500


def test_the_relay_tells_the_sender_behind_it_and_cuts_for_it() -> None:
    with narrow(0, 1, 2) as lab:
        lab.connect(0, 1)
        lab.connect(0, 2)
        sent_by(lab, ether() / ip4(flags="DF") / UDP() / Raw(bytes(2000)))
        assert received(lab[1])[ICMP].nexthopmtu == 1500
        sent_by(lab, ether() / ip4() / UDP() / Raw(bytes(2000)))
        assert [len(Ether(lab[2].receive()[12:])[IP].original) for _ in range(2)] == [1500, 548]
        assert lab[0].count("rx_frames") == 0, "its own guest had nothing to do with it"


def test_a_group_frame_goes_to_those_it_fits() -> None:
    with narrow(0, 1, 2, 3) as lab:
        lab.connect_all()
        frame = NO_OFFLOAD + bytes(
            Ether(dst="33:33:00:00:00:01", src=mac_text(1)) / ip6() / UDP() / Raw(bytes(1200))
        )
        lab[1].guest.send(frame)
        assert lab[0].receive() == frame
        assert lab[2].receive() == frame
        eventually(lambda: lab[0].count("drop_too_big") == 1)
        assert not lab[3].has_frame()
        assert lab[0].count("too_big_answers") == 0


def test_a_new_mtu_is_seen_by_peers_at_once() -> None:
    with narrow(1, 2) as lab:
        lab.connect(1, 2)
        for mtu in (0, 4000):
            lab[2].pump.set_mtu(mtu)
            packet = sent_by(lab, ether() / ip4(flags="DF") / UDP() / Raw(bytes(3000)))
            assert lab[2].receive() == NO_OFFLOAD + packet
        for mtu in (67, 65536, -1):
            with pytest.raises(ValueError, match="68 to 65535"):
                lab[2].pump.set_mtu(mtu)


def test_nonsense_in_a_peers_mtu_is_no_mtu() -> None:
    with narrow(1, 2) as lab:
        lab.connect(1, 2)
        for mtu in (67, 1, 65536, 2**64 - 1):
            lab[2].windows[1][0].poke(WORD_OFFSETS["mtu"], mtu.to_bytes(8, "little"))
            packet = sent_by(lab, ether() / ip4(flags="DF") / UDP() / Raw(bytes(3000)))
            assert lab[2].receive() == NO_OFFLOAD + packet
