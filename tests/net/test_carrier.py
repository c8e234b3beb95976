"""When a NIC that is cut has no carrier."""

import pytest

from popnet.net.carrier import Carrier
from popnet.net.impairment import LINK, NIC_IN, NIC_OUT


class FakeImpairPump:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

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
        self.calls.append(("impair", place, kid, config, table, program, bpf_filter_address))

    def impair_down(self, place: int, kid: int, down: bool, /) -> None:
        self.calls.append(("down", place, kid, down))

    def impair_figures(self, place: int, kid: int, /) -> dict[str, int]:
        return {"frames": place}


@pytest.mark.parametrize(
    ("cuts", "carrier"),
    [
        ([(NIC_IN, True), (NIC_OUT, True)], [False]),
        ([(NIC_OUT, True), (NIC_OUT, True), (LINK, True)], []),
        ([(NIC_OUT, True), (NIC_IN, True), (NIC_IN, True), (NIC_IN, False), (NIC_OUT, False)], [False, True]),
        ([(NIC_IN, False), (NIC_OUT, False)], []),
    ],
)
def test_the_carrier_goes_with_both_directions(cuts: list[tuple[int, bool]], carrier: list[bool]) -> None:
    pump, told = FakeImpairPump(), []
    wire = Carrier(pump, told.append)
    for place, down in cuts:
        wire.impair_down(place, 0, down)
    assert told == carrier
    assert pump.calls == [("down", place, 0, down) for place, down in cuts]


def test_everything_else_is_the_pumps() -> None:
    pump = FakeImpairPump()
    wire = Carrier(pump, lambda on: pytest.fail("the carrier is nobody's business here"))
    wire.impair(NIC_IN, 0, b"c", b"t", b"p", 7)
    assert pump.calls == [("impair", NIC_IN, 0, b"c", b"t", b"p", 7)]
    assert wire.impair_figures(NIC_OUT, 0) == {"frames": NIC_OUT}
