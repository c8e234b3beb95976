"""Streams without an event loop, against the real server."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from popnet.control import wire
from popnet.control.blocking import BlockingStream, connect
from popnet.core.errors import NoSuchKernel, NoSuchMachine, NoSuchService, PeerDied, PopnetError, StreamClosed
from tests.control.fakes import Served
from tests.control.in_thread import serving_in_thread


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[Served, Callable[..., Any]]]:
    with serving_in_thread(tmp_path) as machine:
        yield machine


@pytest.fixture
def served(machine: tuple[Served, Callable[..., Any]]) -> Served:
    return machine[0]


def open_stream(served: Served, service: str, params: dict[str, Any] | None = None) -> BlockingStream:
    return connect(served.socket, wire.stream_path("k1", service), params)


def test_echo(served: Served) -> None:
    with open_stream(served, "echo", {"a": 1}) as stream:
        for channel, data in ((0, b"x"), (2, bytes(200)), (1, bytes(65536)), (255, b"y" * 70_000)):
            stream.send(data, channel)
            received = b""
            while len(received) < len(data):
                item = stream.receive()
                assert item is not None
                assert item[0] == channel
                received += item[1]
            assert received == data
        stream.finish()
        assert stream.receive() is None
        assert stream.result == {"echoed": 1 + 200 + 65536 + 70_000}
        with pytest.raises(StreamClosed):
            stream.send(b"late")


def test_a_large_transfer(served: Served) -> None:
    with open_stream(served, "source", {"size": 10_000_000, "chunk": 60_000}) as stream:
        count = 0
        while (received := stream.receive()) is not None:
            count += len(received[1])
        assert (count, stream.result) == (10_000_000, {"sent": 10_000_000})


def test_refusals(served: Served, tmp_path: Path) -> None:
    with pytest.raises(NoSuchService):
        open_stream(served, "nothing")
    with pytest.raises(NoSuchKernel):
        connect(served.socket, wire.stream_path("nobody", "echo", {}))
    with pytest.raises(NoSuchMachine):
        connect(tmp_path / "none" / "control.sock", "/")


def test_a_kernel_that_dies(served: Served) -> None:
    with open_stream(served, "dies") as stream:
        assert stream.receive() == (0, b"last words")
        for _ in range(2):
            with pytest.raises(PeerDied, match="k1 died"):
                stream.receive()
        with pytest.raises(PeerDied, match="k1 died"):
            stream.send(b"x")


def test_a_machine_that_goes_down(machine: tuple[Served, Callable[..., Any]]) -> None:
    served, call = machine
    with open_stream(served, "echo") as stream:
        call(served.server.close)
        with pytest.raises(PeerDied):
            stream.receive()


@pytest.mark.parametrize("waiting", ["receive", "send"])
def test_closing_wakes_a_thread_that_waits(machine: tuple[Served, Callable[..., Any]], waiting: str) -> None:
    served, call = machine
    stream = open_stream(served, "stuck")
    begun = threading.Event()
    caught: list[Exception] = []

    def wait() -> None:
        try:
            while True:
                begun.set()
                if waiting == "receive":
                    stream.receive()
                else:
                    stream.send(bytes(60_000))
        except PopnetError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    stream.close()
    thread.join(20)
    assert [type(error) for error in caught] == [StreamClosed]
    call(served.service.wait_ended, "stuck")
