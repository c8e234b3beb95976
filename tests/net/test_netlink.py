"""The messages of rtnetlink, byte by byte, against a socket that answers from a script."""

import errno
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest

from popnet.net import netlink
from popnet.net.netlink import RouteSocket


class FakeSocket:
    """Takes requests, and answers each with the next datagrams of its script."""

    def __init__(self, *answers: bytes) -> None:
        self.sent: list[bytes] = []
        self.answers = list(answers)

    def send(self, data: bytes) -> int:
        self.sent.append(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        return self.answers.pop(0)

    def close(self) -> None:
        self.answers.clear()


def conversation(monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> tuple[RouteSocket, FakeSocket]:
    fake = FakeSocket(*answers)
    route = RouteSocket()
    route.close()
    monkeypatch.setattr(route, "_socket", fake)
    return route, fake


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    padded = body + bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + padded


def acknowledgement(number: int = 0, words: str = "") -> bytes:
    body = struct.pack("=i", -number) + bytes(16)
    if not words:
        return message(netlink.NLMSG_ERROR, body, netlink.NLM_F_CAPPED)
    text = words.encode() + b"\0"
    body += struct.pack("=HH", 4 + len(text), netlink.NLMSGERR_ATTR_MSG) + text
    return message(netlink.NLMSG_ERROR, body, netlink.NLM_F_CAPPED | netlink.NLM_F_ACK_TLVS)


def test_a_link_is_set_in_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    route, fake = conversation(monkeypatch, acknowledgement())
    route.set_link("eth0", up=True, mac=bytes.fromhex("02706f706e01"), mtu=1500, tx_queue_length=4096)
    (request,) = fake.sent
    assert request.hex(" ", 4) == " ".join(
        (
            "48000000 10000500 01000000 00000000",  # 72 bytes, RTM_NEWLINK, request + ack, sequence 1
            "00000000 00000000 01000000 01000000",  # any family, index 0: by name; up
            "09000300 65746830 00000000",  # IFLA_IFNAME eth0
            "0a000100 02706f70 6e010000",  # IFLA_ADDRESS
            "08000400 dc050000",  # IFLA_MTU
            "08000d00 00100000",  # IFLA_TXQLEN
        )
    )


def test_a_link_left_as_it_is_stays_up_or_down(monkeypatch: pytest.MonkeyPatch) -> None:
    route, fake = conversation(monkeypatch, acknowledgement(), acknowledgement())
    route.set_link("lo", mtu=9000)
    route.set_link("lo", up=False)
    flags_and_mask = [struct.unpack_from("=II", request, 24) for request in fake.sent]
    assert flags_and_mask == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    ("address", "prefix_length", "expected"),
    [
        (
            IPv4Address("10.1.2.3"),
            24,
            "02180000 07000000 08000200 0a010203 08000100 0a010203 08000400 0a0102ff",
        ),
        (
            IPv4Address("10.1.2.3"),
            32,
            "02200000 07000000 08000200 0a010203 08000100 0a010203",
        ),
        (
            IPv6Address("fd70::3"),
            64,
            "0a400200 07000000 14000200 fd700000 00000000 00000000 00000003"
            " 14000100 fd700000 00000000 00000000 00000003",
        ),
    ],
)
def test_an_address_is_added(
    monkeypatch: pytest.MonkeyPatch, address: IPv4Address | IPv6Address, prefix_length: int, expected: str
) -> None:
    route, fake = conversation(monkeypatch, acknowledgement())
    route.add_address(7, address, prefix_length)
    (request,) = fake.sent
    assert struct.unpack_from("=IHH", request) == (len(request), netlink.RTM_NEWADDR, 0x605)
    assert request[16:].hex(" ", 4) == expected


def test_a_dump_is_read_to_its_end_over_datagrams(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(index: int, octets: bytes, flags: int, more: bytes = b"") -> bytes:
        head = struct.pack("=BBBBI", 2 if len(octets) == 4 else 10, 24, flags, 0, index)
        return message(
            netlink.RTM_NEWADDR,
            head + struct.pack("=HH", 4 + len(octets), netlink.IFA_ADDRESS) + octets + more,
        )

    wide_flags = struct.pack("=HHI", 8, netlink.IFA_FLAGS, 0x340)  # more than the byte of the header holds
    answers = [
        row(7, bytes((10, 1, 2, 3)), 0x80) + row(8, bytes((10, 1, 2, 4)), 0x80),
        row(7, bytes(16), 0x40) + row(7, bytes(15) + b"\1", 0, wide_flags),
        message(netlink.NLMSG_DONE, bytes(4)),
    ]
    route, _ = conversation(monkeypatch, *answers)
    assert route.addresses(7) == [
        IPv4Interface("10.1.2.3/24"),
        IPv6Interface("::/24"),
        IPv6Interface("::1/24"),
    ]
    route, _ = conversation(monkeypatch, *answers)
    assert route.addresses(7, tentative=False) == [IPv4Interface("10.1.2.3/24")]


def test_a_refusal_says_what_was_tried_and_the_kernels_words(monkeypatch: pytest.MonkeyPatch) -> None:
    route, _ = conversation(
        monkeypatch, acknowledgement(errno.EPERM), acknowledgement(errno.EINVAL, "mtu too large")
    )
    with pytest.raises(PermissionError) as caught:
        route.set_link("lo", up=True)
    assert str(caught.value) == "[Errno 1] Operation not permitted: 'set link lo up'"
    with pytest.raises(OSError) as plain:
        route.set_link("lo", mtu=70_000)
    assert str(plain.value) == "[Errno 22] Invalid argument (mtu too large): 'set link lo mtu 70000'"
