"""The blocks of pcapng, byte by byte."""

import os
import struct

from popnet.net import pcapng

TIME_NS = 1_700_000_000_123_456_789


def test_a_section_header() -> None:
    assert pcapng.section_header("popnet", "x86_64", "Linux 6.1").hex(" ", 4) == " ".join(
        (
            "0a0d0d0a 48000000 4d3c2b1a 01000000",  # 72 bytes, byte order, version 1.0
            "ffffffff ffffffff",  # length unknown
            "02000600 7838365f 36340000",  # x86_64
            "03000900 4c696e75 7820362e 31000000",  # Linux 6.1
            "04000600 706f706e 65740000",  # popnet
            "00000000 48000000",
        )
    )


def test_a_section_header_names_this_host() -> None:
    host = os.uname()
    block = pcapng.section_header()
    assert host.machine.encode() in block
    assert f"{host.sysname} {host.release}".encode() in block


def test_an_interface_description() -> None:
    block = pcapng.interface("k1/eth0", 96, "icmp", bytes.fromhex("02706f706e01"))
    assert block.hex(" ", 4) == " ".join(
        (
            "01000000 44000000 01000000 60000000",  # 68 bytes, Ethernet, 96 kept
            "02000700 6b312f65 74683000",  # k1/eth0
            "06000600 02706f70 6e010000",
            "09000100 09000000",  # nanoseconds
            "0b000500 0069636d 70000000",  # icmp, a libpcap filter
            "00000000 44000000",
        )
    )
    assert pcapng.interface("k1/eth0", 96).hex(" ", 4) == (
        "01000000 2c000000 01000000 60000000 02000700 6b312f65 74683000 09000100 09000000 00000000 2c000000"
    )


def test_packets_both_ways_and_padded() -> None:
    blocks = pcapng.packets(
        [(TIME_NS, pcapng.OUTBOUND, 1500, b"abcde"), (TIME_NS + 1, pcapng.INBOUND, 4, b"wxyz")], 2
    )
    assert blocks.hex(" ", 4) == " ".join(
        (
            "06000000 34000000 02000000 fe9c9717 15cd853d 05000000 dc050000",
            "61626364 65000000",
            "02000400 02000000 00000000 34000000",
            "06000000 30000000 02000000 fe9c9717 16cd853d 04000000 04000000",
            "7778797a",
            "02000400 01000000 00000000 30000000",
        )
    )


def test_statistics() -> None:
    assert pcapng.statistics(TIME_NS, 7, 2).hex(" ", 4) == " ".join(
        (
            "05000000 40000000 00000000 fe9c9717 15cd853d",
            "04000800 09000000 00000000",  # seen
            "05000800 02000000 00000000",  # dropped
            "08000800 07000000 00000000",  # delivered
            "00000000 40000000",
        )
    )


def test_blocks_say_their_length_at_both_ends_and_are_aligned() -> None:
    for kept in range(70):
        block = pcapng.packets([(TIME_NS, pcapng.INBOUND, kept, bytes(kept))])
        assert len(block) % 4 == 0
        assert struct.unpack_from("<I", block, 4) == struct.unpack("<I", block[-4:]) == (len(block),)
    assert pcapng.packets([]) == b""
