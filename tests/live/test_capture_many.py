"""Captures of links and of whole machines, and what a capture may not do: hold up the frames it sees."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import popnet
from tests.live.lab import Lab, wait_until


@contextmanager
def capturing(lab: Lab, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A capture that has begun to see frames when the block starts."""
    process = lab.start("capture", *words)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert b"capturing on" in line, line
        yield process
    finally:
        process.kill()
        process.communicate()


def end(process: "subprocess.Popen[bytes]") -> str:
    """Ctrl-C; what it said on stderr."""
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return err.decode()


def rows(path: Path, *fields: str, only: str = "") -> list[list[str]]:
    """The values of *fields* for each packet that the display filter *only* lets pass, as tshark has them."""
    words = [word for field in fields for word in ("-e", field)]
    choice = ("-Y", only) if only else ()
    command = ["tshark", "-n", "-r", str(path), *choice, "-T", "fields", "-E", "separator=|", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("|") for line in result.stdout.splitlines()]


def capinfos(path: Path) -> str:
    return subprocess.run(
        ["capinfos", str(path)], check=True, capture_output=True, text=True, timeout=60
    ).stdout


def ping(lab: Lab, kernel: str, peer: str, count: int = 1) -> None:
    """Frames there and back, one after the other however late they are."""
    for _ in range(count):
        lab.exec(kernel, "ping", "-4", "-c1", "-W30", peer)


def test_a_link_is_what_two_kernels_say_to_each_other(pair: Lab) -> None:
    path = pair.tmp / "link.pcapng"
    with capturing(pair, "k1-k2", "icmp", "-w", str(path)) as process:
        for kernel, peer in (("k1", "primary"), ("k1", "k2"), ("k1", "k2"), ("k2", "k1")):
            ping(pair, kernel, peer)
        end(process)
    assert {row[0] for row in rows(path, "frame.interface_name")} == {"k1-k2"}
    sources = [row[0] for row in rows(path, "ip.src", only="icmp.type == 8")]
    assert sources == ["10.1.2.2"] * 2 + ["10.1.2.3"]
    assert {row[0] for row in rows(path, "ip.dst")} == {"10.1.2.2", "10.1.2.3"}, "not the primary"


def test_a_whole_machine_in_one_file_also_when_a_kernel_dies_and_is_booted_again(lab: Lab) -> None:
    lab.up()
    path = lab.tmp / "any.pcapng"
    with capturing(lab, "any", "icmp", "-w", str(path)) as process:
        assert process.stderr is not None
        ping(lab, "k1", "k2", 3)
        lab.popnet("kill", "k2")
        assert b"k2/eth0: k2: killed" in process.stderr.readline()
        lab.popnet("boot", "k2")
        assert b"k2/eth0: captured again (generation 2)" in process.stderr.readline()
        ping(lab, "k1", "k2", 2)
        assert "20 frames captured, 0 dropped" in end(process)
    seen = rows(path, "frame.interface_id", "frame.interface_name", "icmp.type", "frame.time_epoch")
    times = [row[3] for row in seen]
    assert times == sorted(times), "merged by time"
    path_of_one = [("1", "k1/eth0", "8"), ("2", "k2/eth0", "8"), ("2", "k2/eth0", "0"), ("1", "k1/eth0", "0")]
    assert [tuple(row[:3]) for row in seen[:4]] == path_of_one
    assert {(row[0], row[1]) for row in seen[12:]} == {("1", "k1/eth0"), ("3", "k2/eth0")}
    text = capinfos(path)
    assert "Strict time order:   True" in text
    assert "Description = kernel 2, generation 2" in text
    assert text.count("Number of stat entries = 1") == 4


def test_the_last_kernel_that_dies_ends_a_capture(lab: Lab) -> None:
    lab.up()
    path = lab.tmp / "k2.pcapng"
    with capturing(lab, "k2", "icmp", "-w", str(path)) as process:
        ping(lab, "k1", "k2")
        wait_until(lambda: path.stat().st_size > 400, "the ping is in the file")
        lab.popnet("kill", "k2")
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"k2: killed" in err
    text = capinfos(path)
    assert "Number of packets:   2" in text
    assert "Number of stat entries = 1" in text


def test_a_reader_that_never_reads_costs_frames_of_its_capture_only(pair: Lab) -> None:
    with capturing(pair, "k1", "-w", "-") as process:
        server = pair.start("exec", "k2", "--", "iperf3", "-s", "-1")
        wait_until(lambda: "5201" in pair.sh("k2", "ss -ltn"), "iperf3 listens")
        pair.exec("k1", "iperf3", "-c", "10.1.2.3", "-n", "300M", timeout_s=60)
        assert server.wait(60) == 0
        ping = pair.exec("k1", "ping", "-4", "-q", "-c20", "-i0.01", "k2")
        assert "20 received" in ping.stdout
        process.send_signal(signal.SIGINT)
        data, err = process.communicate(timeout=30)
    assert process.returncode == 0
    path = pair.tmp / "unread.pcapng"
    path.write_bytes(data)
    assert b" 0 dropped" not in err and b"dropped by the capture" in err
    assert int(capinfos(path).split("Number of packets = ")[1].split()[0]) > 0


def test_a_full_disk_leaves_whole_packets_and_hurts_nobody(pair: Lab) -> None:
    mount = (
        'mount -t tmpfs -o size=64k none "$1" && d=$1 && shift && "$@" -w "$d/x"; s=$?; cat "$d/x"; exit $s'
    )
    disk = pair.tmp / "disk"
    unshare = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")
    disk.mkdir()
    command = [*unshare, "sh", "-c", mount, "sh", str(disk), *pair.command("capture", "k1", "icmp")]
    process = subprocess.Popen(command, env=pair.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert b"capturing on k1/eth0" in process.stderr.readline()
        ping = pair.exec("k1", "ping", "-4", "-q", "-c80", "-s1400", "-i0.005", "k2")
        data, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert "80 received" in ping.stdout
    assert process.returncode == 1
    assert b"No space left on device" in err and b"what was captured before is in it" in err
    path = pair.tmp / "full.pcapng"
    path.write_bytes(data)
    assert 60 << 10 < len(data) <= 64 << 10
    lengths = rows(path, "frame.len", "_ws.malformed")
    assert len(lengths) > 40
    assert {tuple(row) for row in lengths} == {("1442", "")}


def test_a_ring_of_files_is_a_file_set(pair: Lab) -> None:
    directory = pair.tmp / "ring"
    directory.mkdir()
    path = directory / "k1.pcapng"
    words = ("-w", str(path), "--rotate", "256K", "--keep", "3")
    with capturing(pair, "k1", "icmp", *words) as process:
        pair.exec("k1", "ping", "-4", "-q", "-f", "-c400", "-s1400", "k2")
        end(process)
    files = sorted(directory.iterdir())
    assert len(files) == 3
    counts = []
    for file in files:
        text = capinfos(file)
        assert "Number of stat entries = 1" in text
        counts.append(int(text.split("Number of packets = ")[1].split()[0]))
        assert file.stat().st_size <= 256 << 10
    assert counts[0] == counts[1] > 150
    numbers = [int(row[0]) for file in files for row in rows(file, "icmp.seq", only="icmp.type == 0")]
    assert numbers == list(range(numbers[0], 401)), "none is lost between two files"


async def test_from_python(pair: Lab, tmp_path: Path) -> None:
    machine = popnet.Machine.attach("lab", run_dir=pair.run_dir)
    async with machine.capture("any", "icmp") as everywhere, machine["k1"].capture(peer="k2") as link:
        await machine["k1"].run(["ping", "-4", "-c1", "k2"], check=True)
        await everywhere.wait_for(4)
        await link.wait_for(2)
    assert [packet.interface for packet in everywhere.packets()] == [
        *("k1/eth0", "k2/eth0", "k2/eth0", "k1/eth0")
    ]
    assert {packet.interface for packet in link.packets()} == {"k1-k2"}
    everywhere.save(tmp_path / "any.pcapng")
    assert "Number of interfaces in file: 3" in capinfos(tmp_path / "any.pcapng")
