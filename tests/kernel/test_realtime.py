"""What a kernel with its cores alone gets beside them, and what is said when the host refuses."""

import os
import struct
from pathlib import Path

import pytest

from popnet.core.errors import Refused
from popnet.kernel import jitter, realtime


def test_the_latency_is_held_as_long_as_the_descriptor(tmp_path: Path) -> None:
    file = tmp_path / "latency"
    assert realtime.hold_latency(file) is None
    file.touch()
    fd = realtime.hold_latency(file)
    assert fd is not None
    assert struct.unpack("=i", file.read_bytes()) == (0,)
    os.close(fd)


def group(tmp_path: Path) -> Path:
    """A control group of version 2, as files."""
    directory = tmp_path / "machine/rt"
    directory.mkdir(parents=True)
    (directory / "cpuset.cpus").write_text("3\n")
    for place in (directory.parent, directory):
        (place / "cpuset.cpus.exclusive").touch()
    (directory / "cpuset.cpus.partition").write_text("member\n")
    return directory


def test_a_partition_of_cpus_is_asked_for_up_to_the_machines_group(tmp_path: Path) -> None:
    directory = group(tmp_path)
    assert realtime.isolate(directory) is None
    assert (directory / "cpuset.cpus.partition").read_text() == "isolated"
    assert (directory.parent / "cpuset.cpus.exclusive").read_text() == "3"
    assert (directory / "cpuset.cpus.exclusive").read_text() == "3"


def test_one_that_linux_calls_invalid_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = group(tmp_path)
    read = Path.read_text

    def told(path: Path) -> str:
        text = read(path)
        return f"{text} invalid (Parent is not a partition root)\n" if text == "isolated" else text

    monkeypatch.setattr(Path, "read_text", told)
    assert "isolated invalid (Parent is not" in (realtime.isolate(directory) or "")
    assert (directory / "cpuset.cpus.partition").read_text() == "member"


def test_without_version_2_it_says_so(tmp_path: Path) -> None:
    assert "no cpuset" in (realtime.isolate(None) or "")
    assert "no cpuset" in (realtime.isolate(tmp_path) or "")


def test_priorities() -> None:
    assert realtime.check_priority(None, isolated=False) is None
    assert realtime.check_priority(99, isolated=True) == 99
    for wrong in (0, 100, True, "1", 1.5):
        with pytest.raises(Refused, match="allowed: a priority from 1 to 99"):
            realtime.check_priority(wrong, isolated=True)
    with pytest.raises(Refused, match="does not have its cores alone"):
        realtime.check_priority(10, isolated=False)


def test_the_settings_of_a_measurement() -> None:
    usual = {"seconds": 5, "interval_us": 1000, "cpu": 3, "fifo": None}
    assert jitter.checked({}, (2, 3), isolated=False) == usual
    assert jitter.checked({"fifo": 7, "cpu": 2}, (2, 3), isolated=True) == {**usual, "cpu": 2, "fifo": 7}
    for params, what in (
        ({"seconds": 0}, "seconds: got 0"),
        ({"seconds": "1"}, "seconds: got '1'"),
        ({"seconds": float("nan")}, "seconds: got nan"),
        ({"interval_us": 10}, "interval_us: got 10"),
        ({"cpu": 0}, "allowed: those of the kernel, 2, 3"),
        ({"fifo": 7}, "cores alone"),
    ):
        with pytest.raises(Refused, match=what):
            jitter.checked(params, (2, 3), isolated=False)
