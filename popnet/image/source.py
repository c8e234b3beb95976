"""From the file that an image names to a root that can be shown: unpacked once, kept, and checked."""

import os
from pathlib import Path

from popnet.core.errors import BrokenImage
from popnet.image import cpio, ramdisk, squashfs, tars
from popnet.image.check import check_root
from popnet.image.compression import open_plain
from popnet.image.store import Kept, Store
from popnet.image.unpack import Unpacker
from popnet.machine.image import Image

ARCHIVES = {"tar": tars.read, "cpio": cpio.read}


def keep_archive(store: Store, image: Image) -> Kept:
    """The root of *image*, a tar, a cpio or (unpacked by unsquashfs) a squashfs, in *store*.

    Raises BrokenImage, which names the file; Unavailable.
    """
    path = Path(image.source)
    try:
        digest = checked_digest(store, image)
        if image.root == "squashfs":
            squashfs.check(path)

        def unpack(unpacker: Unpacker, directory: Path) -> None:
            if image.root == "squashfs":
                directory.rmdir()
                squashfs.unpack(path, directory)
            else:
                with open_plain(path) as plain:
                    unpacker.unpack(ARCHIVES[image.root](plain))
            check(directory, image)

        # One archive read in two ways is two roots; so is one whose check asks for another init.
        return store.keep(f"{digest}-{image.root}", str(path), unpack)
    except BrokenImage as error:
        raise broken(image, error) from None
    except OSError as error:
        raise broken(image, BrokenImage(_reason(error))) from None


def keep_ramdisk(store: Store, image: Image) -> Kept:
    """The ramdisk of *image*, of programs of this host, in *store*. Raises Unavailable, BrokenImage."""
    programs = [ramdisk.find_program(name, image.name) for name in image.programs]
    found = ramdisk.members(programs)
    digest = ramdisk.digest(found)
    try:
        return store.keep(f"{digest}-ramdisk", image.path, lambda unpacker, _: unpacker.unpack(iter(found)))
    except OSError as error:
        raise broken(image, BrokenImage(_reason(error))) from None


def checked_digest(store: Store, image: Image) -> str:
    """The digest of the image's file; BrokenImage if the manifest says another. Raises OSError."""
    digest = store.digest(Path(image.source))
    if image.sha256 is not None and digest != image.sha256:
        text = f"its SHA-256 is {digest}, and the manifest says {image.sha256}"
        raise BrokenImage(text, "Get the file again, or write its digest into the manifest.")
    return digest


def check(root: Path, image: Image) -> None:
    """Raises BrokenImage unless a kernel of *image* can live in the tree *root*."""
    check_root(root, image.init, os.uname().machine)


def broken(image: Image, error: BrokenImage) -> BrokenImage:
    """*error* with the name of the image and its file."""
    return BrokenImage(f"image {image.name}: {image.source or image.path}: {error}", error.hint)


def _reason(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{(error.strerror or str(error)).lower()}"
