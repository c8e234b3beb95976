"""The gateway, by real clients: OpenSSH's, and Wireshark's own sshdump."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from tests.live.lab import Lab, wait_until


@pytest.fixture(scope="module")
def config(pair: Lab) -> Path:
    path = pair.tmp / "ssh_config"
    path.write_text(pair.popnet("ssh-config").stdout)
    return path


def ssh(config: Path, *words: str, **more: object) -> "subprocess.CompletedProcess[bytes]":
    command = ["ssh", "-F", str(config), *words]
    more.setdefault("input", b"")
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **more)  # type: ignore[call-overload,no-any-return]


@contextmanager
def listening(pair: Lab, address: str, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = pair.start("gateway", "--listen", address, *words)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert b"listening on" in line, line
        yield process
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, b"")
    finally:
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_commands_run_in_the_kernel_that_is_named(config: Path) -> None:
    result = ssh(config, "k2.gw", "uname -n; cat; echo no >&2; exit 7", input=bytes(range(256)) * 1000)
    assert result.returncode == 7
    assert result.stdout == b"k2\n" + bytes(range(256)) * 1000
    assert result.stderr == b"no\n"


def test_a_terminal_has_the_size_of_the_clients(config: Path) -> None:
    child = pexpect.spawn(
        "ssh", ["-F", str(config), "-t", "k1.gw", "stty size; exec cat"], timeout=30, dimensions=(31, 97)
    )
    child.expect("31 97")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 130


def test_a_user_name_may_be_a_console(config: Path, pair: Lab) -> None:
    child = pexpect.spawn("ssh", ["-F", str(config), "k1.tty0"], timeout=30, dimensions=(24, 80))
    child.expect("generation 1, image full")  # the history, from power-on
    child.sendline("echo over-$((40 + 2))")
    child.expect("over-42")
    child.send("\r~.")
    child.expect(pexpect.EOF)
    child.close()
    assert "over-42" in pair.popnet("console", "k1", "--ro", "--linger", "0.2").stdout


def test_a_capture_flows_on_stdout(config: Path, pair: Lab) -> None:
    capture = subprocess.Popen(
        ["ssh", "-F", str(config), "k1.gw", "capture", "eth0", "-c", "4", "icmp"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    reader = subprocess.Popen(
        ["tshark", "-n", "-r", "-", "-T", "fields", "-e", "frame.interface_name", "-e", "icmp.type"],
        stdin=capture.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    ping = pair.start("exec", "k1", "--", "ping", "-4", "-i0.2", "k2")  # until there is enough
    try:
        out, _ = reader.communicate(timeout=60)
        _, err = capture.communicate(timeout=20)
    finally:
        for process in (ping, capture, reader):
            process.kill()
            process.communicate()
    told = [line.split() for line in out.decode().splitlines()]
    assert len(told) == 4 and {name for name, _ in told} == {"k1/eth0"}
    assert {kind for _, kind in told} == {"0", "8"}
    assert capture.returncode == 0
    assert b"4 frames captured, 0 dropped" in err


def test_a_client_that_goes_away_ends_its_capture(config: Path, pair: Lab) -> None:
    capture = subprocess.Popen(
        ["ssh", "-F", str(config), "k1.gw", "capture", "any"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert capture.stdout is not None
    assert capture.stdout.read(4) == b"\x0a\x0d\x0d\x0a"
    capture.kill()
    capture.communicate()
    wait_until(lambda: not gateways(pair), "the gateway of that client has ended")


def gateways(pair: Lab) -> list[str]:
    """Gateways on stdin and stdout of this lab."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"--stdio" in words and str(pair.run_dir).encode() in words and words[0] != b"ssh":
                found.append(entry.name)
    return found


@pytest.mark.parametrize(
    ("user", "command", "says"),
    [
        ("k9", "true", "no kernel 'k9' in machine lab (the user name says which: primary, k1, k2"),
        ("k1.tty7", "", "kernel k1 has no tty7"),
        ("k1.eth0", "", "'k1.eth0' is no terminal"),
        ("k1", "capture eth0 icmp or", "can't parse filter expression"),
        ("k1", "capture -i eth9", "kernel k1 has no interface 'eth9'"),
    ],
)
def test_errors_are_told(config: Path, user: str, command: str, says: str) -> None:
    result = ssh(config, "-l", user, "k1.gw", command)
    assert result.returncode == 125
    assert says in result.stderr.decode()
    assert b"Traceback" not in result.stderr


def test_only_keys_that_are_known_are_let_in(config: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    text = config.read_text()
    other = tmp_path / "config"
    lines = [line for line in text.splitlines() if "IdentityFile" not in line]
    other.write_text(
        "\n".join(lines) + f"\nHost *\n  IdentityFile {tmp_path / 'key'}\n  IdentityAgent none\n"
    )
    result = ssh(other, "k1.gw", "true", env={**os.environ, "HOME": str(tmp_path)})
    assert result.returncode == 255
    assert b"Permission denied (publickey)" in result.stderr


def test_an_address_of_its_own_and_keys_of_others(pair: Lab, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    known = pair.run_dir / "lab/known_hosts"
    port = free_port()
    with listening(pair, f"127.0.0.1:{port}", "--authorized-keys", f"{key}.pub"):
        options = ("HostKeyAlias=gw.lab", f"UserKnownHostsFile={known}", "StrictHostKeyChecking=yes")
        words = [word for option in options for word in ("-o", option)]
        command = ["ssh", "-F", "none", *words, "-i", str(key), "-p", str(port), "k2@127.0.0.1", "uname -n"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, "k2\n"), result.stderr


PROXY = """
import os, socket, sys, threading
pipe = socket.socket(socket.AF_UNIX)
pipe.connect(sys.argv[1])
def up():
    while data := os.read(0, 65536):
        pipe.sendall(data)
threading.Thread(target=up, daemon=True).start()
while data := pipe.recv(65536):
    os.write(1, data)
"""


def test_a_unix_socket(pair: Lab, config: Path, tmp_path: Path) -> None:
    path, program = tmp_path / "gw.sock", tmp_path / "proxy.py"
    program.write_text(PROXY)
    with listening(pair, str(path)):
        assert path.stat().st_mode & 0o777 == 0o600
        proxy = f"ProxyCommand={sys.executable} {program} {path}"
        assert ssh(config, "-o", proxy, "k1.gw", "uname -n").stdout == b"k1\n"
    assert not path.exists()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("0.0.0.0:2222", "allowed: 127.0.0.1:PORT"),
        ("10.1.2.3:22", "allowed: 127.0.0.1:PORT"),
        ("localhost", "allowed: 127.0.0.1:PORT"),
        ("127.0.0.1:x", "allowed: 127.0.0.1:PORT"),
        ("/nonexistent/x", "No such file or directory"),
    ],
)
def test_addresses_that_are_refused(pair: Lab, address: str, says: str) -> None:
    result = pair.popnet("gateway", "--listen", address, check=False)
    assert result.returncode == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def sshdump() -> str:
    folders = subprocess.run(["tshark", "-G", "folders"], capture_output=True, text=True, check=True).stdout
    for line in folders.splitlines():
        name, _, path = line.partition(":")
        program = Path(path.strip(), "sshdump")
        if name.endswith("xtcap path") and program.is_file():
            return str(program)
    pytest.fail(f"no sshdump in the directories of {folders}; Debian has it in wireshark-common")


@pytest.mark.parametrize("how", ["capture", "tcpdump"])
def test_wiresharks_sshdump(pair: Lab, tmp_path: Path, how: str) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    port = free_port()
    words = ["--remote-host", "127.0.0.1", "--remote-port", str(port), "--remote-username", "k1"]
    words += ["--sshkey", str(pair.run_dir / "lab/id_ed25519"), "--fifo", str(fifo), "--capture"]
    if how == "capture":
        words += ["--remote-capture-command", "capture eth0 icmp"]
    else:  # what sshdump says by itself
        words += ["--remote-interface", "eth0", "--remote-capture-command-select", "tcpdump"]
    ping = pair.start("exec", "k1", "--", "ping", "-4", "-i0.2", "k2")
    with listening(pair, f"127.0.0.1:{port}"):
        dump = subprocess.Popen([sshdump(), "--extcap-interface=sshdump", *words], stderr=subprocess.PIPE)
        command = ["tshark", "-n", "-r", str(fifo), "-Y", "icmp", "-c", "4", "-T", "fields", "-e", "ip.src"]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            out, _ = reader.communicate(timeout=40)
        finally:
            for process in (ping, dump, reader):
                process.kill()
                process.communicate()
    assert set(out.decode().split()) == {"10.1.2.2", "10.1.2.3"}
