"""The roots that the kernels of one machine show: got ready once for each image, before its first boot.

Theory of operation. `ready` may unpack an archive for minutes, so it works in a thread; all who boot kernels
of that image meanwhile wait for the same task. After that a boot costs one look whether the file is still the
same. Real root mounts a squashfs, in the mount namespace of the machine, with which it ends; `close` before
that gives the mount point back.
"""

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from popnet.core.errors import BrokenImage, PopnetError, Unavailable
from popnet.image import source, squashfs
from popnet.image.store import Store, store_directory
from popnet.kernel import linux, loopmount
from popnet.machine.image import Image

_HOST: Final = "host-overlay"


@dataclass(frozen=True, slots=True)
class Ready:
    """A root that can be shown. *facts* change when its file does; *remark* is for the log, once."""

    path: str
    facts: tuple[int, ...]
    remark: str = ""


class ImageRoots:
    """The roots of one machine; *directory* is the machine's own, where mount points are made."""

    def __init__(self, directory: Path) -> None:
        is_root = linux.is_initial_user_namespace() and os.geteuid() == 0
        self._can_mount = is_root and loopmount.can_mount("squashfs")
        self._store = Store(store_directory(os.environ, is_root), owners=is_root)
        self._directory = directory / "roots"
        self._ready: dict[str, Ready] = {}
        self._tasks: dict[str, asyncio.Task[Ready]] = {}
        self._mounts: list[Path] = []

    async def ready(self, image: Image) -> Ready | None:
        """The root of *image*; None if it is the host's own. Raises BrokenImage, Unavailable."""
        if image.root == _HOST:
            return None
        known = self._ready.get(image.path)
        if known is not None and known.facts == _facts(image):
            return known
        task = self._tasks.get(image.path)
        if task is None:
            task = self._tasks[image.path] = asyncio.create_task(asyncio.to_thread(self._make_ready, image))
            task.add_done_callback(lambda _: self._tasks.pop(image.path, None))
        return await asyncio.shield(task)

    def make_ready(self, image: Image) -> Ready | None:
        """As `ready`, in the caller's thread."""
        return None if image.root == _HOST else self._make_ready(image)

    def _make_ready(self, image: Image) -> Ready:
        try:
            facts = _facts(image)
            path, remark = self._root_of(image)
        except PopnetError:
            raise
        except OSError as error:
            raise source.broken(image, BrokenImage(str(error.strerror or error).lower())) from None
        self._ready[image.path] = found = Ready(path, facts, remark)
        return found

    def close(self) -> None:
        """Give back what the host would keep."""
        for point in self._mounts:
            with contextlib.suppress(OSError):
                linux.unmount(point, linux.MNT_DETACH)
        self._mounts.clear()
        self._store.close()

    def _root_of(self, image: Image) -> tuple[str, str]:
        if image.root == "directory":
            try:
                source.check(Path(image.source), image)
            except BrokenImage as error:
                raise source.broken(image, error) from None
            return image.source, ""
        if image.root == "squashfs" and self._can_mount:
            return self._mounted(image), ""
        kept = source.keep_ramdisk(self._store, image) if image.root == "ramdisk" else None
        kept = kept or source.keep_archive(self._store, image)
        remark = ""
        if kept.fresh:
            remark = f"image {image.name}: unpacked {kept.about['entries']} files in {kept.about['took_s']} s"
        elif image.root != "ramdisk":
            try:
                source.check(kept.path, image)  # kept for an image that may ask for another init
            except BrokenImage as error:
                raise source.broken(image, error) from None
        return str(kept.path), remark

    def _mounted(self, image: Image) -> str:
        """Mount a squashfs where the machine's daemons see it, and nobody else."""
        path = Path(image.source)
        try:
            squashfs.check(path)
            digest = source.checked_digest(self._store, image)
            point = self._directory / digest
            if point not in self._mounts:
                point.mkdir(mode=0o700, parents=True, exist_ok=True)
                try:
                    loopmount.mount(path, point, "squashfs")
                except OSError as error:
                    raise BrokenImage(f"it cannot be mounted: {error}") from None
                self._mounts.append(point)
            source.check(point, image)
        except BrokenImage as error:
            raise source.broken(image, error) from None
        return str(point)


def _facts(image: Image) -> tuple[int, ...]:
    """What changes when the file of *image* is another one; raises Unavailable if it is gone."""
    if not image.source:
        return ()
    try:
        status = Path(image.source).stat()
    except OSError as error:
        raise Unavailable(f"image {image.name}: {image.source}: {(error.strerror or '').lower()}") from None
    return (status.st_size, status.st_mtime_ns, status.st_ino)
