"""Capture at a kernel's NIC: real files and pipes, read by the real tshark."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.lab import Lab


@contextmanager
def capturing(pair: Lab, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A capture that has begun to see frames when the block starts."""
    process = pair.start("capture", *words)
    try:
        assert process.stderr is not None
        assert b"k1/eth0" in process.stderr.readline(), "says when it listens"
        yield process
    finally:
        process.kill()
        process.communicate()


def tshark(path: Path, *options: str) -> str:
    result = subprocess.run(
        ["tshark", "-n", "-r", str(path), *options], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def traffic(pair: Lab) -> None:
    """ARP, ICMP, ICMPv6 and TCP between k1 and k2."""
    pair.sh("k1", "ip neigh flush all")
    pair.ping("k1", "k2", "-4")
    pair.ping("k1", "k2", "-6")
    pair.popnet("ssh", "k1", "--", "head -c 300000 /dev/zero | tr '\\0' x")


def test_a_file_of_everything_is_well_formed(pair: Lab) -> None:
    path = pair.tmp / "all.pcapng"
    with capturing(pair, "k1", "-w", str(path)) as process:
        traffic(pair)
        process.terminate()
        _, err = process.communicate(timeout=20)
        assert process.returncode in (0, 130, 143), err
        assert b"captured" in err
    protocols = tshark(path, "-T", "fields", "-e", "_ws.col.Protocol").split()
    assert {"ARP", "ICMP", "ICMPv6", "TCP"} <= set(protocols)
    checks = ("ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE")
    options = [word for check in checks for word in ("-o", check)]
    bad = tshark(path, *options, "-Y", "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0")
    assert bad == ""
    assert tshark(path, "-Y", "frame.len > 1514") == "", "as a wire would carry them"
    assert set(tshark(path, "-T", "fields", "-e", "frame.interface_name").split()) == {"k1/eth0"}
    directions = tshark(
        path, "-Y", "icmp", "-T", "fields", "-e", "icmp.type", "-e", "frame.packet_flags_direction"
    )
    both = {tuple(line.split()) for line in directions.splitlines()}
    assert len({direction for kind, direction in both if kind == "8"}) == 1
    assert {kind for kind, _ in both} == {"0", "8"}
    assert dict(both)["0"] != dict(both)["8"], "request out, reply in"
    times = [float(t) for t in tshark(path, "-T", "fields", "-e", "frame.time_epoch").split()]
    assert times == sorted(times) or max(times) - min(times) < 60
    assert any(f"{t:.9f}"[-3:] != "000" for t in times), "nanoseconds"


def test_super_frames_are_kept_if_asked_for(pair: Lab) -> None:
    path = pair.tmp / "super.pcapng"
    with capturing(pair, "k1", "tcp", "-w", str(path), "--super-frames") as process:
        pair.popnet("ssh", "k1", "--", "head -c 1000000 /dev/zero | tr '\\0' x")
        process.terminate()
        process.communicate(timeout=20)
    options = ("-o", "tcp.check_checksum:TRUE", "-Y")
    assert tshark(path, "-Y", "frame.len > 1514"), "a kernel sends a million bytes in lumps"
    assert tshark(path, *options, "tcp.checksum.status == 0") == "", "and these are summed, too"


def test_filter_count_and_decoded_lines(pair: Lab) -> None:
    with capturing(pair, "k1", "icmp", "-c", "4") as process:
        for _ in range(2):  # one after the other, however late an answer is
            pair.ping("k1", "k2", "-4")
        out, _ = process.communicate(timeout=20)
    lines = out.decode().splitlines()
    assert len(lines) == 4
    assert all("ICMP" in line for line in lines)
    assert sum("echo request" in line for line in lines) == 2


def test_a_live_pipe_to_tshark(pair: Lab) -> None:
    capture = pair.start("capture", "k1", "icmp", "-w", "-")
    reader = subprocess.Popen(
        ["tshark", "-n", "-l", "-r", "-", "-c", "2"],
        stdin=capture.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert capture.stdout is not None
    capture.stdout.close()
    try:
        assert capture.stderr is not None
        capture.stderr.readline()
        pair.exec("k1", "ping", "-4", "-c3", "-i0.1", "k2")
        out, _ = reader.communicate(timeout=30)
        assert out.count(b"ICMP") == 2
        pair.exec("k1", "ping", "-4", "-c2", "-i0.1", "k2")
        capture.wait(60)
        assert capture.returncode in (0, 141), "a pipe that closes ends a capture quietly"
    finally:
        for process in (capture, reader):
            process.kill()
            process.communicate()


def test_a_full_disk_is_told_and_hurts_nobody(pair: Lab) -> None:
    with capturing(pair, "k1", "-w", "/dev/full") as process:
        pair.exec("k1", "ping", "-4", "-c3", "-i0.05", "k2")
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"No space left on device" in err
    assert b"Traceback" not in err
    pair.ping("k1", "k2", "-4")


@pytest.mark.parametrize("filter_text", ["icmp or", "prt 22", "host nowhere.invalid"])
def test_a_bad_filter_is_refused_in_libpcaps_words(pair: Lab, filter_text: str) -> None:
    result = pair.popnet("capture", "k1", filter_text, check=False, timeout_s=30)
    assert result.returncode == 1
    assert filter_text in result.stderr
    assert "Traceback" not in result.stderr


SNIFF = """
import json, sys
import popnet.scapy
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether

print("ready", file=sys.stderr, flush=True)
question = Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst="10.1.2.3")
answered, _ = popnet.scapy.srp("k1", question, timeout=60, verbose=False)
started = lambda: print("sniffing", flush=True)
packets = popnet.scapy.sniff("k1", filter="icmp", count=2, timeout=60, started_callback=started)
print(json.dumps({
    "arp": [reply[ARP].hwsrc for _, reply in answered],
    "icmp": [(packet[IP].src, packet[IP].dst, packet[ICMP].type) for packet in packets],
}))
"""


def test_scapy_asks_answers_and_sniffs_on_a_kernels_nic(pair: Lab) -> None:
    import sys

    process = subprocess.Popen(
        [sys.executable, "-c", SNIFF], env=pair.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == b"sniffing\n", process.communicate()[1].decode()
        pair.ping("k1", "k2", "-4")
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    seen = json.loads(out)
    assert seen["arp"] == ["02:70:6f:70:6e:02"]
    assert seen["icmp"] == [["10.1.2.2", "10.1.2.3", 8], ["10.1.2.3", "10.1.2.2", 0]]
