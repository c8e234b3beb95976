"""The root file system of a kernel, built by its init in a mount namespace of its own, before it gives up the
machine's powers.

Everything written inside a kernel goes to one private tmpfs that dies with the namespace: nothing of it is
ever on the host.

A *host-overlay* root shows the host's directories copy-on-write. An ordinary user may not overlay a directory
that has mounts
below it (they could be uncovered), so the tree is mirrored: a directory without mounts below becomes one
overlay, one with mounts
below becomes a plain directory whose entries are mirrored in turn. That also brings in other file systems
(/home, /usr), which a
single overlay of / would leave empty. A *directory* root is one overlay of an image's own tree.

On both come /proc, /sys, /dev and /run, hardened as container run-times do it: /sys and /proc/sys (but for
/proc/sys/net, which
belongs to the kernel's own network namespace) are read-only, because the ids of root inside and outside are
the same.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from popnet.kernel import linux, rootdir

_ABSENT: Final = frozenset({"/proc", "/sys", "/dev", "/run", "/tmp", "/mnt", "/media", "/lost+found"})
"""Host directories that a host-overlay root does not mirror: replaced, private or pointless."""

_COPIED_MAX: Final = 1 << 20
"""Bytes of the largest file copied where an overlay cannot be used: loose files beside directories with
mounts below."""

_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
"""Devices that every kernel has."""

_READ_ONLY_PROC: Final = ("sys", "sysrq-trigger", "irq", "bus", "fs")
_MASKED_PROC: Final = ("kcore", "kmsg", "timer_list", "sched_debug", "keys")
_SAFE: Final = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


ShowViews = Callable[[Path, Path], int | None]
"""Takes the new root, and a directory that is kept as long as it is."""


@dataclass(frozen=True, slots=True)
class RootPlan:
    """What a root file system is made of.

    Attributes:
        kind: `host-overlay` or `directory`.
        source: the directory of the host.
        files: path inside -> text, written over what the root has there.
        proc_files: name below /proc -> text shown there instead.
        devices: names below /dev of the host's devices it has, beside those that every kernel has.
        hidden_pci: (vendor, device) of the PCI devices that /sys does not show.
        hidden: host-overlay only: directories of the host that are seen empty, if they are there.
        size: bytes the private tmpfs may hold, or None for half of the host's memory.
    """

    kind: str
    source: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    proc_files: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    hidden_pci: tuple[tuple[int, int], ...] = ()
    hidden: tuple[str, ...] = ()
    size: int | None = None


def build(plan: RootPlan, mount_point: str, show: ShowViews | None = None) -> int | None:
    """Build the root that *plan* describes and make it the caller's; *mount_point* is any empty directory.

    *show* puts the views of the kernel's partition over /proc and /sys; what it returns is returned.

    Must run as pid 1 of its pid namespace, with the machine's powers; makes a mount namespace of its own.

    Raises:
        OSError: a mount or file failed; the text says which.
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    base = Path(mount_point)
    size = f",size={plan.size}" if plan.size else ""
    linux.mount("popnet", base, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode=755{size}")
    root = base / "root"
    root.mkdir()
    linux.mount(str(root), root, "", linux.MS_BIND)  # pivot_root wants a mount point
    if plan.kind == "host-overlay":
        _HostMirror(base, root, plan.files).mirror_root()
        _hide(root, plan.hidden)
    else:
        rootdir.show(plan.source, base, root, plan.files, overlay_options())
    _mount_system(root, base, plan)
    shown = show(root, base) if show is not None else None
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.unmount(".", linux.MNT_DETACH)
    os.chdir("/")
    return shown


def overlay_options() -> str:
    """What an overlay needs beside its layers: an ordinary user's keeps its notes in other attributes."""
    return "" if linux.is_initial_user_namespace() else ",userxattr"


def _mount_points() -> list[str]:
    """Mount points of the calling process, as /proc/self/mountinfo escapes them undone."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    escaped = [line.split(b" ")[4] for line in lines]
    return [os.fsdecode(path.decode("unicode_escape").encode("latin-1")) for path in escaped]


class _HostMirror:
    """Mirrors the host's tree, overlay by overlay, below *root*; what is written goes below *base*."""

    def __init__(self, base: Path, root: Path, files: Mapping[str, str]) -> None:
        self._base = base
        self._root = root
        self._files = dict(files)  # those not yet written
        # What has mounts strictly below it: every ancestor of every mount point.
        self._busy = {str(parent) for point in _mount_points() for parent in Path(point).parents}
        self._options = overlay_options()
        self._count = 0

    def mirror_root(self) -> None:
        for name in ("tmp", "run", "proc", "sys", "dev", "mnt"):
            (self._root / name).mkdir(mode=0o1777 if name == "tmp" else 0o755)
            (self._root / name).chmod(0o1777 if name == "tmp" else 0o755)
        self._mirror_entries("/")
        for name, text in self._files.items():  # in directories that are no overlay
            _write(self._root / name[1:], text)
        if not (self._root / "root").exists():
            (self._root / "root").mkdir(mode=0o700)

    def _mirror_entries(self, path: str) -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.path not in _ABSENT:
                    self._mirror(entry)

    def _mirror(self, entry: os.DirEntry[str]) -> None:
        target = self._root / entry.path[1:]
        if entry.is_symlink():
            target.symlink_to(Path(entry.path).readlink())
        elif entry.is_dir():
            self._mirror_directory(entry.path, target)
        elif entry.is_file() and entry.stat().st_size <= _COPIED_MAX and os.access(entry.path, os.R_OK):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                shutil.copy(entry.path, target)

    def _mirror_directory(self, path: str, target: Path) -> None:
        if not os.access(path, os.R_OK | os.X_OK):
            target.mkdir(mode=0o700)
        elif path in self._busy:
            target.mkdir(mode=stat.S_IMODE(Path(path).stat().st_mode))
            self._mirror_entries(path)
            self._replace_files(path, target)
        elif "," in path or ":" in path or "\\" in path:
            target.mkdir()  # overlay's option syntax has no safe way to say these
        else:
            self._overlay(path, target)

    def _overlay(self, path: str, target: Path) -> None:
        self._count += 1
        upper, work = self._base / f"upper{self._count}", self._base / f"work{self._count}"
        mode = stat.S_IMODE(Path(path).stat().st_mode)
        for directory in (upper, work, target):
            directory.mkdir(mode=mode)
        upper.chmod(mode)
        self._write_files(path, upper)
        layers = f"lowerdir={path},upperdir={upper},workdir={work}"
        try:
            linux.mount("overlay", target, "overlay", linux.MS_NODEV, layers + self._options)
        except OSError:
            # Some file systems cannot be below an overlay: vfat (/boot/efi), automounts, two overlays deep.
            if any(upper.iterdir()):
                raise
            self._show_read_only(path, target)

    @staticmethod
    def _show_read_only(path: str, target: Path) -> None:
        locked = linux.MS_NOEXEC if os.statvfs(path).f_flag & os.ST_NOEXEC else 0
        flags = linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
        linux.mount(path, target, "", linux.MS_BIND)
        linux.mount("none", target, "", flags | locked)

    def _replace_files(self, path: str, target: Path) -> None:
        """Put the plan's files of *path* into *target*, its plain directory: /etc in a container, say."""
        for name, text in self._files.items():
            if str(Path(name).parent) == path:
                file = target / Path(name).name
                file.unlink(missing_ok=True)
                file.write_text(text)

    def _write_files(self, path: str, upper: Path) -> None:
        """Put the plan's files that belong below *path* into the upper layer, where they hide the host's."""
        for name in [name for name in self._files if name.startswith(f"{path}/")]:
            _write(upper / name[len(path) + 1 :], self._files.pop(name))


def _write(file: Path, text: str) -> None:
    """Write *text* to a file of a kernel's own; what was there (a link out of the tree?) goes first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(text)


def _hide(root: Path, directories: Iterable[str]) -> None:
    """Put an empty read-only file system over each of *directories* that the root has."""
    for directory in directories:
        place = root / directory[1:]
        if place.is_dir():
            linux.mount("popnet", place, "tmpfs", _SAFE | linux.MS_RDONLY, "mode=755")


def _mount_system(root: Path, base: Path, plan: RootPlan) -> None:
    linux.mount("proc", root / "proc", "proc", _SAFE)
    _protect_proc(root / "proc", base, plan.proc_files)
    linux.mount("sysfs", root / "sys", "sysfs", _SAFE | linux.MS_RDONLY)
    _hide_pci(root / "sys", plan.hidden_pci)
    _make_devices(root / "dev", plan.devices)
    linux.mount("tmpfs", root / "run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    linux.mount("tmpfs", root / "tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")


def _protect_proc(proc: Path, base: Path, shown: Mapping[str, str]) -> None:
    net = proc / "sys/net"
    linux.mount(str(net), net, "", linux.MS_BIND)
    for path in _existing(proc, _READ_ONLY_PROC):
        linux.mount(str(path), path, "", linux.MS_BIND | linux.MS_REC)
        linux.mount("none", path, "", linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | _SAFE)
    for path in _existing(proc, _MASKED_PROC):
        linux.mount("/dev/null", path, "", linux.MS_BIND)
    for name, text in shown.items():
        file = base / f"proc-{name.replace('/', '-')}"
        file.write_text(text)
        file.chmod(0o444)
        linux.mount(str(file), proc / name, "", linux.MS_BIND)


def _existing(directory: Path, names: Iterable[str]) -> list[Path]:
    return [directory / name for name in names if (directory / name).exists()]


def _hide_pci(sys: Path, hidden: Collection[tuple[int, int]]) -> None:
    """Show the devices of the PCI bus without the *hidden* ones: another list of them, and nothing where they
    are."""
    bus = sys / "bus/pci/devices"
    if not hidden or not bus.is_dir():
        return
    links = {link.name: link.readlink() for link in bus.iterdir()}
    gone = [name for name in links if _pci_numbers(bus / name) in hidden]
    for name in gone:
        linux.mount("tmpfs", (bus / name).resolve(), "tmpfs", _SAFE | linux.MS_RDONLY, "mode=555,size=4k")
    linux.mount("tmpfs", bus, "tmpfs", _SAFE, "mode=755,size=1m")
    for name, target in links.items():
        if name not in gone:
            # `../../../devices/...` leads to the same place from here: the directory's path has not changed.
            (bus / name).symlink_to(target)
    linux.mount("none", bus, "", linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | _SAFE)


def _pci_numbers(device: Path) -> tuple[int, int]:
    return int((device / "vendor").read_text(), 16), int((device / "device").read_text(), 16)


def _make_devices(dev: Path, more: Iterable[str]) -> None:
    linux.mount("tmpfs", dev, "tmpfs", linux.MS_NOSUID, "mode=755,size=1m")
    for name in (*_DEVICES, *more):
        if os.access(f"/dev/{name}", os.R_OK | os.W_OK):
            (dev / name).parent.mkdir(parents=True, exist_ok=True)
            (dev / name).touch()
            linux.mount(f"/dev/{name}", dev / name, "", linux.MS_BIND)
    (dev / "pts").mkdir()
    options = "newinstance,ptmxmode=0666,mode=0620"
    if _is_mapped("gid_map", 5):
        options += ",gid=5"  # the group `tty`, whose number glibc and every distribution agree on
    linux.mount("devpts", dev / "pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, options)
    (dev / "shm").mkdir()
    linux.mount("tmpfs", dev / "shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    links = {
        "ptmx": "pts/ptmx",
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
    }
    for name, target in links.items():
        (dev / name).symlink_to(target)


def _is_mapped(name: str, number: int) -> bool:
    ranges = [line.split() for line in Path(f"/proc/self/{name}").read_text().splitlines()]
    return any(int(first) <= number < int(first) + int(count) for first, _, count in ranges)
