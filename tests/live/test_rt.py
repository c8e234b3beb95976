"""A kernel that has its core alone: what runs there, what it may, and how punctual it is said to be."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import _lab
from tests.live.lab import Lab

MACHINE = """\
apiVersion: popnet/v1
name: {name}
kernels:
  rt: {{image: rt}}
  k1: {{image: light}}
"""

ENOUGH = len(os.sched_getaffinity(0)) >= 2


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if not ENOUGH:
        pytest.skip("a core alone and one for the rest need two")
    for lab in _lab(tmp_path_factory.mktemp("rt")):
        yield lab.up(MACHINE)


def threads(pid: int) -> dict[int, set[int]]:
    """The CPUs of each thread of a process."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # one of a pool may end meanwhile
            found[int(task.name)] = os.sched_getaffinity(int(task.name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_everything_else_is_off_its_core(machine: Lab) -> None:
    rows = machine.kernels()
    (core,) = map(int, rows["rt"]["cpus"].split(","))
    assert rows["rt"]["isolated"] is True
    daemon = rows["rt"]["pid"]
    loader = parent(daemon)
    assert len(threads(daemon)) > 1, "the pump is one of them"
    for pid in (rows["primary"]["pid"], rows["k1"]["pid"], daemon, loader):
        for cpus in threads(pid).values():
            assert core not in cpus, Path(f"/proc/{pid}/comm").read_text()
    (init,) = children(daemon)
    assert os.sched_getaffinity(init) == {core}
    assert machine.sh("rt", "grep Cpus_allowed_list /proc/self/status").split()[1] == str(core)


def test_punctuality_is_measured_in_both_at_once(machine: Lab) -> None:
    words = ("jitter", "rt", "--against", "k1", "--seconds", "1")
    rows = json.loads(machine.popnet("-o", "json", *words).stdout)["items"]
    assert [row["kernel"] for row in rows] == ["rt", "k1"]
    assert [row["policy"] for row in rows] == ["fifo 80", "other"]
    for row in rows:
        times = [row[key] for key in ("min_ns", "p50_ns", "p99_ns", "p99.9_ns", "max_ns")]
        assert times == sorted(times)
        assert row["wakeups"] > 0
        assert 0 <= row["gap_share"] < 1
        assert sum(count for _, _, count in row["wakeup_buckets"]) == row["wakeups"]
    drawn = machine.popnet("jitter", "k1", "--seconds", "0.2").stdout
    assert "timers late by" in drawn


def test_only_it_may_have_priorities(machine: Lab) -> None:
    policy = (
        "i=0; while [ $i -lt 100000 ]; do read -r stat < /proc/self/stat; set -- $stat; i=$((i + 1));"
        " [ ${41} = 1 ] && break; done; echo ${40} ${41}"
    )  # it is given a moment after the start
    assert machine.popnet("exec", "--fifo", "20", "rt", "--", "sh", "-c", policy).stdout.split() == [
        "20",
        "1",
    ]
    refused = machine.popnet("exec", "--fifo", "20", "k1", "--", "true", check=False)
    assert refused.returncode == 125
    assert "does not have its cores alone" in refused.stderr
    assert machine.sh("rt", "read -r stat < /proc/self/stat; set -- $stat; echo ${41}") == "0\n"
    refused = machine.popnet("jitter", "k1", "--cpu", "999", check=False)
    assert refused.returncode == 1
    assert "cpu: got 999" in refused.stderr


def test_an_ordinary_user_measures_too_and_is_told_what_is_refused(lab: Lab) -> None:
    if not ENOUGH:
        pytest.skip("a core alone and one for the rest need two")
    if os.geteuid() == 0:
        lab.prefix = (sys.executable, "-m", "tests.live.as_user")
        lab.environ = {"HOME": str(lab.tmp), "PYTHONPATH": str(Path(__file__).parents[2])}
    lab.up(MACHINE)
    (row,) = json.loads(lab.popnet("-o", "json", "jitter", "rt", "--seconds", "0.2").stdout)["items"]
    assert row["policy"] in ("other", "fifo 80"), "as its limits allow"
    assert row["wakeups"] > 0
    assert "this host refuses: to keep its other processes off them" in lab.popnet("dmesg", "rt").stdout


def test_what_would_share_its_core_is_refused(machine: Lab) -> None:
    core = machine.kernels()["rt"]["cpus"]
    result = machine.popnet("load", "k9", "--append", f"present_mask={core}", "--image", "light", check=False)
    assert result.returncode == 1
    assert f"CPU {core}" in result.stderr
    assert "k9" not in machine.kernels()
