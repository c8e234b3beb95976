"""Host keys that stay: made once and kept, so that clients meet the same key after each restart."""

import contextlib
import os
from pathlib import Path

from popnet.core.errors import Refused
from popnet.tty import keys


def state_dir() -> Path:
    """Where is kept what outlives a machine, such as a gateway's host key: $POPNET_STATE_DIR, or
    /var/lib/popnet (root), $XDG_STATE_HOME/popnet, ~/.local/state/popnet. It need not exist."""
    if chosen := os.environ.get("POPNET_STATE_DIR"):
        return Path(chosen).absolute()
    if os.getuid() == 0:
        return Path("/var/lib/popnet")
    return Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "popnet")  # noqa: PTH111


def host_key(directory: Path, comment: str) -> str:
    """The private key kept in *directory*, in OpenSSH's format; made, mode 0600, if there is none.

    Two who ask at the same time get the same one. Raises Refused, naming the file, if it cannot be kept, or
    is no key.
    """
    path = directory / "host_key"
    try:
        if not path.exists():
            _make(path, comment)
        text = path.read_text()
    except OSError as error:
        hint = "set POPNET_STATE_DIR to a directory that can be written"
        raise Refused(f"{path}: cannot keep the gateway's host key: {error.strerror}", hint) from None
    try:
        keys.public_line(text.encode())
    except ValueError:
        raise Refused(f"{path}: no private key", "remove it, and a new one is made") from None
    return text


def _make(path: Path, comment: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private, public = keys.generate_key(comment)
    new = path.with_name(f"host_key.{os.getpid()}")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(private)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # somebody else was quicker: theirs is the key
            os.link(new, path)
            path.with_name("host_key.pub").write_text(public + "\n")
    finally:
        new.unlink(missing_ok=True)
