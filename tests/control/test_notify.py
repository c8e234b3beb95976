"""sd_notify against a real socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from popnet.control.notify import Notifier, status_text
from popnet.core.errors import Refused


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The value of $NOTIFY_SOCKET, and the service manager's socket."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@popnet-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0", 1))
        sock.settimeout(20)
        yield address, sock


def test_what_is_said(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    environment = {"NOTIFY_SOCKET": address, "HOME": "/"}
    notifier = Notifier(environment)
    assert environment == {"HOME": "/"}, "programs in kernels do not speak for the machine"
    assert notifier.watchdog_s is None
    notifier.status("2 kernels: 2 online")
    notifier.status("2 kernels: 2 online")
    notifier.ready()
    notifier.stopping()
    said = [sock.recv(4096) for _ in range(3)]
    assert said == [b"STATUS=2 kernels: 2 online", b"READY=1", b"STOPPING=1"]
    notifier.reloading()
    assert sock.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    notifier.close()
    notifier.ready()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(4096)


async def test_the_watchdog_is_fed_until_cancelled(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    notifier = Notifier(
        {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    )
    assert notifier.watchdog_s == 0.02
    feeding = asyncio.create_task(notifier.feed())
    for _ in range(3):
        assert await asyncio.to_thread(sock.recv, 4096) == b"WATCHDOG=1"
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    notifier.close()


async def test_the_watchdog_of_another_process_is_not_ours(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[0], "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"})
    assert notifier.watchdog_s is None
    await notifier.feed()
    notifier.close()


async def test_without_a_manager_nothing_is_said() -> None:
    notifier = Notifier({})
    notifier.ready()
    await notifier.feed()
    notifier.close()


def test_a_manager_that_reads_nothing_holds_nothing_up(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager[0]})
    for n in range(10_000):
        notifier.status(str(n))
    notifier.close()


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"NOTIFY_SOCKET": "relative"}, "neither a path nor @NAME"),
        ({"NOTIFY_SOCKET": "/nonexistent/notify"}, "nobody listens"),
    ],
)
def test_bad_variables_are_refused(variables: dict[str, str], problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        Notifier(variables)


@pytest.mark.parametrize("period", ["soon", "0", "-5"])
def test_a_bad_period_is_refused(manager: tuple[str, socket.socket], period: str) -> None:
    with pytest.raises(Refused, match="not a number of microseconds"):
        Notifier({"NOTIFY_SOCKET": manager[0], "WATCHDOG_USEC": period})


def test_status_text() -> None:
    assert status_text(["online", "online", "failed"]) == "3 kernels: 2 online, 1 failed"
    assert status_text(["online"]) == "1 kernel: 1 online"
