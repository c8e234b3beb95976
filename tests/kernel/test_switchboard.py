"""The switchboard: offers go on in their sender's true name, or come back with the reason."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from popnet.core.errors import PeerDied
from popnet.kernel.switchboard import Switchboard
from popnet.transport.handover import receive_packet
from tests.kernel.parts import Body, bring_online, roster_of, until


class Own:
    """The links of kernel 0, which write down what they are told."""

    def __init__(self) -> None:
        self.offered: list[tuple[int, int, int]] = []
        self.refusals: list[tuple[int, str]] = []

    def receive_offer(self, kid: int, generation: int, fds: list[int]) -> None:
        self.offered.append((kid, generation, len(fds)))
        for fd in fds:
            os.close(fd)

    def refused(self, peer: int, reason: str) -> None:
        self.refusals.append((peer, reason))


class Lab:
    """k1 and k2 run."""

    def __init__(self, tmp: Path) -> None:
        self.roster = roster_of(tmp)
        self.bodies = {}
        for kernel in list(self.roster)[1:]:
            bring_online(kernel)
            self.bodies[kernel.spec.kid] = Body(kernel)
        self.switchboard = Switchboard(self.roster)
        self.own: Any = Own()
        self.switchboard.own = self.own

    def heard(self, kid: int) -> tuple[dict[str, Any], int]:
        """The next packet that kernel *kid* was handed, and how many descriptors."""
        packet = receive_packet(self.bodies[kid].theirs)
        assert packet is not None
        message, fds = packet
        for fd in fds:
            os.close(fd)
        return message, len(fds)

    def take(self, kid: int, packet: dict[str, Any], count: int = 0) -> list[int]:
        """Kernel *kid* hands *packet* over, with so many descriptors, which are told."""
        fds = [os.eventfd(0) for _ in range(count)]
        self.switchboard.take(self.bodies[kid].incarnation, packet, fds)
        return fds


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    for body in lab.bodies.values():
        body.close()


def closed(fds: list[int]) -> bool:
    for fd in fds:
        try:
            os.fstat(fd)
        except OSError:
            continue
        return False
    return True


async def test_an_offer_goes_to_its_peer_in_its_senders_true_name(lab: Lab) -> None:
    fds = lab.take(1, {"op": "offer", "to": 2, "from": 77, "generation": 99}, 3)
    assert lab.heard(2) == ({"op": "offer", "from": 1, "to": 2, "generation": 1}, 3)
    assert closed(fds), "the peer has its own by now"


async def test_an_offer_to_kernel_0_is_its_own(lab: Lab) -> None:
    fds = lab.take(2, {"op": "offer", "to": 0}, 3)
    assert lab.own.offered == [(2, 1, 3)] and closed(fds)


@pytest.mark.parametrize(
    ("peer", "reason"),
    [(9, "there is no kernel 9"), (2, "kernel k2 does not run")],
)
async def test_an_offer_that_cannot_be_passed_on_comes_back(lab: Lab, peer: int, reason: str) -> None:
    lab.roster.by_kid[2].incarnation = None
    fds = lab.take(1, {"op": "offer", "to": peer}, 2)
    assert lab.heard(1) == ({"op": "refused", "to": peer, "reason": reason}, 0)
    assert closed(fds)


async def test_a_kernel_that_has_stopped_reading_takes_no_offers(lab: Lab) -> None:
    lab.bodies[2].theirs.close()
    lab.take(1, {"op": "offer", "to": 2}, 1)
    assert lab.heard(1)[0]["reason"] == "kernel k2 does not take offers of links"


async def test_offers_of_kernel_0_go_straight_or_are_refused_later(lab: Lab) -> None:
    bell = os.eventfd(0)
    lab.switchboard.offer(1, {"op": "offer", "from": 0, "to": 1, "generation": 1}, [bell])
    assert lab.heard(1) == ({"op": "offer", "from": 0, "to": 1, "generation": 1}, 1)
    lab.switchboard.offer(9, {"op": "offer"}, [bell])
    assert lab.own.refusals == [], "not in the middle of the call"
    await until(lambda: lab.own.refusals)
    assert lab.own.refusals == [(9, "there is no kernel 9")]
    os.close(bell)


async def test_a_daemon_says_why_it_fails(lab: Lab) -> None:
    lab.take(1, {"op": "failed", "reason": "nic: " + "x" * 10_000, "hint": "mend it"})
    with pytest.raises(Exception, match="nic: x") as caught:
        await asyncio.shield(lab.bodies[1].incarnation.online)
    assert len(str(caught.value)) < 5_000


@pytest.mark.parametrize(
    ("packet", "count"),
    [
        ({}, 0),
        ({"op": "boot"}, 2),
        ({"op": "offer", "to": "2"}, 3),
        ({"op": "offer"}, 1),
        ({"op": "failed", "reason": 1, "hint": ""}, 0),
        ({"op": "failed", "reason": "", "hint": ""}, 1),
    ],
)
async def test_nonsense_ends_its_sender_and_keeps_no_descriptor(
    lab: Lab, packet: dict[str, Any], count: int
) -> None:
    fds = [os.eventfd(0) for _ in range(count)]
    with pytest.raises(PeerDied, match="handed over what nobody asked for"):
        lab.switchboard.take(lab.bodies[1].incarnation, packet, fds)
    assert closed(fds)
