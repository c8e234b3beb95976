"""The tree of a partition over a host that the test has made up, as plain files too."""

import os
from pathlib import Path

import pytest

from popnet.kernel.cgroup import Group
from popnet.kernel.views import Partition, PartitionTree, Views
from tests.machine.test_views import CPUINFO, MEMINFO, STAT


@pytest.fixture
def host(tmp_path: Path) -> Path:
    proc, cpu = tmp_path / "proc", tmp_path / "system/cpu"
    proc.mkdir()
    for name, text in (("cpuinfo", CPUINFO), ("meminfo", MEMINFO), ("stat", STAT)):
        (proc / name).write_text(text)
    for n in range(4):
        (cpu / f"cpu{n}/topology").mkdir(parents=True)
        (cpu / f"cpu{n}/topology/core_siblings_list").write_text("0-3\n")
        (cpu / f"cpu{n}/topology/core_siblings").write_text("f\n")
        (cpu / f"cpu{n}/power").mkdir()
        (cpu / f"cpu{n}/subsystem").symlink_to("../../../bus/cpu")
    for name in ("online", "present", "possible"):
        (cpu / name).write_text("0-3\n")
    (cpu / "kernel_max").write_text("8191\n")
    node = tmp_path / "system/node/node0"
    node.mkdir(parents=True)
    (node / "cpulist").write_text("0-3\n")
    (node / "cpumap").write_text("f\n")
    (node / "cpu2").symlink_to("../../cpu/cpu2")
    (node / "cpu3").symlink_to("../../cpu/cpu3")
    return tmp_path


def tree_of(host: Path, cpus: tuple[int, ...], memory: int | None = None) -> PartitionTree:
    return PartitionTree(Partition(cpus, memory), Group({}), 0, host / "proc", host / "system")


def test_cpus_that_it_has_not_are_nowhere(host: Path) -> None:
    tree = tree_of(host, (1, 3))
    assert sorted(tree.names("cpu")) == ["cpu1", "cpu3", "kernel_max", "online", "possible", "present"]
    for name in ("online", "present", "possible"):
        assert tree.text(f"cpu/{name}") == b"1,3\n"
    assert tree.text("cpu/kernel_max") == b"8191\n"
    assert tree.text("cpu/cpu1/topology/core_siblings_list") == b"1,3\n"
    assert tree.text("cpu/cpu1/topology/core_siblings") == b"a\n"
    assert tree.target("cpu/cpu3/subsystem") == "../../../bus/cpu"
    assert sorted(tree.names("node/node0")) == ["cpu3", "cpulist", "cpumap"]
    assert (tree.text("node/node0/cpulist"), tree.text("node/node0/cpumap")) == (b"1,3\n", b"a\n")
    for hidden in ("cpu/cpu0", "cpu/cpu2/topology/core_siblings", "node/node0/cpu2", "secret", "proc/kcore"):
        with pytest.raises(FileNotFoundError):
            tree.attributes(hidden)
    with pytest.raises(FileNotFoundError):
        tree.text("cpu/cpu0/topology/core_siblings")


def test_nothing_can_be_written_and_a_link_has_a_size(host: Path) -> None:
    tree = tree_of(host, (1,))
    assert all(not tree.attributes(path).mode & 0o222 for path in ("cpu", "cpu/online", "proc/stat", ""))
    assert tree.attributes("cpu/cpu1/subsystem").size == len("../../../bus/cpu")


def test_an_update_shows_at_once_and_a_new_cpu_counts_from_then_on(host: Path) -> None:
    tree = tree_of(host, (0,), 64 << 20)
    (host / "proc/stat").write_text(STAT.replace("cpu0 304359", "cpu0 304400"))
    tree.update(Partition((0, 1), 128 << 20))
    lines = tree.text("proc/stat").decode().splitlines()
    assert lines[1:3] == ["cpu0 41 0 0 0 0 0 0 0 0 0", "cpu1 0 0 0 0 0 0 0 0 0 0"]
    assert b"MemTotal:         131072 kB\n" in tree.text("proc/meminfo")
    assert tree.text("cpu/online") == b"0-1\n"
    assert len(tree.text("proc/uptime").split()) == 2


def test_plain_files_say_the_same_and_follow(host: Path, tmp_path: Path) -> None:
    tree = tree_of(host, (1, 3))
    shown = tmp_path / "views"
    (shown / "proc").mkdir(parents=True)
    (shown / "proc/stat").touch()
    inode = (shown / "proc/stat").stat().st_ino
    views = Views(tree, None)
    assert not views.plain
    views.show_in(os.open(shown, os.O_RDONLY | os.O_DIRECTORY))
    assert views.plain
    assert (shown / "proc/stat").stat().st_ino == inode, "it may be mounted: written in place"
    for path in (
        "proc/cpuinfo",
        "proc/stat",
        "cpu/online",
        "cpu/cpu1/topology/core_siblings",
        "node/node0/cpulist",
    ):
        assert (shown / path).read_bytes() == tree.text(path)
    assert not (shown / "proc/uptime").exists()
    assert sorted(path.name for path in (shown / "cpu").glob("cpu*")) == ["cpu1", "cpu3"]
    views.update(Partition((2, 3), None))
    assert sorted(path.name for path in (shown / "cpu").glob("cpu*")) == ["cpu2", "cpu3"]
    assert (shown / "cpu/online").read_text() == "2-3\n"
    (host / "proc/meminfo").write_text("MemTotal: 1 kB\n")
    views.refresh()
    assert (shown / "proc/meminfo").read_text() == "MemTotal: 1 kB\n"
    views.close()
    assert not views.plain
