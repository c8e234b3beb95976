"""Login by the stock OpenSSH client, over the virtual network."""

import hashlib
import os
import re
import socket
import subprocess
import threading
from pathlib import Path

import pexpect
import pytest

from tests.live.lab import Lab, wait_until
from tests.live.test_console import resized


@pytest.fixture(scope="module")
def config(pair: Lab) -> str:
    path = pair.tmp / "ssh_config"
    path.write_text(pair.popnet("ssh-config").stdout)
    return str(path)


def ssh(pair: Lab, config: str, *words: str, **more: object) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["ssh", "-F", config, "-o", "BatchMode=yes", *words],
        env=pair.env(),
        capture_output=True,
        timeout=90,
        **more,  # type: ignore[call-overload]
    )


def test_status_and_streams(pair: Lab, config: str) -> None:
    result = ssh(pair, config, "k1", "uname -n; echo err >&2; exit 7")
    assert (result.returncode, result.stdout, result.stderr) == (7, b"k1\n", b"err\n")


def test_it_goes_over_the_virtual_network(pair: Lab, config: str) -> None:
    client = ssh(pair, config, "k2", "echo $SSH_CONNECTION").stdout.decode().split()
    assert re.fullmatch(r"(::ffff:)?10\.1\.2\.1", client[0])
    assert re.fullmatch(r"(::ffff:)?10\.1\.2\.3", client[2])


def test_popnet_ssh_is_the_same(pair: Lab) -> None:
    result = pair.popnet("ssh", "k1", "--", "hostname")
    assert result.stdout == "k1\n"
    assert pair.popnet("ssh", "primary", "hostname").stdout == "primary\n"


def test_login_with_a_terminal(pair: Lab, config: str) -> None:
    child = pexpect.spawn("ssh", ["-F", config, "k1"], env=pair.env(), timeout=60, dimensions=(30, 90))
    try:
        child.sendline("stty size; tty; uname -n; echo ok-$((1+1))")
        child.expect("30 90")
        child.expect("/dev/pts/")
        child.expect("k1")
        child.expect("ok-2")
        child.setwinsize(50, 130)
        child.sendline(resized("50 130"))
        child.expect("it is-42")
        child.sendline("exit 4")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 4
    finally:
        child.close(force=True)


def test_scp_of_100_mb_both_ways(pair: Lab, config: str) -> None:
    source, back = pair.tmp / "data", pair.tmp / "back"
    source.write_bytes(os.urandom(1 << 20) * 100)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    scp = ["scp", "-q", "-F", config, "-o", "BatchMode=yes"]
    subprocess.run([*scp, str(source), "k1:/tmp/data"], env=pair.env(), check=True, timeout=110)
    assert ssh(pair, config, "k1", "sha256sum < /tmp/data").stdout.split()[0].decode() == digest
    subprocess.run([*scp, "k1:/tmp/data", str(back)], env=pair.env(), check=True, timeout=110)
    assert hashlib.sha256(back.read_bytes()).hexdigest() == digest
    source.unlink()
    back.unlink()
    ssh(pair, config, "k1", "rm /tmp/data")


def test_sftp_sees_the_kernels_files(pair: Lab, config: str) -> None:
    ssh(pair, config, "k2", "mkdir -p /tmp/dir && echo hello > /tmp/dir/file")
    batch = pair.tmp / "batch"
    batch.write_text(
        f"cd /tmp/dir\nls -l\nget file {pair.tmp}/got\nput {batch} sent\nrename sent renamed\nls\n"
    )
    result = subprocess.run(
        ["sftp", "-q", "-F", config, "-o", "BatchMode=yes", "-b", str(batch), "k2"],
        env=pair.env(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert (pair.tmp / "got").read_text() == "hello\n"
    assert ssh(pair, config, "k2", "ls /tmp/dir").stdout == b"file\nrenamed\n"
    assert not Path("/tmp/dir/file").exists()


def test_a_second_hop(pair: Lab, config: str) -> None:
    result = ssh(pair, config, "-J", "k1", "k2", "uname -n; echo $SSH_CONNECTION")
    assert result.returncode == 0, result.stderr
    name, connection = result.stdout.decode().splitlines()
    assert name == "k2"
    assert re.match(r"(::ffff:)?10\.1\.2\.2 ", connection), "the last hop comes from k1"


def test_port_forwarding(pair: Lab, config: str) -> None:
    pair.sh("k1", "mkdir -p /tmp/www && echo popped > /tmp/www/index.html")
    server = pair.start("exec", "k1", "--", "python3", "-m", "http.server", "-d", "/tmp/www", "8000")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    forward = [
        "ssh",
        "-F",
        config,
        "-N",
        "-o",
        "ExitOnForwardFailure=yes",
        "-L",
        f"127.0.0.1:{port}:10.1.2.2:8000",
        "k2",
    ]
    tunnel = subprocess.Popen(forward, env=pair.env(), stderr=subprocess.PIPE)

    def fetch() -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return b"".join(iter(lambda: connection.recv(4096), b""))
        except OSError:
            return b""

    try:
        assert wait_until(
            lambda: (r := fetch()).endswith(b"popped\n") and r, "the page comes through"
        ).startswith(b"HTTP/1.0 200")
    finally:
        tunnel.terminate()
        tunnel.communicate()
        server.terminate()
        server.communicate()


def test_only_known_keys_and_known_hosts(pair: Lab, config: str) -> None:
    stranger = pair.tmp / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    text = Path(config).read_text()
    wrong_key = pair.tmp / "wrong_key"
    wrong_key.write_text(re.sub(r"IdentityFile .*", f"IdentityFile {stranger}\n  IdentitiesOnly yes", text))
    result = ssh(pair, str(wrong_key), "k1", "true")
    assert result.returncode == 255
    assert b"Permission denied" in result.stderr
    unknown = pair.tmp / "unknown_host"
    unknown.write_text(re.sub(r"UserKnownHostsFile .*", "UserKnownHostsFile /dev/null", text))
    result = ssh(pair, str(unknown), "k1", "true")
    assert result.returncode == 255
    assert b"Host key verification failed" in result.stderr


def test_many_logins_at_once(pair: Lab, config: str) -> None:
    results: list[bytes] = []

    def login(n: int) -> None:
        results.append(ssh(pair, config, f"k{n % 2 + 1}", f"echo {n}").stdout)

    threads = [threading.Thread(target=login, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"{n}\n".encode() for n in range(8)]
