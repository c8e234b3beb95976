"""Roots kept unpacked, by the SHA-256 of what they came from: an archive is unpacked once, then only shown.

    <store>/digests.json          path -> size, times and digest of archives seen, so that they are read once
    <store>/<digest>/root         the unpacked tree; nothing writes there any more
    <store>/<digest>/about.json   from what, when, how much

Theory of operation. Any number of processes may want one root at once. `<digest>.lock` is held exclusively
by who unpacks or removes it, and shared by each machine that shows it, until the machine ends. A tree is
unpacked beside its place and renamed when it is whole, so one that is there is whole; what a crash left is
removed by the next who has the lock. The store's directory is its owner's alone: a set-uid program of an
image is nobody's on the host.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from popnet.core.errors import Unavailable
from popnet.image.unpack import Unpacker

CACHE_VARIABLE: Final = "POPNET_CACHE_DIR"

_CHUNK: Final = 1 << 20
_DIGESTS_MAX: Final = 1000

Unpack = Callable[[Unpacker, Path], None]
"""Writes a root by an Unpacker, or itself, below a directory."""


def store_directory(env: Mapping[str, str], is_root: bool) -> Path:
    """Where roots are kept: $POPNET_CACHE_DIR, /var/cache/popnet for root, else in the user's own cache."""
    if env.get(CACHE_VARIABLE):
        return Path(env[CACHE_VARIABLE]).absolute() / "roots"
    if is_root:
        return Path("/var/cache/popnet/roots")
    base = env.get("XDG_CACHE_HOME") or f"{env.get('HOME', '/')}/.cache"
    return Path(base) / "popnet/roots"


@dataclass(frozen=True, slots=True)
class Kept:
    """A root in the store.

    Attributes:
        path: of its tree.
        fresh: it was unpacked just now.
        about: from what, when, how much.
    """

    path: Path
    digest: str
    fresh: bool
    about: dict[str, Any]


class Store:
    """The roots kept in *directory*; *owners*: their files keep their owners, which only root can do."""

    def __init__(self, directory: Path, owners: bool) -> None:
        self.directory = directory
        self._owners = owners
        self._held: dict[str, int] = {}

    def close(self) -> None:
        """Let others remove what this one has shown."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def keep(self, digest: str, origin: str, unpack: Unpack) -> Kept:
        """The root with that digest, unpacked by *unpack* from *origin* if it is not there, and held until
        `close`. Raises what *unpack* raises, OSError, Unavailable; nothing half unpacked is left then."""
        self._make()
        place = self.directory / digest
        fresh = False
        while digest not in self._held:
            fd = self._lock(digest, fcntl.LOCK_SH)
            if place.is_dir():
                self._held[digest] = fd
                break
            os.close(fd)
            fd = self._lock(digest, fcntl.LOCK_EX)
            try:
                if not place.is_dir():
                    self._unpack(digest, origin, unpack)
                    fresh = True
            finally:
                os.close(fd)
        about = json.loads((place / "about.json").read_text())
        return Kept(place / "root", digest, fresh, about)

    def rows(self) -> list[dict[str, Any]]:
        """What is kept: digest, and what `about.json` has."""
        found = []
        for file in sorted(self.directory.glob("*/about.json")):
            with contextlib.suppress(OSError, ValueError):
                found.append({"digest": file.parent.name, **json.loads(file.read_text())})
        return found

    def prune(self) -> list[dict[str, Any]]:
        """Remove every root that no machine shows, and what crashes left; the rows of those removed."""
        gone = []
        rows = {row["digest"]: row for row in self.rows()}
        for lock in sorted(self.directory.glob("*.lock")):
            digest = lock.name.removesuffix(".lock")
            fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                _remove(self.directory / digest)
                _remove(self.directory / f".new-{digest}")
                lock.unlink()
                if digest in rows:
                    gone.append(rows[digest])
            finally:
                os.close(fd)
        return gone

    def digest(self, path: Path) -> str:
        """The SHA-256 of the file at *path*, remembered as long as its size, times and inode stay. Raises
        OSError."""
        status = path.stat()
        facts = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
        known = self._digests()
        key = str(path.resolve())
        if known.get(key, [None])[:-1] == facts:
            return str(known[key][-1])
        summed = hashlib.sha256()
        with path.open("rb") as file:
            while data := file.read(_CHUNK):
                summed.update(data)
        known.pop(key, None)
        known[key] = [*facts, summed.hexdigest()]
        with contextlib.suppress(OSError):  # it is read again next time
            self._make()
            fresh = self.directory / f".digests-{os.getpid()}"
            fresh.write_text(json.dumps(dict(list(known.items())[-_DIGESTS_MAX:])))
            fresh.replace(self.directory / "digests.json")
        return summed.hexdigest()

    def _digests(self) -> dict[str, Any]:
        try:
            known = json.loads((self.directory / "digests.json").read_text())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _make(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            hint = f"Set {CACHE_VARIABLE} to a directory that can be written."
            raise Unavailable(f"cannot keep roots in {self.directory}: {error.strerror}", hint) from None
        if self.directory.stat().st_mode & 0o077:
            self.directory.chmod(0o700)

    def _lock(self, digest: str, kind: int) -> int:
        """A lock on *digest*; who removes the lock file holds it alone, so one that is gone is made again."""
        path = self.directory / f"{digest}.lock"
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, kind)
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(fd).st_ino:
                    return fd
            os.close(fd)

    def _unpack(self, digest: str, origin: str, unpack: Unpack) -> None:
        fresh = self.directory / f".new-{digest}"
        _remove(fresh)
        root = fresh / "root"
        root.mkdir(mode=0o755, parents=True)
        started_s = time.monotonic()
        with _unpacker(root, self._owners) as unpacker:
            try:
                unpack(unpacker, root)
            except BaseException:
                _remove(fresh)
                raise
        about = {
            "origin": origin,
            "time_s": round(time.time(), 3),
            "took_s": round(time.monotonic() - started_s, 3),
            "size_bytes": unpacker.size_bytes,
            "entries": unpacker.entries,
            "devices_left_out": unpacker.left_out,
        }
        (fresh / "about.json").write_text(json.dumps(about))
        fresh.rename(self.directory / digest)


@contextlib.contextmanager
def _unpacker(root: Path, owners: bool) -> Iterator[Unpacker]:
    unpacker = Unpacker(root, owners)
    try:
        yield unpacker
    finally:
        unpacker.close()


def _remove(path: Path) -> None:
    """Remove a tree, also where its directories may not be written."""

    def retry(function: Callable[..., Any], name: str, error: Any) -> None:
        parent = Path(name).parent
        parent.chmod(0o700)
        if not Path(name).is_symlink() and Path(name).is_dir():
            Path(name).chmod(0o700)
        function(name)

    if path.exists():
        shutil.rmtree(path, onerror=retry)
