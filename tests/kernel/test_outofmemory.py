"""What counts as out of memory. Against Linux itself: tests/live/test_partition.py."""

from pathlib import Path

from popnet.kernel.cgroup import Group
from popnet.kernel.outofmemory import OutOfMemory


def never() -> None:
    raise AssertionError("nothing has happened")


async def test_a_kill_since_the_beginning_counts_in_both_versions(tmp_path: Path) -> None:
    for name, text in (
        ("memory.events", "low 0\nhigh 0\nmax 9\noom 1\noom_kill {}\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill {}\n"),
    ):
        (tmp_path / name).write_text(text.format(3))
        memory = OutOfMemory(Group({"memory": tmp_path}), never)
        assert not memory.happened(), "those of an earlier generation"
        (tmp_path / name).write_text(text.format(4))
        assert memory.happened()
        memory.close()
        (tmp_path / name).unlink()
        assert not memory.happened(), "the group is gone"


async def test_it_is_told_once_and_only_for_a_kill(tmp_path: Path) -> None:
    told: list[int] = []
    (tmp_path / "memory.oom_control").write_text("under_oom 0\noom_kill 0\n")
    memory = OutOfMemory(Group({"memory": tmp_path}), lambda: told.append(1))
    memory._look()
    assert told == []
    (tmp_path / "memory.oom_control").write_text("under_oom 0\noom_kill 1\n")
    memory._look()
    memory._look()
    assert told == [1]
    memory.close()


async def test_a_host_that_does_not_count_memory_tells_nothing() -> None:
    memory = OutOfMemory(Group({}), never)
    assert not memory.happened()
    memory.close()
