"""Filters through libpcap: what they become, what they match, and what users read when they are wrong."""

import ctypes
import struct

import pytest

from popnet.core.errors import Refused, Unavailable
from popnet.net import filter as filters
from popnet.net.filter import FILTER_LENGTH_MAX, compile_filter
from tests.net import frames


def test_a_filter_becomes_a_program() -> None:
    compiled = compile_filter("icmp", 96)
    assert list(struct.iter_unpack("=HBBI", compiled.program)) == [
        (0x28, 0, 0, 12),  # ldh [12]: the ethertype
        (0x15, 0, 3, 0x0800),  # jeq IPv4
        (0x30, 0, 0, 23),  # ldb [23]: the protocol
        (0x15, 0, 1, 1),  # jeq ICMP
        (0x06, 0, 0, 96),  # ret 96: keep
        (0x06, 0, 0, 0),  # ret 0
    ]
    assert compiled.function_address != 0


@pytest.mark.parametrize(
    ("text", "frame", "matches"),
    [
        ("", frames.arp(1), True),
        ("icmp", frames.ipv4(1, frames.echo()), True),
        ("icmp", frames.ipv4(17, frames.udp(1, 2, b"")), False),
        ("icmp or port 22", frames.ipv4(6, frames.tcp(22, 40000, 2)), True),
        ("udp dst port 53", frames.ipv6(17, frames.udp(40000, 53, b"")), True),
        ("host 10.1.2.2", frames.arp(1), True),
        ("src host 10.1.2.3", frames.arp(1), False),
        ("greater 60", frames.arp(1), False),
        ("ip", b"", False),
    ],
)
def test_a_filter_tells_frames_apart(text: str, frame: bytes, matches: bool) -> None:
    assert compile_filter(text, 65535).matches(frame) is matches


@pytest.mark.parametrize("text", ["icmp and", "port frog", "net 10.1.2.3/24", "\ud800", "(" * 20])
def test_a_wrong_filter_is_refused_in_libpcaps_words(text: str) -> None:
    with pytest.raises(Refused) as caught:
        compile_filter(text, 96)
    assert str(caught.value).startswith(f"filter {text!r}: ")
    assert len(str(caught.value)) > len(f"filter {text!r}: ")
    assert "pcap-filter" in caught.value.hint


def test_libpcaps_words_are_whole() -> None:
    with pytest.raises(Refused, match="non-network bits set"):
        compile_filter("net 10.1.2.3/24", 96)


def test_what_libpcap_must_not_see_is_refused_before() -> None:
    with pytest.raises(Refused, match="at most 4096"):
        compile_filter("x" * (FILTER_LENGTH_MAX + 1), 96)
    with pytest.raises(Refused, match="zero byte"):
        compile_filter("icmp\0", 96)


def test_a_host_without_libpcap_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    filters._libpcap.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("ctypes.CDLL", missing)
        with pytest.raises(Unavailable) as caught:
            compile_filter("icmp", 96)
    assert "libpcap0.8" in caught.value.hint
    assert compile_filter("icmp", 96).program  # and it is looked for again once it may be there
