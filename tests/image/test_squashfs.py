"""squashfs: its superblock, and unsquashfs where nobody can mount."""

import subprocess
from pathlib import Path

import pytest

from popnet.core.errors import BrokenImage, Unavailable
from popnet.image import squashfs


@pytest.fixture
def image(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/file").write_bytes(b"data" * 5000)
    made = tmp_path / "root.squashfs"
    subprocess.run(["mksquashfs", tree, made, "-quiet", "-no-progress"], check=True, capture_output=True)
    return made


def test_a_whole_one(image: Path, tmp_path: Path) -> None:
    found = squashfs.check(image)
    assert found.compression == "gzip"
    assert 96 < found.bytes_used <= image.stat().st_size
    squashfs.unpack(image, tmp_path / "out")
    assert (tmp_path / "out/bin/file").read_bytes() == b"data" * 5000


def test_broken_ones(image: Path) -> None:
    raw = image.read_bytes()
    used = squashfs.check(image).bytes_used
    for data, what in (
        (raw[: used - 1], "cut off"),
        (raw[:50], "cut off"),
        (b"", "not a squashfs"),
        (b"hsqz" + raw[4:], "not a squashfs"),
        (raw[:28] + b"\x03\x00" + raw[30:], "version 3"),
    ):
        with pytest.raises(BrokenImage, match=what):
            squashfs.superblock(data[:96], len(data))


def test_one_that_is_nonsense_inside(image: Path, tmp_path: Path) -> None:
    raw = bytearray(image.read_bytes())
    raw[96:] = b"\xff" * (len(raw) - 96)
    image.write_bytes(bytes(raw))
    with pytest.raises(BrokenImage, match="unsquashfs"):
        squashfs.unpack(image, tmp_path / "out")


def test_without_unsquashfs(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squashfs.shutil, "which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match="needs unsquashfs") as caught:
        squashfs.unpack(image, tmp_path / "out")
    assert "apt install squashfs-tools" in caught.value.hint
