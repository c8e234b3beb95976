"""Control groups on fake trees of both versions, and on the host's own where it offers any."""

import errno
import os
from pathlib import Path

import pytest

from popnet.kernel import cgroup
from popnet.kernel.cgroup import Group, Tree

OURS = f"popnet-demo-{os.getpid()}"


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """A v2 tree as a host with systemd has it: the caller sits in a group of its own below the root."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory pids")
    (tmp_path / "cgroup.subtree_control").write_text("cpuset memory pids")
    (tmp_path / "cgroup.procs").write_text("1")
    session = tmp_path / "user.slice"
    session.mkdir()
    (session / "cgroup.controllers").write_text("cpuset memory pids")
    (session / "cgroup.subtree_control").write_text("")
    (session / "cgroup.procs").write_text("77")
    return tmp_path


def test_v2_goes_to_the_nearest_group_that_may_hand_on_controllers(v2: Path) -> None:
    recorded: list[Path] = []
    tree = Tree("demo", recorded.append, v2, "0::/user.slice\n")
    assert set(tree.controllers) == {"cpuset", "memory", "pids"}
    group = tree.group("k1")
    assert set(group.directories.values()) == {v2 / OURS / "k1"}
    assert recorded == [v2 / OURS, v2 / OURS / "k1"], "told before it is made"


def test_v2_limits_are_written_as_cgroup_v2_names_them(v2: Path) -> None:
    group = Tree("demo", lambda path: None, v2, "0::/user.slice\n").group("k1")
    directory = v2 / OURS / "k1"
    for name in ("memory.max", "memory.current", "cgroup.procs"):
        (directory / name).write_text("0")
    assert group.limit("0-1", 512 << 20) == []
    group.add(4711)
    assert (directory / "cpuset.cpus").read_text() == "0-1"
    assert (directory / "memory.max").read_text() == str(512 << 20)
    assert (directory / "cgroup.procs").read_text() == "4711"


def test_v2_uses_what_the_root_group_hands_on_and_never_changes_it(v2: Path) -> None:
    (v2 / "cgroup.subtree_control").write_text("memory")
    tree = Tree("demo", lambda path: None, v2, "0::/user.slice\n")
    assert tree.controllers == ("memory",)
    assert (v2 / "cgroup.subtree_control").read_text() == "memory"


def delegate(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark *group* as systemd does."""

    def getxattr(path: Path, name: str) -> bytes:
        if (Path(path), name) == (group, "user.delegate"):
            return b"1"
        raise OSError(errno.ENODATA, "no data")

    monkeypatch.setattr(os, "getxattr", getxattr)


@pytest.mark.parametrize("processes", [str(os.getpid()), f"{os.getpid()}\n1", "1"])
@pytest.mark.parametrize("delegated", [True, False])
def test_the_primary_settles_below_a_group_that_is_its_own(
    v2: Path, monkeypatch: pytest.MonkeyPatch, processes: str, delegated: bool
) -> None:
    (v2 / "user.slice/cgroup.procs").write_text(processes)
    if delegated:
        delegate(v2 / "user.slice", monkeypatch)
    recorded: list[Path] = []
    Tree("demo", recorded.append, v2, "0::/user.slice\n")
    settled = v2 / "user.slice/popnet-primary"
    if delegated and processes == str(os.getpid()):
        assert (settled / "cgroup.procs").read_text() == str(os.getpid())
        assert recorded[0] == settled
    else:
        assert not settled.exists()


def test_a_delegated_group_without_processes_is_used_itself(v2: Path) -> None:
    (v2 / "user.slice/cgroup.procs").write_text("")
    (v2 / "user.slice/cgroup.subtree_control").write_text("cpuset memory pids")
    group = Tree("demo", lambda path: None, v2, "0::/user.slice\n").group("k1")
    assert set(group.directories.values()) == {v2 / "user.slice" / OURS / "k1"}


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for controller, files in {"cpuset": {"cpus": "0-7", "mems": "0"}, "memory": {}}.items():
        directory = tmp_path / controller
        directory.mkdir()
        for name, text in files.items():
            (directory / f"cpuset.{name}").write_text(text)
            (directory / f"cpuset.effective_{name}").write_text(text)
    return tmp_path


def test_v1_has_one_directory_a_controller(v1: Path) -> None:
    group = Tree("demo", lambda path: None, v1, "3:cpuset:/\n2:memory:/\n0::/\n").group("k1")
    assert group.directories == {
        "cpuset": v1 / "cpuset" / OURS / "k1",
        "memory": v1 / "memory" / OURS / "k1",
    }
    (v1 / "memory" / OURS / "k1/memory.usage_in_bytes").write_text("4096")
    assert group.limit("2-3", 1 << 30) == []
    assert (v1 / "cpuset" / OURS / "k1/cpuset.cpus").read_text() == "2-3"
    assert (v1 / "memory" / OURS / "k1/memory.limit_in_bytes").read_text() == str(1 << 30)
    assert group.memory_used() == 4096


def test_without_control_groups_everything_is_said_to_be_missing(tmp_path: Path) -> None:
    tree = Tree("demo", lambda path: None, tmp_path, "")
    assert tree.controllers == ()
    group = tree.group("k1")
    assert group.limit("0", 1 << 20) == ["cpuset", "memory"]
    assert group.memory_used() is None
    group.add(1)
    group.remove()


def test_remove_takes_away_what_was_made_and_nothing_else(v1: Path) -> None:
    tree = Tree("demo", lambda path: None, v1, "3:cpuset:/\n2:memory:/\n")
    (v1 / "memory/docker").mkdir()
    for controller in ("cpuset", "memory"):
        directory = v1 / controller / OURS
        for file in directory.iterdir():
            file.unlink()  # a real control group's files go with it
    tree.group("k1")
    tree.remove()
    assert sorted(path.name for path in (v1 / "memory").iterdir()) == ["docker"]
    assert not (v1 / "cpuset" / OURS).exists()


def test_a_thread_enters_a_v1_group_by_itself(v1: Path) -> None:
    group = Tree("demo", lambda path: None, v1, "3:cpuset:/\n2:memory:/\n").group("k1")
    for directory in group.directories.values():
        (directory / "tasks").write_text("")
    doors = group.doors()
    assert doors is not None
    cgroup.enter(doors)
    assert {(d / "tasks").read_text() for d in group.directories.values()} == {"0"}, "0: whoever writes it"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(doors[0])


def test_v2_has_no_such_way_and_nothing_is_left_open(v2: Path) -> None:
    group = Tree("demo", lambda path: None, v2, "0::/user.slice\n").group("k1")
    opened = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names only)
    assert group.doors() is None
    # Those of earlier tests may be collected meanwhile.
    assert set(os.listdir("/proc/self/fd")) <= opened  # noqa: PTH208


def test_a_group_of_nothing_has_no_doors() -> None:
    assert Group({}).doors() == ()
