"""A fake machine for the tests of verbs, the command as a process, and the shell that a terminal needs."""

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

ROOT = Path(__file__).resolve().parents[2]


class Machine:
    """A fake machine that runs, and popnet as a process that talks to it."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self.run_dir = run_dir
        self.name = name
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.env = {**os.environ, "PYTHONPATH": path, "POPNET_RUN_DIR": str(run_dir), "TERM": "xterm"}
        self.env.pop("POPNET_MACHINE", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.fake_machine", str(run_dir), name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=self.env,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-c", "from popnet.cli.main import main; main()", *args]

    def popen(self, *args: str, **options: object) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self.command(*args), env=self.env, **options)  # type: ignore[call-overload,no-any-return]

    def run(self, *args: str, stdin: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
        """popnet with *args*; without *stdin*, an empty one."""
        return subprocess.run(
            self.command(*args),
            input=stdin or b"",
            capture_output=True,
            env=self.env,
            timeout=60,
            check=False,
        )

    def spawn(self, *args: str, dimensions: tuple[int, int] = (24, 80)) -> "pexpect.spawn[str]":
        """popnet with *args* on a terminal of its own, of so many rows and columns."""
        program, *rest = self.command(*args)
        return pexpect.spawn(program, rest, env=self.env, encoding="utf-8", timeout=30, dimensions=dimensions)

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)  # a test may have stopped it
        self.process.terminate()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def untouched() -> list[object]:
    """The settings of a terminal that nobody has changed."""
    ours, theirs = os.openpty()
    settings = termios.tcgetattr(ours)
    os.close(ours)
    os.close(theirs)
    return settings


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The machine `demo`, fresh; POPNET_RUN_DIR leads to it."""
    running = Machine(tmp_path / "run", "demo")
    monkeypatch.setenv("POPNET_RUN_DIR", str(running.run_dir))
    monkeypatch.delenv("POPNET_MACHINE", raising=False)
    yield running
    running.end()
