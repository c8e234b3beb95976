"""The links of one kernel: made on first use, by exchanging offers through the primary's switchboard.

An *offer* is this kernel's half of a link: a window that it writes and the peer may read, and its two
doorbells. A link is complete
when both have offered; who began does not matter, so two kernels that offer at the same moment end up with
one link:

    idle --connect: offer--> offered --offer comes--> linked
    idle --offer comes: offer--> linked --peer down--> idle
    offered --peer down--> withdrawn --connect: offer again--> offered
                           withdrawn --offer comes: offer again--> linked

Offers and the news of deaths travel on different ways. So an offer may have reached the peer's next
generation when the death of its last one is told: what was offered is kept then, and offered *again*, not
made anew; and the offer of a window that a kernel is linked to already is no news to it. Two windows for one
link would leave two kernels that each read what the other no longer writes.

Forbidden: linking to a generation that is known to be dead (its offer was still under way), or whose link
was closed for nonsense; such an offer is dropped.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from popnet.core.errors import LinkViolation, PeerDied
from popnet.message.endpoint import Endpoint
from popnet.transport._native import Link, Pump, Window
from popnet.transport.doorbell import check_doorbell
from popnet.transport.window import attach_window, create_window

SendOffer = Callable[[int, dict[str, Any], Sequence[int]], None]


@dataclass(slots=True)
class _Peer:
    window: Window
    fd: int  # of the window, for as long as it may have to be offered again; then -1
    linked: asyncio.Future[None]
    withdrawn: bool = False
    generation: int = 0
    inode: int = 0  # of the peer's window
    link: Link | None = None
    peer_window: Window | None = None


class Links:
    """The links of kernel *kid*, shared between its endpoint (messages) and its pump (frames).

    Args:
        send_offer: sends (peer, packet, descriptors) towards a peer.
        on_violation: told (peer, reason) when a peer wrote nonsense and its link was closed.

    Attributes:
        on_link: told (peer, link) of each link as soon as it is complete.
    """

    def __init__(
        self,
        kid: int,
        generation: int,
        bells: tuple[int, int],
        send_offer: SendOffer,
        on_violation: Callable[[int, str], None],
    ) -> None:
        self._kid = kid
        self._generation = generation
        self._bells = bells
        self._send_offer = send_offer
        self._on_violation = on_violation
        self._peers: dict[int, _Peer] = {}
        self._dead: dict[int, int] = {}  # kid -> newest generation known to be dead
        self._mad: dict[int, int] = {}  # kid -> newest generation whose link was closed for nonsense
        self.on_link: Callable[[int, Link], None] = lambda kid, link: None
        self.endpoint: Endpoint
        self.pump: Pump | None = None

    @property
    def linked(self) -> dict[int, Link]:
        """The complete links by peer."""
        return {kid: peer.link for kid, peer in self._peers.items() if peer.link is not None}

    def beat(self) -> None:
        """Show every peer that this kernel is alive."""
        for peer in self._peers.values():
            peer.window.beat()

    def heartbeat(self, kid: int) -> int:
        """The heartbeats that *kid* has counted in its window, 0 without a link."""
        peer = self._peers.get(kid)
        return peer.peer_window.heartbeat if peer and peer.peer_window else 0

    async def connect(self, kid: int) -> None:
        """Make a link to *kid*, or wait for the one that is being made. Raises PeerDied if it does not
        run."""
        await asyncio.shield(self._offered(kid).linked)

    def start_frames(self, pump: Pump) -> None:
        """From now on frames ride the links too."""
        self.pump = pump
        for kid, link in self.linked.items():
            pump.attach(kid, link)

    def receive_offer(self, kid: int, generation: int, fds: Sequence[int]) -> None:
        """Take a peer's offer; the descriptors are this call's to close.

        Raises:
            LinkViolation: what was handed over is not half a link.
        """
        try:
            if generation <= self._dead.get(kid, 0):
                if generation == self._mad.get(kid):
                    self.refused(kid, f"the link to kernel {kid} was closed because of nonsense on it")
                return
            window_fd, message_bell, frame_bell = fds
            if (known := self._peers.get(kid)) is not None and known.link is not None:
                if (known.generation, known.inode) == (generation, os.fstat(window_fd).st_ino):
                    return
                self._forget(kid, known, f"kernel {kid} began another link")
            check_doorbell(message_bell)
            check_doorbell(frame_bell)
            window = attach_window(window_fd)
            if (window.kid, window.generation, window.peer_kid) != (kid, generation, self._kid):
                raise LinkViolation(f"kernel {kid} offered the window of another link")
            peer = self._offered(kid)
            peer.inode = os.fstat(window_fd).st_ino
            self._complete(kid, generation, peer, window, message_bell, frame_bell)
        except ValueError:
            raise LinkViolation(f"kernel {kid} offered {len(fds)} descriptors instead of three") from None
        finally:
            for fd in fds:
                os.close(fd)

    def refused(self, kid: int, reason: str) -> None:
        """The peer that an offer went to does not run."""
        peer = self._peers.get(kid)
        if peer is not None and peer.link is None:
            self._forget(kid, peer, reason)

    def peer_down(self, kid: int, generation: int, reason: str) -> None:
        """Forget the links to *generation* of *kid* and older ones; whoever waits for it gets PeerDied."""
        self._dead[kid] = max(generation, self._dead.get(kid, 0))
        peer = self._peers.get(kid)
        if peer is None or (peer.link is not None and peer.generation > generation):
            return
        if peer.link is not None:
            self._forget(kid, peer, reason)
        elif not peer.withdrawn:
            _fail(peer.linked, PeerDied(reason))
            peer.linked = asyncio.get_running_loop().create_future()
            peer.withdrawn = True

    def violated(self, kid: int, reason: str) -> None:
        """A peer's nonsense was met: its link is gone until its next generation."""
        peer = self._peers.get(kid)
        if peer is not None and peer.link is not None:
            self._mad[kid] = peer.generation
            self.peer_down(kid, peer.generation, f"link closed: {reason}")
            self._on_violation(kid, reason)

    def counters(self) -> dict[int, dict[str, int]]:
        return {kid: link.counters() for kid, link in self.linked.items()}

    def _offered(self, kid: int) -> _Peer:
        """The peer *kid*, with this kernel's half of the link offered to it."""
        peer = self._peers.get(kid)
        if peer is None:
            window, fd = create_window(self._kid, self._generation, kid)
            peer = self._peers[kid] = _Peer(window, fd, asyncio.get_running_loop().create_future(), True)
        if peer.withdrawn:
            peer.withdrawn = False
            packet = {"op": "offer", "from": self._kid, "to": kid, "generation": self._generation}
            self._send_offer(kid, packet, (peer.fd, *self._bells))
        return peer

    def _forget(self, kid: int, peer: _Peer, reason: str) -> None:
        del self._peers[kid]
        _fail(peer.linked, PeerDied(reason))
        if peer.link is None:
            os.close(peer.fd)
            return
        if self.pump is not None:
            self.pump.detach(kid)
        self.endpoint.remove_link(kid, reason)
        peer.link.close()

    def _complete(
        self, kid: int, generation: int, peer: _Peer, window: Window, message_bell: int, frame_bell: int
    ) -> None:
        peer.generation = generation
        peer.peer_window = window
        peer.link = Link(peer.window, window, message_bell, frame_bell)
        os.close(peer.fd)
        peer.fd = -1
        self.endpoint.add_link(kid, generation, peer.link)
        self.on_link(kid, peer.link)
        if self.pump is not None:
            self.pump.attach(kid, peer.link)
        if not peer.linked.done():
            peer.linked.set_result(None)


def _fail(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen: nobody may be waiting
