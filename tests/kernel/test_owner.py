"""Ownership: the lock tells life, the record tells what is ours, and gc touches nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from popnet.core.errors import Refused
from popnet.kernel import gc, linux, owner


def _dead_machine(run_dir: Path, **record: object) -> Path:
    directory = run_dir / "demo"
    directory.mkdir(parents=True)
    (directory / "lock").touch()
    base = {"name": "demo", "boot_id": owner.boot_id(), "processes": [], "cgroups": []}
    (directory / "owner.json").write_text(json.dumps({**base, **record}))
    return directory


@pytest.fixture
def sleeper() -> "subprocess.Popen[bytes]":  # type: ignore[misc]
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process  # type: ignore[misc]
    process.kill()
    process.wait()


def test_a_second_machine_of_one_name_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    first = owner.Ownership(tmp_path / "demo", "demo")
    with pytest.raises(Refused, match="'demo' is running already") as caught:
        owner.Ownership(tmp_path / "demo", "demo")
    assert "--name" in caught.value.hint
    assert owner.is_alive(tmp_path / "demo")
    first.release()
    assert not (tmp_path / "demo").exists()


def test_the_lock_goes_with_the_process_however_it_ends(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from popnet.kernel.owner import Ownership\n"
        "o = Ownership(Path(sys.argv[1]) / 'demo', 'demo'); print('up', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert owner.is_alive(tmp_path / "demo")
    process.kill()
    process.wait()
    process.stdout.close()
    assert not owner.is_alive(tmp_path / "demo")


def test_gc_kills_a_recorded_process_and_removes_the_directory(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    start_time = linux.process_start_time(sleeper.pid)
    directory = _dead_machine(tmp_path, processes=[{"pid": sleeper.pid, "start_time": start_time}])
    rows = gc.collect(tmp_path)
    assert [(row["kind"], row["done"]) for row in rows] == [("process", True), ("directory", True)]
    assert sleeper.wait(5) == -9
    assert not directory.exists()


def test_gc_leaves_a_process_that_only_has_the_pid(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    _dead_machine(tmp_path, processes=[{"pid": sleeper.pid, "start_time": 1}])
    assert [row["kind"] for row in gc.collect(tmp_path)] == ["directory"]
    assert sleeper.poll() is None


def test_gc_leaves_processes_of_another_boot_of_the_host(
    tmp_path: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    start_time = linux.process_start_time(sleeper.pid)
    _dead_machine(tmp_path, boot_id="another", processes=[{"pid": sleeper.pid, "start_time": start_time}])
    assert [row["kind"] for row in gc.collect(tmp_path)] == ["directory"]
    assert sleeper.poll() is None


def test_gc_dry_run_only_tells(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    start_time = linux.process_start_time(sleeper.pid)
    directory = _dead_machine(tmp_path, processes=[{"pid": sleeper.pid, "start_time": start_time}])
    rows = gc.collect(tmp_path, dry_run=True)
    assert [(row["kind"], row["done"], row["reason"]) for row in rows] == [
        ("process", False, "dry run"),
        ("directory", False, "dry run"),
    ]
    assert sleeper.poll() is None
    assert directory.exists()


def test_gc_leaves_living_machines_and_directories_that_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/todo").write_text("buy popcorn")
    living = owner.Ownership(tmp_path / "alive", "alive")
    assert gc.collect(tmp_path) == []
    assert (tmp_path / "notes/todo").exists()
    living.release()


def test_gc_of_a_machine_killed_before_its_first_record(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "lock").touch()
    assert [row["kind"] for row in gc.collect(tmp_path)] == ["directory"]
    assert not directory.exists()


def test_gc_will_not_remove_a_control_group_that_is_not_named_ours(tmp_path: Path) -> None:
    foreign = tmp_path / "system.slice"
    foreign.mkdir()
    _dead_machine(tmp_path / "run", cgroups=[str(foreign)])
    gc.collect(tmp_path / "run")
    assert foreign.is_dir()


def test_start_time_tells_this_process_from_one_that_is_gone() -> None:
    assert linux.process_start_time(os.getpid()) == linux.process_start_time(os.getpid())
    child = subprocess.Popen(["true"])
    child.wait()
    assert linux.process_start_time(child.pid) is None
