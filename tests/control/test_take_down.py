"""Ending a machine without asyncio, as the command does: `take_down` of control/launch."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from popnet.control.client import Client
from popnet.control.launch import launch, start, take_down
from popnet.core.errors import NoSuchMachine, Unavailable

PRIMARY = """\
import json, os, signal, socket, sys, time
from pathlib import Path
arguments = dict(zip(sys.argv[3::2], sys.argv[4::2]))
progress = os.fdopen(int(arguments["--progress-fd"]), "w")
def say(**message): print(json.dumps(message), file=progress, flush=True)
say(event={"pid": os.getpid(), "session": os.getsid(0), "stdin": os.readlink("/proc/self/fd/0")})
"""

SERVER = """
path = Path(arguments["--run-dir"], "m", "control.sock")
path.parent.mkdir()
listening = socket.socket(socket.AF_UNIX)
listening.bind(str(path))
listening.listen()
say(ready={"name": "m", "socket": str(path), "took_ms": 1.0})
while True:
    connection, _ = listening.accept()
    if connection.recv(65536).startswith(b"POST /v1/down"):
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
        if "--name" in arguments: time.sleep(0.2); sys.exit(0)
"""


@pytest.fixture
def primary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a script the program that starts machines."""

    def use(script: str) -> None:
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable}\n{PRIMARY}{script}")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))

    return use


def test_a_machine_starts_and_ends(primary: Any, tmp_path: Path) -> None:
    primary(SERVER)
    events: list[Any] = []
    ready, process = start("file", name="m", run_dir=tmp_path, on_event=events.append)
    assert ready == {"name": "m", "socket": str(tmp_path / "m" / "control.sock"), "took_ms": 1.0}
    assert events == [{"pid": process.pid, "session": process.pid, "stdin": "/dev/null"}]
    client = Client("m", run_dir=tmp_path)
    take_down(client)
    assert process.wait(0.01) == 0, "take_down returns after the end of the process"
    with pytest.raises(NoSuchMachine):
        take_down(client)


def test_a_machine_that_does_not_end(primary: Any, tmp_path: Path) -> None:
    primary(SERVER)
    _, process = start("file", run_dir=tmp_path)
    with pytest.raises(Unavailable, match=r"'m' did not end within 0\.05 s"):
        take_down(Client("m", run_dir=tmp_path), timeout_s=0.05)
    process.kill()
    process.wait()


def test_launch_leaves_the_machine_alone(primary: Any, tmp_path: Path) -> None:
    primary(SERVER)
    events: list[Any] = []
    assert launch("file", name="m", run_dir=tmp_path, on_event=events.append)["name"] == "m"
    take_down(Client("m", run_dir=tmp_path))
    os.waitpid(events[0]["pid"], 0)
