"""All of it without root: the machine lives in a user namespace of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from popnet.cli import residue
from tests.live.lab import Lab, nothing_left, wait_until

MACHINE = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: full}}
  k2: {{image: light}}
"""


@pytest.fixture
def user(lab: Lab) -> Iterator[Lab]:
    """A lab whose commands run without root: by the user who runs the tests, or one that root makes up."""
    if os.geteuid() == 0:
        lab.prefix = (sys.executable, "-m", "tests.live.as_user")
        lab.environ = {"HOME": str(lab.tmp), "PYTHONPATH": str(Path(__file__).parents[2])}
    yield lab


def test_boot_network_login_capture_console_and_down(user: Lab) -> None:
    before = residue.take(user.run_dir)
    user.up(MACHINE)
    primary = user.kernels()["primary"]["pid"]
    uid_map = Path(f"/proc/{primary}/uid_map").read_text().split()
    assert uid_map[0] == "0", "root in a namespace of its own"
    assert uid_map[2] == "1", "and nobody else"
    running = residue.take(user.run_dir, primary)
    assert user.sh("k1", "id -u; uname -n").split() == ["0", "k1"]
    user.ping("k1", "k2", "-4")
    user.ping("k2", "primary")
    assert user.popnet("ssh", "k1", "--", "uname", "-n").stdout == "k1\n"
    capture = user.start("capture", "k1", "icmp", "-c", "2")
    assert capture.stderr is not None
    capture.stderr.readline()
    user.ping("k2", "k1")
    out, _ = capture.communicate(timeout=20)
    assert out.count(b"ICMP") == 2
    assert "eth0" in user.popnet("dmesg", "k2").stdout
    user.popnet("kill", "k2")
    user.popnet("boot", "k2")
    assert user.kernels()["k2"]["generation"] == 2
    user.popnet("down")
    nothing_left(before, running, user.run_dir)


def test_a_kernels_root_cannot_write_what_the_user_may_not(user: Lab) -> None:
    user.up(MACHINE)
    user.sh("k1", "echo mine > /etc/mine; echo mine > /root/mine")
    assert not Path("/etc/mine").exists()
    assert user.sh("k1", "mount -o remount,rw /sys 2>/dev/null || echo no") == "no\n"


def test_killed_and_collected(user: Lab) -> None:
    before = residue.take(user.run_dir)
    user.up(MACHINE)
    primary = user.kernels()["primary"]["pid"]
    running = residue.take(user.run_dir, primary)
    os.kill(primary, signal.SIGKILL)
    wait_until(lambda: not residue.alive(running.processes), "all processes ended")
    user.popnet("gc")
    nothing_left(before, running, user.run_dir)


def test_doctor_and_demo(user: Lab) -> None:
    checks = json.loads(user.popnet("-o", "json", "doctor", check=False).stdout)["items"]
    assert {check["status"] for check in checks} <= {"ok", "degraded", "missing"}
    result = subprocess.run(user.command("demo"), env=user.env(), capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
