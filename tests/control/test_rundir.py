"""Which machines there are, and which one is meant."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from popnet.control import rundir
from popnet.control.rundir import machines, make_run_dir, pick_machine, run_dir, socket_path
from popnet.core.errors import NoSuchMachine, Refused


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes a machine of that name, of which only the socket is real."""
    monkeypatch.setenv("POPNET_RUN_DIR", str(tmp_path))
    monkeypatch.delenv("POPNET_MACHINE", raising=False)
    with ExitStack() as stack:

        def start_one(name: str) -> None:
            (tmp_path / name).mkdir()
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(tmp_path / name / "control.sock"))
            listening.listen()

        yield start_one


def test_the_machines_that_run(start: Callable[[str], None], tmp_path: Path) -> None:
    assert machines() == []
    start("b")
    start("a")
    (tmp_path / "dead").mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "dead" / "control.sock"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.log").touch()
    assert machines() == ["a", "b"]
    assert machines(tmp_path / "nowhere") == []


def test_a_machine_too_busy_to_accept_is_alive(start: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    path = tmp_path / "busy" / "control.sock"
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(path))
        listening.listen(0)
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.connect(str(path))
        assert machines() == ["busy"]
        with pytest.raises(TimeoutError):
            rundir.open_socket(path, 0.01)
        with pytest.raises(BlockingIOError):
            rundir.open_socket(path, 0)


def test_pick(start: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NoSuchMachine, match="no machine is running") as caught:
        pick_machine()
    assert caught.value.hint == "start one: popnet up FILE"
    with pytest.raises(NoSuchMachine, match="no machine 'a' is running") as caught:
        pick_machine("a")
    assert caught.value.hint == "start one: popnet up FILE"
    start("a")
    assert pick_machine() == "a"
    start("b")
    with pytest.raises(NoSuchMachine, match="2 machines are running; which one") as caught:
        pick_machine()
    assert caught.value.hint == "name one (or set POPNET_MACHINE): a, b"
    assert pick_machine("a") == "a"
    monkeypatch.setenv("POPNET_MACHINE", "b")
    assert pick_machine() == "b"
    assert pick_machine("a") == "a"
    for wrong in ("c", "../a", ".", "a/../b"):
        with pytest.raises(NoSuchMachine) as caught:
            pick_machine(wrong)
        assert caught.value.hint == "running: a, b"


def test_the_run_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("POPNET_RUN_DIR", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert run_dir() == Path("/run/popnet")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/4000000000")
    assert run_dir() == Path("/run/user/4000000000/popnet")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert run_dir() == Path("/tmp/popnet-4000000000")
    monkeypatch.setenv("POPNET_RUN_DIR", "relative")
    assert run_dir() == Path.cwd() / "relative"
    assert socket_path("m", tmp_path) == tmp_path / "m" / "control.sock"


def test_a_run_directory_is_made_for_us_alone(tmp_path: Path) -> None:
    made = make_run_dir(tmp_path / "run" / "popnet")
    assert made.stat().st_mode & 0o777 == 0o700
    assert make_run_dir(made) == made


def test_a_run_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/tmp")
    with pytest.raises(Refused, match="not a directory of yours") as caught:
        make_run_dir(tmp_path / "link")
    assert "POPNET_RUN_DIR" in caught.value.hint
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(Refused, match="others can write"):
        make_run_dir(tmp_path / "open")


def test_an_address_fits_however_long_its_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / "control.sock"
    deep.parent.mkdir()
    with rundir.ShortAddress(deep) as address, socket.socket(socket.AF_UNIX) as listening:
        assert len(address) < 108
        listening.bind(address)
        listening.listen()
        assert rundir.is_alive(deep)
    assert not rundir.is_alive(deep)
