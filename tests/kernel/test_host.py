"""Host facts from made-up /proc and /sys trees: control groups of version 1, 2 and both, and their limits."""

import os
from pathlib import Path

import pytest

from popnet.kernel.host import control_groups, read_host


def make(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V2 = {
    "proc/self/cgroup": "0::/user/me\n",
    "sys/cgroup.controllers": "cpuset cpu memory\n",
    "sys/cgroup.subtree_control": "",
    "sys/user/cgroup.type": "domain\n",
    "sys/user/cgroup.controllers": "cpuset memory\n",
    "sys/user/memory.max": "1073741824\n",
    "sys/user/me/cgroup.type": "domain\n",
    "sys/user/me/cgroup.controllers": "memory\n",
    "sys/user/me/cgroup.subtree_control": "memory\n",
    "sys/user/me/cgroup.procs": "7\n",
    "sys/user/me/memory.max": "max\n",
}
V1 = {
    "proc/self/cgroup": "9:name=systemd:/\n4:memory:/a\n3:cpu,cpuset:/\n0::/\n",
    "sys/memory/cgroup.procs": "1\n",
    "sys/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/memory/a/memory.limit_in_bytes": "536870912\n",
    "sys/cpu,cpuset/cgroup.procs": "1\n",
}
MEMINFO = {"proc/meminfo": "MemTotal:        4194304 kB\nMemFree: 1 kB\n"}


def test_version_2(tmp_path: Path) -> None:
    make(tmp_path, V2 | MEMINFO)
    groups = control_groups(tmp_path / "proc", tmp_path / "sys")
    assert (groups.version, groups.directories) == (2, {"memory": tmp_path / "sys/user/me"})
    assert groups.delegated == {"memory"}
    assert read_host(tmp_path / "proc", tmp_path / "sys").memory_bytes == 1 << 30


def test_version_2_group_with_processes_cannot_delegate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, V2 | MEMINFO | {"sys/user/me/cgroup.subtree_control": ""})
    assert control_groups(tmp_path / "proc", tmp_path / "sys").delegated == {"cpuset", "cpu", "memory"}
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path).startswith(str(tmp_path / "sys/user")))
    assert control_groups(tmp_path / "proc", tmp_path / "sys").delegated == frozenset()


def test_version_1(tmp_path: Path) -> None:
    make(tmp_path, V1 | MEMINFO)
    groups = control_groups(tmp_path / "proc", tmp_path / "sys")
    assert groups.version == 1
    assert groups.directories == {
        "memory": tmp_path / "sys/memory/a",
        "cpu": tmp_path / "sys/cpu,cpuset",
        "cpuset": tmp_path / "sys/cpu,cpuset",
    }
    assert groups.delegated == {"memory", "cpu", "cpuset"}
    assert read_host(tmp_path / "proc", tmp_path / "sys").memory_bytes == 512 << 20


def test_both_versions(tmp_path: Path) -> None:
    make(tmp_path, V1 | MEMINFO | {"sys/unified/cgroup.controllers": "hugetlb\n"})
    groups = control_groups(tmp_path / "proc", tmp_path / "sys")
    assert groups.version == 1
    assert groups.directories["hugetlb"] == tmp_path / "sys/unified"
    assert groups.directories["memory"] == tmp_path / "sys/memory/a"


def test_in_a_container_the_mount_is_the_group(tmp_path: Path) -> None:
    make(tmp_path, {"proc/self/cgroup": "0::/docker/1234\n", "sys/cgroup.controllers": "memory\n"} | MEMINFO)
    make(tmp_path, {"sys/memory.max": "268435456\n"})
    assert control_groups(tmp_path / "proc", tmp_path / "sys").directories == {"memory": tmp_path / "sys"}
    assert read_host(tmp_path / "proc", tmp_path / "sys").memory_bytes == 256 << 20


def test_without_control_groups(tmp_path: Path) -> None:
    make(tmp_path, MEMINFO)
    groups = control_groups(tmp_path / "proc", tmp_path / "sys")
    assert (groups.version, groups.directories, groups.delegated) == (0, {}, frozenset())
    host = read_host(tmp_path / "proc", tmp_path / "sys")
    assert host.memory_bytes == 4 << 30
    assert set(host.cpus) == os.sched_getaffinity(0)


def test_this_host() -> None:
    host = read_host()
    assert host.cpus == tuple(sorted(os.sched_getaffinity(0)))
    assert host.memory_bytes > 0
