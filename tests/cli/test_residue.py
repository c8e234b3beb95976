"""The residue detector finds each kind of thing when it is planted, and nothing when nothing is."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from popnet.cli import residue


def test_nothing_left(tmp_path: Path) -> None:
    before = residue.take(tmp_path)
    assert residue.left(before, before, residue.take(tmp_path)) == []


def test_file_left(tmp_path: Path) -> None:
    before = residue.take(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "control.sock").touch()
    after = residue.take(tmp_path)
    assert residue.left(before, before, after) == [
        f"file {tmp_path}/demo",
        f"file {tmp_path}/demo/control.sock",
    ]


@pytest.mark.parametrize("what", ["interfaces", "routes", "mounts", "cgroups", "shared_memory"])
def test_each_kind_is_compared(what: str, tmp_path: Path) -> None:
    before = residue.take(tmp_path)
    after = dataclasses.replace(before, **{what: getattr(before, what) | {"planted"}})
    (sentence,) = residue.left(before, before, after)
    assert sentence.endswith("planted")


def test_a_group_counts_once_its_primary_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as primary:
        (tmp_path / "memory" / f"popnet-lab-{primary.pid}").mkdir(parents=True)
        (tmp_path / "memory" / "popnet-of-nobody").mkdir()
        assert list(residue.cgroups(tmp_path)) == [f"{tmp_path}/memory/popnet-of-nobody"]
        primary.communicate(b"\n")
    assert sorted(residue.cgroups(tmp_path)) == [
        f"{tmp_path}/memory/popnet-lab-{primary.pid}",
        f"{tmp_path}/memory/popnet-of-nobody",
    ]


def test_what_was_there_before_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    before = residue.take(tmp_path)
    assert before.run_files == {f"{tmp_path}/other"}
    assert residue.left(before, before, residue.take(tmp_path)) == []


def test_interfaces_and_mounts_are_seen(tmp_path: Path) -> None:
    snapshot = residue.take(tmp_path)
    assert "lo" in snapshot.interfaces
    assert any(mount.startswith("/proc (") for mount in snapshot.mounts)


def test_family_and_survivors(tmp_path: Path) -> None:
    """A grandchild that outlives its parent is found; once it is gone, nothing is."""
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=sys.stdin)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None and parent.stdout is not None
    child = int(parent.stdout.readline())
    before = residue.take(tmp_path)
    running = residue.take(tmp_path, parent.pid)
    assert {process.pid for process in running.processes} == {parent.pid, child}
    child_watch = os.pidfd_open(child)
    parent.kill()
    parent.wait()
    assert [
        sentence.split(" (")[0] for sentence in residue.left(before, running, residue.take(tmp_path))
    ] == [f"process {child}"]
    parent.stdin.close()  # ends the child's input(), so it ends
    import select

    assert select.select([child_watch], [], [], 30)[0]
    os.close(child_watch)
    parent.stdout.close()
    assert residue.left(before, running, residue.take(tmp_path)) == []


def test_zombies_do_not_count() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    (process,) = residue.family(child.pid)
    assert residue.alive([process]) == []
    child.wait()


def test_family_of_nobody() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert residue.family(child.pid) == []
