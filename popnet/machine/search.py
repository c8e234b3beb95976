"""Where machine files and images are found. With `file` and `imagelist`, what of the package reads the disk.

Images are directories with an `image.yaml`. They are looked for, first to last, in `images/` beside the
machine file, in the directories of $POPNET_IMAGE_PATH, in `kernels/` of a source checkout, and where an
installation puts its data. Machine files that popnet brings along are in `machines/` of the same places.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from popnet.core.errors import NoSuchMachine
from popnet.machine.image import MANIFEST
from popnet.machine.problems import suggestion

IMAGE_PATH_VARIABLE: Final = "POPNET_IMAGE_PATH"

_PACKAGE = Path(__file__).resolve().parents[1]
_CHECKOUT = _PACKAGE.parent / "kernels"
_SHARE = Path("share/popnet/kernels")
_SUFFIXES: Final = (".yaml", ".yml", ".json")


def image_search_path(env: Mapping[str, str], file: str | None = None) -> list[str]:
    """The directories to look for images in, first to last, for the machine file *file*."""
    found = [] if file is None else [Path(file).parent / "images"]
    found += [Path(part) for part in env.get(IMAGE_PATH_VARIABLE, "").split(os.pathsep) if part]
    if (_CHECKOUT.parent / "pyproject.toml").is_file():
        found.append(_CHECKOUT)
    found.append(Path(sys.prefix) / _SHARE)
    # `pip install --target` puts data beside the package, `--user` above its lib/python3.x/site-packages.
    found += [parent / _SHARE for parent in (*_PACKAGE.parents[:1], *_PACKAGE.parents[3:4])]
    return list(dict.fromkeys(str(directory.absolute()) for directory in found))


def find_images(image_path: Sequence[str]) -> dict[str, str]:
    """The directory of each image in *image_path*, by name; of two with one name the first counts."""
    images: dict[str, str] = {}
    for directory in image_path:
        for manifest in sorted(Path(directory).glob(f"*/{MANIFEST}")):
            images.setdefault(manifest.parent.name, str(manifest.parent))
    return images


def find_machine_file(name: str, env: Mapping[str, str]) -> str:
    """The path that *name* means: itself if it is one; `demo` is a machine file that popnet brings along.

    Raises NoSuchMachine for a bare name that there is none of; whether a path exists is for `load` to say.
    """
    if os.sep in name or name.endswith(_SUFFIXES) or Path(name).is_file():
        return name
    known: dict[str, str] = {}
    for directory in image_search_path(env):
        for file in sorted(Path(directory).glob("machines/*.yaml")):
            known.setdefault(file.stem, str(file))
    if name in known:
        return known[name]
    raise NoSuchMachine(
        f"no machine file is called {name!r}{suggestion(name, known)}",
        hint="Give the path of a machine file, such as ./lab.yaml, or a name that popnet brings along.",
    )
