"""scapy on the NIC of a real kernel: what it sends is answered by the stack of another one."""

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether

import popnet.scapy
from tests.live.lab import Lab

K1, K2 = "02:70:6f:70:6e:01", "02:70:6f:70:6e:02"


@pytest.fixture(autouse=True)
def _(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("POPNET_RUN_DIR", str(pair.run_dir))
    monkeypatch.delenv("POPNET_MACHINE", raising=False)
    yield


def test_arp_is_answered() -> None:
    who_has = Ether(src=K1, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=K1, psrc="10.1.2.2", pdst="10.1.2.3")
    answer = popnet.scapy.srp1("k1", who_has, timeout=10, filter="arp")
    assert answer is not None
    assert (answer[ARP].hwsrc, answer[ARP].psrc) == (K2, "10.1.2.3")


def test_echo_requests_are_answered() -> None:
    pings = [
        Ether(src=K1, dst=K2) / IP(src="10.1.2.2", dst="10.1.2.3") / ICMP(id=7, seq=seq) / b"payload"
        for seq in range(20)
    ]
    answered, unanswered = popnet.scapy.srp("k1", pings, timeout=10, filter="icmp")
    assert len(unanswered) == 0
    assert sorted(reply[ICMP].seq for _, reply in answered) == list(range(20))
    assert all(bytes(reply[ICMP].payload) == b"payload" for _, reply in answered)


def test_sniffing_sees_what_the_kernel_does(pair: Lab) -> None:
    with pair.start("exec", "k1", "--", "ping", "-4", "-i0.1", "k2") as ping:
        packets = popnet.scapy.sniff("k1", filter="icmp", count=4, timeout=20)
        ping.terminate()
        ping.communicate(timeout=20)
    assert {packet[ICMP].type for packet in packets} == {0, 8}
    assert {(packet[ICMP].type, packet.direction) for packet in packets} == {(8, 4), (0, 0)}
