"""CPUs, memory and devices of kernels that run: changed, moved, refused, and seen inside."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from popnet.control import blocking, wire
from popnet.control.client import Client
from tests.live.conftest import _lab
from tests.live.lab import Lab, wait_until
from tests.live.test_registry import lines_until

CPUS = sorted(os.sched_getaffinity(0))

MACHINE = f"""\
apiVersion: popnet/v1
name: {{name}}
kernels:
  k1: {{{{image: full, cpus: "{CPUS[0]}", memory: 256M}}}}
  k2: {{{{image: light, memory: 256M}}}}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for lab in _lab(tmp_path_factory.mktemp("update")):
        yield lab.up(MACHINE)


def test_cpus_come_and_go_and_running_programs_follow(machine: Lab) -> None:
    machine.popnet("update", "k1", "--cpus", str(CPUS[0]))
    if len(CPUS) < 2:
        return  # one CPU cannot be moved
    running = machine.start("exec", "k1", "--", "sh", "-c", "echo $$; exec sleep 1000")
    try:
        assert running.stdout is not None
        pid = running.stdout.readline().decode().strip()
        affinity = f"taskset -pc {pid} | sed 's/.*: //'; nproc; cat /sys/devices/system/cpu/online"
        both = f"{CPUS[0]},{CPUS[1]}" if CPUS[1] > CPUS[0] + 1 else f"{CPUS[0]}-{CPUS[1]}"
        machine.popnet("update", "k1", "--cpus", f"+{CPUS[1]}")
        assert machine.sh("k1", affinity).split() == [f"{CPUS[0]},{CPUS[1]}", "2", both]
        assert machine.kernels()["k1"]["cpus"] == both
        machine.popnet("update", "k1", "--cpus", f"-{CPUS[0]}")
        assert machine.sh("k1", affinity).split() == [str(CPUS[1]), "1", str(CPUS[1])]
    finally:
        running.kill()
        running.communicate()


def test_memory_is_seen_at_once_and_never_less_than_is_used(machine: Lab) -> None:
    machine.popnet("update", "k1", "--memory", "+256M")
    assert machine.sh("k1", "free -m | grep Mem").split()[1] == "512"
    assert machine.kernels()["k1"]["memory_bytes"] == 512 << 20
    if "memory" in Client("lab", run_dir=machine.run_dir).get("/v1/machine")["cgroup_controllers"]:
        machine.sh("k1", "head -c 100M /dev/zero > /tmp/held")
        refused = machine.popnet("update", "k1", "--memory", "64M", check=False)
        assert refused.returncode == 1
        assert "more than 64M; the least that it can have now is 1" in refused.stderr
        machine.sh("k1", "rm /tmp/held")
    assert machine.sh("k1", "free -m | grep Mem").split()[1] == "512"
    machine.popnet("update", "k1", "--memory", "128M")
    assert machine.sh("k1", "free -m | grep Mem").split()[1] == "128"


def test_memory_moves_in_one_step_or_not_at_all(machine: Lab) -> None:
    before = {name: row["memory_bytes"] for name, row in machine.kernels().items()}
    machine.popnet("update", "k1", "--memory", "+64M", "--from", "k2")
    rows = machine.kernels()
    assert rows["k1"]["memory_bytes"] == before["k1"] + (64 << 20)
    assert rows["k2"]["memory_bytes"] == before["k2"] - (64 << 20)
    refused = machine.popnet("update", "k1", "--memory", "+1G", "--from", "k2", check=False)
    assert "cannot update kernel k2: --memory: that leaves it nothing" in refused.stderr
    assert {n: r["memory_bytes"] for n, r in machine.kernels().items()} == {
        n: r["memory_bytes"] for n, r in rows.items()
    }


def test_devices_come_and_go(machine: Lab) -> None:
    here = ("ls", "/dev/loop-control")
    if not os.access(here[1], os.R_OK | os.W_OK):
        return  # no device to move
    machine.popnet("update", "k1", "--devices", "+loop-control")
    machine.exec("k1", *here)
    refused = machine.popnet("update", "k2", "--devices", "+loop-control", check=False)
    assert "device loop-control belongs to k1" in refused.stderr
    machine.popnet("update", "k2", "--devices", "+loop-control", "--from", "k1")
    assert machine.exec("k1", *here, check=False).returncode != 0
    machine.exec("k2", *here)
    machine.popnet("update", "k2", "--devices", "-loop-control")
    assert machine.exec("k2", *here, check=False).returncode != 0
    refused = machine.popnet("update", "k2", "--devices", "+no-such-device", check=False)
    assert "device no-such-device: " in refused.stderr


def test_those_who_watch_are_told(machine: Lab) -> None:
    with blocking.connect(machine.run_dir / "lab/control.sock", wire.stream_path("k1", "watch")) as stream:
        seen: list[dict[str, Any]] = []
        lines_until(stream, {"change": "kernel-up", "kernel": "k2"}, seen)
        now = machine.kernels()["k2"]["memory_bytes"] >> 20
        machine.popnet("update", "k2", "--memory", f"{now + 2}M")
        lines_until(stream, {"change": "kernel-changed"}, seen)
    [told] = [row for row in seen if row["change"] == "kernel-changed"]
    assert told == {
        "change": "kernel-changed",
        "kid": 2,
        "generation": 1,
        "kernel": "k2",
        "reason": f"memory {now}M -> {now + 2}M",
    }


def test_it_holds_over_a_boot_and_until_the_kernel_is_unloaded(machine: Lab) -> None:
    machine.popnet("update", "k2", "--memory", "100M")
    machine.popnet("kill", "k2")
    refused = machine.popnet("update", "k2", "--memory", "90M", check=False)
    assert "cannot update kernel k2: it is offline" in refused.stderr
    machine.popnet("load", "k2")
    machine.popnet("update", "k2", "--memory", "110M")
    machine.popnet("boot", "k2")
    assert " mem=110M " in machine.sh("k2", "cat /proc/cmdline")
    assert machine.sh("k2", "grep MemTotal /proc/meminfo").split()[1] == str(110 << 10)
    machine.popnet("kill", "k2")
    machine.popnet("load", "k2")
    machine.popnet("unload", "k2")
    assert machine.kernels()["k2"]["memory_bytes"] == 256 << 20
    machine.popnet("boot", "k2")
    wait_until(lambda: machine.kernels()["k2"]["state"] == "online", "k2 is online")
