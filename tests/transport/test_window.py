"""Windows are sealed: nobody but the owner writes one, and only a fully sealed one is attached."""

import ctypes
import fcntl
import mmap
import os
from pathlib import Path

import pytest

from popnet.core.errors import LinkViolation
from popnet.transport._native import WINDOW_SIZE, Window
from popnet.transport.window import F_SEAL_FUTURE_WRITE, SEALS, attach_window, create_window

libc = ctypes.CDLL(None, use_errno=True)
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


@pytest.fixture
def shared() -> tuple[Window, int]:
    """A window, and its descriptor as the peer has it."""
    return create_window(1, 1, 2)


def test_the_peer_cannot_map_it_writable(shared: tuple[Window, int]) -> None:
    with pytest.raises(PermissionError):
        mmap.mmap(shared[1], WINDOW_SIZE)
    with pytest.raises(PermissionError):
        Window(shared[1], True)


def test_the_peer_cannot_map_it_writable_by_opening_it_anew(shared: tuple[Window, int]) -> None:
    again = os.open(f"/proc/self/fd/{shared[1]}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(again, WINDOW_SIZE)
        with pytest.raises(PermissionError):
            os.pwrite(again, b"x", 0)
    finally:
        os.close(again)


def test_the_peer_cannot_make_its_mapping_writable(shared: tuple[Window, int]) -> None:
    view = mmap.mmap(shared[1], WINDOW_SIZE, prot=mmap.PROT_READ)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if "popnet-window-1-2" in line]
    address = next(int(line.split("-")[0], 16) for line in maps if " r--s " in line)
    assert libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) == -1
    assert ctypes.get_errno() == 13, "EACCES"
    view.close()


def test_the_peer_cannot_change_the_file(shared: tuple[Window, int]) -> None:
    _, fd = shared
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    for size in (0, WINDOW_SIZE // 2, WINDOW_SIZE + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    assert libc.fallocate(fd, hole, ctypes.c_long(0), ctypes.c_long(4096)) == -1
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_the_owner_still_writes_and_the_peer_sees_it(shared: tuple[Window, int]) -> None:
    window, fd = shared
    view = attach_window(fd)
    window.beat()
    assert view.heartbeat == 1


def memfd(size: int, seals: int) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.mark.parametrize(
    "missing", [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, F_SEAL_FUTURE_WRITE, fcntl.F_SEAL_SEAL], ids=hex
)
def test_a_memfd_without_one_of_the_seals_is_refused(missing: int) -> None:
    fd = memfd(WINDOW_SIZE, SEALS & ~missing)
    with pytest.raises(LinkViolation, match="not sealed"):
        attach_window(fd)
    os.close(fd)


@pytest.mark.parametrize("size", [0, 4096, WINDOW_SIZE - 4096, WINDOW_SIZE - 1, WINDOW_SIZE + 1])
def test_a_memfd_of_another_size_is_refused(size: int) -> None:
    fd = memfd(size, SEALS)
    with pytest.raises(LinkViolation, match="size"):
        attach_window(fd)
    os.close(fd)


def test_a_memfd_that_is_no_window_is_refused() -> None:
    fd = memfd(WINDOW_SIZE, SEALS)
    with pytest.raises(LinkViolation, match="version"):
        attach_window(fd)
    os.close(fd)


def test_a_file_that_could_shrink_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "window"
    path.write_bytes(bytes(WINDOW_SIZE))
    with path.open("r+b") as file, pytest.raises(LinkViolation, match="not sealed"):
        attach_window(file.fileno())


def test_something_that_is_no_file_is_refused() -> None:
    ends = os.pipe()
    for fd in ends:
        with pytest.raises(LinkViolation):
            attach_window(fd)
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        attach_window(ends[0])
