"""What a window and a link do, call by call; the rings at large are in test_native_properties."""

import array
import gc
import os
import sys
from pathlib import Path

import pytest

from popnet.core import limits
from popnet.transport import _native
from popnet.transport._native import PAYLOAD_MAX, RING_SIZES, WORD_OFFSETS, Link, LinkClosed
from popnet.transport.window import attach_window, create_window
from tests.transport.pair import FRAMES, HIGH, NORMAL, End, Pair

RINGS = (HIGH, NORMAL, FRAMES)


def test_layout_agrees_with_the_limits() -> None:
    assert RING_SIZES == (limits.RING_HIGH_SIZE, limits.RING_NORMAL_SIZE, limits.RING_FRAMES_SIZE)
    assert PAYLOAD_MAX[FRAMES] == limits.VNET_HEADER_SIZE + limits.FRAME_SIZE_MAX
    assert PAYLOAD_MAX[HIGH] == limits.RING_HIGH_SIZE // 2
    assert PAYLOAD_MAX[NORMAL] == limits.RING_NORMAL_SIZE // 2
    assert sorted(WORD_OFFSETS.values()) == [128 * slot for slot in range(1, 15)]


def test_the_extension_is_built_for_the_stable_abi() -> None:
    assert _native.__file__.endswith(".abi3.so")


@pytest.mark.parametrize("ring", RINGS)
def test_a_record_arrives_with_its_tag(ring: int) -> None:
    with Pair() as pair:
        assert pair.a.link.send(ring, b"payload", 0xDEADBEEF)
        assert pair.b.link.receive(ring) == (0xDEADBEEF, b"payload")
        assert pair.b.link.receive(ring) is None


def test_both_directions_and_all_rings_are_separate() -> None:
    with Pair() as pair:
        for ring in RINGS:
            assert pair.a.link.send(ring, b"from a", ring)
            assert pair.b.link.send(ring, b"from b", ring)
        for ring in RINGS:
            assert pair.a.link.receive(ring) == (ring, b"from b")
            assert pair.b.link.receive(ring) == (ring, b"from a")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: array.array("B", data)])
def test_any_buffer_can_be_sent(kind: type[bytes]) -> None:
    with Pair() as pair:
        assert pair.a.link.send(NORMAL, kind(b"bytes"))
        assert pair.a.link.send_many(NORMAL, [(1, kind(b"more"))]) == 1
        assert pair.b.link.receive_many(NORMAL, 9) == [(0, b"bytes"), (1, b"more")]


@pytest.mark.parametrize("ring", RINGS)
def test_the_largest_payload_goes_and_one_byte_more_does_not(ring: int) -> None:
    with Pair() as pair:
        assert pair.a.link.send(ring, bytes(PAYLOAD_MAX[ring]))
        with pytest.raises(ValueError, match="larger than"):
            pair.a.link.send(ring, bytes(PAYLOAD_MAX[ring] + 1))
        with pytest.raises(ValueError, match="larger than"):
            pair.a.link.arm_room(ring, PAYLOAD_MAX[ring] + 1)


@pytest.mark.parametrize("tag", [-1, 2**32, 2**64])
def test_a_tag_has_32_bits(tag: int) -> None:
    with Pair() as pair:
        with pytest.raises(OverflowError):
            pair.a.link.send(HIGH, b"", tag)
        with pytest.raises(OverflowError):
            pair.a.link.send_many(HIGH, [(tag, b"")])
        assert pair.b.link.receive(HIGH) is None


@pytest.mark.parametrize("ring", [-1, 3, 2**31])
def test_there_are_three_rings(ring: int) -> None:
    with Pair() as pair, pytest.raises(ValueError, match="no such ring"):
        pair.a.link.send(ring, b"")


def test_wrong_arguments_are_refused() -> None:
    with Pair() as pair:
        link = pair.a.link
        with pytest.raises(TypeError):
            link.send(HIGH)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            link.send(HIGH, "text")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            link.send(HIGH, b"", label=1)  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            link.send_many(HIGH, [b"no tag"])  # type: ignore[list-item]
        with pytest.raises(TypeError):
            link.receive("high")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="negative"):
            link.arm_room(HIGH, -1)
        assert link.send(HIGH, b"", tag=3)
        assert pair.b.link.receive(HIGH) == (3, b"")


def test_what_was_staged_before_a_bad_item_is_sent() -> None:
    with Pair() as pair:
        with pytest.raises(TypeError):
            pair.a.link.send_many(HIGH, [(1, b"one"), (2, "two")])  # type: ignore[list-item]
        assert pair.b.link.receive_many(HIGH, 9) == [(1, b"one")]


def test_an_armed_peer_is_kicked_once_for_each_arming() -> None:
    with Pair() as pair:
        assert pair.b.link.arm(NORMAL)
        for _ in range(3):
            pair.a.link.send(NORMAL, b"")
        assert pair.b.rung() == 1
        assert not pair.b.link.arm(NORMAL), "there is data"
        pair.b.link.receive_many(NORMAL, 9)
        assert pair.b.link.arm(NORMAL)
        pair.a.link.send(NORMAL, b"")
        assert pair.b.rung() == 1
        pair.b.link.disarm(NORMAL)
        pair.a.link.send(NORMAL, b"")
        assert pair.b.rung() == 0
        counters = pair.a.link.counters()
        assert (counters["normal_kicks"], counters["normal_kicks_suppressed"]) == (2, 3)


def test_a_waiting_producer_is_kicked_at_half_empty() -> None:
    with Pair() as pair:
        record = bytes(1000)
        while pair.a.link.send(HIGH, record):
            pass
        assert pair.a.link.arm_room(HIGH, len(record))
        while pair.a.rung() == 0:
            assert pair.b.link.receive(HIGH)
            words = pair.a.window.words(), pair.b.window.words()
            used = words[0]["produced_high"] - words[1]["consumed_high"]
        assert used <= RING_SIZES[HIGH] // 2 - 64 < used + 1024
        assert pair.a.link.send(HIGH, bytes(PAYLOAD_MAX[HIGH])), "even the largest record has room now"


def test_a_bell_at_the_brim_is_no_error() -> None:
    with Pair() as pair:
        os.eventfd_write(pair.b.bell, 2**64 - 2)
        assert pair.b.link.arm(HIGH)
        assert pair.a.link.send(HIGH, b"")
        assert pair.b.link.receive(HIGH) == (0, b"")


def test_a_peer_without_a_bell_is_never_kicked() -> None:
    a, b = End(1, 2), End(2, 1)
    link = Link(a.window, attach_window(b.fd), -1, -1)
    b.link = Link(b.window, attach_window(a.fd), -1, -1)
    assert b.link.arm(HIGH)
    assert link.send(HIGH, b"poll for it")
    assert b.link.receive(HIGH) == (0, b"poll for it")
    a.close()
    b.close()


def test_a_closed_link_refuses_everything_but_its_counters() -> None:
    with Pair() as pair:
        pair.a.link.send(HIGH, b"")
        pair.a.link.close()
        pair.a.link.close()
        link = pair.a.link
        for call in (
            lambda: link.send(HIGH, b""),
            lambda: link.send_many(HIGH, []),
            lambda: link.receive(HIGH),
            lambda: link.receive_many(HIGH, 1),
            lambda: link.arm(HIGH),
            lambda: link.disarm(HIGH),
            lambda: link.arm_room(HIGH, 1),
            lambda: link.disarm_room(HIGH),
        ):
            with pytest.raises(LinkClosed):
                call()
        assert link.closed
        assert link.counters()["high_sent"] == 1
        assert pair.b.link.receive(HIGH) == (0, b""), "what was sent before still arrives"


def test_a_buffer_that_closes_the_link_meanwhile_does_no_harm() -> None:
    with Pair() as pair:

        class Items(list[tuple[int, bytes]]):
            def __getitem__(self, index: object) -> tuple[int, bytes]:  # type: ignore[override]
                pair.a.link.close()
                return (1, b"late")

        with pytest.raises(LinkClosed):
            pair.a.link.send_many(HIGH, Items([(1, b"")]))


def test_a_link_keeps_its_windows_mapped() -> None:
    with Pair() as pair:
        link, view = pair.a.link, attach_window(pair.a.fd)
        del pair.a.window, pair.a.link, pair.b.window
        gc.collect()
        assert link.send(HIGH, b"still here")
        assert view.words()["produced_high"] == 64


def test_nothing_leaks() -> None:
    def use() -> None:
        with Pair() as pair:
            for _ in range(50):
                pair.a.link.send_many(HIGH, [(300, b"x" * 100)] * 5)
                pair.b.link.receive_many(HIGH, 5)
                pair.b.link.receive(HIGH)
                pair.a.link.counters()
                pair.a.window.words()

    def state() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text().count("popnet-window")
        gc.collect()  # those of earlier tests
        return len(list(Path("/proc/self/fd").iterdir())), maps

    use()
    before, references = state(), sys.getrefcount(Link)
    for _ in range(20):
        use()
    assert state() == before
    assert sys.getrefcount(Link) == references


def test_a_payload_in_two_pieces_is_one_record() -> None:
    with Pair() as pair:
        body = memoryview(bytes(range(256)))
        assert pair.a.link.send(NORMAL, (b"head", body[1:5]), tag=7)
        items = [(8, (b"", body)), (9, b"whole"), (10, (bytearray(b"x"), b""))]
        assert pair.a.link.send_many(NORMAL, items) == 3
        records = pair.b.link.receive_many(NORMAL, 9)
        assert records == [(7, b"head\1\2\3\4"), (8, bytes(body)), (9, b"whole"), (10, b"x")]
        most = bytes(PAYLOAD_MAX[NORMAL])
        with pytest.raises(ValueError, match="larger than"):
            pair.a.link.send(NORMAL, (b"x", most))
        for wrong in ((b"x",), (b"x", b"y", b"z"), (b"x", "text"), (1, b"x"), (b"x", body[::2])):
            with pytest.raises((TypeError, BufferError)):
                pair.a.link.send(NORMAL, wrong)  # type: ignore[arg-type]
        assert pair.a.link.send(NORMAL, (b"x", most[1:]))
        assert not pair.a.link.send(NORMAL, (b"x", most[1:])), "full"
        assert [len(payload) for _, payload in pair.b.link.receive_many(NORMAL, 9)] == [len(most)]


def test_a_window_beats_and_tells_who_it_is() -> None:
    window, fd = create_window(7, 3, 9)
    view = attach_window(fd)
    os.close(fd)
    assert (view.kid, view.generation, view.peer_kid) == (7, 3, 9)
    assert view.heartbeat == 0
    window.beat()
    window.beat()
    assert view.heartbeat == view.words()["heartbeat"] == 2


def test_only_its_owner_writes_a_window() -> None:
    with Pair() as pair:
        view = attach_window(pair.a.fd)
        for call in (view.beat, lambda: view.initialise(1, 1, 2), lambda: view.poke(0, b"x")):
            with pytest.raises(ValueError, match="read-only"):
                call()
        with pytest.raises(ValueError, match="read-only"):
            Link(view, pair.a.window, -1, -1)


def test_a_poke_stays_inside() -> None:
    with Pair() as pair:
        for offset, data in (
            (_native.WINDOW_SIZE, b"x"),
            (_native.WINDOW_SIZE - 1, b"xx"),
            (2**32 - 1, b"x"),
        ):
            with pytest.raises(ValueError, match="outside"):
                pair.a.window.poke(offset, data)
        pair.a.window.poke(_native.WINDOW_SIZE - 1, b"x")


def test_links_need_windows_and_bells() -> None:
    with Pair() as pair:
        with pytest.raises(TypeError):
            Link(pair.a.window, pair.b, -1, -1)  # type: ignore[arg-type]
        with pytest.raises(OSError, match="Bad file descriptor"):
            Link(pair.a.window, attach_window(pair.b.fd), 10_000, -1)
        pair.a.poke_word("produced_high", 1)
        with pytest.raises(ValueError, match="unaligned"):
            Link(pair.a.window, attach_window(pair.b.fd), -1, -1)
