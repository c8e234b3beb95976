"""A NIC that is cut in both directions has no carrier, as one whose cable is out. The guest sees it.

A device that wraps the pump, where impairments are set. One direction cut alone leaves the carrier: the guest
must not notice, nor can it on a real wire.
"""

from collections.abc import Callable

from popnet.net.impairment import NIC_IN, NIC_OUT, ImpairPump


class Carrier:
    """An ImpairPump in front of *pump*; *set_carrier* is told when the carrier comes or goes."""

    def __init__(self, pump: ImpairPump, set_carrier: Callable[[bool], object]) -> None:
        self._pump = pump
        self._set_carrier = set_carrier
        self._cut: set[int] = set()
        self._on = True

    def impair(
        self,
        place: int,
        kid: int,
        config: bytes | None,
        table: bytes,
        program: bytes | None,
        bpf_filter_address: int,
        /,
    ) -> None:
        self._pump.impair(place, kid, config, table, program, bpf_filter_address)

    def impair_down(self, place: int, kid: int, down: bool, /) -> None:
        self._pump.impair_down(place, kid, down)
        if place in (NIC_IN, NIC_OUT):
            (self._cut.add if down else self._cut.discard)(place)
        on = len(self._cut) < 2
        if on != self._on:
            self._on = on
            self._set_carrier(on)

    def impair_figures(self, place: int, kid: int, /) -> dict[str, int]:
        return self._pump.impair_figures(place, kid)
