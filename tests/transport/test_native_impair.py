"""Impairments in the pump's path: what meets them, where, and what becomes of it; changed under load."""

import os
import struct
import threading
import time

import pytest

from popnet.core.limits import VNET_HEADER_SIZE
from tests.transport.impair_model import ONE, Config, Wire
from tests.transport.lab import BROADCAST, NO_OFFLOAD, Lab, ethernet, eventually, running
from tests.transport.pcap import compile_filter

LINK, NIC_IN, NIC_OUT = range(3)
FRAMES = 2

MS = 10**6
LOSE_ALL = Config(loss_good=ONE).pack()


def impair(lab: Lab, at: int, place: int, kid: int = 0, config: bytes | None = None) -> None:
    lab[at].pump.impair(place, kid, config, b"", None, 0)


def figures(lab: Lab, at: int, place: int, kid: int = 0) -> dict[str, int]:
    return lab[at].pump.impair_figures(place, kid)


def test_a_link_loses_what_the_twin_says_it_loses() -> None:
    config = Config(seed=42, loss_good=ONE // 4, corrupt=ONE // 10, duplicate=ONE // 10)
    wire, expected = Wire(config), []
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        impair(lab, 2, LINK, 1, config.pack())
        for number in range(300):
            frame = bytearray(lab[1].send(2, b"%04d" % number))
            _, _, copies, _, bit, _, _ = wire.decide(0, len(frame) - VNET_HEADER_SIZE)
            if bit:
                frame[VNET_HEADER_SIZE + bit // 8] ^= 1 << bit % 8
            expected += [bytes(frame)] * copies
        assert [lab[2].receive() for _ in expected] == expected
        told = figures(lab, 2, LINK, 1)
        assert told["frames"] == 300
        assert told["passed"] == len(expected)
        assert told["frames"] + told["duplicated"] == told["passed"] + told["drop_loss"]
        assert lab[2].count("drop_impair_loss") == told["drop_loss"] > 0


def test_only_one_direction_of_only_that_link_suffers() -> None:
    with running((1, 2, 3)) as lab:
        lab.connect_all()
        impair(lab, 2, LINK, 1, LOSE_ALL)
        lab[1].send(2, b"lost")
        frame = lab[3].send(2, b"from another")
        assert lab[2].receive() == frame
        frame = lab[2].send(1, b"back")
        assert lab[1].receive() == frame
        eventually(lambda: lab[2].count("drop_impair_loss") == 1)
        impair(lab, 2, LINK, 1, None)
        frame = lab[1].send(2, b"mended")
        assert lab[2].receive() == frame


def test_what_comes_by_way_of_the_relay_suffers_as_well() -> None:
    with running((0, 1, 2, 3)) as lab:
        for kid in (1, 2, 3):
            lab.connect(0, kid)
        impair(lab, 2, LINK, 1, LOSE_ALL)
        lab[1].send(2, b"relayed")
        heard = lab[1].send(BROADCAST, b"to all")
        assert lab[3].receive() == lab[0].receive() == heard
        eventually(lambda: lab[2].count("drop_impair_loss") == 2)
        frame = lab[3].send(2, b"relayed too")
        assert lab[2].receive() == frame
        frame = lab[0].send(2, b"of the relay's own guest")
        assert lab[2].receive() == frame


def test_the_relay_forwards_what_its_own_nic_would_lose() -> None:
    with running((0, 1, 2)) as lab:
        lab.connect(0, 1)
        lab.connect(0, 2)
        impair(lab, 0, NIC_IN, 0, LOSE_ALL)
        lab[0].pump.impair_down(NIC_OUT, 0, True)
        frame = lab[1].send(2)
        assert lab[2].receive() == frame
        frame = lab[1].send(BROADCAST)
        assert lab[2].receive() == frame
        assert not lab[0].has_frame()


@pytest.mark.parametrize("place", [NIC_IN, NIC_OUT])
def test_a_nic_is_impaired_towards_everybody(place: int) -> None:
    with running((1, 2, 3)) as lab:
        lab.connect_all()
        impair(lab, 1, place, 0, LOSE_ALL)
        for other in (2, 3):
            if place == NIC_OUT:
                lab[1].send(other)
                back = lab[other].send(1)
                assert lab[1].receive() == back
            else:
                lab[other].send(1)
                back = lab[1].send(other)
                assert lab[other].receive() == back
        eventually(lambda: lab[1].count("drop_impair_loss") == 2)


def test_link_and_nic_both_delay() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        impair(lab, 1, NIC_OUT, 0, Config(delay_ns=20 * MS).pack())
        impair(lab, 2, LINK, 1, Config(delay_ns=20 * MS).pack())
        impair(lab, 2, NIC_IN, 0, Config(delay_ns=20 * MS).pack())
        before = time.monotonic_ns()
        frames = [lab[1].send(2, b"%d" % number) for number in range(50)]
        assert [lab[2].receive() for _ in frames] == frames, "none overtakes"
        assert time.monotonic_ns() - before >= 60 * MS
        assert figures(lab, 2, NIC_IN)["delay_total_ns"] >= 50 * 20 * MS
        assert figures(lab, 2, LINK, 1)["late_p99_ns"] > 0


def test_a_filter_spares_what_it_does_not_match() -> None:
    program, address = compile_filter("ether[14] = 0x41")
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        lab[2].pump.impair(LINK, 1, LOSE_ALL, b"", program, address)
        lab[1].send(2, b"A lost")
        frame = lab[1].send(2, b"B spared")
        assert lab[2].receive() == frame
        told = figures(lab, 2, LINK, 1)
        assert (told["frames"], told["drop_loss"], told["unmatched"]) == (1, 1, 1)


def test_what_a_filter_spares_does_not_overtake_what_is_not_late() -> None:
    program, address = compile_filter("ether[14] = 0x41")
    with running((1, 2), bare=(1,)) as lab:
        lab.connect(1, 2)
        lab[2].pump.impair(LINK, 1, Config(corrupt=1).pack(), b"", program, address)
        frames = [NO_OFFLOAD + ethernet(2, b"AB"[n % 5 == 4 :][:1] + b"%d" % n, source=1) for n in range(50)]
        assert lab[1].links[2].send_many(FRAMES, [(0, frame) for frame in frames]) == 50
        os.eventfd_write(lab[2].bell, 1)
        assert [lab[2].receive() for _ in frames] == frames
        assert figures(lab, 2, LINK, 1)["frames"] == 40


def test_down_drops_all_and_up_again_goes_on_with_the_impairment() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        impair(lab, 2, LINK, 1, Config(delay_ns=MS).pack())
        lab[2].pump.impair_down(LINK, 1, True)
        lab[1].send(2)
        eventually(lambda: figures(lab, 2, LINK, 1)["drop_down"] == 1)
        lab[2].pump.impair_down(LINK, 1, False)
        frame = lab[1].send(2)
        assert lab[2].receive() == frame
        assert figures(lab, 2, LINK, 1)["passed"] == 1


def super_frame(segments: int, mss: int = 1000) -> tuple[bytes, bytes]:
    """(vnet header, IPv4 and TCP with `segments` times `mss` bytes): what a guest leaves the NIC to cut."""
    size = segments * mss
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40 + size, 7, 0x4000, 64, 6, 0, b"\x0a\1\2\1", b"\x0a\1\2\2")
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 1000, 0, 0x50, 0x18, 100, 0, 0)
    payload = b"".join(bytes([n + 1]) * mss for n in range(segments))
    return struct.pack("=BBHHHHH", 1, 1, 54, mss, 34, 16, 0), ip + tcp + payload


def test_a_super_frame_meets_an_impairment_as_the_frames_of_a_wire() -> None:
    config = Config(seed=1, loss_good=ONE // 2)
    wire = Wire(config)
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        impair(lab, 2, LINK, 1, config.pack())
        vnet, packet = super_frame(40)
        record = lab[1].send(2, packet, vnet)
        record = record[:24] + b"\x08\x00" + record[26:]
        lab[1].guest.send(record)  # the first, of an EtherType that is not IP, is none and has no fate
        survivors = [n for n in range(40) if wire.decide(0, 1054)[2]]
        got = [lab[2].receive() for _ in survivors]
        assert [frame[66] - 1 for frame in got] == survivors
        assert {len(frame) for frame in got} == {VNET_HEADER_SIZE + 1054}
        assert {frame[:VNET_HEADER_SIZE] for frame in got} == {NO_OFFLOAD}
        assert lab[2].count("drop_malformed") == 1
        assert figures(lab, 2, LINK, 1)["frames"] == 40


def test_what_waits_is_bounded() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        impair(lab, 2, LINK, 1, Config(delay_ns=3600 * 10**9).pack())
        payload = bytes(60_000)
        for _ in range(1300):
            lab[1].send(2, payload)
        eventually(lambda: lab[2].count("impaired_frames") == 1300)
        told = figures(lab, 2, LINK, 1)
        assert told["queued"] + told["drop_queue"] == 1300
        assert told["drop_queue"] > 100
        assert told["queued"] * 60_038 <= 64 << 20
        lab[1].send(BROADCAST)  # and all of it is freed with the pump


def test_a_hundred_thousand_changes_under_load_lose_and_leak_nothing() -> None:
    changes, sending = 100_000, threading.Event()
    settings = [
        Config(seed=n, delay_ns=n % 3 * MS // 10, jitter_ns=n % 2 * MS // 20, duplicate=ONE // 50).pack()
        for n in range(64)
    ]
    table = struct.pack("3i", -8192, 0, 8192)
    program, address = compile_filter("ether[14] != 0")
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        received = 0

        def receive() -> None:
            nonlocal received
            while lab[2].receive()[26:] != b"\x00end":
                received += 1

        def send() -> None:
            while not sending.is_set():
                lab[1].send(2, b"\x01" * 300)
            lab[1].send(2, b"\x00end")  # which the filter spares, last of all

        threads = [threading.Thread(target=receive), threading.Thread(target=send)]
        for thread in threads:
            thread.start()
        pump = lab[2].pump
        for number in range(changes):
            config = settings[number % 64] if number % 5 else None
            pump.impair(LINK, 1, config, table, program if number % 2 else None, address)
            if number % 7 == 0:
                pump.impair(NIC_IN, 0, settings[-number % 64], table, program, address)
        impair(lab, 2, LINK, 1, None)
        lab[2].pump.impair(NIC_IN, 0, Config(delay_ns=MS).pack(), b"", program, address)
        sending.set()
        threads[1].join()
        eventually(lambda: sum(figures(lab, 2, *at)["queued"] for at in ((LINK, 1), (NIC_IN, 0))) == 0)
        threads[0].join()
        left = 0
        while lab[2].has_frame():
            lab[2].receive()
            left += 1
        counters = pump.counters()
        sent = lab[1].count("tx_frames")
        assert counters["impaired_frames"] > 1000, "the load did meet them"
        drops = {name: count for name, count in counters.items() if name.startswith("drop_") and count}
        full = drops.pop("drop_no_memory", 0)  # this test's thread is no match for a pump
        assert drops == {}
        assert received + left + 1 == counters["rx_frames"] == sent + counters["impaired_copies"] - full


def test_wrong_arguments_are_refused() -> None:
    with running((1,)) as lab:
        pump = lab[1].pump
        with pytest.raises(ValueError, match="a place is"):
            pump.impair(3, 0, None, b"", None, 0)
        with pytest.raises(ValueError, match="a kid is"):
            pump.impair(LINK, 256, None, b"", None, 0)
        with pytest.raises(ValueError, match="104 bytes"):
            pump.impair(LINK, 1, b"", b"", None, 0)
        with pytest.raises(ValueError, match="bpf_insns"):
            pump.impair(LINK, 1, LOSE_ALL, b"", b"123", 1)
        with pytest.raises(ValueError, match="a place is"):
            pump.impair_figures(-1, 0)
        assert pump.impair_figures(LINK, 1) == {}
