"""Starting a machine's process: a fake primary that says what the test wants, or dies without a word."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from popnet.control import launch
from popnet.core.errors import BootFailed, IllegalState

READY = {"ready": {"name": "fake", "socket": "/run/fake", "took_ms": 1.5}}


@pytest.fixture
def primary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """primary(body): from now on a primary is a Python script that runs *body* with say(), args and fd."""
    python = sys.executable

    def use(body: str) -> None:
        script = tmp_path / "python"
        script.write_text(
            f"#!{python}\n"
            "import json, os, signal, sys, time\n"
            "args = sys.argv[1:]\n"
            "fd = int(args[args.index('--progress-fd') + 1])\n"
            "def say(message): os.write(fd, json.dumps(message).encode() + b'\\n')\n"
            f"ready = {READY!r}\n{body}\n"
        )
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield use  # type: ignore[misc]
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_ready(primary: Callable[[str], None]) -> None:
    primary("say(ready)")
    ready, process = launch.start("machine.yaml")
    assert ready == READY["ready"]
    assert process.wait() == 0


def test_launched_for_good_nobody_waits_for_it(primary: Callable[[str], None], tmp_path: Path) -> None:
    primary("say(ready)")
    assert launch.launch("machine.yaml") == READY["ready"]


def test_what_it_is_told(primary: Callable[[str], None], tmp_path: Path) -> None:
    primary(f"open({str(tmp_path / 'args')!r}, 'w').write(json.dumps(args)); say(ready)")
    launch.start("machine.yaml", name="other", run_dir=tmp_path)[1].wait()
    args = json.loads((tmp_path / "args").read_text())
    expected = ["-m", "popnet.control.main", "--file", "machine.yaml", "--name", "other", "--run-dir"]
    assert args[:-2] == [*expected, str(tmp_path), "--progress-fd"][:-1]


def test_events_come_one_by_one_whole_however_they_are_cut(primary: Callable[[str], None]) -> None:
    primary(
        "line = b''.join(json.dumps({'event': {'seq': n, 'text': 'x' * 50}}).encode() + b'\\n'"
        " for n in range(3000))\n"
        "for start in range(0, len(line), 997): os.write(fd, line[start:start + 997])\n"
        "say(ready)"
    )
    events: list[Any] = []
    launch.start("machine.yaml", on_event=events.append)[1].wait()
    assert [event["seq"] for event in events] == list(range(3000))


def test_an_error_is_raised_as_it_was(primary: Callable[[str], None]) -> None:
    primary("say({'error': {'code': 'illegal-state', 'message': 'no', 'hint': 'do'}}); sys.exit(1)")
    with pytest.raises(IllegalState, match="no") as caught:
        launch.start("machine.yaml")
    assert caught.value.hint == "do"


@pytest.mark.parametrize(
    ("body", "status", "hint"),
    [
        ("sys.exit(3)", 3, "it said nothing"),
        ("print('last words'); sys.exit(1)", 1, "it said: last words"),
        ("sys.exit('x' * 100000 + 'end')", 1, "xend"),
        ("os.kill(os.getpid(), 9)", -9, "it said nothing"),
        ("raise KeyError('our bug')", 1, "our bug"),
        ("say({'event': {}}); os.close(fd); sys.exit(4)", 4, "it said nothing"),
        ("os.write(fd, b'{\"rea'); sys.exit(5)", 5, "it said nothing"),
    ],
)
def test_one_that_dies_silently_is_told_with_its_last_words(
    primary: Callable[[str], None], body: str, status: int, hint: str
) -> None:
    primary(body)
    with pytest.raises(BootFailed, match=f"ended with status {status} before it was up") as caught:
        launch.start("machine.yaml")
    assert hint in caught.value.hint
    assert len(caught.value.hint) < 5000


def test_its_end_is_seen_though_a_child_of_its_holds_the_pipe(
    primary: Callable[[str], None], tmp_path: Path
) -> None:
    primary(
        "pid = os.fork()\n"
        "if pid == 0: signal.pause()\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(pid)); sys.exit(6)"
    )
    with pytest.raises(BootFailed, match="status 6"):
        launch.start("machine.yaml")
    os.kill(int((tmp_path / "child").read_text()), 9)


def test_garbage_ends_the_process(primary: Callable[[str], None], tmp_path: Path) -> None:
    primary(
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "os.write(fd, b'no json\\n'); signal.pause()"
    )
    with pytest.raises(ValueError, match="Expecting value"):
        launch.start("machine.yaml")
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_interrupted_launch_ends_the_process(primary: Callable[[str], None], tmp_path: Path) -> None:
    primary("say({'event': {'pid': os.getpid()}}); signal.pause()")
    pids = []

    def interrupted(event: Any) -> None:
        pids.append(event["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.start("machine.yaml", on_event=interrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_no_python_to_start(primary: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FileNotFoundError):
        launch.start("machine.yaml")
