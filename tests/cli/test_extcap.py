"""The extcap plug-in as Wireshark calls it: interfaces, settings, filters, a capture into a named pipe."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from popnet.control.pcapng_reader import Packet, Reader
from tests.cli.conftest import Machine

K1 = ("--extcap-interface", "popnet:demo/k1")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "popnet.cli.extcap", *words]


def extcap(machine: Machine, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    result = subprocess.run(
        command(*words), env=machine.env, capture_output=True, text=True, timeout=60, check=False
    )
    assert not check or (result.returncode, result.stderr) == (0, "")
    return result


def test_interfaces_are_kernels_and_all_of_them(machine: Machine) -> None:
    head, *lines = extcap(machine, "--extcap-interfaces", "--extcap-version=4.0").stdout.splitlines()
    assert head.startswith("extcap {version=")
    assert lines[0] == "interface {value=popnet:demo/any}{display=popnet demo: all kernels}"
    assert lines[2] == "interface {value=popnet:demo/k1}{display=popnet demo: k1 eth0}"


def test_a_machine_that_hangs_is_left_out(machine: Machine) -> None:
    machine.process.send_signal(signal.SIGSTOP)
    try:
        result = extcap(machine, "--extcap-interfaces")
    finally:
        machine.process.send_signal(signal.SIGCONT)
    assert len(result.stdout.splitlines()) == 1


def test_link_types_and_settings(machine: Machine) -> None:
    assert extcap(machine, "--extcap-dlts", *K1).stdout == ("dlt {number=1}{name=EN10MB}{display=Ethernet}\n")
    text = extcap(machine, "--extcap-config", *K1).stdout
    assert "{call=--snap-length}" in text and "{call=--peer}" in text
    assert "value {arg=1}{value=k2}{display=k2}" in text
    assert "value=k1}" not in text
    everywhere = extcap(machine, "--extcap-config", "--extcap-interface", "popnet:demo/any").stdout
    assert "--peer" not in everywhere


def test_filters_are_checked_by_the_machine(machine: Machine) -> None:
    assert extcap(machine, *K1, "--extcap-capture-filter", "icmp").stdout == ""
    bad = extcap(machine, *K1, "--extcap-capture-filter", "bogus", check=False)
    assert bad.returncode == 1
    assert bad.stdout == "filter 'bogus': syntax error\n"


@pytest.mark.parametrize(
    ("words", "interface"),
    [((), "k1/eth0"), (("--peer", "primary", "--snap-length=20"), "k1-primary"), (("--peer=",), "k1/eth0")],
)
def test_a_capture_into_a_named_pipe(
    machine: Machine, tmp_path: Path, words: tuple[str, ...], interface: str
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        command("--capture", *K1, "--fifo", str(fifo), *words), env=machine.env, stderr=subprocess.PIPE
    )
    reader = Reader()
    packets: list[Packet] = []
    with fifo.open("rb", buffering=0) as pipe:
        while len(packets) < 5:
            packets += reader.feed(pipe.read(1 << 16))
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, b""), "Wireshark has closed the pipe, and that is no error"
    assert packets[0].interface == interface
    assert len(packets[0].data) == (20 if words[1:] else packets[0].original_length)


def test_errors_are_one_line(machine: Machine, tmp_path: Path) -> None:
    for words, says in (
        ((*K1, "--capture", "--fifo", str(tmp_path / "none")), "No such file or directory"),
        (("--extcap-interface", "eth0", "--capture"), "popnet's are called popnet:MACHINE/KERNEL"),
        (("--extcap-interface", "popnet:demo/k9", "--extcap-config"), ""),
        ((), "called by Wireshark"),
    ):
        result = extcap(machine, *words, check=False)
        assert says in result.stderr
        assert "Traceback" not in result.stderr
        assert result.returncode == (1 if says else 0)
