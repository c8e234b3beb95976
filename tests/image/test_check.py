"""What can be a root: an init or a shell that is there, may run, and runs here."""

import os
import struct
from pathlib import Path

import pytest

from popnet.core.errors import BrokenImage
from popnet.image.check import check_root, elf_interpreter, resolve, shell_of

HERE = "x86_64"


def elf(machine: int = 62, interpreter: str = "") -> bytes:
    """A 64-bit ELF file, as far as anybody looks."""
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHI", 2, machine, 1)
    header = header.ljust(32, b"\0") + struct.pack("<Q", 64)
    header = header.ljust(54, b"\0") + struct.pack("<HH", 56, 1)
    text = interpreter.encode() + b"\0"
    kind = 3 if interpreter else 1
    table = struct.pack("<IIQQQQ", kind, 0, 120, 0, 0, len(text)).ljust(56, b"\0")
    return header.ljust(64, b"\0") + table + text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with merged /usr, and a static shell."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    put(tmp_path, "usr/bin/dash", elf())
    (tmp_path / "usr/bin/sh").symlink_to("dash")
    return tmp_path


def put(root: Path, path: str, data: bytes, mode: int = 0o755) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)
    (root / path).chmod(mode)


def test_paths_are_followed_as_inside(root: Path) -> None:
    (root / "abs").symlink_to("/bin/sh")
    (root / "up").symlink_to("../../../usr")
    (root / "loop").symlink_to("loop")
    (root / "host").symlink_to("/etc/passwd")
    assert resolve(root, "/abs") == root / "usr/bin/dash"
    assert resolve(root, "/up/bin/../bin/sh") == root / "usr/bin/dash"
    assert resolve(root, "/../../bin/sh") == root / "usr/bin/dash"
    assert resolve(root, "/loop") is None
    assert resolve(root, "/host") is None, "the host's file is not the root's"
    assert resolve(root, "/") == root


def test_a_shell_is_enough(root: Path) -> None:
    assert shell_of(root) == "/bin/sh"
    check_root(root, None, HERE)
    (root / "usr/bin/dash").unlink()
    with pytest.raises(BrokenImage, match="neither an init of its own nor a shell") as caught:
        check_root(root, None, HERE)
    assert "busybox" in caught.value.hint


def test_an_init_of_its_own_needs_no_shell(tmp_path: Path) -> None:
    put(tmp_path, "init", elf())
    check_root(tmp_path, "/init", HERE)
    with pytest.raises(BrokenImage, match="init /sbin/init is not in the root"):
        check_root(tmp_path, "/sbin/init", HERE)


@pytest.mark.parametrize(
    ("data", "mode", "what"),
    [
        (elf(183), 0o755, "a program for aarch64; this host is x86_64"),
        (elf(9999), 0o755, "a program for ELF machine 9999"),
        (elf(), 0o644, "no file that may be executed"),
        (b"#!/bin/bash\n", 0o755, "a script of '/bin/bash', which is not in the root"),
        (b"#!\n", 0o755, "a script of ''"),
        (b"text\n", 0o755, "neither a program nor a script"),
        (b"", 0o755, "neither a program nor a script"),
        (elf(interpreter="/lib64/ld.so"), 0o755, "needs /lib64/ld.so, which is not in the root"),
    ],
)
def test_an_init_that_cannot_run(root: Path, data: bytes, mode: int, what: str) -> None:
    put(root, "init", data, mode)
    with pytest.raises(BrokenImage, match=what):
        check_root(root, "/init", HERE)


def test_an_init_that_can(root: Path) -> None:
    put(root, "lib64/ld.so", elf())
    for data in (elf(interpreter="/lib64/ld.so"), b"#!/bin/sh -e\n", b"#! /bin/sh\n", elf(3)):
        put(root, "init", data)
        check_root(root, "/init", HERE)


@pytest.mark.parametrize(
    ("data", "interpreter"),
    [
        (elf(), None),
        (elf(interpreter="/lib/ld"), "/lib/ld"),
        (b"#!/bin/sh\n", None),
        (b"", None),
        (elf(interpreter="/lib/ld")[:70], None),
        (b"\x7fELF\x01" + bytes(60), None),
    ],
)
def test_the_dynamic_loader(tmp_path: Path, data: bytes, interpreter: str | None) -> None:
    (tmp_path / "program").write_bytes(data)
    assert elf_interpreter(tmp_path / "program") == interpreter


def test_this_host_passes() -> None:
    check_root(Path("/"), None, os.uname().machine)
