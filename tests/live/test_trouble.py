"""Boots that go wrong: one kernel alone is undone, the message names step and reason, nothing is left."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from popnet.cli import residue
from tests.live.conftest import nothing_left
from tests.live.lab import PAIR, Lab, wait_until

STEPS = ("fork", "namespaces", "cgroup", "init", "windows", "check-in", "nic", "root", "ttys", "services")


def test_a_daemon_killed_in_any_step_is_undone_alone(lab: Lab) -> None:
    lab.environ["POPNET_DIE_IN"] = ",".join(f"die-{step}:{step}" for step in STEPS)
    before = residue.take(lab.run_dir)
    lab.up()
    primary = lab.kernels()["primary"]["pid"]
    running = residue.take(lab.run_dir, primary)
    for step in STEPS:
        name = f"die-{step}"
        lab.popnet("load", name, "--image", "light")
        failed = lab.popnet("boot", name, check=False)
        assert failed.returncode == 1
        assert f"kernel {name}: {step}: killed by SIGKILL" in failed.stderr
        row = lab.kernels()[name]
        assert (row["state"], row["reason"]) == ("failed", f"{step}: killed by SIGKILL")
        lab.popnet("unload", name)
    rows = lab.kernels()
    assert {name: (row["state"], row["generation"]) for name, row in rows.items()} == dict.fromkeys(
        ("primary", "k1", "k2"), ("online", 1)
    )
    lab.ping("k1", "k2")
    known = {process.pid for process in running.processes}
    wait_until(
        lambda: {process.pid for process in residue.family(primary)} <= known, "no process of them is left"
    )
    lab.popnet("load", "whole", "--image", "light")
    lab.popnet("boot", "whole")
    lab.popnet("down")
    nothing_left(before, running, lab.run_dir)


LOOP = """\
apiVersion: popnet/v1
name: {name}
kernels:
  k1: {{image: light}}
  k2: {{image: light, restart: on-failure}}
"""


def test_a_crash_loop_is_given_up_with_the_reason(lab: Lab) -> None:
    lab.up(LOOP)
    for n in range(1, 7):
        wait_until(
            lambda n=n: (row := lab.kernels()["k2"])["state"] == "online" and row["generation"] == n,
            f"generation {n} is online",
            60,
        )
        lab.popnet("panic", "k2")
    texts = [event["text"] for event in lab.events()]
    tries = [text for text in texts if text.startswith("kernel 2: restarts in")]
    assert len(tries) == 5
    assert all(text.endswith("panic was asked for") for text in tries)
    (given_up,) = (text for text in texts if text.startswith("kernel 2: ") and "given up" in text)
    assert "panic was asked for" in given_up
    row = lab.kernels()["k2"]
    assert (row["state"], row["reason"], row["generation"]) == ("failed", "panic was asked for", 6)
    last = lab.popnet("dmesg", "--previous", "k2").stdout
    assert "Kernel panic: panic was asked for" in last.splitlines()[-1]
    assert lab.kernels()["k1"]["generation"] == 1


def test_too_few_descriptors_are_refused_before_anything_is_started(lab: Lab) -> None:
    few = Lab(lab.run_dir, lab.tmp, ("prlimit", "--nofile=40:40"))
    refused = few.popnet("up", lab.file(PAIR.format(name="lab")), check=False)
    assert refused.returncode == 1
    assert "a machine of 3 kernels needs 88 file descriptors, and it may have 40" in refused.stderr
    assert lab.machines() == []


@pytest.fixture
def few_pids() -> Iterator[Path]:
    """A control group in which few processes may be; skipped where none can be made."""
    group = Path(f"/sys/fs/cgroup/pids/few-{os.getpid()}")
    if not group.parent.is_dir():
        group = Path(f"/sys/fs/cgroup/few-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    if not (group / "pids.max").exists():
        group.rmdir()
        pytest.skip("control groups here do not count processes")
    yield group
    wait_until(lambda: _removed(group), "the group is empty")


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("most", [6, 8])
def test_out_of_processes_at_boot(lab: Lab, few_pids: Path, most: int) -> None:
    (few_pids / "pids.max").write_text(str(most))
    enter = ("sh", "-c", f'echo $$ > {few_pids}/cgroup.procs; exec "$@"', "sh")
    failed = Lab(lab.run_dir, lab.tmp, enter).popnet("up", lab.file(PAIR.format(name="lab")), check=False)
    assert failed.returncode == 1
    assert re.search("resource temporarily unavailable|can't start new thread", failed.stderr.lower())
    assert "Traceback" not in failed.stderr
    assert lab.machines() == []
