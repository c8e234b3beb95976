"""The images that can be used here, each with its size and digest. Reads the disk.

The digest is over all files of an image's directory, in the order of their names: for each its name, its size
and its bytes. Two directories with one digest are one image, wherever they are.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from popnet.core.errors import InvalidMachineFile
from popnet.machine.file import load_image
from popnet.machine.image import MANIFEST
from popnet.machine.search import find_images, image_search_path

_READ_SIZE = 1 << 20


def image_rows(env: Mapping[str, str], paths: Sequence[str]) -> list[dict[str, Any]]:
    """A row an image: those in the directories *paths*, or all that are found by name.

    name, kind, root, size_bytes, sha256, path, origin (`found` by its name, or by its `path`), and error,
    which says what is wrong with its manifest.
    """
    if paths:
        return [_row(Path(path), "path") for path in paths]
    found = find_images(image_search_path(env))
    return [_row(Path(found[name]), "found") for name in sorted(found)]


def digest(directory: Path) -> tuple[str, int]:
    """The SHA-256 of an image's *directory*, in hexadecimal, and the bytes of its files."""
    summed = hashlib.sha256()
    size_bytes = 0
    for file in _files(directory):
        name, own = str(file.relative_to(directory)), file.lstat().st_size
        if file.is_symlink():
            text = str(file.readlink()).encode()
            summed.update(f"link {name}\0{len(text)}\0".encode() + text)
            continue
        summed.update(f"file {name}\0{own}\0".encode())
        size_bytes += own
        with file.open("rb") as opened:
            while data := opened.read(_READ_SIZE):
                summed.update(data)
    return summed.hexdigest(), size_bytes


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_symlink() or path.is_file())


def _row(directory: Path, origin: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": directory.resolve().name,
        "origin": origin,
        "path": str(directory.absolute()),
    }
    row |= {"kind": None, "root": None, "size_bytes": None, "sha256": None, "error": None}
    try:
        image = load_image(str(directory))
        row |= {"kind": image.kind, "root": image.root}
    except InvalidMachineFile as error:
        row["error"] = str(error)
        if not (directory / MANIFEST).is_file():
            return row
    try:
        row["sha256"], row["size_bytes"] = digest(directory)
    except OSError as error:
        row["error"] = f"{error.filename}: cannot read this file: {(error.strerror or str(error)).lower()}"
    return row
