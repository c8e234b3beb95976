"""Whom a login is for, where it starts, and in which environment."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def is_us(username: str) -> bool:
    """Whether a user name means the user this process runs as; root needs no entry in a passwd file."""
    if username == "root" and os.getuid() == 0:
        return True
    try:
        return pwd.getpwnam(username).pw_uid == os.getuid()
    except KeyError:
        return False


def home(environ: Mapping[str, str]) -> str:
    """The directory to start in: HOME, or what the passwd file says; the root if that does not exist."""
    try:
        directory = environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        directory = "/root"
    return directory if Path(directory).is_dir() else "/"


def environment(
    environ: Mapping[str, str],
    asked: Mapping[str, str],
    *,
    user: str,
    shell: str,
    client: tuple[Any, ...],
    server: tuple[Any, ...],
) -> dict[str, str]:
    """The environment of a login's programs.

    Args:
        environ: of every program of the kernel.
        asked: what the client would like; it gets its locale, and nothing that could change what programs do.
        client, server: socket addresses of the two ends.
    """
    return {
        **environ,
        **{name: asked[name] for name in asked if name == "LANG" or name.startswith("LC_")},
        "USER": user,
        "LOGNAME": user,
        "HOME": home(environ),
        "SHELL": shell,
        "SSH_CLIENT": f"{client[0]} {client[1]} {server[1]}",
        "SSH_CONNECTION": f"{client[0]} {client[1]} {server[0]} {server[1]}",
    }
