"""The frame pump between sockets that stand for TAPs: routing, relay, back-pressure, violations, the gate."""

import os
import random
import struct
import threading
from collections.abc import Callable

import pytest

from popnet.core.addresses import MAC_PREFIX, mac
from popnet.core.limits import FRAME_SIZE_MAX, VNET_HEADER_SIZE
from popnet.transport._native import (
    PAYLOAD_MAX,
    RING_OFFSETS,
    WORD_OFFSETS,
    LinkClosed,
    Pump,
)
from popnet.transport.doorbell import create_doorbell
from tests.transport.lab import ALIEN, BROADCAST, NO_OFFLOAD, Kernel, Lab, ethernet, eventually, running

FRAMES = 2
THINNED = "POPNET_TEST_THINNED" in os.environ
"""Fewer of what is done very often: a sanitizer is twenty times as slow."""
MULTICAST = b"\x33\x33\x00\x00\x00\x01"


# ---- routing


@pytest.mark.parametrize("poll_us", [0, 20])
def test_frames_go_both_ways_over_a_direct_link(poll_us: int) -> None:
    with running((1, 2), poll_us=poll_us) as lab:
        lab.connect(1, 2)
        for number in range(200):
            frame = lab[1].send(2, b"ping %d" % number)
            assert lab[2].receive() == frame
            frame = lab[2].send(1, b"pong %d" % number)
            assert lab[1].receive() == frame
        for kernel in lab.kernels.values():
            counters = kernel.pump.counters()
            assert counters["tx_frames"] == counters["rx_frames"] == 200
            assert counters["wrong_guesses"] <= 1


def test_the_vnet_header_goes_along() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        vnet = struct.pack("=BBHHHHH", 1, 0, 14, 0, 14, 2, 0)  # a checksum to do, as a stack leaves it
        frame = lab[1].send(2, vnet=vnet)
        assert lab[2].receive() == frame
        assert frame.startswith(vnet)


def test_every_length_from_nothing_to_too_much() -> None:
    data = random.Random(7).randbytes(FRAME_SIZE_MAX)
    head = NO_OFFLOAD + ethernet(2, b"")
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        lengths = lengths_to_try()
        for length in lengths:
            record = (head + data)[: VNET_HEADER_SIZE + length]
            lab[1].guest.send(record)
            if 14 <= length <= FRAME_SIZE_MAX:
                assert lab[2].receive() == record
        eventually(lambda: lab[1].count("drop_malformed") == 13 + 1)
        assert lab[1].count("tx_frames") == lab[2].count("rx_frames") == len(lengths) - 14


def lengths_to_try() -> list[int]:
    """All; under a sanitizer those near a limit, and every 500th."""
    every = range(1, FRAME_SIZE_MAX + 2)
    limits = (14, 60, 1514, 4096, 8192, 1 << 15, FRAME_SIZE_MAX)
    near = {limit + some for limit in limits for some in range(-20, 21)}
    return [length for length in every if not THINNED or length in near or length % 500 == 0]


@pytest.mark.parametrize("size", [0, 1, 46, 1486, 8178, 8179, 40_000, FRAME_SIZE_MAX - 14])
def test_frames_of_every_size(size: int) -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        for seed in range(5):
            frame = lab[1].send(2, random.Random(seed).randbytes(size))
            assert lab[2].receive() == frame


def test_frames_that_are_too_short_or_too_long_are_dropped() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        lab[1].guest.send(NO_OFFLOAD + bytes(13))
        lab[1].guest.send(b"x")
        lab[1].send(2, bytes(FRAME_SIZE_MAX - 14 + 1))
        good = lab[1].send(2)
        assert lab[2].receive() == good
        assert lab[1].count("drop_malformed") == 3


def test_frames_for_changing_destinations_go_right() -> None:
    chance = random.Random(3)
    with running(range(1, 6)) as lab:
        lab.connect_all()
        for number in range(500):
            to = chance.randrange(2, 6)
            frame = lab[1].send(to, b"%d" % number)
            assert lab[to].receive() == frame
        assert lab[1].count("wrong_guesses") > 100
        assert not any(lab[kid].has_frame() for kid in range(1, 6))


def test_without_a_link_or_a_relay_frames_are_dropped_and_the_link_is_wanted_once() -> None:
    with running((1, 2)) as lab:
        for _ in range(5):
            lab[1].send(2)
        eventually(lambda: lab[1].count("drop_no_link") == 5)
        assert lab[1].upcalled()
        assert lab[1].pump.wanted() == [2]
        lab[1].send(2)
        eventually(lambda: lab[1].count("drop_no_link") == 6)
        assert lab[1].pump.wanted() == [], "it was asked for a moment ago"


def test_frames_go_by_way_of_the_relay_until_there_is_a_link() -> None:
    with running((0, 1, 2)) as lab:
        lab.connect(0, 1)
        lab.connect(0, 2)
        frame = lab[1].send(2, b"relayed")
        assert lab[2].receive() == frame
        assert lab[1].pump.wanted() == [2]
        assert lab[0].count("relayed_frames") == 1
        lab.connect(1, 2)
        frame = lab[1].send(2, b"direct")
        assert lab[2].receive() == frame
        assert lab[0].count("relayed_frames") == 1
        assert lab[0].count("rx_frames") == 0, "the relay's own guest saw nothing"


def test_the_relay_drops_what_it_has_no_link_for() -> None:
    with running((0, 1)) as lab:
        lab.connect(0, 1)
        lab[1].send(7)
        lab[1].send(1 + 100)
        eventually(lambda: lab[0].count("drop_no_link") == 2)
        assert lab[0].pump.wanted() == []


@pytest.mark.parametrize("to", [BROADCAST, MULTICAST, ALIEN])
def test_a_group_frame_reaches_everybody_but_its_sender(to: bytes) -> None:
    with running(range(4)) as lab:
        lab.connect_all()
        frame = lab[2].send(to, b"who is there")
        for kid in (0, 1, 3):
            assert lab[kid].receive() == frame
        frame = lab[0].send(to, b"the primary asks")
        for kid in (1, 2, 3):
            assert lab[kid].receive() == frame
        assert not any(lab[kid].has_frame() for kid in range(4))
        assert lab[2].count("tx_frames") == 1
        assert lab[0].count("flooded_frames") == 2 + 3


def test_group_frames_without_a_relay_are_dropped() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        lab[1].send(BROADCAST)
        lab[1].send(ALIEN)
        eventually(lambda: lab[1].count("drop_no_link") == 1 and lab[1].count("drop_unknown") == 1)


def test_a_lonely_relay_drops_group_frames() -> None:
    with running((0,)) as lab:
        lab[0].send(BROADCAST)
        lab[0].send(ALIEN)
        eventually(lambda: lab[0].count("drop_no_link") == 1 and lab[0].count("drop_unknown") == 1)


def test_a_frame_to_oneself_is_dropped() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        lab[1].send(1)
        eventually(lambda: lab[1].count("drop_self") == 1)


def test_the_mac_prefix_is_that_of_the_addresses() -> None:
    assert mac(5) == MAC_PREFIX + b"\x05"
    with running((1, 5)) as lab:
        lab.connect(1, 5)
        frame = lab[1].send(mac(5))
        assert lab[5].receive() == frame


# ---- a full ring


def fill(lab: Lab, size: int) -> int:
    """Guest 1 sends frames to the bare kernel 2 until the pump holds one; returns how many the ring took."""
    sent = 0
    while lab[1].count("ring_full") == 0:
        lab[1].send(2, sent.to_bytes(4, "little") + bytes(size))
        sent += 1
        eventually(lambda: lab[1].count("tx_frames") == sent)  # noqa: B023
    return sent - 1


def test_a_full_ring_holds_frames_back_and_keeps_their_order() -> None:
    with running((1, 2), bare=(2,)) as lab:
        lab.connect(1, 2)
        sent, received, link = 0, 0, lab[2].links[1]
        chance = random.Random(5)
        while received < 2000:
            while sent < 2000 and sent - received < 120:  # more than a ring; less than it and the socket
                lab[1].send(2, sent.to_bytes(4, "little") + bytes(chance.randrange(20_000)))
                sent += 1
            for _, frame in link.receive_many(FRAMES, chance.randrange(1, 50)):
                assert int.from_bytes(frame[26:30], "little") == received
                received += 1
        assert link.receive(FRAMES) is None
        counters = lab[1].pump.counters()
        assert counters["ring_full"] > 0
        assert counters["drop_stalled"] == 0


def test_a_stalled_link_drops_its_frames_but_not_those_of_others() -> None:
    with running((1, 2, 3), bare=(2,)) as lab:
        lab.connect_all()
        held = fill(lab, 30_000)
        eventually(lambda: lab[1].count("stalls") == 1)
        assert lab[1].count("drop_stalled") == 1, "the frame that was held"
        for number in range(10):
            lab[1].send(2, b"lost")
            frame = lab[1].send(3, b"%d" % number)
            assert lab[3].receive() == frame
        taken = lab[2].links[1].receive_many(FRAMES, 1000)
        small = sum(frame[26:] == b"lost" for _, frame in taken)
        assert len(taken) == held + small, "small ones found the room a large one did not"
        assert lab[1].count("drop_stalled") == 1 + 10 - small
        frame = lab[1].send(2, b"it moves again")
        eventually(lambda: lab[1].count("tx_frames") == held + 1 + 20 + 1)
        assert lab[2].links[1].receive(FRAMES) == (0, frame)
        assert lab[1].count("stalls") == 1


def test_a_slow_link_does_not_hold_up_the_others() -> None:
    """It takes a frame now and then, so it never counts as stalled."""
    with running((1, 2, 3), bare=(2,)) as lab:
        lab.connect_all()
        fill(lab, 30_000)
        assert lab[2].links[1].receive(FRAMES)
        for number in range(300):
            lab[1].send(2, bytes(30_000))
            frame = lab[1].send(3, b"%d" % number)
            assert lab[3].receive() == frame
            if number % 2:
                assert lab[2].links[1].receive(FRAMES)
        counters = lab[1].pump.counters()
        assert counters["drop_slow"] + counters["drop_stalled"] > 100
        assert counters["slows"] > 0
        assert counters["drop_slow"] > 10 * counters["drop_stalled"]


def test_a_guest_with_one_peer_waits_for_it_without_loss() -> None:
    """The control: nobody else is held up, so nothing is dropped, however slow the peer is."""
    with running((1, 2), bare=(2,)) as lab:
        lab.connect(1, 2)
        sent = fill(lab, 30_000) + 1
        last = sent + (2 if THINNED else 25)
        while sent < last:
            lab[1].send(2, bytes(30_000))
            sent += 1
            taken = lab[1].count("tx_frames")
            assert lab[2].links[1].receive(FRAMES)
            eventually(lambda: lab[1].count("tx_frames") > taken or lab[1].count("tx_frames") == sent)  # noqa: B023
        assert lab[1].count("drop_slow") == lab[1].count("slows") == 0


def test_sources_have_their_turns_by_cost() -> None:
    """Small frames of one peer and large ones of another, all there before the pump starts."""
    frame_cost, quantum = 8192, 8 * 8192
    with running((1, 2, 3), bare=(1, 2, 3)) as lab:
        lab[1].stop()
        lab.kernels[1] = kernel = Kernel(1, budget=8)
        lab.connect(1, 2)
        lab.connect(1, 3)
        records = {2: NO_OFFLOAD + ethernet(1, bytes(50), 2), 3: NO_OFFLOAD + ethernet(1, bytes(10_000), 3)}
        for peer, count in ((2, 80), (3, 40)):
            assert lab[peer].links[1].send_many(FRAMES, [(0, records[peer])] * count) == count
            kernel.pump.attach(peer, kernel.links[peer])
        kernel.thread.start()
        cost, left = {2: 0, 3: 0}, {2: 80, 3: 40}
        while all(left.values()):
            record = kernel.receive()
            peer = record[VNET_HEADER_SIZE + 11]
            cost[peer] += len(record) + frame_cost
            left[peer] -= 1
            assert abs(cost[2] - cost[3]) <= quantum + 2 * (frame_cost + 10_026)
        assert cost[2] > 5 * quantum


def test_a_frame_that_is_held_goes_elsewhere_when_its_link_does() -> None:
    with running((0, 1, 2), bare=(2,)) as lab:
        lab.connect(0, 1)
        lab.connect(1, 2)
        lab.connect(0, 2)
        fill(lab, 60_000)
        lab[1].pump.detach(2)
        eventually(lambda: lab[0].count("relayed_frames") + lab[1].count("drop_stalled") == 1)


def test_the_relay_never_waits() -> None:
    with running((0, 1, 2), bare=(2,)) as lab:
        lab.connect(0, 1)
        lab.connect(0, 2)
        for _ in range(100):
            lab[1].send(2, bytes(30_000))
        for number in range(10):
            frame = lab[1].send(0, b"%d" % number)
            assert lab[0].receive() == frame
        counters = lab[0].pump.counters()
        assert counters["drop_relay_full"] + counters["relayed_frames"] == 100
        assert counters["drop_relay_full"] > 50


# ---- the NIC


def test_a_nic_without_carrier_drops_both_ways() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        lab[1].pump.set_link_up(False)
        lab[1].send(2)
        lab[2].send(1)
        assert lab[1].pump.inject(ethernet(2))
        eventually(lambda: lab[1].count("drop_link_down") == 3)
        lab[1].pump.set_link_up(True)
        frame = lab[1].send(2, b"up again")
        assert lab[2].receive() == frame


def test_the_relay_relays_without_a_carrier_of_its_own() -> None:
    with running((0, 1, 2)) as lab:
        lab.connect(0, 1)
        lab.connect(0, 2)
        lab[0].pump.set_link_up(False)
        frame = lab[1].send(2)
        assert lab[2].receive() == frame


def test_a_nic_that_is_gone_neither_spins_nor_harms() -> None:
    with running((0, 1, 2), poll_us=0) as lab:
        lab.connect_all()
        lab[0].guest.close()
        lab[1].send(0)
        eventually(lambda: lab[0].count("drop_nic_gone") + lab[0].count("drop_no_memory") == 1)
        lab[1].send(BROADCAST)
        assert lab[2].receive()
        eventually(lambda: len({lab[0].count("rounds") for _ in range(1000)}) == 1)  # it sleeps


def test_a_guest_that_does_not_read_loses_frames_but_blocks_nobody() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        for _ in range(400):
            lab[1].send(2, bytes(60_000))
        eventually(lambda: lab[2].count("rx_frames") + lab[2].count("drop_no_memory") == 400)
        assert lab[2].count("drop_no_memory") > 0


# ---- what Python does


def test_injected_frames_go_out_and_a_full_queue_says_so() -> None:
    lab = Lab((1, 2))
    lab.connect(1, 2)
    frames = [ethernet(2, b"%d" % number) for number in range(65)]
    assert [lab[1].pump.inject(frame) for frame in frames] == [True] * 64 + [False]
    lab[1].thread.start()
    lab[2].thread.start()
    assert [lab[2].receive() for _ in range(64)] == [NO_OFFLOAD + frame for frame in frames[:64]]
    assert lab[1].count("injected_frames") == lab[1].count("tx_frames") == 64
    for size in (0, 13, FRAME_SIZE_MAX + 1):
        with pytest.raises(ValueError, match="14 to 65550"):
            lab[1].pump.inject(bytes(size))
    for kernel in lab.kernels.values():
        kernel.stop()


def test_a_link_belongs_to_one_pump_and_its_frames_ring_to_that() -> None:
    with running((1, 2, 3)) as lab:
        lab.connect(1, 2)
        link = lab[1].links[2]
        for kid, kernel in ((2, lab[1]), (3, lab[1]), (2, lab[3])):
            with pytest.raises(ValueError, match="belongs to the pump"):
                kernel.pump.attach(kid, link)
        with pytest.raises(ValueError, match="belongs to the pump"):
            link.receive(FRAMES)
        assert link.send(0, b"messages are free")
        lab[1].pump.detach(2)
        assert link.receive(FRAMES) is None
        lab[3].pump.attach(1, link)


def test_attach_wants_a_kid_and_a_usable_link() -> None:
    with running((1, 2)) as lab:
        lab.connect(1, 2)
        for kid in (-1, 256):
            with pytest.raises(ValueError, match="0 to 255"):
                lab[1].pump.detach(kid)
        lab[1].pump.detach(9)
        lab[1].pump.detach(2)
        lab[1].links[2].close()
        with pytest.raises(LinkClosed):
            lab[1].pump.attach(2, lab[1].links[2])


def test_a_closed_link_is_used_no_more() -> None:
    with running((0, 1, 2)) as lab:
        lab.connect_all()
        frame = lab[1].send(2, b"direct")
        assert lab[2].receive() == frame
        lab[1].links[2].close()
        frame = lab[1].send(2, b"relayed")
        assert lab[2].receive() == frame
        assert lab[0].count("relayed_frames") == 1
        assert lab[1].pump.violations() == []


def test_a_new_link_replaces_the_old_one() -> None:
    with running((1, 2)) as lab:
        for generation in range(20):
            lab.connect(1, 2)
            frame = lab[1].send(2, b"%d" % generation)
            assert lab[2].receive() == frame
            lab[2].pump.detach(1)


def test_a_pump_runs_once_and_stops_for_good() -> None:
    with running((1,)) as lab:
        with pytest.raises(RuntimeError, match="runs already"):
            lab[1].pump.run()
        lab[1].pump.stop()
        lab[1].thread.join()
        lab[1].pump.run()


def test_the_constructor_checks_its_arguments() -> None:
    bell = create_doorbell()
    for arguments in ((-1, 64, 20), (256, 64, 20), (1, 0, 20), (1, 64, -1)):
        kid, budget, poll_us = arguments
        with pytest.raises(ValueError, match="kid is"):
            Pump(bell, bell, bell, kid, False, budget, poll_us)
    with pytest.raises(OSError, match="Bad file"):
        Pump(10_000, bell, bell, 1, False)
    os.close(bell)


def flooding(lab: Lab, stop: threading.Event) -> Callable[[], None]:
    def flood() -> None:
        while not stop.is_set():
            try:
                lab[1].guest.send(NO_OFFLOAD + ethernet(2, bytes(1000)))
            except BlockingIOError:
                continue

    return flood


def test_python_gets_in_and_may_change_everything_under_flood() -> None:
    """Links come and go, captures open and close while frames rush by: no crash, and we are not starved."""
    with running((0, 1, 2)) as lab:
        lab.connect_all()
        stop = threading.Event()
        lab[1].guest.settimeout(0)
        flood = threading.Thread(target=flooding(lab, stop))
        flood.start()
        try:
            for number in range(150):
                lab[1].pump.detach(2)
                lab[2].pump.detach(1)
                lab.connect(1, 2)
                capture = lab[1].pump.capture_open(1 << 16, 0, None, 0, -1)
                lab[1].pump.inject(ethernet(0, b"%d" % number))
                lab[1].pump.capture_read(capture, 10)
                lab[1].pump.set_link_up(bool(number % 2))
                lab[1].pump.capture_close(capture)
                lab[1].pump.wanted()
                lab[1].links[0].counters()
        finally:
            stop.set()
            flood.join()
        assert lab[1].count("tx_frames") > 0
        assert lab[1].pump.violations() == lab[2].pump.violations() == []


def test_nothing_leaks() -> None:
    def use() -> None:
        with running((1, 2)) as lab:
            lab.connect(1, 2)
            lab[1].pump.capture_open(1 << 16, 0, None, 0, lab[1].upcall)
            lab[1].send(2)
            lab[2].receive()
        idle = Lab((1, 2))
        idle.connect(1, 2)
        idle[1].pump.inject(ethernet(2))
        for kernel in idle.kernels.values():
            kernel.stop()

    def state() -> tuple[int, int]:
        maps = open("/proc/self/maps").read().count("popnet-window")  # noqa: SIM115
        return len(os.listdir("/proc/self/fd")), maps  # noqa: PTH208

    use()
    before = state()
    for _ in range(10):
        use()
    assert state() == before


# ---- mad peers


def poke_frame(lab: Lab, length: int, produced: int) -> None:
    """The bare kernel 2 claims to have sent one record of *length* bytes to kernel 1."""
    window, _ = lab[2].windows[1]
    window.poke(RING_OFFSETS[FRAMES], length.to_bytes(4, "little"))
    window.poke(WORD_OFFSETS["produced_frames"], produced.to_bytes(8, "little"))
    os.eventfd_write(lab[1].bell, 1)


@pytest.mark.parametrize(
    ("length", "produced", "text"),
    [
        (25, 64, "a frame is shorter than its headers"),
        (0, 64, "a frame is shorter than its headers"),
        (PAYLOAD_MAX[FRAMES] + 1, 1 << 17, "a record is longer"),
        (2**32 - 1, 64, "a record is longer"),
        (100, 64, "a record is longer"),
        (100, 65, "produced is not a multiple of 64"),
        (100, 2**21, "more than a ring ahead"),
    ],
)
def test_nonsense_in_the_frames_ring_retires_that_link_only(length: int, produced: int, text: str) -> None:
    with running((0, 1, 2, 3), bare=(2,)) as lab:
        lab.connect_all()
        poke_frame(lab, length, produced)
        eventually(lambda: lab[1].count("violations") == 1)
        assert text in str(lab[1].links[2].violation)
        assert lab[1].upcalled()
        assert lab[1].pump.violations() == [2]
        assert lab[1].pump.violations() == []
        frame = lab[1].send(3, b"others are fine")
        assert lab[3].receive() == frame
        lab[1].pump.detach(2)
        lab.connect(1, 2)
        frame = lab[1].send(2, b"and so is a new link")
        eventually(lambda: lab[1].count("tx_frames") == 2)
        assert lab[2].links[1].receive(FRAMES) == (0, frame)


def test_nonsense_about_room_retires_the_link() -> None:
    with running((1, 2), bare=(2,)) as lab:
        lab.connect(1, 2)
        lab[2].windows[1][0].poke(WORD_OFFSETS["consumed_frames"], (1 << 30).to_bytes(8, "little"))
        lab[1].send(2)
        eventually(lambda: lab[1].count("violations") == 1)
        assert lab[1].count("drop_violation") == 1
        assert "consumed is beyond" in str(lab[1].links[2].violation)


def test_random_nonsense_never_crashes_the_pump() -> None:
    chance = random.Random(11)
    names = [name for name in WORD_OFFSETS if name.endswith("frames")]
    with running((0, 1, 2, 3), bare=(2,)) as lab:
        lab.connect_all()
        for _ in range(300):
            window, _fd = lab[2].windows[1]
            for _ in range(chance.randrange(1, 6)):
                window.poke(
                    WORD_OFFSETS[chance.choice(names)], (chance.randrange(1 << 15) * 64).to_bytes(8, "little")
                )
                at = RING_OFFSETS[FRAMES] + chance.randrange(1 << 14) * 64
                window.poke(at, chance.randrange(1 << 17).to_bytes(4, "little") + chance.randbytes(60))
            lab[1].send(2, b"provoke")
            os.eventfd_write(lab[1].bell, 1)
            frame = lab[3].send(1, b"still there?")
            while lab[1].receive() != frame:
                pass
            if lab[1].pump.violations():
                lab[1].pump.detach(2)
                lab.connect(1, 2)
        assert lab[1].count("violations") > 10
