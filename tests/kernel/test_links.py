"""Links between kernels in one process: real windows and bells, and a switchboard that tests can hold up."""

import asyncio
import gc
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from popnet.core.errors import LinkViolation, PeerDied
from popnet.kernel.links import Links
from popnet.message.endpoint import Endpoint
from popnet.message.kinds import KERNEL_FIRST
from popnet.message.stream import Stream
from popnet.transport._native import WORD_OFFSETS
from popnet.transport.doorbell import create_doorbell
from popnet.transport.window import create_window


class Kernel:
    """A kernel reduced to its links and its endpoint."""

    def __init__(self, board: "Switchboard", kid: int, generation: int = 1) -> None:
        self.kid, self.generation = kid, generation
        self.bells = (create_doorbell(), create_doorbell())
        self.violations: list[tuple[int, str]] = []
        self.links = Links(kid, generation, self.bells, board.offer, self._violated)
        self.endpoint = Endpoint(kid, generation, self.bells[0], self.links.connect)
        self.endpoint.on_violation = self.links.violated
        self.links.endpoint = self.endpoint
        self.endpoint.serve("echo", self._echo)
        self.endpoint.start()
        board.kernels[kid] = self

    def _violated(self, kid: int, reason: str) -> None:
        self.violations.append((kid, reason))

    async def _echo(self, stream: Stream) -> None:
        while (received := await stream.receive()) is not None:
            await stream.send(received[1])

    async def ask(self, kid: int, data: bytes = b"ping") -> bytes:
        """What kernel *kid* echoes."""
        async with asyncio.timeout(30):
            stream = await self.endpoint.open(kid, "echo")
            await stream.send(data)
            answer = await stream.receive()
            await stream.close()
        assert answer is not None
        return answer[1]

    async def stop(self) -> None:
        await self.endpoint.stop()
        offered = [peer.fd for peer in self.links._peers.values() if peer.link is None]
        for fd in (*self.bells, *offered):
            os.close(fd)


class Switchboard:
    """Passes offers on as the primary does; while `held` they wait, and so one can have been too late."""

    def __init__(self) -> None:
        self.kernels: dict[int, Kernel] = {}
        self.held = False
        self.offers = 0
        self._waiting: deque[tuple[int, dict[str, Any], list[int]]] = deque()

    def offer(self, peer: int, packet: dict[str, Any], fds: Sequence[int]) -> None:
        self.offers += 1
        self._waiting.append((peer, packet, [os.dup(fd) for fd in fds]))
        if not self.held:
            asyncio.get_running_loop().call_soon(self.deliver)

    def deliver(self, count: int = 1) -> None:
        """Pass on *count* of the offers that wait, the oldest first."""
        for _ in range(min(count, len(self._waiting))):
            peer, packet, fds = self._waiting.popleft()
            if peer in self.kernels:
                self.kernels[peer].links.receive_offer(packet["from"], packet["generation"], fds)
            else:
                for fd in fds:
                    os.close(fd)
                self.kernels[packet["from"]].links.refused(peer, f"kernel {peer} does not run")

    def release(self) -> None:
        self.held = False
        self.deliver(len(self._waiting))


@pytest.fixture
def board() -> Iterator[Switchboard]:
    """A switchboard; nothing that the kernels of the test opened stays open."""
    before = _descriptors()
    board = Switchboard()
    yield board
    board.kernels.clear()
    assert _descriptors() <= before


def _descriptors() -> int:
    gc.collect()
    gc.collect()  # those of earlier tests
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def turns(count: int = 20) -> None:
    """Let everything run that is ready to."""
    for _ in range(count):
        await asyncio.sleep(0)


async def stop(board: Switchboard, *more: Kernel) -> None:
    for kernel in {*board.kernels.values(), *more}:
        await kernel.stop()


async def test_a_link_is_made_on_first_use_with_one_offer_each_way(board: Switchboard) -> None:
    a, b = Kernel(board, 1), Kernel(board, 2)
    assert await a.ask(2) == b"ping"
    assert await b.ask(1) == b"ping"
    assert board.offers == 2
    assert set(a.links.linked) == {2}
    assert set(b.links.linked) == {1}
    assert a.links.counters()[2]["normal_sent"] > 0
    await stop(board)


async def test_many_who_want_one_link_wait_for_the_same(board: Switchboard) -> None:
    a, _ = Kernel(board, 1), Kernel(board, 2)
    board.held = True
    connecting = [asyncio.create_task(a.links.connect(2)) for _ in range(5)]
    connecting[0].cancel()
    await turns()
    board.release()
    await turns()
    results = await asyncio.gather(*connecting, return_exceptions=True)
    assert results[1:] == [None] * 4
    assert board.offers == 2
    await stop(board)


async def test_offers_that_cross_make_one_link(board: Switchboard) -> None:
    a, b = Kernel(board, 1), Kernel(board, 2)
    board.held = True
    both = asyncio.gather(a.links.connect(2), b.links.connect(1))
    await turns()
    board.release()
    await both
    assert board.offers == 2
    assert (await a.ask(2), await b.ask(1)) == (b"ping", b"ping")
    await stop(board)


async def test_a_kernel_that_does_not_run(board: Switchboard) -> None:
    a = Kernel(board, 1)
    with pytest.raises(PeerDied, match="kernel 9 does not run"):
        await a.links.connect(9)
    with pytest.raises(PeerDied, match="kernel 9 does not run"):
        await a.ask(9)
    Kernel(board, 9)
    assert await a.ask(9) == b"ping"
    await stop(board)


async def test_the_peer_dies_while_the_offer_is_under_way(board: Switchboard) -> None:
    a = Kernel(board, 1)
    board.held = True
    connecting = asyncio.create_task(a.links.connect(2))
    await turns()
    a.links.peer_down(2, 1, "k2: killed")
    with pytest.raises(PeerDied, match="k2: killed"):
        await connecting
    board.release()
    assert a.links.linked == {}
    await stop(board)


async def test_offers_of_the_dead_are_dropped(board: Switchboard) -> None:
    a, old = Kernel(board, 1), Kernel(board, 2)
    board.held = True
    offering = asyncio.create_task(old.links.connect(1))
    await turns()
    a.links.peer_down(2, 1, "killed")
    board.release()
    await turns()
    assert a.links.linked == {}
    offering.cancel()
    Kernel(board, 2, generation=2)
    assert await a.ask(2) == b"ping"
    a.links.peer_down(2, 1, "told again")
    assert set(a.links.linked) == {2}, "the link to a later generation stays"
    await stop(board, old)


async def test_streams_end_with_their_peer_and_go_on_with_the_next_generation(board: Switchboard) -> None:
    a, old = Kernel(board, 1), Kernel(board, 2)
    stream = await a.endpoint.open(2, "echo")
    a.links.peer_down(2, 1, "k2: killed")
    with pytest.raises(PeerDied, match="k2: killed"):
        await stream.receive()
    Kernel(board, 2, generation=2)
    assert await a.ask(2) == b"ping"
    await stop(board, old)


async def test_a_new_generation_offers_before_the_old_ones_death_is_told(board: Switchboard) -> None:
    a, old = Kernel(board, 1), Kernel(board, 2)
    await a.ask(2)
    new = Kernel(board, 2, generation=2)
    assert await new.ask(1) == b"ping"
    a.links.peer_down(2, 1, "k2: killed")
    assert await a.ask(2) == b"ping"
    assert await new.ask(1) == b"ping"
    await stop(board, old)


async def test_a_death_told_late_does_not_make_two_kernels_offer_for_ever(board: Switchboard) -> None:
    """a's offer reaches the next generation of 2 before a is told that the last one died."""
    a, b = Kernel(board, 1), Kernel(board, 2, generation=2)
    board.held = True
    early = asyncio.create_task(a.links.connect(2))
    await turns()
    board.deliver()  # b has a's half, and its own is under way
    a.links.peer_down(2, 1, "k2: killed")
    with pytest.raises(PeerDied, match="k2: killed"):
        await early
    board.release()
    await turns(100)
    assert board.offers <= 4
    assert await a.ask(2) == b"ping"
    assert await b.ask(1) == b"ping"
    assert board.offers <= 4
    await stop(board)


async def test_a_wrong_number_of_descriptors(board: Switchboard) -> None:
    a = Kernel(board, 1)
    for count in (0, 1, 2, 4):
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
        with pytest.raises(LinkViolation, match=f"offered {count} descriptors"):
            a.links.receive_offer(2, 1, fds)
    await stop(board)


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_descriptors_that_are_something_else(board: Switchboard, which: int) -> None:
    a = Kernel(board, 1)
    for path, flags in (("/dev/null", os.O_RDWR), ("/", os.O_PATH), ("/dev/zero", os.O_RDONLY)):
        window, fd = create_window(2, 1, 1)
        fds = [fd, create_doorbell(), create_doorbell()]
        os.close(fds[which])
        fds[which] = os.open(path, flags)
        with pytest.raises(LinkViolation):
            a.links.receive_offer(2, 1, fds)
        assert a.links.linked == {}
        del window
    await stop(board)


@pytest.mark.parametrize("header", [(3, 1, 1), (2, 2, 1), (2, 1, 3)])
async def test_the_window_of_another_link(board: Switchboard, header: tuple[int, int, int]) -> None:
    a = Kernel(board, 1)
    _, fd = create_window(*header)
    with pytest.raises(LinkViolation, match="the window of another link"):
        a.links.receive_offer(2, 1, [fd, create_doorbell(), create_doorbell()])
    await stop(board)


async def test_nonsense_closes_the_link_until_the_next_generation(board: Switchboard) -> None:
    a, b = Kernel(board, 1), Kernel(board, 2)
    await a.ask(2)
    stream = await a.endpoint.open(2, "echo")
    window = b.links._peers[1].window
    window.poke(WORD_OFFSETS["produced_high"], b"\xff" * 8)
    a.endpoint.wake()
    with pytest.raises(PeerDied, match="not a multiple of 64"):
        await stream.receive()
    assert [kid for kid, _ in a.violations] == [2]
    assert a.links.linked == {}
    a.links.violated(2, "told again by the pump")
    assert len(a.violations) == 1
    with pytest.raises(PeerDied):
        await a.ask(2)
    new = Kernel(board, 2, generation=2)
    assert await a.ask(2) == b"ping"
    assert await new.ask(1) == b"ping"
    await stop(board, b)


async def test_heartbeats_show_in_the_peer(board: Switchboard) -> None:
    a, b = Kernel(board, 1), Kernel(board, 2)
    assert a.links.heartbeat(2) == 0
    await a.ask(2)
    for _ in range(3):
        b.links.beat()
    assert a.links.heartbeat(2) == 3
    await stop(board)


async def test_messages_ride_the_link_both_ways(board: Switchboard) -> None:
    a, b = Kernel(board, 1), Kernel(board, 2)
    heard: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
    b.endpoint.on(KERNEL_FIRST, lambda kid, body: heard.put_nowait((kid, body)))
    await a.links.connect(2)
    assert a.endpoint.post(2, KERNEL_FIRST, b"news")
    assert await heard.get() == (1, b"news")
    await stop(board)
