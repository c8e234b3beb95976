"""Compressed files read as plain ones: gzip, bzip2, xz, and zstd where Python has it (3.14)."""

import bz2
import gzip
import importlib
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from popnet.core.errors import BrokenImage, Unavailable

_MAGICS: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02\x21\x4c\x18": "lz4",
}


def compression_of(start: bytes) -> str:
    """The compression of a file that begins with *start*: gzip, bzip2, xz, zstd, lz4, or "" for none."""
    return next((name for magic, name in _MAGICS.items() if start.startswith(magic)), "")


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """The file at *path* without its compression. Errors of the compression are BrokenImage in the block.

    Raises OSError if it cannot be read, Unavailable for a compression that this Python does not have.
    """
    with path.open("rb") as raw:
        name = compression_of(raw.read(8))
        raw.seek(0)
        try:
            with _decompressed(cast(BinaryIO, raw), name, path) as plain:
                yield plain
        except EOFError:
            raise BrokenImage(f"the {name} data ends too early: it was cut off") from None
        except (gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise BrokenImage(f"the {name} data is broken: {error}") from None
        except OSError as error:
            if error.errno is None:  # bz2 says so of broken data
                raise BrokenImage(f"the {name} data is broken: {error}") from None
            raise


def _decompressed(raw: BinaryIO, name: str, path: Path) -> BinaryIO:
    match name:
        case "":
            return raw
        case "gzip":
            return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        case "bzip2":
            return cast(BinaryIO, bz2.BZ2File(raw))
        case "xz":
            return cast(BinaryIO, lzma.LZMAFile(raw))
        case "zstd":
            try:
                zstd = importlib.import_module("compression.zstd")
            except ImportError:
                pass
            else:
                return cast(BinaryIO, zstd.ZstdFile(raw))
    hint = "Compress it with gzip or xz, or not at all."
    raise Unavailable(f"{path}: this Python cannot read {name}", hint)
