"""A small rtnetlink: links and addresses of the namespace in which the socket was made.

One blocking socket, one request at a time, each answered before the call returns, in some tens of
microseconds. Layouts are those of linux/netlink.h, rtnetlink.h, if_link.h and if_addr.h, in the host's byte
order. The kernel's refusals become OSError, whose `filename` says what was tried.
"""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from types import TracebackType
from typing import Final

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK: Final = struct.Struct(
    "=BxHiII"
)  # ifinfomsg: family, device type, index, flags, mask of flags to change
_ADDRESS: Final = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE: Final = struct.Struct("=HH")  # rtattr: length, type

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_CREATE, NLM_F_EXCL = 0x1, 0x4, 0x300, 0x400, 0x200
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR = 16, 18, 20, 22

IFF_UP: Final = 0x1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_TXQLEN, IFLA_STATS64 = 1, 3, 4, 13, 23
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD, IFA_F_TENTATIVE = 0x02, 0x40

SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
NLMSGERR_ATTR_MSG: Final = 1

_RECEIVE_SIZE: Final = 64 << 10  # the kernel fills at most 32 KiB of a dump at once


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel knows of a link; the counts are frames and bytes since it was made."""

    index: int
    name: str
    up: bool
    mac: bytes
    mtu: int
    tx_queue_length: int
    rx_frames: int
    tx_frames: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


class RouteSocket:
    """A conversation with the kernel about the links of one network namespace. Also a context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)  # refusals come with the kernel's own words
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)  # and without our request
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> "RouteSocket":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def set_link(
        self,
        name: str,
        *,
        up: bool | None = None,
        mac: bytes | None = None,
        mtu: int | None = None,
        tx_queue_length: int | None = None,
    ) -> None:
        """Change what is given, all in one request; the link comes up last, or goes down last.

        Args:
            mac: 6 octets.
            mtu: bytes of payload a frame.
            tx_queue_length: frames that wait for the other side of the link.
        """
        attributes = [_attribute(IFLA_IFNAME, name.encode() + b"\0")]
        changes = [] if up is None else ["up" if up else "down"]
        if mac is not None:
            attributes.append(_attribute(IFLA_ADDRESS, mac))
            changes.append(f"mac {mac.hex(':')}")
        if mtu is not None:
            attributes.append(_attribute(IFLA_MTU, struct.pack("=I", mtu)))
            changes.append(f"mtu {mtu}")
        if tx_queue_length is not None:
            attributes.append(_attribute(IFLA_TXQLEN, struct.pack("=I", tx_queue_length)))
            changes.append(f"txqueuelen {tx_queue_length}")
        link = _LINK.pack(socket.AF_UNSPEC, 0, 0, IFF_UP if up else 0, 0 if up is None else IFF_UP)
        self._request(
            RTM_NEWLINK, NLM_F_ACK, link + b"".join(attributes), f"set link {name} {' '.join(changes)}"
        )

    def add_address(self, index: int, address: IPv4Address | IPv6Address, prefix_length: int) -> None:
        """Give the link *index* an address and the route to its network; IPv6 is usable at once (no DAD)."""
        attributes = _attribute(IFA_LOCAL, address.packed) + _attribute(IFA_ADDRESS, address.packed)
        if address.version == 6:
            family, flags = socket.AF_INET6, IFA_F_NODAD
        else:
            family, flags = socket.AF_INET, 0
            if prefix_length < 31:
                broadcast = int(address) | 0xFFFF_FFFF >> prefix_length
                attributes += _attribute(IFA_BROADCAST, broadcast.to_bytes(4, "big"))
        self._request(
            RTM_NEWADDR,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            _ADDRESS.pack(family, prefix_length, flags, 0, index) + attributes,
            f"add address {address}/{prefix_length} to link number {index}",
        )

    def link(self, name: str) -> LinkInfo:
        """The link called *name*; OSError (ENODEV) if there is none."""
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _attribute(IFLA_IFNAME, name.encode() + b"\0")
        (answer,) = self._request(RTM_GETLINK, 0, body, f"look up link {name}")
        return _parse_link(answer)

    def links(self) -> list[LinkInfo]:
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        return [_parse_link(answer) for answer in self._request(RTM_GETLINK, NLM_F_DUMP, body, "list links")]

    def addresses(self, index: int, *, tentative: bool = True) -> list[IPv4Interface | IPv6Interface]:
        """The addresses of the link *index*, IPv4 first; without *tentative*, only those usable now."""
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        found = []
        for answer in self._request(RTM_GETADDR, NLM_F_DUMP, body, "list addresses"):
            _family, prefix_length, flags, _scope, of_index = _ADDRESS.unpack_from(answer)
            attributes = dict(_attributes(answer[_ADDRESS.size :]))
            if IFA_FLAGS in attributes:
                (flags,) = struct.unpack("=I", attributes[IFA_FLAGS])
            if of_index == index and (tentative or not flags & IFA_F_TENTATIVE):
                found.append(
                    ip_interface((attributes.get(IFA_LOCAL, attributes[IFA_ADDRESS]), prefix_length))
                )
        return found

    def _request(self, kind: int, flags: int, body: bytes, what: str) -> list[bytes]:
        """Send one request and collect the bodies of its answers; *what* describes it in errors."""
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        many = flags & NLM_F_DUMP == NLM_F_DUMP
        answers: list[bytes] = []
        while True:
            for answer_kind, answer_flags, answer in _messages(self._socket.recv(_RECEIVE_SIZE)):
                if answer_kind == NLMSG_ERROR:
                    _raise_refusal(answer, answer_flags, what)
                    return answers
                if answer_kind == NLMSG_DONE:
                    return answers
                answers.append(answer)
            if answers and not many:
                return answers


def links_in(data: bytes, kind: int) -> Iterator[LinkInfo]:
    """The links that messages of type *kind* in one datagram tell of."""
    for answer_kind, _flags, answer in _messages(data):
        if answer_kind == kind:
            yield _parse_link(answer)


def _raise_refusal(answer: bytes, flags: int, what: str) -> None:
    """Raise what an NLMSG_ERROR says; number 0 means done, which is no error."""
    number = -struct.unpack_from("=i", answer)[0]
    if number == 0:
        return
    reason = os.strerror(number)
    if flags & NLM_F_ACK_TLVS and flags & NLM_F_CAPPED:
        words = dict(_attributes(answer[4 + _HEADER.size :])).get(NLMSGERR_ATTR_MSG)
        if words is not None:
            reason = f"{reason} ({words.rstrip(bytes(1)).decode()})"
    raise OSError(number, reason, what)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of each message of one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, _sequence, _port = _HEADER.unpack_from(data, offset)
        yield kind, flags, data[offset + _HEADER.size : offset + length]
        offset += _aligned(length)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        yield kind & 0x3FFF, data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _parse_link(answer: bytes) -> LinkInfo:
    _family, _device_type, index, flags, _changed = _LINK.unpack_from(answer)
    attributes = dict(_attributes(answer[_LINK.size :]))
    (mtu,) = struct.unpack("=I", attributes[IFLA_MTU])
    (tx_queue_length,) = struct.unpack("=I", attributes[IFLA_TXQLEN])
    return LinkInfo(
        index,
        attributes[IFLA_IFNAME].rstrip(b"\0").decode(),
        bool(flags & IFF_UP),
        attributes.get(IFLA_ADDRESS, b""),
        mtu,
        tx_queue_length,
        *struct.unpack_from("=8Q", attributes[IFLA_STATS64]),
    )
