"""The parts of `demo` that need no machine; the whole runs where machines can."""

from popnet.cli.demo import matrix, ping, round_trip_ms
from popnet.cli.inside import Outcome

IPUTILS = "64 bytes from 10.1.2.3: icmp_seq=1 ttl=64 time=0.071 ms\n"
BUSYBOX = "64 bytes from 10.1.2.3: seq=0 ttl=64 time=12.577 ms\n"


def test_times_of_both_pings() -> None:
    assert round_trip_ms(Outcome(0, IPUTILS, "")) == 0.071
    assert round_trip_ms(Outcome(0, BUSYBOX, "")) == 12.577


def test_no_answer_has_no_time() -> None:
    assert round_trip_ms(Outcome(1, "1 packets transmitted, 0 received", "")) is None
    assert round_trip_ms(Outcome(1, IPUTILS, "")) is None
    assert round_trip_ms(Outcome(127, "", "no ping")) is None


def test_matrix() -> None:
    assert matrix(["primary", "k1"], {("primary", "k1"): 0.071, ("k1", "primary"): 12.577}) == [
        "         primary       k1   ms",
        "primary        -     0.07",
        "k1         12.58        -",
    ]


def test_ping_is_one_that_both_know() -> None:
    assert ping("10.1.2.3") == ["ping", "-c", "1", "-W", "3", "10.1.2.3"]
