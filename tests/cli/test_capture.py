"""`capture`: pcapng byte for byte into files and pipes, lines for people, counts, and every way to end."""

import signal
import struct
import subprocess
from pathlib import Path

import pytest

from popnet.cli.blocks import Blocks
from tests.cli.conftest import Machine


def packets(data: bytes) -> int:
    """How many packets the whole blocks of *data* are; there is nothing else in it."""
    blocks = Blocks()
    assert blocks.feed(data) == data
    return blocks.packets


def test_into_a_file(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "k1.pcapng"
    process = machine.popen("capture", "k1", "-w", str(file), stderr=subprocess.PIPE)
    _wait_for_packets(file, 5)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate()
    assert process.returncode == 0
    assert err == b"capturing on k1/eth0; Ctrl-C stops\n5 frames captured, 2 dropped by the capture\n"
    assert packets(file.read_bytes()) == 5


def test_a_number_of_frames(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "k1.pcapng"
    result = machine.run("capture", "k1", "-c", "3", "-w", str(file))
    assert result.returncode == 0
    assert b"3 frames captured" in result.stderr
    assert packets(file.read_bytes()) == 3


def test_a_number_of_many(machine: Machine) -> None:
    result = machine.run("-q", "capture", "k1", "endless", "-c", "1234", "-w", "-")
    assert packets(result.stdout) == 1234
    assert result.stderr == b""


def test_a_pipe_gets_each_frame_at_once(machine: Machine) -> None:
    process = machine.popen("capture", "k1", "-w", "-", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    data = b""
    while len(data) < 100 or packets(data) < 5:
        data += process.stdout.read1()  # type: ignore[attr-defined]
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 0


def test_a_reader_that_goes_away_ends_it_at_once(machine: Machine) -> None:
    """Though no frame comes any more that could fail to be written."""
    process = machine.popen("capture", "k1", "-w", "-", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    data = b""
    while len(data) < 100 or packets(data) < 5:
        data += process.stdout.read1()  # type: ignore[attr-defined]
    process.stdout.close()
    assert process.wait() == 141
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_full_disk(machine: Machine) -> None:
    with open("/dev/full", "wb") as full:
        process = machine.popen("capture", "k1", "-w", "-", stdout=full, stderr=subprocess.PIPE)
        _out, err = process.communicate()
    assert process.returncode == 1
    assert b"popnet: stdout: No space left on device" in err


def test_full_disk_leaves_a_valid_file(machine: Machine, tmp_path: Path) -> None:
    """A limit on the file's size fails in the middle of a write, as a full disk does."""
    file = tmp_path / "k1.pcapng"
    command = machine.command("capture", "k1", "endless", "-w", str(file))
    result = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; trap "" XFSZ; "$@"', "-", *command],
        capture_output=True,
        env=machine.env,
        check=False,
    )
    assert result.returncode == 1
    assert f"popnet: {file}: ".encode() in result.stderr
    assert b"what was captured before is in it" in result.stderr
    assert 5 <= packets(file.read_bytes()) < 105


def test_second_interrupt_does_not_wait(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "k1.pcapng"
    process = machine.popen("capture", "k1", "-w", str(file), stderr=subprocess.PIPE)
    _wait_for_packets(file, 5)
    machine.process.send_signal(signal.SIGSTOP)  # it cannot answer
    process.send_signal(signal.SIGINT)
    _wait_for_delivery(process.pid)
    process.send_signal(signal.SIGINT)
    process.communicate()
    machine.process.send_signal(signal.SIGCONT)
    assert process.returncode == 130
    assert packets(file.read_bytes()) == 5


def statistics(data: bytes) -> list[tuple[int, int]]:
    """(received, dropped) of each block of statistics in *data*."""
    found, at = [], 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if kind == 5:
            found.append(struct.unpack_from("<Q4xQ", data, at + 24))
        at += length
    return found


def test_counts_of_the_kernel_end_the_file(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "k1.pcapng"
    process = machine.popen("capture", "k1", "-w", str(file), stderr=subprocess.DEVNULL)
    _wait_for_packets(file, 5)
    assert statistics(file.read_bytes()) == []
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert statistics(file.read_bytes()) == [(7, 2)]


def test_a_ring_of_files(machine: Machine, tmp_path: Path) -> None:
    directory = tmp_path / "ring"
    directory.mkdir()
    path = directory / "k1.pcapng"
    result = machine.run(
        *("-q", "capture", "k1", "endless", "-c", "9000"),
        *("-w", str(path), "--rotate", "256K", "--keep", "2"),
    )
    assert result.returncode == 0, result.stderr
    files = sorted(directory.iterdir())
    assert [file.name.split("_")[1] for file in files] == ["00003", "00004"]
    datas = [file.read_bytes() for file in files]
    assert 200 << 10 < len(datas[0]) <= 256 << 10
    assert packets(datas[0]) > 2000
    assert all(data[:4] == b"\x0a\x0d\x0d\x0a" and b"k1/eth0" in data for data in datas)
    assert all(len(statistics(data)) == 1 for data in datas)
    assert statistics(datas[1])[0][0] >= 9000, "counts are those of the capture, not of the file"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("k1", "--keep", "2"), "--keep is about the files of --rotate"),
        (("k1", "--rotate", "1G"), "needs the name of a file"),
        (("k1", "--rotate", "1G", "-w", "-"), "needs the name of a file"),
        (("k1", "--rotate", "often", "-w", "x"), "--rotate: got 'often'; allowed: a size"),
        ((), "say where: a kernel, a link such as k1-k2, or any"),
    ],
)
def test_words_that_do_not_go_together(machine: Machine, words: tuple[str, ...], says: str) -> None:
    result = machine.run("capture", *words)
    assert result.returncode == 2
    assert says in result.stderr.decode()


def test_links_come_with_the_number_of_their_peer(machine: Machine) -> None:
    """The fake does not filter; what it was asked for, its interface tells."""
    for words in (("k1-primary", "icmp"), ("--link", "k1", "primary", "icmp")):
        result = machine.run("-q", "capture", *words, "-c", "1", "-w", "-")
        assert result.returncode == 0, result.stderr
        assert b"k1-primary" in result.stdout
        assert b"\0icmp" in result.stdout


@pytest.mark.parametrize("where", ["k9", "k1-k9"])
def test_who_is_not_there(machine: Machine, where: str) -> None:
    result = machine.run("capture", where)
    assert result.returncode == 1
    assert f"no kernel '{where}' in this machine" in result.stderr.decode()
    assert "`any` is all" in result.stderr.decode()


def test_filter_that_is_wrong(machine: Machine) -> None:
    result = machine.run("capture", "k1", "bogus", "-w", "-")
    assert result.returncode == 1
    assert result.stderr == b"popnet: filter 'bogus': syntax error\n"


def test_file_that_cannot_be_written(machine: Machine) -> None:
    result = machine.run("capture", "k1", "-w", "/nonexistent/file")
    assert result.returncode == 1
    assert result.stderr == b"popnet: /nonexistent/file: No such file or directory\n"


def test_pcapng_is_not_for_terminals(machine: Machine) -> None:
    child = machine.spawn("capture", "k1", "-w", "-")
    child.expect("helps nobody")
    child.wait()
    assert child.exitstatus == 2


def test_machine_that_dies(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "k1.pcapng"
    process = machine.popen("capture", "k1", "-w", str(file), stderr=subprocess.PIPE)
    _wait_for_packets(file, 5)
    machine.process.kill()
    _out, err = process.communicate()
    assert process.returncode == 1
    assert b"machine 'demo' ended" in err and b"5 frames captured" in err
    assert packets(file.read_bytes()) == 5


@pytest.mark.parametrize("snap", [0, 20])
def test_lines(machine: Machine, snap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.env["TZ"] = "UTC"
    result = machine.run("-q", "capture", "k1", "icmp", "or", "arp", "-c", "2", "-s", str(snap))
    lines = result.stdout.decode().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("00:00:00.000000000 In ")
    assert lines[1].startswith("00:00:01.000000000 Out")
    if snap == 0:
        assert lines[0].endswith("IP 10.1.2.2 > 10.1.2.3: ICMP echo request, id 1, seq 1, length 8")


def _wait_for_delivery(pid: int) -> None:
    """Until no signal is pending for *pid*: two of a kind would become one."""
    while "ShdPnd:\t0000000000000000" not in Path(f"/proc/{pid}/status").read_text():
        continue


def _wait_for_packets(file: Path, number: int) -> None:
    """Until *file* has so many; the timeout of the test is the limit."""
    while not file.exists() or packets(file.read_bytes()) < number:
        continue
