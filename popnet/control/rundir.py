"""Where machines live: the run directory, the control socket of each, and which of them are alive.

A machine is alive while something listens on `<run dir>/<machine>/control.sock`: no pid file can go stale.
Addresses of unix sockets end at 107 bytes; a longer path is reached through `/proc/self/fd`, so a run
directory may be anywhere.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path

from popnet.core.errors import NoSuchMachine, Refused

TYPE_CHECKING = False  # not from typing: that import alone would cost 3 ms
if TYPE_CHECKING:
    from typing import Final

_ADDRESS_SIZE: Final = 108
"""sun_path of unix(7), terminating zero included."""


def run_dir() -> Path:
    """The run directory: $POPNET_RUN_DIR, or /run/popnet (root), $XDG_RUNTIME_DIR/popnet, /tmp/popnet-<uid>.

    It need not exist. Raises Refused if the last one exists and is somebody else's: /tmp is everybody's.
    """
    if chosen := os.environ.get("POPNET_RUN_DIR"):
        return Path(chosen).absolute()
    if os.getuid() == 0:
        return Path("/run/popnet")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime, "popnet")
    fallback = Path("/tmp", f"popnet-{os.getuid()}")
    _check_ours(fallback)
    return fallback


def make_run_dir(directory: Path | None = None) -> Path:
    """Makes *directory* (default: the run directory), mode 0700, if needed. Raises Refused if not ours."""
    directory = directory or run_dir()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_ours(directory)
    return directory


def socket_path(machine: str, directory: Path | None = None) -> Path:
    """The control socket of the machine of that name, alive or not."""
    return (directory or run_dir()) / machine / "control.sock"


def machines(directory: Path | None = None) -> list[str]:
    """Names of the machines that run, sorted."""
    directory = directory or run_dir()
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return [name for name in names if is_alive(socket_path(name, directory))]


def is_alive(path: Path) -> bool:
    """Whether something listens on the unix socket *path*."""
    try:
        open_socket(path, 0).close()
    except BlockingIOError:
        return True  # too busy to accept, but there
    except OSError:
        return False
    return True


def pick_machine(name: str | None = None, directory: Path | None = None) -> str:
    """The machine meant: *name*, else $POPNET_MACHINE, else the only one that runs.

    Raises NoSuchMachine, with what runs instead, if that one does not run, if none does, or if several do.
    """
    directory = directory or run_dir()
    asked = name or os.environ.get("POPNET_MACHINE")
    if asked and "/" not in asked and is_alive(socket_path(asked, directory)):
        return asked
    running = machines(directory)
    if asked:
        raise NoSuchMachine(f"no machine {asked!r} is running in {directory}", _what_runs(running))
    if not running:
        raise NoSuchMachine(f"no machine is running in {directory}", _what_runs(running))
    if len(running) > 1:
        hint = f"name one (or set POPNET_MACHINE): {', '.join(running)}"
        raise NoSuchMachine(f"{len(running)} machines are running; which one?", hint)
    return running[0]


def open_socket(path: Path, timeout_s: float | None) -> socket.socket:
    """A socket connected to the unix socket *path*, of any length; keeps *timeout_s*.

    Raises OSError; TimeoutError, or with a timeout of 0 BlockingIOError, if its owner is too busy to accept.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if timeout_s == 0:
            sock.setblocking(False)
        elif (
            timeout_s is not None
        ):  # connect(2) of a unix socket waits as long as SO_SNDTIMEO, not for poll(2)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
        with ShortAddress(path) as address:
            sock.connect(address)
        sock.settimeout(timeout_s)
    except BlockingIOError:
        sock.close()
        if timeout_s == 0:
            raise
        raise TimeoutError(f"nobody accepted on {path}") from None
    except BaseException:
        sock.close()
        raise
    return sock


class ShortAddress:
    """An address of *path* that fits sun_path, while the context lasts. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parent = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) < _ADDRESS_SIZE:
            return str(self._path)
        self._parent = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._parent}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._parent >= 0:
            os.close(self._parent)


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))


def _what_runs(running: list[str]) -> str:
    return f"running: {', '.join(running)}" if running else "start one: popnet up FILE"


def _check_ours(directory: Path) -> None:
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise Refused(f"{directory} is not a directory of yours", "set POPNET_RUN_DIR to another one")
    if status.st_mode & 0o022:
        raise Refused(f"others can write to {directory}", f"chmod 700 {directory}")
