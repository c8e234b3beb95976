"""The directory: written by the primary alone, read by everybody."""

import mmap
import os

import pytest

from popnet.core.errors import LinkViolation
from popnet.core.limits import KERNELS_MAX
from popnet.transport.directory import DIRECTORY_SIZE, Directory, Entry


def test_readers_see_what_the_primary_says() -> None:
    directory, fd = Directory.create()
    view = Directory.attach(fd)
    assert view.entries() == []
    directory.set(0, 4, 1)
    directory.set(KERNELS_MAX - 1, 255, 2**32 - 1)
    directory.beat(0, 5_000_000_000)
    assert view.entries() == [Entry(0, 4, 1, 5_000_000_000), Entry(KERNELS_MAX - 1, 255, 2**32 - 1, 0)]
    directory.set(0, 0, 1)
    assert [entry.kid for entry in view.entries()] == [KERNELS_MAX - 1]
    view.close()
    directory.close()
    os.close(fd)


def test_the_age_of_a_heartbeat() -> None:
    assert Entry(1, 4, 1, 2_000_000_000).age_s(2_500_000_000) == 0.5
    assert Entry(1, 4, 1, 0).age_s(2_500_000_000) == float("inf")


def test_only_the_primary_writes() -> None:
    directory, fd = Directory.create()
    view = Directory.attach(fd)
    with pytest.raises(TypeError):
        view.set(1, 1, 1)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, DIRECTORY_SIZE)
    directory.set(1, 1, 1)
    assert view.get(1).state == 1
    os.close(fd)


def test_something_else_is_refused() -> None:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    with pytest.raises(LinkViolation):
        Directory.attach(fd)
    os.ftruncate(fd, DIRECTORY_SIZE)
    with pytest.raises(LinkViolation):
        Directory.attach(fd)
    os.close(fd)
