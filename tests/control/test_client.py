"""The synchronous client, beside what test_server covers: its cost, and peers that misbehave."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest

import popnet
from popnet.control.client import Client, decode_error, encode_error
from popnet.core.errors import NoSuchMachine, PeerDied, PopnetError, Refused, Unavailable

Serve = Callable[[bytes | None], Client]


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Serve]:
    """A client of a machine that answers all requests with those bytes and hangs up; with None, never."""
    listening = socket.socket(socket.AF_UNIX)
    (tmp_path / "m").mkdir()
    listening.bind(str(tmp_path / "m" / "control.sock"))
    listening.listen()
    threads: list[Thread] = []
    kept: list[socket.socket] = []

    def answer(data: bytes | None) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            kept.append(connection)
            if data is None:
                continue
            if connection.recv(1 << 16):
                connection.sendall(data)
            connection.close()

    def start(data: bytes | None) -> Client:
        threads.append(Thread(target=answer, args=(data,)))
        threads[-1].start()
        return Client("m", run_dir=tmp_path, timeout_s=0.2 if data is None else 10)

    yield start
    listening.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for sock in (listening, *kept):
        sock.close()


def test_importing_it_brings_nothing_slow() -> None:
    root = Path(popnet.__file__).parents[1]
    script = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import popnet.control.client; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    slow = {"asyncio", "typing", "http", "email", "ssl", "inspect", "dataclasses", "pydantic", "aiohttp"}
    assert not loaded & slow


def test_errors_cross_the_api() -> None:
    error = Refused("no", "ask nicely")
    again = decode_error(encode_error(error))
    assert (type(again), str(again), again.hint) == (Refused, "no", "ask nicely")
    unknown = decode_error({"error": {"code": "of-a-later-version", "message": "m"}})
    assert (type(unknown), unknown.code, unknown.hint) == (PopnetError, "of-a-later-version", "")
    assert "answered with an error: oops" in str(decode_error("oops"))


def test_a_body_with_a_length(answering: Serve) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\n[]"
    assert answering(data).get("/") == []
    assert answering(data).post("/", {"a": 1}) == []


def test_an_error_without_our_form(answering: Serve) -> None:
    with pytest.raises(PopnetError, match="answered with an error: gone"):
        answering(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\ngone").get("/")


@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"]
)
def test_a_machine_that_dies(answering: Serve, data: bytes) -> None:
    with pytest.raises(PeerDied, match="'m' ended"):
        answering(data).get("/")


def test_something_else_listens(answering: Serve) -> None:
    with pytest.raises(Unavailable, match="is not the control socket of a machine"):
        answering(b"220 mail.example ESMTP\r\n").get("/")


def test_a_machine_that_hangs(answering: Serve) -> None:
    with pytest.raises(Unavailable, match=r"did not answer within 0\.2 s"):
        answering(None).get("/")


def test_no_machine(tmp_path: Path) -> None:
    with pytest.raises(NoSuchMachine):
        Client("m", run_dir=tmp_path)
