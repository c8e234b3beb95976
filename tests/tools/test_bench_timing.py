"""How wires are measured: nothing but a wire that carries every byte gets figures."""

import contextlib
import queue
import threading
from collections.abc import Callable

import pytest

from popnet.bench.timing import (
    REPORT,
    SIZE_MIN,
    Base,
    BlockingRoles,
    WireFault,
    check_report,
    figures,
    fitting,
    messages,
    percentile,
    report,
)

PATIENCE_S = 60
HANG_UP = b""
Spoil = Callable[[bytes], bytes | None]


class HungUp(Exception):
    """The leader gave up."""


class QueueWire(Base):
    """A wire in memory, which may spoil what it carries (None: lose it)."""

    def __init__(self, out: "queue.Queue[bytes]", into: "queue.Queue[bytes]", spoil: Spoil) -> None:
        self._out, self._into, self._spoil = out, into, spoil

    def send(self, data: bytes, /) -> None:
        spoilt = self._spoil(data)
        if spoilt is not None:
            self._out.put(spoilt)

    def receive(self) -> bytes:
        data = self._into.get(timeout=PATIENCE_S)
        if data == HANG_UP:
            raise HungUp
        return data


class QueueControl:
    """Both directions of a side channel between two threads."""

    def __init__(self) -> None:
        self.to: queue.Queue[tuple[str, int]] = queue.Queue()
        self.back: queue.Queue[tuple[str, int]] = queue.Queue()

    def tell(self, task: str, count: int) -> None:
        (self.back if task == "made" else self.to).put((task, count))

    def hear(self) -> tuple[str, int]:
        leads = threading.current_thread() is threading.main_thread()
        return (self.back if leads else self.to).get(timeout=PATIENCE_S)


def measured(spoil: Spoil, size: int = 64) -> object:
    """Measure a wire whose *follower* spoils what it sends, and whose leader does not."""
    one: queue.Queue[bytes] = queue.Queue()
    other: queue.Queue[bytes] = queue.Queue()
    roles = BlockingRoles(
        lambda: QueueWire(one, other, lambda data: data), lambda: QueueWire(other, one, spoil)
    )
    control = QueueControl()

    def follow() -> None:
        with contextlib.suppress(HungUp):
            roles.follow(control, size)

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        return roles.lead(control, size, 0.001)
    finally:
        control.tell("end", 0)
        one.put(HANG_UP)
        follower.join()


def test_a_good_wire_gets_figures() -> None:
    found = measured(lambda data: data)
    assert found.trips >= 50 and found.streamed >= 64  # type: ignore[attr-defined]
    assert 0 < found.p50_us <= found.p99_us and found.rate > 0  # type: ignore[attr-defined]


def test_a_changed_byte_is_a_fault() -> None:
    with pytest.raises(WireFault, match="others came back"):
        measured(lambda data: data[:-1] + bytes([data[-1] ^ 1]))


def test_a_stale_echo_is_a_fault() -> None:
    first = messages(64)[0]
    with pytest.raises(WireFault, match="others came back"):
        measured(lambda data: first)


def test_a_lost_message_of_a_stream_is_a_fault() -> None:
    with pytest.raises(WireFault, match="the other end reports"):
        check_report(report(99, 99 * 64, True, 64), 100, 64)


@pytest.mark.parametrize("answer", [report(100, 6399, True, 64), report(100, 6400, False, 64), b"short"])
def test_a_stream_with_other_bytes_is_a_fault(answer: bytes) -> None:
    with pytest.raises(WireFault):
        check_report(answer, 100, 64)


def test_messages_are_the_same_in_both_processes_and_all_different() -> None:
    assert messages(64) == messages(64)
    assert len({*messages(SIZE_MIN)}) == len(messages(SIZE_MIN))
    assert {len(data) for data in messages(1000)} == {1000}
    with pytest.raises(ValueError, match="too small"):
        messages(SIZE_MIN - 1)
    assert REPORT.size == SIZE_MIN


def test_figures_are_half_of_the_round_trips() -> None:
    found = figures([2000] * 99 + [8000], streamed=500, stream_ns=10**9)
    assert (found.p50_us, found.p99_us, found.rate) == (1.0, 4.0, 500.0)
    assert figures([2000], 0, 0).rate is None


def test_percentile() -> None:
    assert percentile([1, 2, 3], 0.5) == 2
    assert percentile([7], 0.99) == 7


@pytest.mark.parametrize(("each_ns", "expected"), [(1e6, 100), (1.0, 1000), (0.0, 1000), (1e9, 10)])
def test_fitting_the_budget(each_ns: float, expected: int) -> None:
    assert fitting(each_ns, 0.1, (10, 1000)) == expected
