"""A machine as a service: in the foreground, and under a real systemd."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.lab import PAIR, Lab, wait_until

ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def test_in_the_foreground(lab: Lab) -> None:
    """Ready is told when all kernels are online; logs are lines of JSON; SIGTERM ends it with status 0."""
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(lab.tmp / "notify"))
        manager.settimeout(60)
        lab.environ["NOTIFY_SOCKET"] = str(lab.tmp / "notify")
        words = ("--log-format", "json", "--metrics", f"127.0.0.1:{port}")
        process = lab.start("run", lab.file(PAIR.format(name="lab")), *words)
        del lab.environ["NOTIFY_SOCKET"]
        said = [manager.recv(4096).decode()]
        while said[-1] != "READY=1":
            said.append(manager.recv(4096).decode())
        assert "STATUS=3 kernels: 3 online" in said
        assert {row["state"] for row in lab.kernels().values()} == {"online"}
        assert 'popnet_kernel_state{machine="lab",kernel="k2",state="online"} 1' in scrape(port)
        assert "NOTIFY_SOCKET" not in lab.sh("k1", "env")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        while said[-1] != "STOPPING=1":
            said.append(manager.recv(4096).decode())
    rows = [json.loads(line) for line in errors.decode().splitlines()]
    about = {(row.get("kernel"), row["subsystem"]) for row in rows}
    assert {("k1", "dmesg"), ("k2", "dmesg"), ("k1", "events"), ("k1", "message.linkend")} <= about
    assert [row["text"] for row in rows if row.get("event") == "machine.up"] == ["machine lab: up"]
    assert lab.machines() == []


def test_keys_on_its_terminal_end_it_in_good_order(lab: Lab) -> None:
    """Ctrl-C reaches the machine alone: its kernels are shut down by it, not by the key."""
    process = lab.start("run", lab.file(PAIR.format(name="lab")), start_new_session=True)
    wait_until(
        lambda: [row for row in _events(lab) if row["kind"] == "machine.up"],
        "the machine is up",
        timeout_s=60,
    )
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    assert "kernel.failed" not in errors.decode()
    assert "kernel 1: offline (stopped)" in errors.decode()


def _events(lab: Lab) -> list[dict[str, Any]]:
    done = lab.popnet("-o", "json", "events", check=False)
    return list(json.loads(done.stdout)["items"]) if done.returncode == 0 else []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--metrics", "localhost"), "--metrics: 'localhost' is no address"),
        (("--log-format", "xml"), "'xml' is not one of 'auto', 'text', 'json', 'journal'"),
    ],
)
def test_what_cannot_be(lab: Lab, words: tuple[str, ...], problem: str) -> None:
    for verb in ("run", "up"):
        done = lab.popnet(verb, lab.file(PAIR.format(name="lab")), *words, check=False)
        assert done.returncode in (1, 2)
        assert problem in done.stderr
        assert "Traceback" not in done.stderr
    assert lab.machines() == []


class Systemd:
    """A manager of our own (see `systemd_user`). `ctl` is systemctl."""

    def __init__(self, directory: Path, group: str) -> None:
        self._process = subprocess.Popen(
            [*ISOLATED, sys.executable, "-m", "tests.live.systemd_user", str(directory), group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self._log = directory / "systemd.log"
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def ctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        status, output, errors = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(words, status, output, errors)

    def show(self, unit: str) -> dict[str, str]:
        output = self.ctl("show", unit).stdout
        return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)

    def must(self, *words: str) -> None:
        done = self.ctl(*words)
        assert done.returncode == 0, f"{done.stderr}\n{self._log.read_text()}"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@pytest.fixture
def systemd(lab: Lab) -> Iterator[Systemd]:
    """A systemd that has popnet's own unit, with a watchdog of 5 s, and the file of a machine `lab`."""
    units, files = lab.tmp / "units", lab.tmp / ".config/popnet"
    units.mkdir()
    files.mkdir(parents=True)
    unit = lab.popnet("service-unit", "--user").stdout
    assert "WatchdogSec=30\n" in unit
    (units / "popnet@.service").write_text(unit.replace("WatchdogSec=30\n", "WatchdogSec=5\n"))
    (units / "popnet@.service.d").mkdir()
    (units / "popnet@.service.d/log.conf").write_text("[Service]\nStandardError=append:%h/service.log\n")
    (files / "lab.yaml").write_text(PAIR.format(name="other"))
    (files / "environment").write_text(f"POPNET_RUN_DIR={lab.run_dir}\nPOPNET_LOG_FORMAT=json\n")
    group = f"popnet-test-systemd-{os.getpid()}"
    manager = Systemd(lab.tmp, group)
    try:
        yield manager
    finally:
        manager.close()
        for tree in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]:
            for directory in sorted((tree / group).rglob("*/"), key=lambda path: -len(path.parts)):
                with contextlib.suppress(OSError):
                    directory.rmdir()
            with contextlib.suppress(OSError):
                (tree / group).rmdir()


def test_a_unit_starts_watches_restarts_and_stops_a_machine(lab: Lab, systemd: Systemd) -> None:
    systemd.must("start", "popnet@lab.service")  # returns once READY=1 was told
    assert {row["state"] for row in lab.kernels("lab").values()} == {"online"}
    shown = systemd.show("popnet@lab.service")
    assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
    assert shown["StatusText"] == "3 kernels: 3 online"
    assert lab.exec("k1", "uname", "-n").stdout == "k1\n"

    # A reload is `popnet apply`: the machine becomes what the file says now.
    (lab.tmp / ".config/popnet/lab.yaml").write_text(PAIR.format(name="other") + "  k3: {image: light}\n")
    systemd.must("reload", "popnet@lab.service")
    assert lab.kernels("lab")["k3"]["state"] == "online"
    (lab.tmp / ".config/popnet/lab.yaml").write_text(PAIR.format(name="other"))
    systemd.must("reload", "popnet@lab.service")
    assert "k3" not in lab.kernels("lab")

    # The event loop of the primary stops: the watchdog ends it, and it is started again.
    systemd.must("kill", "--kill-who=main", "--signal=SIGSTOP", "popnet@lab.service")
    wait_until(
        lambda: systemd.show("popnet@lab.service")["NRestarts"] != "0", "the watchdog has it restarted", 60
    )
    wait_until(lambda: systemd.show("popnet@lab.service")["ActiveState"] == "active", "it is up again", 60)
    assert systemd.show("popnet@lab.service")["MainPID"] != shown["MainPID"]
    assert {row["state"] for row in lab.kernels("lab").values()} == {"online"}

    systemd.must("stop", "popnet@lab.service")
    shown = systemd.show("popnet@lab.service")
    assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success")
    assert lab.machines() == []


def test_a_machine_that_cannot_start_fails_its_unit_with_the_reason(lab: Lab, systemd: Systemd) -> None:
    (lab.tmp / ".config/popnet/lab.yaml").write_text(PAIR.format(name="lab").replace("full", "ful"))
    assert systemd.ctl("start", "popnet@lab.service").returncode == 1
    assert systemd.ctl("stop", "popnet@lab.service").returncode == 0
    log = (lab.tmp / "service.log").read_text()
    assert "lab.yaml" in log and "ful" in log
    assert lab.machines() == []
