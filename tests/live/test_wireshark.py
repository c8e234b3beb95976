"""The real tshark finds kernels among its interfaces, and captures at them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.lab import Lab


@pytest.fixture(scope="module")
def environ(pair: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a user whose Wireshark has popnet's plug-ins."""
    home = tmp_path_factory.mktemp("home")
    environ = {**pair.env(), "HOME": str(home)}
    pair.environ["HOME"] = str(home)
    pair.popnet("wireshark", "install")
    yield environ
    pair.popnet("wireshark", "uninstall")
    assert [path for path in home.rglob("popnet*") if path.is_file()] == []


def tshark(environ: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    command = ["tshark", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_kernels_are_interfaces(environ: dict[str, str]) -> None:
    listed = tshark(environ, "-D").stdout
    for interface in ("any", "k1", "k2", "primary"):
        assert f"popnet:lab/{interface} (popnet lab: " in listed


def test_the_dissector_is_found(environ: dict[str, str]) -> None:
    assert "popnet.lua" in tshark(environ, "-G", "plugins").stdout


@pytest.mark.parametrize(
    ("where", "count", "interfaces"),
    [
        ("k1", 2, {"k1/eth0"}),
        ("any", 4, {"k1/eth0", "k2/eth0"}),
    ],
)
def test_a_capture(
    pair: Lab,
    environ: dict[str, str],
    tmp_path: Path,
    where: str,
    count: int,
    interfaces: set[str],
) -> None:
    words = ("-f", "icmp", "-c", str(count), "-w", str(tmp_path / "x.pcapng"))
    process = subprocess.Popen(
        ["tshark", "-n", "-l", "-P", "-i", f"popnet:lab/{where}", *words],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # tshark does not say when it sees frames, so it is shown some until it has enough
    ping = pair.start("exec", "k1", "--", "ping", "-4", "-i0.2", "k2")
    try:
        out, err = process.communicate(timeout=60)
    finally:
        for child in (ping, process):
            child.kill()
            child.communicate()
    assert process.returncode == 0, err
    assert out.count(b"ICMP") == count
    names = tshark(environ, "-r", str(tmp_path / "x.pcapng"), "-T", "fields", "-e", "frame.interface_name")
    assert set(names.stdout.split()) == interfaces


def test_a_bad_filter_is_told(environ: dict[str, str]) -> None:
    result = tshark(environ, "-i", "popnet:lab/k1", "-f", "icmp or", "-c", "1")
    assert result.returncode != 0
    assert "can't parse filter expression" in result.stderr


def test_no_machine_means_no_interfaces(environ: dict[str, str]) -> None:
    """Wireshark starts all the same."""
    home = Path(environ["HOME"]) / ".config/wireshark/extcap/popnet"
    text = home.read_text()
    home.write_text(text.replace("export POPNET_RUN_DIR=", "export POPNET_RUN_DIR=/nonexistent"))
    try:
        assert "popnet:" not in tshark(environ, "-D").stdout
        assert os.access(home, os.X_OK)
    finally:
        home.write_text(text)
