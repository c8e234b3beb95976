"""Ramdisks of this host's programs."""

import io
from pathlib import Path

import pytest

from popnet.core.errors import Unavailable
from popnet.image import cpio, ramdisk
from tests.image.test_check import elf
from tests.kernel.inside import busybox


def test_busybox_and_all_its_names() -> None:
    program = ramdisk.find_program("busybox", "light")
    assert program == Path(busybox()).resolve()
    found = {entry.path: entry for entry, _ in ramdisk.members([program])}
    assert found["bin/sh"].link == "busybox"
    assert found["bin/busybox"].mode == 0o755
    assert {"etc/passwd", "tmp", "proc", "root"} <= set(found)


def test_the_same_programs_give_the_same_bytes() -> None:
    program = ramdisk.find_program("busybox", "light")
    one, two = ramdisk.members([program]), ramdisk.members([program])
    assert ramdisk.archive(one, compress=True) == ramdisk.archive(two, compress=True)
    assert ramdisk.digest(one) == ramdisk.digest(two)
    more = ramdisk.members([program], {"etc/motd": b"hello"})
    assert ramdisk.digest(more) != ramdisk.digest(one)


def test_files_come_with_their_directories() -> None:
    found = ramdisk.members([], {"srv/a/run": b"#!/bin/sh\n", "srv/a/text": b"text"})
    plain = io.BytesIO(ramdisk.archive(found, compress=False))
    modes = {entry.path: entry.mode for entry, _ in cpio.read(plain)}
    assert [modes[path] for path in ("srv", "srv/a", "srv/a/run", "srv/a/text")] == [
        0o755,
        0o755,
        0o755,
        0o644,
    ]


def test_a_program_that_the_host_lacks_says_what_to_install() -> None:
    with pytest.raises(Unavailable, match="'no-such-program', which this host does not have") as caught:
        ramdisk.find_program("no-such-program", "mine")
    assert "apt install no-such-program" in caught.value.hint


def test_a_program_with_a_dynamic_loader_is_refused() -> None:
    with pytest.raises(Unavailable, match="statically linked 'bash'") as caught:
        ramdisk.find_program("bash", "mine")
    assert "bash-static" in caught.value.hint


@pytest.mark.parametrize(
    ("data", "static"),
    [
        (elf(), True),
        (elf(interpreter="/lib/ld"), False),
        (b"#!/bin/sh\n", False),
        (b"", False),
        (b"\x7fELF\x02", False),
    ],
)
def test_what_is_static(tmp_path: Path, data: bytes, static: bool) -> None:
    (tmp_path / "program").write_bytes(data)
    assert ramdisk.is_static(tmp_path / "program") is static
