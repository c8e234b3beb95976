"""Compressed files as plain ones, whole or broken."""

import bz2
import gzip
import importlib.util
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from popnet.core.errors import BrokenImage, Unavailable
from popnet.image.compression import compression_of, open_plain

TEXT = bytes(range(256)) * 40


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_all_that_python_reads(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "file"
    path.write_bytes(pack(TEXT))
    with open_plain(path) as file:
        assert file.read() == TEXT


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_broken_ones(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "file"
    packed = pack(TEXT)
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(BrokenImage, match="cut off"), open_plain(path) as file:
        file.read()
    middle = len(packed) // 2
    path.write_bytes(packed[:middle] + b"\xff" * 8 + packed[middle + 8 :])
    with pytest.raises(BrokenImage, match="broken"), open_plain(path) as file:
        file.read()


def test_what_python_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x02\x21\x4c\x18....")
    assert compression_of(path.read_bytes()) == "lz4"
    with pytest.raises(Unavailable, match="cannot read lz4"), open_plain(path):
        pass
    if importlib.util.find_spec("compression") is None:
        path.write_bytes(b"\x28\xb5\x2f\xfd....")
        with pytest.raises(Unavailable, match="cannot read zstd"), open_plain(path):
            pass
