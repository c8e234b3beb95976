"""The switchboard: daemons hand offers of links over to the primary, which passes them on to the peer.

Only offers need it, because descriptors must go through a socket. An offer is passed on in its sender's true
name and generation, which nobody but the primary knows. One that cannot be passed on is refused, with the
reason.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from popnet.core import limits
from popnet.core.errors import PeerDied
from popnet.kernel.incarnation import Incarnation
from popnet.kernel.links import Links
from popnet.kernel.roster import Roster
from popnet.machine.states import KernelState


class Switchboard:
    """Takes what the daemons of the kernels of *roster* hand over.

    Attributes:
        own: the links of kernel 0; its owner sets them before anybody offers anything.
    """

    own: Links

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def offer(self, peer: int, packet: dict[str, Any], fds: Sequence[int]) -> None:
        """Kernel 0's own offers go straight to the peer."""
        if not self._send(peer, packet, fds):
            asyncio.get_running_loop().call_soon(self.own.refused, peer, self._why_not(peer))

    def take(self, sender: Incarnation, packet: dict[str, Any], fds: list[int]) -> None:
        """A packet that *sender* handed over; takes the descriptors. Raises PeerDied if it is nonsense."""
        match packet:
            case {"op": "offer", "to": 0}:
                self.own.receive_offer(sender.kernel.kid, sender.generation, fds)
            case {"op": "offer", "to": int(peer)}:
                self._switch(sender, peer, fds)
            case {"op": "failed", "reason": str(reason), "hint": str(hint)} if not fds:
                sender.failed(reason[: limits.REPORT_TEXT_MAX], hint[: limits.REPORT_TEXT_MAX])
            case unknown:
                for fd in fds:
                    os.close(fd)
                raise PeerDied(f"handed over what nobody asked for: {str(unknown)[:80]}")

    def _switch(self, sender: Incarnation, peer: int, fds: list[int]) -> None:
        """Pass an offer on, in the sender's true name; or say that its peer does not run."""
        packet = {"op": "offer", "from": sender.kernel.kid, "to": peer, "generation": sender.generation}
        if not self._send(peer, packet, fds):
            sender.send({"op": "refused", "to": peer, "reason": self._why_not(peer)})
        for fd in fds:
            os.close(fd)

    def _send(self, peer: int, packet: dict[str, Any], fds: Sequence[int]) -> bool:
        kernel = self._roster.by_kid.get(peer)
        return kernel is not None and kernel.incarnation is not None and kernel.incarnation.send(packet, fds)

    def _why_not(self, kid: int) -> str:
        kernel = self._roster.by_kid.get(kid)
        if kernel is None:
            return f"there is no kernel {kid}"
        answers = kernel.incarnation is not None and kernel.life.state is KernelState.ONLINE
        return f"kernel {kernel.spec.name} does not {'take offers of links' if answers else 'run'}"
