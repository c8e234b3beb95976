"""How a kernel waits at the rings of its links: poll, adaptive or interrupt, for each peer and ring; may be
switched while it runs.

What was chosen is kept by peer, not by link, so that a peer's next generation is waited for in the same way.
A kernel that owns less than a core never spins: there adaptive means interrupt, and poll is refused.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, get_args

from popnet.core.errors import Refused
from popnet.message.kinds import Ring
from popnet.message.stream import Stream
from popnet.transport.modes import DEFAULT_MODE, SPIN_MAX_US, Mode

RINGS: Final = ("high", "normal", "frames")
"""Names of the rings, by their index."""

MODES: Final[tuple[Mode, ...]] = get_args(Mode)


FRAMES: Final = RINGS.index("frames")


class ModeLink(Protocol):
    """What this needs of a link: its rings of messages."""

    def set_mode(self, ring: int, mode: Mode, spin_max_us: int = 20) -> None: ...


class ModePump(Protocol):
    """What this needs of a pump, which has the rings of frames of all links."""

    def set_mode(self, kid: int | None, mode: Mode, spin_max_us: int = 20) -> None: ...


class Modes:
    """The modes of one kernel.

    Args:
        cores: how many it owns.
        links: the links there are, by peer.
        polled: told (kid, rings) of the rings of messages that must be looked at all the time.

    Attributes:
        spin_max_us: the longest an adaptive ring may spin; 0 in a kernel that owns less than a core.
        pump: once there is one.
    """

    def __init__(
        self,
        cores: float,
        links: Callable[[], Mapping[int, ModeLink]],
        polled: Callable[[int, list[Ring]], None],
    ) -> None:
        self.spin_max_us = SPIN_MAX_US if cores >= 1 else 0
        self.pump: ModePump | None = None
        self._links = links
        self._polled = polled
        self._chosen: dict[tuple[int, int], Mode] = {}
        self._default: dict[int, Mode] = dict.fromkeys(range(len(RINGS)), DEFAULT_MODE)

    def set_cores(self, cores: float) -> None:
        """The kernel owns so many from now on. Where it may no longer poll, it waits as adaptive does."""
        spin_max_us = SPIN_MAX_US if cores >= 1 else 0
        if spin_max_us == self.spin_max_us:
            return
        self.spin_max_us = spin_max_us
        if not spin_max_us:
            self._chosen = {key: _unspun(mode) for key, mode in self._chosen.items()}
            self._default = {ring: _unspun(mode) for ring, mode in self._default.items()}
        if self.pump is not None:
            self.pump.set_mode(None, self._default[FRAMES], spin_max_us)
            for (kid, ring), mode in self._chosen.items():
                if ring == FRAMES:
                    self.pump.set_mode(kid, mode, spin_max_us)
        for peer, link in self._links().items():
            self.apply(peer, link)

    def of(self, kid: int, ring: int) -> Mode:
        """How *ring* of the link to *kid* is waited at, if there is one."""
        return self._chosen.get((kid, ring), self._default[ring])

    def apply(self, kid: int, link: ModeLink) -> None:
        """Make a new link to *kid* wait as was chosen."""
        for ring in Ring:
            link.set_mode(ring, self.of(kid, ring), self.spin_max_us)
        self._polled(kid, [ring for ring in Ring if self.of(kid, ring) == "poll"])

    def set(self, mode: Mode, kid: int | None = None, ring: int | None = None) -> None:
        """Wait so from now on; None: at every peer, those to come included; at every ring.

        Raises:
            Refused: this kernel may not poll.
        """
        if mode == "poll" and not self.spin_max_us:
            hint = "give it a CPU that no other secondary lists, or use adaptive"
            raise Refused("a kernel that owns less than a core may not poll", hint)
        rings = range(len(RINGS)) if ring is None else (ring,)
        for each in rings:
            if kid is not None:
                self._chosen[kid, each] = mode
                continue
            self._default[each] = mode
            self._chosen = {key: chosen for key, chosen in self._chosen.items() if key[1] != each}
        if self.pump is not None and FRAMES in rings:
            self.pump.set_mode(kid, mode, self.spin_max_us)
        for peer, link in self._links().items():
            self.apply(peer, link)

    def table(self) -> dict[str, dict[str, Mode]]:
        """How each ring of each link is waited at: by peer's number and ring's name."""
        return {
            str(kid): {name: self.of(kid, ring) for ring, name in enumerate(RINGS)}
            for kid in sorted(self._links())
        }

    async def serve(self, stream: Stream) -> None:
        """The service `modes`: sets a `mode`, if its parameters name one (of one `peer`, of one `ring`); its
        result is the table."""
        mode, peer, ring = parameters_of(stream.params)
        if mode is not None:
            self.set(mode, peer, ring)
        await stream.close({"modes": self.table()})


def _unspun(mode: Mode) -> Mode:
    return "adaptive" if mode == "poll" else mode


def parameters_of(params: Mapping[str, Any]) -> tuple[Mode | None, int | None, int | None]:
    """(mode, peer's kid, ring's index), each None if it is left out. Refused says what is allowed."""
    mode, peer, ring = params.get("mode"), params.get("peer"), params.get("ring")
    if mode is not None and mode not in MODES:
        raise Refused(f"mode: got {mode!r}, allowed are {', '.join(MODES)}")
    if ring is not None and ring not in RINGS:
        raise Refused(f"ring: got {ring!r}, allowed are {', '.join(RINGS)}")
    if peer is not None and (not isinstance(peer, int) or isinstance(peer, bool)):
        raise Refused(f"peer: got {peer!r}, expected a kernel's number")
    return mode, peer, None if ring is None else RINGS.index(ring)
