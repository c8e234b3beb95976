"""What a kernel sees is its partition, and it cannot leave it: asked by the programs that users ask."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from popnet.control.client import Client
from tests.live.conftest import _lab
from tests.live.lab import Lab, wait_until

LAST = max(os.sched_getaffinity(0))

MACHINE = f"""\
apiVersion: popnet/v1
name: {{name}}
kernels:
  k1: {{{{image: full, cpus: "{LAST}", memory: 512M}}}}
  k2: {{{{image: light, memory: 64M, restart: never}}}}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for lab in _lab(tmp_path_factory.mktemp("partition")):
        yield lab.up(MACHINE)


def test_programs_see_the_partition(machine: Lab) -> None:
    check_programs(machine)


def check_programs(lab: Lab) -> None:
    assert lab.exec("k1", "nproc").stdout == "1\n"
    said = lab.sh(
        "k1", "lscpu -p=cpu | grep -v '#'; uname -n; free -m | grep Mem; nproc --all; top -bn1 | head -4"
    )
    lines = said.splitlines()
    assert lines[0] == str(LAST)
    assert lines[1] == "k1"
    assert lines[2].split()[1] == "512"
    assert lines[3] == "1"
    assert "MiB Mem :    512.0 total" in said
    python = "import os; print(os.cpu_count(), sorted(os.sched_getaffinity(0)))"
    assert lab.exec("k1", sys.executable, "-c", python).stdout == f"1 [{LAST}]\n"


def test_files_of_proc_and_sys_have_the_partition_only(machine: Lab) -> None:
    check_files(machine)


def test_where_the_host_has_no_fuse_they_see_it_too(lab: Lab) -> None:
    lab.prefix = (sys.executable, "-m", "tests.live.without_fuse")
    lab.environ = {"PYTHONPATH": str(Path(__file__).parents[2])}
    lab.up(MACHINE)
    assert "fuse" not in lab.sh("k1", "grep /proc/stat /proc/mounts")
    check_programs(lab)
    check_files(lab)


def check_files(lab: Lab) -> None:
    assert lab.sh("k1", "grep ^processor /proc/cpuinfo").split() == ["processor", ":", str(LAST)]
    assert lab.sh("k1", "grep -o '^cpu[0-9]*' /proc/stat").split() == ["cpu", f"cpu{LAST}"]
    assert lab.sh(
        "k1", "cd /sys/devices/system/cpu; ls -d cpu[0-9]*; cat online present possible"
    ).split() == [
        f"cpu{LAST}",
        *[str(LAST)] * 3,
    ]
    assert lab.sh("k2", "grep MemTotal /proc/meminfo").split()[1] == str(64 << 10)


def test_uptime_and_the_age_of_processes_begin_with_the_kernel(machine: Lab) -> None:
    age_s = int(machine.sh("k1", "ps -o etimes= -p 1"))
    up_s, idle_s = map(float, machine.sh("k1", "cat /proc/uptime").split())
    assert 0 <= idle_s <= up_s + 2
    assert up_s < float(Path("/proc/uptime").read_text().split()[0]), "the host was there before"
    if Path("/proc/self/timens_offsets").exists():
        assert age_s <= up_s + 2, "it was asked before"


def test_a_partition_cannot_be_left(machine: Lab) -> None:
    """With a cpuset Linux refuses other CPUs; the views cannot be taken away or written."""
    controllers = Client("lab", run_dir=machine.run_dir).get("/v1/machine")["cgroup_controllers"]
    others = os.sched_getaffinity(0) - {LAST}
    if "cpuset" in controllers and others:
        other = str(min(others))
        assert machine.exec("k1", "taskset", "-c", other, "true", check=False).returncode != 0
        assert machine.exec("k1", "taskset", "-c", str(LAST), "true").returncode == 0, (
            "and its own it may have"
        )
    assert machine.exec("k1", "umount", "/proc/meminfo", check=False).returncode != 0
    assert (
        machine.exec("k1", "sh", "-c", "echo 0 > /sys/devices/system/cpu/online", check=False).returncode != 0
    )


def test_the_primary_has_one_too(machine: Lab) -> None:
    cpus = machine.kernels()["primary"]["cpus"]
    assert machine.sh("primary", "cat /sys/devices/system/cpu/online") == f"{cpus}\n"


def test_a_kernel_out_of_memory_is_killed_alone(machine: Lab) -> None:
    client = Client("lab", run_dir=machine.run_dir)
    if "memory" not in client.get("/v1/machine")["cgroup_controllers"]:
        return  # nothing limits it here, as its log says
    machine.exec("k2", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1", check=False)
    wait_until(lambda: machine.kernels()["k2"]["state"] == "failed", "k2 failed")
    rows = machine.kernels()
    assert rows["k2"]["reason"] == "out of memory"
    assert (rows["k1"]["state"], rows["primary"]["state"]) == ("online", "online")
    assert "Out of memory: it has used all of its 64M" in machine.popnet("dmesg", "k2").stdout
    [event] = [event for event in machine.events() if event["kind"] == "kernel.out-of-memory"]
    assert (event["kernel"], event["generation"]) == ("k2", 1)
    machine.popnet("boot", "k2")
    assert machine.exec("k2", "true").returncode == 0
    # Files count too: they are in memory.
    machine.exec("k2", "dd", "if=/dev/zero", "of=/tmp/file", "bs=1M", "count=200", check=False)
    wait_until(lambda: machine.kernels()["k2"]["state"] == "failed", "k2 failed again")
    assert json.loads(machine.popnet("-o", "json", "ps").stdout)["items"][2]["reason"] == "out of memory"
