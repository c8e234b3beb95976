"""`ssh`, `ssh-config` and `proxy`: what ssh is started with, and bytes to a TCP port and back."""

import hashlib
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from popnet.cli.main import cli
from tests.cli.conftest import Machine


@contextmanager
def tcp_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server on the loopback that talks to one client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def test_the_end_of_stdin_does_not_end_the_answer(machine: Machine) -> None:
    """Half-close: the server answers only after it has read everything."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(hashlib.sha256(read_all(connection)).hexdigest().encode())

    data = os.urandom(5 << 20)
    with tcp_server(talk) as port:
        result = machine.run("proxy", "local", str(port), stdin=data)
    assert result.stdout.decode() == hashlib.sha256(data).hexdigest()
    assert (result.stderr, result.returncode) == (b"", 0)


def test_the_servers_end_ends_it_though_stdin_is_open(machine: Machine) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-test\r\n")

    with tcp_server(talk) as port:
        process = machine.popen("proxy", "local", str(port), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.read() == b"SSH-2.0-test\r\n"
        assert process.wait() == 0
        process.communicate()


def test_bytes_are_exact_and_plenty(machine: Machine) -> None:
    data = os.urandom(5 << 20)
    with tcp_server(lambda connection: connection.sendall(data)) as port:
        result = machine.run("proxy", "local", str(port))
    assert result.stdout == data


def test_stdout_that_is_closed(machine: Machine) -> None:
    def talk(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(bytes(1 << 16))
        except ConnectionError:
            return

    with tcp_server(talk) as port:
        process = machine.popen(
            "proxy", "local", str(port), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
        process.stderr.close()
        assert process.stdin is not None
        process.stdin.close()


def test_port_that_nobody_listens_on(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = machine.run("proxy", "local", str(port))
    assert result.returncode == 1
    assert f"127.0.0.1 port {port}: ".encode() in result.stderr


@pytest.mark.parametrize("args", [("k9",), ("k9", "80")])
def test_kernel_that_is_none(machine: Machine, args: tuple[str, ...]) -> None:
    result = machine.run("proxy", *args)
    assert result.returncode == 1 and b"k9" in result.stderr


def test_machine_that_dies(machine: Machine) -> None:
    waits = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"on\n")
        waits.wait()

    with tcp_server(talk) as port:
        process = machine.popen(
            "proxy", "local", str(port), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"on\n"
        machine.process.kill()
        waits.set()
        _out, err = process.communicate()
    assert process.returncode == 1 and b"machine 'demo' ended" in err


# ssh


def fake_ssh(directory: Path) -> None:
    """A program `ssh` that prints its arguments."""
    program = directory / "ssh"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_ssh_gets_the_machines_configuration(machine: Machine, tmp_path: Path) -> None:
    fake_ssh(tmp_path)
    config = machine.run_dir / "demo" / "ssh_config"
    config.touch()
    machine.env["PATH"] = f"{tmp_path}:{machine.env['PATH']}"
    for args, passed in (
        (["k1"], ["k1"]),
        (["k1", "-L", "80:k2:80", "-N"], ["k1", "-L", "80:k2:80", "-N"]),
        (["-m", "demo", "k1", "--", "ls", "-v"], ["k1", "--", "ls", "-v"]),
    ):
        result = machine.run("ssh", *args)
        assert result.stdout.decode().split("\n") == ["-F", str(config), *passed, ""], result.stderr


def test_ssh_without_a_program_or_a_configuration(machine: Machine, tmp_path: Path) -> None:
    result = machine.run("ssh", "k1")
    assert result.returncode == 1 and b"none of its kernels runs sshd" in result.stderr
    machine.env["PATH"] = str(tmp_path)
    assert b"install the OpenSSH client" in machine.run("ssh", "k1").stderr


def test_ssh_config(machine: Machine) -> None:
    assert CliRunner().invoke(cli, ["ssh-config"]).output == "Host k1\n  HostName 10.1.2.2\n"
