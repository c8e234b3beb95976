"""Links, NICs and faults of a machine file or a request: what is meant, what is refused, and where."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popnet.core.errors import InvalidMachineFile, Refused
from popnet.machine import file as machine_file
from popnet.machine.faults import Flap, Way, steps, ways
from popnet.machine.host import Host
from popnet.machine.impairment import DISTRIBUTIONS, Impairment, Loss, parse_loss
from popnet.machine.units import format_chance, format_rate, parse_chance, parse_rate
from popnet.machine.wires import read_impairment, read_plan, read_ways

IMAGES = str(Path(__file__).parents[2] / "kernels")
HOST = Host(cpus=(0, 1), memory_bytes=1 << 32)
HEAD = "apiVersion: popnet/v1\nname: lab\nkernels: {k1: {}, k2: {}}\n"
MS = 10**6

chances = st.floats(0, 1)
impairments = st.builds(
    Impairment,
    delay_ns=st.integers(1, 10**12),
    jitter_ns=st.integers(1, 10**12),
    distribution=st.sampled_from(DISTRIBUTIONS),
    ordered=st.booleans(),
    loss=st.one_of(
        chances.map(lambda p: Loss(good=p)),
        st.builds(Loss, chances, chances, chances.filter(bool), chances),
    ),
    duplicate=chances,
    corrupt=chances,
    reorder=chances,
    rate_bps=st.integers(1, 10**12),
    limit_bytes=st.one_of(st.none(), st.integers(1, 1 << 40)),
    match=st.sampled_from(["", "tcp port 80"]),
    seed=st.one_of(st.none(), st.integers(0, (1 << 53) - 1)),
)


@given(impairments)
def test_words_mean_what_they_were_made_of(impairment: Impairment) -> None:
    assert read_impairment(impairment.words()) == impairment


@given(st.integers(1, 10**12))
def test_rates_round_trip(rate_bps: int) -> None:
    assert parse_rate(format_rate(rate_bps)) == rate_bps


@given(chances)
def test_chances_round_trip(chance: float) -> None:
    assert parse_chance(format_chance(chance)) == chance


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [
        ("10mbit", 10**7),
        ("1.5Gbit", 1_500_000_000),
        ("500kbit", 500_000),
        ("9600bit", 9600),
        ("1Tbit", 10**12),
    ],
)
def test_rates(text: str, rate_bps: int) -> None:
    assert parse_rate(text) == rate_bps


@pytest.mark.parametrize("text", ["10mb", "10", "0bit", "2tbit", "-1mbit", "1 mbit", "0.0000001bit"])
def test_wrong_rates(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: a rate"):
        parse_rate(text)


@pytest.mark.parametrize("text", ["1", "101%", "-1%", "%", "1,5%", ""])
def test_wrong_chances(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: a chance"):
        parse_chance(text)


def test_losses_are_netems() -> None:
    assert parse_loss("1%") == Loss(good=0.01)
    assert parse_loss("gemodel 1%") == Loss(good=0.0, bad=1.0, to_bad=0.01, to_good=0.99)
    assert parse_loss("gemodel 1% 20% 70% 0.1%") == Loss(good=0.001, bad=0.7, to_bad=0.01, to_good=0.2)
    for text in ("gemodel", "gemodel 1% 2% 3% 4% 5%", "1% 2%", "bursts 1%"):
        with pytest.raises(ValueError, match="allowed: a chance such as 1%, or 'gemodel"):
            parse_loss(text)


def test_the_limit_is_100_ms_of_the_rate_unless_it_is_given() -> None:
    assert Impairment(rate_bps=10**9).limit_ns == 100 * MS
    assert Impairment(rate_bps=10**6).limit_ns == (1 << 15) * 8 * 1000, "and 32 KiB at least"
    assert Impairment(rate_bps=8 * 10**6, limit_bytes=5000).limit_ns == 5 * MS


def load(text: str) -> "machine_file.MachineSpec":
    return machine_file.loads(
        HEAD + text, HOST, [IMAGES], check_match=lambda text: "no" if text == "x" else None
    )


def test_a_file_with_links_nics_and_faults() -> None:
    spec = load(
        """
links:
  - {link: [k1, k2], delay: 5ms, loss: 1%, seed: 7}
  - {link: [k1, primary], direction: in, rate: 10mbit, match: tcp}
nics:
  - {nic: k2, direction: out, corrupt: 0.1%}
faults:
  - {at: 2s, link: [k1, k2], direction: out, down: true}
  - {at: 1s, nic: k2, flap: {down: 100ms, up: 200ms, times: 2}}
  - {at: 3s, link: [k1, k2], impair: {delay: 1ms}}
  - {at: 4s, link: [k1, k2], clear: true}
"""
    )
    delay = Impairment(delay_ns=5 * MS, loss=Loss(good=0.01), seed=7)
    assert dict(spec.impairments) == {
        Way("k1", "k2"): delay,
        Way("k2", "k1"): delay,
        Way("primary", "k1"): Impairment(rate_bps=10**7, match="tcp"),
        Way("k2", None): Impairment(corrupt=0.001),
    }
    done = [(step.at_ns // MS, step.action, step.impairment) for step in steps(spec.faults)]
    assert done == [
        (1000, "down", None),
        (1100, "up", None),
        (1300, "down", None),
        (1400, "up", None),
        (2000, "down", None),
        (3000, "set", Impairment(delay_ns=MS)),
        (4000, "set", Impairment()),
    ]
    assert spec.faults[0].ways == (Way("k1", "k2"),)
    assert spec.faults[1].flap == Flap(100 * MS, 200 * MS, 2)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("links:\n  - {link: [k1, k2], delay: 5}", "5:29: links.0.delay: got '5'; allowed: a duration"),
        (
            "links:\n  - {link: [k1, k2], latency: 5ms}",
            "5:22: links.0.latency: unknown key; did you mean 'delay'?",
        ),
        ("links:\n  - {link: [k1, k9], delay: 5ms}", "5:17: links.0.link.1: no kernel 'k9'"),
        ("links:\n  - {link: [k1, k1], delay: 5ms}", "links.0.link: a link joins two different kernels"),
        (
            "links:\n  - {link: k1, delay: 5ms}",
            "links.0.link: got 'k1'; allowed: two kernels, such as [k1, k2]",
        ),
        ("links:\n  - {delay: 5ms}", "5:5: links.0: no 'link': say where"),
        ("links: {}", "4:8: links: got a mapping; allowed: a list"),
        ("links: [5]", "links.0: got 5; allowed: a mapping with the keys"),
        (
            "links:\n  - {link: [k1, k2], delay: 5ms}\n  - {link: [k2, k1], direction: out, delay: 1ms}",
            "6:5: links.1: k2 -> k1 is impaired by links.0 already",
        ),
        ("nics:\n  - {nic: k1, rate: 10}", "nics.0.rate: got '10'; allowed: a rate"),
        ("nics:\n  - {nic: k1, jitter: 1ms}", "nics.0.jitter: needs 'delay' as well"),
        ("nics:\n  - {nic: k1, limit: 10K}", "nics.0.limit: needs 'rate' as well"),
        ("nics:\n  - {nic: k1, delay: 1ms, match: x}", "nics.0.match: no"),
        ("nics:\n  - {nic: k1, delay: 2h}", "nics.0.delay: got '2h'; allowed: at most 1h"),
        ("nics:\n  - {nic: k1, delay: 1ms, seed: -1}", "nics.0.seed: got -1; allowed: a whole number from 0"),
        ("faults:\n  - {nic: k1, down: true}", "5:5: faults.0: no 'at': say when"),
        (
            "faults:\n  - {at: 1s, nic: k1}",
            "faults.0: exactly one of down, clear, impair, flap is needed; got none",
        ),
        ("faults:\n  - {at: 1s, nic: k1, down: true, clear: true}", "got down and clear"),
        ("faults:\n  - {at: 1s, nic: k1, link: [k1, k2], down: true}", "faults.0.nic: 'link' is given too"),
        ("faults:\n  - {at: 1s, nic: k1, flap: {times: 0}}", "faults.0.flap.times: got 0"),
        ("faults:\n  - {at: 1s, nic: k1, impair: {loss: 5}}", "faults.0.impair.loss: got '5'"),
        ("faults:\n  - {at: 1s, nic: k1, impair: 5}", "faults.0.impair: got 5; allowed: a mapping"),
        ("faults:\n  - {at: soon, nic: k1, down: true}", "faults.0.at: got 'soon'; allowed: a duration"),
    ],
)
def test_wrong_files_are_told_with_their_line(text: str, error: str) -> None:
    with pytest.raises(InvalidMachineFile) as caught:
        load(text)
    assert error in str(caught.value), str(caught.value)
    assert len(str(caught.value).splitlines()) == 1, str(caught.value)


def test_requests_are_refused_by_word() -> None:
    for words, error in (
        ({"delay": "x"}, "delay: got 'x'"),
        ({"foo": 1}, "foo: unknown key"),
        ([], "got a list; allowed: a mapping"),
        ({"delay": True}, "delay: got true"),
    ):
        with pytest.raises(Refused, match=error):
            read_impairment(words)
    for where, error in (
        (("k1", "k1", None), "two different kernels"),
        (("k9", None, None), "no kernel 'k9'"),
        ((None, None, None), "kernel: got nothing; allowed: the name of a kernel"),
        ((5, None, None), "allowed: the name of a kernel"),
        (("k1", "k2", "up"), "direction: got 'up'"),
    ):
        with pytest.raises(Refused, match=error):
            read_ways(*where, ["primary", "k1", "k2"])
    with pytest.raises(Refused, match=r"faults\.0: no 'at'"):
        read_plan([{"nic": "k1", "down": True}], ["k1"])


def test_directions_are_seen_from_the_kernel() -> None:
    assert ways("k1", "k2", "in") == (Way("k2", "k1"),)
    assert ways("k1", None) == (Way("k1", None), Way(None, "k1"))
    assert [way.kernel for way in ways("k1", "k2")] == ["k2", "k1"], "where frames arrive"
