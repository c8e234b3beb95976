"""scapy on the NIC of a fake kernel; on a real one in tests/live/test_scapy.py."""

import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.sendrecv import AsyncSniffer, sendp, sniff

import popnet
import popnet.scapy
from popnet.core.errors import NoSuchKernel, NoSuchMachine
from popnet.scapy import KernelSocket
from tests.control.fakes import Served
from tests.control.in_thread import serving_in_thread

PING = Ether(dst="02:70:6f:70:6e:02", src="02:70:6f:70:6e:01") / IP(dst="10.1.2.3", src="10.1.2.2") / ICMP()
WHO_HAS = Ether(dst="ff:ff:ff:ff:ff:ff", src="02:70:6f:70:6e:01") / ARP(pdst="10.1.2.3", psrc="10.1.2.2")


def _outward(opened: KernelSocket) -> Any:
    return opened._injects["k1", "out"]


Machine = tuple[Served, Callable[..., Any]]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("POPNET_RUN_DIR", str(tmp_path))
    monkeypatch.delenv("POPNET_MACHINE", raising=False)
    with serving_in_thread(tmp_path) as machine:
        yield machine


def test_sending_and_sniffing(machine: Machine) -> None:
    with KernelSocket("k1") as opened:
        popnet.scapy.sendp("k1", [PING, WHO_HAS] * 2, machine="m")
        packets = sniff(opened_socket=opened, count=4, timeout=20)
    assert [packet.lastlayer().name for packet in packets] == ["ICMP", "ARP"] * 2
    assert [packet.time for packet in packets] == [0, 1, 2, 3]
    assert [packet.direction for packet in packets] == [0, 4, 0, 4]
    assert bytes(packets[0]) == bytes(PING)
    machine[1](machine[0].service.wait_ended, "capture")


def test_the_socket_is_selectable() -> None:
    with KernelSocket("k1") as opened:
        assert select.select([opened], [], [], 0)[0] == []
        assert KernelSocket.select([opened], 0) == []
        assert sendp(PING, socket=opened, verbose=False) is None
        _outward(opened).finish()
        assert select.select([opened], [], [], 20)[0] == [opened]
        assert opened.recv()[ICMP].type == 8  # type: ignore[index]


def test_sniff_with_a_filter_and_options(machine: Machine) -> None:
    seen: list[Any] = []

    def sniffing() -> None:
        seen.extend(popnet.scapy.sniff("k1", filter="yes", count=2, store=True, timeout=20))

    thread = threading.Thread(target=sniffing)
    thread.start()
    network = machine[0].service.network

    async def wait_for_capture() -> None:
        while not network.captures:
            await network.changed.wait()

    machine[1](wait_for_capture)
    for text in ("yes", "no", "yes!"):
        popnet.scapy.sendp("k1", PING / text)
    thread.join(20)
    assert [bytes(packet[ICMP].payload) for packet in seen] == [b"yes", b"yes!"]
    assert {packet.sniffed_on for packet in seen} == {"k1/eth0"}


def test_the_asynchronous_sniffer_stops() -> None:
    with KernelSocket("k1") as opened:
        sniffer = AsyncSniffer(opened_socket=opened, count=0)
        sniffer.start()
        opened.send(PING)
        _outward(opened).finish()
        while _outward(opened).receive() is not None:
            pass
        sniffer.stop()
        assert sniffer.results is not None


def test_send_and_receive_answers(machine: Machine) -> None:
    network = machine[0].service.network

    async def answering(stream: Any) -> dict[str, Any]:
        while (received := await stream.receive()) is not None:
            request = Ether(received[1])
            network.frames.append(received[1])
            if request[ARP].pdst == "10.1.2.3":
                answer = Ether(src="02:70:6f:70:6e:02", dst=request.src) / ARP(
                    op="is-at", psrc="10.1.2.3", hwsrc="02:70:6f:70:6e:02", pdst=request[ARP].psrc
                )
                network.frames.append(bytes(answer))
            network._change()
        return {}

    machine[0].service.handlers["inject"] = answering
    nobody = WHO_HAS.copy()
    nobody[ARP].pdst = "10.1.2.99"
    answered, unanswered = popnet.scapy.srp("k1", [WHO_HAS, nobody], timeout=1)
    assert [(sent[ARP].pdst, got[ARP].hwsrc) for sent, got in answered] == [("10.1.2.3", "02:70:6f:70:6e:02")]
    assert [packet[ARP].pdst for packet in unanswered] == ["10.1.2.99"]
    assert popnet.scapy.srp1("k1", WHO_HAS, timeout=20)[ARP].psrc == "10.1.2.3"
    assert popnet.scapy.srp1("k1", nobody, timeout=0.1) is None


def test_frames_sent_are_out_when_the_socket_is_closed(machine: Machine) -> None:
    for turn in range(5):
        popnet.scapy.sendp("k1", [PING] * 200)
        assert len(machine[0].service.network.frames) == 200 * (turn + 1)


def test_a_capture_that_ends_ends_the_sniffing(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    with KernelSocket("k1") as opened:
        machine[1](machine[0].server.close)
        assert len(sniff(opened_socket=opened, timeout=20)) == 0
    assert "going down" in caplog.text


def test_who_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NoSuchKernel):
        KernelSocket("nobody")
    with pytest.raises(NoSuchMachine):
        KernelSocket("k1", "other")
    with pytest.raises(NoSuchMachine):
        popnet.scapy.sniff("k1", machine="other")


def test_a_slow_scapy_holds_back_and_closes_all_the_same(machine: Machine) -> None:
    before = threading.active_count()
    with KernelSocket("k1") as opened:
        popnet.scapy.sendp("k1", [PING / bytes(60_000)] * 60)
    assert threading.active_count() == before
    assert (opened.ins.fileno(), opened._feeding.fileno()) == (-1, -1)


def test_it_loads_nothing_of_the_machine() -> None:
    script = "import sys, popnet.scapy; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = {".".join(name.split(".")[:2]) for name in done.stdout.split() if name.startswith("popnet")}
    assert loaded == {"popnet", "popnet.scapy", "popnet.control", "popnet.core", "popnet.message"}
    assert not {"aiohttp", "uvloop", "asyncssh", "pydantic"} & set(done.stdout.split())
