"""scapy on the NIC of a real kernel: what it sends is answered by the stack of another one."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils import rdpcap

import popnet.scapy
from popnet.cli.tracefiles import PSEUDO_HEADER
from popnet.message.kinds import Kind
from tests.live.lab import Lab, wait_until

EXAMPLES = Path(__file__).resolve().parents[2] / "tools" / "examples"
MAC = "02:00:00:00:00:77"
K1, K2 = "02:70:6f:70:6e:01", "02:70:6f:70:6e:02"


@pytest.fixture(autouse=True)
def _(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("POPNET_RUN_DIR", str(pair.run_dir))
    monkeypatch.delenv("POPNET_MACHINE", raising=False)
    yield


def test_arp_is_answered() -> None:
    who_has = Ether(src=K1, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=K1, psrc="10.1.2.2", pdst="10.1.2.3")
    answer = popnet.scapy.srp1("k1", who_has, timeout=60, filter="arp")
    assert answer is not None
    assert (answer[ARP].hwsrc, answer[ARP].psrc) == (K2, "10.1.2.3")


def test_echo_requests_are_answered() -> None:
    pings = [
        Ether(src=K1, dst=K2) / IP(src="10.1.2.2", dst="10.1.2.3") / ICMP(id=7, seq=seq) / b"payload"
        for seq in range(20)
    ]
    answered, unanswered = popnet.scapy.srp("k1", pings, timeout=60, filter="icmp")
    assert len(unanswered) == 0
    assert sorted(reply[ICMP].seq for _, reply in answered) == list(range(20))
    assert all(bytes(reply[ICMP].payload) == b"payload" for _, reply in answered)


def test_sniffing_sees_what_the_kernel_does(pair: Lab) -> None:
    with pair.start("exec", "k1", "--", "ping", "-4", "-i0.1", "k2") as ping:
        packets = popnet.scapy.sniff("k1", filter="icmp", count=4, timeout=60)
        ping.terminate()
        ping.communicate(timeout=20)
    assert {packet[ICMP].type for packet in packets} == {0, 8}
    assert {(packet[ICMP].type, packet.direction) for packet in packets} == {(8, 4), (0, 0)}


def test_sniffing_on_a_link_sees_that_link_alone(pair: Lab) -> None:
    seen: list[Packet] = []
    sniffer = popnet.scapy.AsyncSniffer("k1-k2", filter="icmp", prn=seen.append)
    sniffer.start()
    pair.ping("k1", "primary", "-4")
    pair.ping("k2", "k1", "-4")
    wait_until(lambda: {packet[ICMP].type for packet in seen} == {0, 8}, "both have been seen")
    sniffer.stop()
    assert {(packet[IP].src, packet[IP].dst) for packet in seen} == {
        ("10.1.2.3", "10.1.2.2"),
        ("10.1.2.2", "10.1.2.3"),
    }


def test_frames_of_a_link_leave_the_kernel_they_come_from() -> None:
    with popnet.scapy.KernelSocket("k1-k2", filter="icmp") as link:
        for source, target, here, there in (
            (K1, K2, "10.1.2.2", "10.1.2.3"),
            (K2, K1, "10.1.2.3", "10.1.2.2"),
        ):
            ping = Ether(src=source, dst=target) / IP(src=here, dst=there) / ICMP(id=source == K1) / b"link"
            answer = link.sr1(ping, timeout=60, verbose=False)
            assert (answer[IP].src, bytes(answer[ICMP].payload)) == (there, b"link")


def test_frames_sent_in_are_answered_to_the_wire() -> None:
    ping = Ether(src=K2, dst=K1) / IP(src="10.1.2.3", dst="10.1.2.2") / ICMP(id=9) / b"inward"
    answer = popnet.scapy.srp1("k1", ping, filter="icmp", direction="in", divert="out", timeout=60)
    assert answer is not None
    assert (answer[IP].src, answer[ICMP].type, answer.direction) == ("10.1.2.2", 0, 4)


def test_a_bridge_stands_in_the_middle(pair: Lab) -> None:
    """What k1 sends is changed on its way to k2; what comes back goes as it is, and both are seen."""

    def change(packet: Packet) -> Packet:
        if ICMP in packet and packet[ICMP].type == 8:
            packet[ICMP].payload = Raw(bytes(packet[ICMP].payload).upper())
            del packet[ICMP].chksum
        return packet

    seen: list[Packet] = []
    bridge = threading.Thread(
        target=popnet.scapy.bridge_and_sniff,
        args=("k1", "k2", change),
        kwargs={
            "filter": "icmp",
            "prn": seen.append,
            "stop_filter": lambda packet: ICMP in packet and packet[ICMP].type == 0,
            "started_callback": (started := threading.Event()).set,
            "timeout": 60,
        },
    )
    bridge.start()
    assert started.wait(60)
    with popnet.scapy.KernelSocket("k2", filter="icmp[0] = 8") as receiver:
        pair.exec("k1", "ping", "-4", "-c1", "-W30", "-p", "6162", "k2", check=False)
        arrived = receiver.sniff(count=1, timeout=60)
    assert b"ABABAB" in bytes(arrived[0][ICMP].payload)
    assert b"ababab" not in bytes(arrived[0][ICMP].payload)
    bridge.join(60)
    assert {packet[ICMP].type for packet in seen} == {0, 8}
    pair.ping("k1", "k2", "-4")


def example(pair: Lab, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return pair.popnet("scapy", str(EXAMPLES / f"{name}.py"), *arguments)


def test_the_port_scan_of_the_examples(pair: Lab) -> None:
    assert example(pair, "port_scan", "k1", "10.1.2.3", "22", "80-81").stdout.splitlines() == [
        "22 open",
        "80 closed",
        "81 closed",
    ]


def test_the_handshake_of_the_examples_meets_no_reset(pair: Lab) -> None:
    with popnet.scapy.KernelSocket("k2", filter="tcp port 22 and dst host 10.1.2.3") as watcher:
        done = example(pair, "tcp_handshake", "k1", "10.1.2.3", "22").stdout.splitlines()
        flags = [str(packet[TCP].flags) for packet in watcher.sniff(timeout=60, count=5)]
    assert done[0].startswith("SYN-ACK: ")
    assert done[1].startswith("it says: SSH-2.0-")
    assert flags[0] == "S"
    assert set(flags[1:4]) <= {"A", "FA"}, "k1's own stack never refuses what it knows nothing of"


def test_without_diverting_the_stack_refuses_the_handshake() -> None:
    """The control: the same SYN, but the answer reaches k1's stack too."""
    with popnet.scapy.KernelSocket("k2", filter="tcp port 22 and dst host 10.1.2.3") as watcher:
        syn = (
            Ether(src=K1, dst=K2) / IP(src="10.1.2.2", dst="10.1.2.3") / TCP(sport=40405, dport=22, flags="S")
        )
        assert popnet.scapy.srp1("k1", syn, filter="tcp port 40405", timeout=60) is not None
        assert [str(packet[TCP].flags) for packet in watcher.sniff(timeout=60, count=2)] == ["S", "R"]


def test_the_arp_responder_of_the_examples(pair: Lab) -> None:
    with pair.start("scapy", str(EXAMPLES / "arp_responder.py"), "k1", "10.1.2.77", MAC, "1") as responder:
        assert responder.stdout is not None
        assert b"is at" in responder.stdout.readline()
        wait_until(
            lambda: MAC in pair.sh("k1", "ping -c1 -W1 10.1.2.77 >/dev/null; ip neigh show 10.1.2.77"),
            "k1 believes the responder",
        )
        assert responder.wait(timeout=20) == 0


def test_a_trace_is_read_as_layers(pair: Lab) -> None:
    file = str(pair.tmp / "trace.pcapng")
    with pair.start("trace", "-w", file) as trace:
        assert trace.stderr is not None
        assert b"tracing" in trace.stderr.readline()
        pair.exec("k1", "true")
        trace.send_signal(signal.SIGINT)
        trace.communicate(timeout=20)
    messages = [packet for packet in rdpcap(file) if popnet.scapy.PopnetMessage in packet]
    opened = next(p for p in messages if p[popnet.scapy.PopnetMessage].kind == Kind.OPEN)
    assert (opened[popnet.scapy.PopnetTrace].sender, opened[popnet.scapy.PopnetTrace].receiver) == (0, 1)
    assert opened[popnet.scapy.PopnetBody].value["params"]["argv"] == ["true"]
    assert opened[popnet.scapy.PopnetTrace].handle_ns > opened[popnet.scapy.PopnetTrace].enqueue_ns
    assert all(bytes(packet.__class__(bytes(packet))) == bytes(packet) for packet in messages)
    assert {p[popnet.scapy.PopnetTrace].header_size for p in messages} == {PSEUDO_HEADER.size}
