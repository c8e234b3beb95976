"""The images that can be used here, each with its size and digest. Reads the disk.

The digest is over all files of an image's directory, in the order of their names: for each its name, its size
and its bytes; then over those of its root, if that is somewhere else. Two with one digest are one image,
wherever they are.
"""

import hashlib
import os
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

    name, description, kind, root, size_bytes, sha256, path, source (what its root is made of, if that is not
    in its directory), origin (what the manifest says of it), found (by its `name`, or by its `path`), and
    error, which says what is wrong with it.
    """
    if paths:
        return [image_row(Path(path), "path") for path in paths]
    found = find_images(image_search_path(env))
    return [image_row(Path(found[name]), "name") for name in sorted(found)]


def digest(directory: Path, source: Path | None = None) -> tuple[str, int]:
    """The SHA-256 of an image's *directory*, in hexadecimal, and the bytes of its files; with those of its
    *source*, a file or directory somewhere else."""
    summed = hashlib.sha256()
    size_bytes = 0
    for file, name in _named(directory, source):
        own = file.lstat().st_size
        if file.is_symlink():
            text = os.fsencode(file.readlink())
            summed.update(b"link %b\0%d\0" % (os.fsencode(name), len(text)) + text)
            continue
        summed.update(b"file %b\0%d\0" % (os.fsencode(name), own))
        size_bytes += own
        with file.open("rb") as opened:
            while data := opened.read(_READ_SIZE):
                summed.update(data)
    return summed.hexdigest(), size_bytes


def _named(directory: Path, source: Path | None) -> Iterator[tuple[Path, str]]:
    """Each file, and the name that it has in the digest."""
    for file in _files(directory):
        yield file, str(file.relative_to(directory))
    if source is not None and source.is_dir():
        for file in _files(source):
            yield file, f"source {file.relative_to(source)}"
    elif source is not None:
        yield source, "source"


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_symlink() or path.is_file())


def image_row(directory: Path, found: str) -> dict[str, Any]:
    """The row of the image in *directory*, which was found by its `name` or its `path`."""
    row: dict[str, Any] = {
        "name": directory.resolve().name,
        "found": found,
        "path": str(directory.absolute()),
    }
    row |= dict.fromkeys(("description", "kind", "root", "source", "origin", "size_bytes", "sha256", "error"))
    outside: Path | None = None
    try:
        image = load_image(str(directory))
        row |= {"kind": image.kind, "root": image.root, "description": image.description}
        row["origin"] = image.origin or None
        if image.source:
            row["source"] = image.source
            inside = Path(image.source).resolve().is_relative_to(directory.resolve())
            outside = None if inside else Path(image.source)
    except InvalidMachineFile as error:
        row["error"] = str(error)
        if not (directory / MANIFEST).is_file():
            return row
    try:
        row["sha256"], row["size_bytes"] = digest(directory, outside)
    except OSError as error:
        row["error"] = f"{error.filename}: cannot read this file: {(error.strerror or str(error)).lower()}"
    return row
